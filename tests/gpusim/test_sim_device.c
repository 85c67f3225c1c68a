/* Mistakes with memory, streams, events, graphs and kernels, on the simulated libcudart and
 * libcublas. */
#include <cublas_v2.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "test_sim.h"

enum { N = 32, BYTES = N * sizeof(unsigned) };

static unsigned numbers[N];

/* What most programs begin with. */
static struct {
    cudaStream_t stream, other;
    cudaEvent_t event;
    unsigned *pinned; /* N, 7 each */
    void *a, *b;      /* N words: i + 1, unwritten */
} s;

static void begin(void) {
    for (unsigned i = 0; i < N; i++) {
        numbers[i] = i + 1;
    }
    OK(cudaStreamCreateWithFlags(&s.stream, cudaStreamNonBlocking));
    OK(cudaStreamCreateWithFlags(&s.other, cudaStreamNonBlocking));
    OK(cudaEventCreateWithFlags(&s.event, cudaEventDisableTiming));
    OK(cudaMallocHost((void **)&s.pinned, BYTES));
    for (unsigned i = 0; i < N; i++) {
        s.pinned[i] = 7;
    }
    s.a = device_words(numbers, N);
    s.b = device_words(NULL, N);
}

static void end(void) {
    OK(cudaFree(s.a));
    OK(cudaFree(s.b));
    OK(cudaFreeHost(s.pinned));
    OK(cudaEventDestroy(s.event));
    OK(cudaStreamDestroy(s.other));
    OK(cudaStreamDestroy(s.stream));
}

static void to_host(void *to) {
    OK(cudaMemcpyAsync(to, s.a, BYTES, cudaMemcpyDeviceToHost, s.stream));
}

/* ---- as it should be ---- */

static void no_mistake(int rank) {
    unsigned got[N];
    (void)rank;
    begin();
    OK(launch_copy(s.b, s.a, s.stream));
    OK(cudaEventRecord(s.event, s.stream));
    OK(cudaStreamWaitEvent(s.other, s.event, 0));
    OK(cudaMemcpyAsync(s.pinned, s.b, BYTES, cudaMemcpyDeviceToHost, s.other));
    OK(cudaStreamSynchronize(s.other));
    CHECK(memcmp(s.pinned, numbers, BYTES) == 0);
    OK(cudaMemcpy(got, s.b, BYTES, cudaMemcpyDeviceToHost));
    CHECK(memcmp(got, numbers, BYTES) == 0);
    end();
}

/* ---- synchronisation ---- */

static void reads_too_soon(int rank) {
    (void)rank;
    begin();
    to_host(s.pinned);
    CHECK(s.pinned[3] == 7); /* what was there */
    OK(cudaStreamSynchronize(s.stream));
    CHECK(s.pinned[3] == 4);
    end();
}

static void reads_after_query(int rank) {
    (void)rank;
    begin();
    to_host(s.pinned);
    OK(cudaEventRecord(s.event, s.stream));
    OK(cudaEventQuery(s.event)); /* nothing to wait for here: it runs, and is done */
    CHECK(s.pinned[3] == 4);
    end();
}

static void waits_for_the_wrong_stream(int rank) {
    (void)rank;
    begin();
    to_host(s.pinned);
    OK(cudaStreamSynchronize(s.other));
    CHECK(s.pinned[3] == 7);
    end();
}

static void overwrites_too_soon(int rank) {
    (void)rank;
    begin();
    OK(cudaMemcpyAsync(s.b, s.pinned, BYTES, cudaMemcpyHostToDevice, s.stream));
    CHECK(s.pinned[1] == 7); /* reading is fine */
    s.pinned[1] = 9;
    OK(cudaStreamSynchronize(s.stream));
    s.pinned[1] = 10; /* and so is this */
    end();
}

/* Bytes of the same page that no copy is about, before it and after it. */
static void uses_other_bytes(int rank) {
    (void)rank;
    begin();
    OK(cudaMemcpyAsync(s.pinned + 8, s.a, 32, cudaMemcpyDeviceToHost, s.stream));
    CHECK(s.pinned[7] == 7 && s.pinned[16] == 7);
    s.pinned[16] = 1;
    OK(cudaStreamSynchronize(s.stream));
    CHECK(s.pinned[8] == 1 && s.pinned[15] == 8);
    end();
}

static void replays_into_pinned_memory(int rank) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    (void)rank;
    begin();
    OK(cudaStreamBeginCapture(s.stream, cudaStreamCaptureModeThreadLocal));
    to_host(s.pinned);
    OK(cudaStreamEndCapture(s.stream, &graph));
    OK(cudaGraphInstantiate(&exec, graph, 0));
    CHECK(s.pinned[0] == 7); /* captured: nothing is on its way */
    OK(cudaGraphLaunch(exec, s.stream));
    OK(cudaStreamSynchronize(s.stream));
    CHECK(s.pinned[0] == 1);
    OK(cudaGraphLaunch(exec, s.stream));
    CHECK(s.pinned[0] == 1); /* the mistake */
    OK(cudaGraphExecDestroy(exec));
    OK(cudaGraphDestroy(graph));
    end();
}

/* Pageable memory is copied from at the call, and a copy to it is done at the return. */
static void pageable_memory(int rank) {
    unsigned got[N] = {0}, gives[N] = {5};
    (void)rank;
    begin();
    OK(cudaMemcpyAsync(s.b, gives, BYTES, cudaMemcpyHostToDevice, s.stream));
    gives[0] = 6;
    OK(cudaMemcpyAsync(got, s.b, BYTES, cudaMemcpyDeviceToHost, s.stream));
    CHECK(got[0] == 5);
    end();
}

static void streams_without_an_event(int rank) {
    (void)rank;
    begin();
    OK(launch_copy(s.b, s.a, s.stream));
    OK(cudaMemcpyAsync(s.pinned, s.b, BYTES, cudaMemcpyDeviceToHost, s.other));
    OK(cudaStreamSynchronize(s.other));
    end();
}

static void never_waits(int rank) {
    static void *p;
    (void)rank;
    OK(cudaMalloc(&p, 64));
    OK(cudaMemsetAsync(p, 0, 64, NULL));
}

/* ---- memory ---- */

static void leaks(int rank) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    (void)rank;
    begin();
    OK(cudaStreamDestroy(s.other));
    OK(cudaStreamBeginCapture(s.stream, cudaStreamCaptureModeThreadLocal));
    to_host(s.pinned);
    OK(cudaStreamEndCapture(s.stream, &graph));
    OK(cudaGraphInstantiate(&exec, graph, 0));
    OK(cudaFree(s.a));
}

static void follows_a_device_pointer(int rank) {
    (void)rank;
    begin();
    *(volatile unsigned *)s.a = 1;
}

static void follows_a_wild_pointer(int rank) { /* is no news to the simulator */
    volatile unsigned *volatile nowhere = (volatile unsigned *)4096;
    (void)rank;
    begin();
    *nowhere = 1;
}

static void host_pointer_in_a_launch(int rank) {
    (void)rank;
    begin();
    OK(launch_copy(s.b, numbers, s.stream));
    CHECK(cudaStreamSynchronize(s.stream) == cudaErrorIllegalAddress);
    void *p;
    CHECK(cudaMalloc(&p, 64) == cudaErrorIllegalAddress); /* it sticks */
    CHECK(cudaGetLastError() == cudaErrorIllegalAddress);
    CHECK(cudaGetLastError() == cudaErrorIllegalAddress);
}

static void kernel_over_the_end(int rank) {
    (void)rank;
    begin();
    OK(launch_copy((char *)s.b + 4, s.a, s.stream));
    CHECK(cudaStreamSynchronize(s.stream) == cudaErrorIllegalAddress);
}

static void kernel_on_freed_memory(int rank) {
    (void)rank;
    begin();
    OK(cudaFree(s.b));
    OK(launch_copy(s.b, s.a, s.stream));
    CHECK(cudaStreamSynchronize(s.stream) == cudaErrorIllegalAddress);
}

static void misaligned_kernel(int rank) {
    (void)rank;
    begin();
    OK(launch_copy((char *)s.b + 2, s.a, s.stream));
    CHECK(cudaStreamSynchronize(s.stream) == cudaErrorMisalignedAddress);
}

static void copy_over_the_end(int rank) {
    (void)rank;
    begin();
    OK(cudaMemcpyAsync(s.b, s.a, BYTES + 4, cudaMemcpyDeviceToDevice, s.stream));
    CHECK(cudaStreamSynchronize(s.stream) == cudaErrorIllegalAddress);
}

static void copies_of_unwritten_memory(int rank) {
    (void)rank;
    begin();
    OK(cudaMemcpyAsync(s.pinned, s.b, BYTES, cudaMemcpyDeviceToHost, s.stream));
    OK(launch_copy(s.a, s.b, s.stream));
    OK(cudaStreamSynchronize(s.stream));
    end();
}

static void wrong_frees(int rank) {
    (void)rank;
    begin();
    CHECK(cudaFree((char *)s.a + 4) == cudaErrorInvalidValue);
    CHECK(cudaFree(numbers) == cudaErrorInvalidValue);
    CHECK(cudaFreeHost(numbers) == cudaErrorInvalidValue);
    void *p = device_words(NULL, 1);
    OK(cudaFree(p));
    CHECK(cudaFree(p) == cudaErrorInvalidValue);
    end();
}

static void wrong_direction(int rank) {
    (void)rank;
    begin();
    CHECK(cudaMemcpyAsync(s.pinned, s.a, BYTES, cudaMemcpyHostToDevice, s.stream) ==
          cudaErrorInvalidValue);
    CHECK(cudaMemsetAsync(s.pinned, 0, 4, s.stream) == cudaSuccess);
    CHECK(cudaStreamSynchronize(s.stream) == cudaErrorIllegalAddress);
}

static void handles_of_the_past(int rank) {
    (void)rank;
    begin();
    cudaStream_t stream = s.other;
    cudaEvent_t event = s.event;
    end();
    CHECK(cudaStreamSynchronize(stream) == cudaErrorInvalidResourceHandle);
    CHECK(cudaEventQuery(event) == cudaErrorInvalidResourceHandle);
}

/* ---- kernels ---- */

#define HEAD ".version 8.0\n.target sm_80\n.address_size 64\n"

static cudaError_t run_kernel(const char *ptx, unsigned threads) {
    const void *k = sim_kernel(ptx, "k");
    void *args[] = {NULL};
    cudaError_t e = cudaLaunchKernel(k, (dim3){1, 1, 1}, (dim3){threads, 1, 1}, args, 0, NULL);
    return e == cudaSuccess ? cudaDeviceSynchronize() : e;
}

static void unknown_instruction(int rank) {
    (void)rank;
    CHECK(run_kernel(HEAD ".visible .entry k()\n{\n.reg .b32 %r;\nfrobnicate.u32 %r, 1;\nret;\n}\n",
                     1) == cudaErrorInvalidDeviceFunction);
}

static void race(int rank) {
    (void)rank;
    OK(run_kernel(HEAD ".visible .entry k()\n{\n.reg .b32 %r<3>;\n.shared .align 4 .b8 m[256];\n"
                       "mov.u32 %r0, %tid.x;\nshl.b32 %r0, %r0, 2;\nmov.u32 %r1, m;\n"
                       "add.u32 %r0, %r0, %r1;\nst.shared.u32 [%r0], 1;\nxor.b32 %r0, %r0, 128;\n"
                       "ld.shared.u32 %r2, [%r0];\nret;\n}\n",
                  64));
}

static void divergent_barrier(int rank) {
    (void)rank;
    CHECK(run_kernel(HEAD
                     ".visible .entry k()\n{\n.reg .pred %p; .reg .b32 %r;\n"
                     "mov.u32 %r, %tid.x;\nsetp.lt.u32 %p, %r, 40;\n@%p bar.sync 0;\nret;\n}\n",
                     64) == cudaErrorLaunchFailure);
}

static void impossible_launches(int rank) {
    const char *empty = HEAD ".visible .entry k()\n.maxntid 64, 1, 1\n{\nret;\n}\n";
    const void *k = sim_kernel(empty, "k");
    void *args[] = {NULL};
    dim3 one = {1, 1, 1};
    (void)rank;
    CHECK(cudaLaunchKernel(k, one, (dim3){65, 1, 1}, args, 0, NULL) ==
          cudaErrorInvalidConfiguration);
    CHECK(cudaLaunchKernel(k, (dim3){1, 70000, 1}, one, args, 0, NULL) ==
          cudaErrorInvalidConfiguration);
    CHECK(cudaLaunchKernel(k, one, one, args, 49 << 10, NULL) == cudaErrorInvalidConfiguration);
    OK(cudaFuncSetAttribute(k, cudaFuncAttributeMaxDynamicSharedMemorySize, 49 << 10));
    OK(cudaLaunchKernel(k, one, one, args, 49 << 10, NULL));
    CHECK(cudaFuncSetAttribute(k, cudaFuncAttributeMaxDynamicSharedMemorySize, 100 << 10) ==
          cudaErrorInvalidValue); /* 99 KiB at 8.6 */
    CHECK(cudaLaunchKernel(sim_kernel(empty, "another"), one, one, args, 0, NULL) ==
          cudaErrorInvalidDeviceFunction);
    OK(cudaDeviceSynchronize());
}

/* ---- graphs ---- */

static void illegal_captures(int rank) {
    cudaGraph_t graph;
    void *p;
    (void)rank;
    begin();
    OK(cudaStreamBeginCapture(s.stream, cudaStreamCaptureModeThreadLocal));
    CHECK(cudaMalloc(&p, 4) == cudaErrorStreamCaptureUnsupported);
    CHECK(cudaStreamEndCapture(s.stream, &graph) == cudaErrorStreamCaptureInvalidated && !graph);
    OK(cudaStreamBeginCapture(s.stream, cudaStreamCaptureModeThreadLocal));
    CHECK(cudaStreamQuery(s.stream) == cudaErrorStreamCaptureUnsupported);
    CHECK(cudaStreamEndCapture(s.stream, &graph) == cudaErrorStreamCaptureInvalidated && !graph);
    CHECK(cudaStreamBeginCapture(NULL, cudaStreamCaptureModeThreadLocal) ==
          cudaErrorStreamCaptureUnsupported);
    end();
}

/* A graph has the addresses of its operations, not what was there. */
static void replays_read_anew(int rank) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    (void)rank;
    begin();
    OK(cudaStreamBeginCapture(s.stream, cudaStreamCaptureModeThreadLocal));
    OK(cudaMemcpyAsync(s.a, s.pinned, BYTES, cudaMemcpyHostToDevice, s.stream));
    OK(launch_copy(s.b, s.a, s.stream));
    OK(cudaStreamEndCapture(s.stream, &graph));
    OK(cudaGraphInstantiate(&exec, graph, 0));
    OK(cudaGraphDestroy(graph));
    for (unsigned i = 20; i < 23; i++) {
        unsigned got[N];
        s.pinned[5] = i;
        OK(cudaGraphLaunch(exec, s.stream));
        OK(cudaStreamSynchronize(s.stream));
        OK(cudaMemcpy(got, s.b, BYTES, cudaMemcpyDeviceToHost));
        CHECK(got[5] == i && got[6] == 7);
    }
    OK(cudaGraphExecDestroy(exec));
    end();
}

/* ---- cuBLAS ---- */

static cublasStatus_t multiply(cublasHandle_t blas, const void *a, void *c, int m) {
    float one = 1, zero = 0;
    return cublasGemmEx(blas, CUBLAS_OP_N, CUBLAS_OP_N, m, 4, 4, &one, a, CUDA_R_32F, m, a,
                        CUDA_R_32F, 4, &zero, c, CUDA_R_32F, m, CUBLAS_COMPUTE_32F,
                        CUBLAS_GEMM_DEFAULT);
}

static void product_over_the_end(int rank) {
    cublasHandle_t blas;
    (void)rank;
    begin();
    CHECK(cublasCreate(&blas) == CUBLAS_STATUS_SUCCESS);
    CHECK(multiply(blas, s.a, s.b, 4) == CUBLAS_STATUS_SUCCESS);
    OK(cudaDeviceSynchronize());
    CHECK(multiply(blas, s.a, s.b, 9) == CUBLAS_STATUS_SUCCESS); /* 36 of 32 words */
    CHECK(cudaDeviceSynchronize() == cudaErrorIllegalAddress);
}

static void product_of_unwritten_memory(int rank) {
    cublasHandle_t blas;
    (void)rank;
    begin();
    CHECK(cublasCreate(&blas) == CUBLAS_STATUS_SUCCESS);
    CHECK(multiply(blas, s.b, s.a, 4) == CUBLAS_STATUS_SUCCESS);
    OK(cudaDeviceSynchronize());
    end(); /* and the handle leaks */
}

const struct program programs[] = {
    {.name = "no mistake", .run = no_mistake},
    {.name = "reads too soon",
     .run = reads_too_soon,
     .n_finding = 1,
     .end = FINDINGS,
     .words = {"gpusim: rank 0: FINDING: missing synchronisation: host code reads 0x",
               ", byte 12 of pinned memory of 128 bytes, which a cudaMemcpyAsync that nobody has "
               "waited for has yet to write"}},
    {.name = "reads after a query", .run = reads_after_query},
    {.name = "waits for the wrong stream",
     .run = waits_for_the_wrong_stream,
     .n_finding = 1,
     .end = FINDINGS,
     .words = {"missing synchronisation: host code reads"}},
    {.name = "overwrites too soon",
     .run = overwrites_too_soon,
     .n_finding = 1,
     .end = FINDINGS,
     .words = {"missing synchronisation: host code writes 0x", ", byte 4 of pinned memory",
               "has yet to read"}},
    {.name = "uses other bytes", .run = uses_other_bytes},
    {.name = "replays into pinned memory",
     .run = replays_into_pinned_memory,
     .n_finding = 1,
     .end = FINDINGS,
     .words = {"missing synchronisation: host code reads"}},
    {.name = "pageable memory", .run = pageable_memory},
    {.name = "streams without an event",
     .run = streams_without_an_event,
     .n_finding = 1,
     .end = FINDINGS,
     .words = {"cudaMemcpyAsync: reads 0x",
               ", byte 0 of an allocation of 128 bytes, which was never written"}},
    {.name = "never waits",
     .run = never_waits,
     .n_finding = 2,
     .end = FINDINGS,
     .words = {"at exit 1 operations wait in stream", "the first a cudaMemsetAsync",
               "leak at exit: device memory"}},
    {.name = "leaks",
     .run = leaks,
     .n_finding = 6,
     .end = FINDINGS,
     .words = {"leak at exit: device memory 0x", ", 128 bytes", "leak at exit: pinned memory",
               "leak at exit: stream", "leak at exit: event", "leak at exit: graph",
               "leak at exit: executable graph"}},
    {.name = "follows a device pointer",
     .run = follows_a_device_pointer,
     .n_finding = 1,
     .end = -SIGSEGV,
     .words = {"host code used the device pointer 0x"}},
    {.name = "follows a wild pointer", .run = follows_a_wild_pointer, .end = -SIGSEGV},
    {.name = "host pointer in a launch",
     .run = host_pointer_in_a_launch,
     .n_finding = 1,
     .end = FINDINGS,
     .words = {"kernel copy, block (0,0,0), thread (0,0,0): out of bounds: read of 4 bytes at "
               "global address 0x",
               "`ld.global.u32 %r1, [%i]`"}},
    {.name = "kernel over the end",
     .run = kernel_over_the_end,
     .n_finding = 1,
     .end = FINDINGS,
     .words = {"kernel copy, block (0,0,0), thread (31,0,0): out of bounds: write of 4 bytes"}},
    {.name = "kernel on freed memory",
     .run = kernel_on_freed_memory,
     .n_finding = 1,
     .end = FINDINGS,
     .words = {"thread (0,0,0): out of bounds: write of 4 bytes"}},
    {.name = "misaligned kernel",
     .run = misaligned_kernel,
     .n_finding = 1,
     .end = FINDINGS,
     .words = {"kernel copy, block (0,0,0), thread (0,0,0): misaligned: write of 4 bytes at "
               "address 0x"}},
    {.name = "copy over the end",
     .run = copy_over_the_end,
     .n_finding = 2,
     .end = FINDINGS,
     .words = {"cudaMemcpyAsync: 132 bytes at 0x", "are byte 0 and on of an allocation of 128"}},
    {.name = "copies of unwritten memory",
     .run = copies_of_unwritten_memory,
     .n_finding = 2,
     .end = FINDINGS,
     .words = {"cudaMemcpyAsync: reads 0x", "kernel copy, block (0,0,0), thread (0,0,0): read of 4 "
                                            "bytes of global memory never written, at 0x"}},
    {.name = "wrong frees",
     .run = wrong_frees,
     .n_finding = 4,
     .end = FINDINGS,
     .words = {"which is no allocation", "which was freed before", "which is not pinned memory"}},
    {.name = "wrong direction",
     .run = wrong_direction,
     .n_finding = 2,
     .end = FINDINGS,
     .words = {"is not the direction it says", "cudaMemsetAsync: 0x", "is not device memory"}},
    {.name = "handles of the past",
     .run = handles_of_the_past,
     .n_finding = 2,
     .end = FINDINGS,
     .words = {"is no stream, or was destroyed", "is no event, or was destroyed"}},
    {.name = "unknown instruction",
     .run = unknown_instruction,
     .n_finding = 1,
     .end = FINDINGS,
     .words = {"FINDING: PTX line 7: unknown instruction", "`frobnicate.u32 %r, 1`"}},
    {.name = "race",
     .run = race,
     .n_finding = 3,
     .end = FINDINGS,
     .words =
         {"read of shared memory never written, at 0x80",
          "thread (32,0,0): race on shared memory: write of address 0x80, which thread (0,0,0) "
          "read with no barrier between",
          "kernel k, block (0,0,0), thread (32,0,0): race on shared memory: read of address "
          "0x0, which thread (0,0,0) wrote with no barrier between"}},
    {.name = "divergent barrier",
     .run = divergent_barrier,
     .n_finding = 1,
     .end = FINDINGS,
     .words = {"divergent barrier: 40 threads wait at barrier 0 for 24"}},
    {.name = "impossible launches", .run = impossible_launches, .env = "GPUSIM_CC=8.6"},
    {.name = "illegal captures", .run = illegal_captures},
    {.name = "replays read anew", .run = replays_read_anew},
    {.name = "product over the end",
     .run = product_over_the_end,
     .n_finding = 2,
     .end = FINDINGS,
     .words = {"cublasGemmEx: 36 bytes at 0x"}},
    {.name = "product of unwritten memory",
     .run = product_of_unwritten_memory,
     .n_finding = 9,
     .end = FINDINGS,
     .words = {"cublasGemmEx: reads 0x", "leak at exit: 1 handles of cuBLAS"}},
    {0},
};
