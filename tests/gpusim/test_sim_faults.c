/* Faults that GPUSIM_FAULT plants, and the settings of the device: each where it was asked for, and
 * nowhere else. */
#include <nccl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "test_sim.h"

enum { N = 32, WORLD = 2, LOOKS = 1500 };

static unsigned numbers[N];

/* ---- of CUDA ---- */

static void second_allocation(int rank) {
    void *p[3];
    for (int i = 0; i < 3; i++) {
        cudaError_t e = cudaMalloc(&p[i], 64);
        CHECK(e == (i == 1 && rank == 1 ? cudaErrorMemoryAllocation : cudaSuccess));
    }
    for (int i = 0; i < 3; i += rank ? 2 : 1) {
        OK(cudaFree(p[i]));
    }
}

/* A kernel's failure shows when somebody waits, and sticks. */
static void fails(cudaError_t expected) {
    void *a = device_words(numbers, N), *p;
    OK(launch_copy(a, a, NULL));
    OK(cudaDeviceSynchronize());
    OK(launch_copy(a, a, NULL));
    CHECK(cudaDeviceSynchronize() == expected);
    CHECK(cudaGetLastError() == expected);
    CHECK(launch_copy(a, a, NULL) == expected);
    CHECK(cudaMalloc(&p, 4) == expected);
    CHECK(cudaGetLastError() == expected);
}

static void launch_failure(int rank) {
    (void)rank;
    fails(cudaErrorLaunchFailure);
    CHECK(cudaErrorLaunchFailure == 719);
}

static void illegal_address(int rank) {
    (void)rank;
    fails(cudaErrorIllegalAddress);
    CHECK(cudaErrorIllegalAddress == 700);
}

static void endless_launch(int rank) {
    void *a = device_words(numbers, N);
    (void)rank;
    OK(launch_copy(a, a, NULL));
    for (int i = 0; i < 100; i++) {
        CHECK(cudaStreamQuery(NULL) == cudaErrorNotReady);
    }
    CHECK(cudaGetLastError() == cudaErrorNotReady); /* is noted as an error */
    CHECK(cudaGetLastError() == cudaSuccess);
    _exit(0);
}

/* Launched once by the API, and then by a graph. */
static void third_execution(int rank) {
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    void *a = device_words(numbers, N);
    (void)rank;
    OK(cudaStreamCreate(&stream));
    OK(launch_copy(a, a, stream));
    OK(cudaStreamSynchronize(stream));
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    OK(launch_copy(a, a, stream));
    OK(cudaStreamEndCapture(stream, &graph));
    OK(cudaGraphInstantiate(&exec, graph, 0));
    OK(cudaGraphLaunch(exec, stream));
    OK(cudaStreamSynchronize(stream));
    OK(cudaGraphLaunch(exec, stream));
    CHECK(cudaStreamSynchronize(stream) == cudaErrorLaunchFailure);
}

static void no_capture(int rank) {
    cudaStream_t stream;
    cudaGraph_t graph;
    (void)rank;
    OK(cudaStreamCreate(&stream));
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorUnknown);
    OK(cudaStreamSynchronize(stream)); /* it captures no more */
}

/* ---- of NCCL ---- */

static struct {
    ncclComm_t comm;
    cudaStream_t stream;
    void *a;
} s;

static ncclResult_t state(void) {
    ncclResult_t r = ncclInternalError;
    CHECK(ncclCommGetAsyncError(s.comm, &r) == ncclSuccess);
    return r;
}

static ncclResult_t try_to_join(int rank) {
    ncclUniqueId id = {0};
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    snprintf(id.internal, sizeof id.internal, "%s", sim_meeting());
    OK(cudaSetDevice(rank));
    return ncclCommInitRankConfig(&s.comm, WORLD, id, rank, &config);
}

/* What the communicator comes to in a while. */
static ncclResult_t settles(void) {
    ncclResult_t r = ncclInProgress;
    for (int i = 0; i < LOOKS && r == ncclInProgress; i++) {
        r = state();
        usleep(100);
    }
    return r;
}

static void init_refused(int rank) {
    ncclResult_t r = try_to_join(rank);
    CHECK(r == (rank == 1 ? ncclInternalError : ncclInProgress));
    CHECK(rank == 0 || strstr(ncclGetLastError(NULL), "simulated failure"));
    CHECK(rank == 1 || ncclCommAbort(s.comm) == ncclSuccess);
}

static void init_failed(int rank) {
    CHECK(try_to_join(rank) == ncclInProgress);
    if (rank == 1) {
        CHECK(settles() == ncclSystemError);
    }
    CHECK(ncclCommAbort(s.comm) == ncclSuccess);
}

static void init_hangs(int rank) {
    CHECK(try_to_join(rank) == ncclInProgress);
    CHECK(settles() == ncclInProgress);
    CHECK(ncclCommAbort(s.comm) == ncclSuccess);
}

static void begin(int rank) {
    CHECK(try_to_join(rank) == ncclInProgress && settles() == ncclSuccess);
    OK(cudaStreamCreate(&s.stream));
    s.a = device_words(numbers, N);
}

static ncclResult_t all_reduce(void) {
    ncclResult_t r = ncclAllReduce(s.a, s.a, N, ncclUint32, ncclSum, s.comm, s.stream);
    return r == ncclInProgress ? settles() : r;
}

/* What the second collective comes to, 0 where it is done: cudaErrorNotReady, or NCCL's word. */
static ncclResult_t second_collective(int rank, cudaError_t *stream) {
    begin(rank);
    for (int i = 0; i < 2; i++) {
        ncclResult_t r = all_reduce();
        *stream = cudaErrorNotReady;
        for (int n = 0; r == ncclSuccess && n < LOOKS; n++) {
            *stream = cudaStreamQuery(s.stream);
            if (*stream != cudaErrorNotReady) {
                break;
            }
            r = state();
            usleep(100);
        }
        if (r != ncclSuccess || *stream != cudaSuccess) {
            CHECK(i == 1);
            return r;
        }
    }
    return ncclSuccess;
}

static void hangs(int rank) {
    cudaError_t stream;
    CHECK(second_collective(rank, &stream) == ncclSuccess && stream == cudaErrorNotReady);
    sim_meet(WORLD);
    CHECK(ncclCommAbort(s.comm) == ncclSuccess); /* an abort ends it */
    OK(cudaStreamSynchronize(s.stream));
}

static void remote(int rank) {
    cudaError_t stream;
    ncclResult_t r = second_collective(rank, &stream);
    CHECK(rank == 1 ? r == ncclRemoteError : r == ncclSuccess && stream == cudaErrorNotReady);
    sim_meet(WORLD);
    CHECK(ncclCommAbort(s.comm) == ncclSuccess);
}

static void asynchronous(int rank) {
    cudaError_t stream;
    ncclResult_t r = second_collective(rank, &stream);
    CHECK(rank == 1 ? r == ncclSystemError : r == ncclSuccess && stream == cudaErrorNotReady);
    sim_meet(WORLD);
    CHECK(ncclCommAbort(s.comm) == ncclSuccess);
}

static void exits(int rank) {
    cudaError_t stream;
    CHECK(second_collective(rank, &stream) == ncclRemoteError && rank == 0);
    CHECK(ncclCommAbort(s.comm) == ncclSuccess);
    _exit(1); /* as the other */
}

/* Not a mistake that the others should tell: the fault is why. */
static void leaves(int rank) {
    void *p;
    begin(rank);
    if (rank == 1) {
        CHECK(cudaMalloc(&p, 4) == cudaErrorMemoryAllocation);
        CHECK(ncclCommFinalize(s.comm) == ncclSuccess);
        CHECK(ncclCommDestroy(s.comm) == ncclSuccess);
        return;
    }
    CHECK(all_reduce() == ncclSuccess);
    for (int i = 0; i < LOOKS && state() == ncclSuccess; i++) {
        CHECK(cudaStreamQuery(s.stream) == cudaErrorNotReady);
        usleep(100);
    }
    CHECK(state() == ncclRemoteError);
    CHECK(ncclCommAbort(s.comm) == ncclSuccess);
}

static void abort_hangs(int rank) {
    begin(rank);
    sim_meet(WORLD);
    if (rank == 1) {
        ualarm(300000, 0);
    }
    CHECK(ncclCommAbort(s.comm) == ncclSuccess);
    CHECK(rank == 0);
    raise(SIGALRM);
}

/* ---- the device ---- */

static void settings(int rank) {
    struct cudaDeviceProp p;
    char pci[32];
    int n, version;
    void *memory;
    size_t available, total;
    OK(cudaGetDeviceCount(&n));
    CHECK(n == 3);
    CHECK(cudaSetDevice(3) == cudaErrorInvalidDevice);
    OK(cudaGetDeviceProperties(&p, 2));
    CHECK(p.major == 7 && p.minor == 5 && p.totalGlobalMem == 1000000);
    CHECK(strcmp(p.name, "T4") == 0);
    OK(cudaDeviceGetPCIBusId(pci, sizeof pci, 2));
    CHECK(strcmp(pci, "0000:03:00.0") == 0);
    OK(cudaMalloc(&memory, 900000));
    OK(cudaMemGetInfo(&available, &total));
    CHECK(available == 100000 && total == 1000000);
    void *more;
    CHECK(cudaMalloc(&more, 100001) == cudaErrorMemoryAllocation);
    OK(cudaFree(memory));
    OK(cudaMalloc(&memory, 1000000));
    OK(cudaFree(memory));
    CHECK(ncclGetVersion(&version) == ncclSuccess);
    CHECK(version == (rank ? 22703 : NCCL_VERSION_CODE));
}

static void no_driver(int rank) {
    int n = 77;
    void *p;
    (void)rank;
    CHECK(cudaGetDeviceCount(&n) == cudaErrorInsufficientDriver && n == 77);
    CHECK(cudaMalloc(&p, 4) == cudaErrorInsufficientDriver);
    CHECK(cudaGetLastError() == cudaErrorInsufficientDriver);
    CHECK(cudaGetLastError() == cudaErrorInsufficientDriver); /* for ever */
}

static void no_device(int rank) {
    int n;
    (void)rank;
    CHECK(cudaGetDeviceCount(&n) == cudaErrorNoDevice);
}

static void nothing(int rank) {
    int n;
    (void)rank;
    OK(cudaGetDeviceCount(&n));
}

/* Without checks there are no findings of races, of unwritten memory and of waiting. */
static void unchecked(int rank) {
    unsigned *pinned;
    void *a = device_words(NULL, N);
    (void)rank;
    OK(cudaMallocHost((void **)&pinned, N * sizeof *pinned));
    OK(launch_copy(a, a, NULL));
    OK(cudaMemcpyAsync(pinned, a, N * sizeof *pinned, cudaMemcpyDeviceToHost, NULL));
    pinned[0] = 1;
    OK(cudaDeviceSynchronize());
    OK(cudaFree(a));
    OK(cudaFreeHost(pinned));
}

#define SAYS(text)                                                                                 \
    { "gpusim: rank " text }

const struct program programs[] = {
    {.name = "second allocation",
     .run = second_allocation,
     .n_rank = WORLD,
     .env = "GPUSIM_FAULT=1:cudaMalloc:2:memory",
     .words = SAYS("1: fault: cudaMalloc number 2: memory")},
    {.name = "launch failure",
     .run = launch_failure,
     .env = "GPUSIM_FAULT=0:launch:2:fault719",
     .words = SAYS("0: fault: launch number 2: fault719")},
    {.name = "illegal address", .run = illegal_address, .env = "GPUSIM_FAULT=*:launch:2:fault700"},
    {.name = "execution fails", .run = launch_failure, .env = "GPUSIM_FAULT=*:kernel:2:fault719"},
    {.name = "endless launch", .run = endless_launch, .env = "GPUSIM_FAULT=0:launch:1:hang"},
    {.name = "endless kernel", .run = endless_launch, .env = "GPUSIM_FAULT=0:kernel:1:hang"},
    {.name = "third execution",
     .run = third_execution,
     .env = "GPUSIM_FAULT=0:kernel:3:fault719",
     .words = SAYS("0: fault: kernel number 3 (in a replayed graph): fault719")},
    {.name = "no capture", .run = no_capture, .env = "GPUSIM_FAULT=0:cudaStreamEndCapture:1:error"},
    {.name = "init refused",
     .run = init_refused,
     .n_rank = WORLD,
     .env = "GPUSIM_FAULT=1:ncclCommInitRankConfig:1:error;0:never:1:error"},
    {.name = "init failed",
     .run = init_failed,
     .n_rank = WORLD,
     .env = "GPUSIM_FAULT=1:ncclCommInitRankConfig:1:init"},
    {.name = "init hangs",
     .run = init_hangs,
     .n_rank = WORLD,
     .env = "GPUSIM_FAULT=1:ncclCommInitRankConfig:1:hang"},
    {.name = "hangs", .run = hangs, .n_rank = WORLD, .env = "GPUSIM_FAULT=1:ncclAllReduce:2:hang"},
    {.name = "execution hangs",
     .run = hangs,
     .n_rank = WORLD,
     .env = "GPUSIM_FAULT=1:collective:2:hang"},
    {.name = "remote",
     .run = remote,
     .n_rank = WORLD,
     .env = "GPUSIM_FAULT=1:ncclAllReduce:2:remote"},
    {.name = "asynchronous",
     .run = asynchronous,
     .n_rank = WORLD,
     .env = "GPUSIM_FAULT=1:ncclAllReduce:2:async"},
    {.name = "exits",
     .run = exits,
     .n_rank = WORLD,
     .end = 1,
     .env = "GPUSIM_FAULT=1:ncclAllReduce:2:exit",
     .words = SAYS("1: fault: ncclAllReduce number 2: exit")},
    {.name = "leaves", .run = leaves, .n_rank = WORLD, .env = "GPUSIM_FAULT=1:cudaMalloc:2:memory"},
    {.name = "abort hangs",
     .run = abort_hangs,
     .n_rank = WORLD,
     .end = -SIGALRM,
     .env = "GPUSIM_FAULT=1:ncclCommAbort:1:hang"},
    {.name = "settings",
     .run = settings,
     .n_rank = WORLD,
     .env = "GPUSIM_DEVICES=3 GPUSIM_MEMORY=1000000 GPUSIM_CC=7.5 GPUSIM_NAME=T4 "
            "GPUSIM_NCCL_VERSION=1:22703"},
    {.name = "no driver", .run = no_driver, .env = "GPUSIM_DRIVER=0"},
    {.name = "no device", .run = no_device, .env = "GPUSIM_DEVICES=0"},
    {.name = "unchecked", .run = unchecked, .env = "GPUSIM_CHECK=off"},
    {.name = "a fault that is none",
     .run = nothing,
     .end = 2,
     .env = "GPUSIM_FAULT=0:cudaMalloc:memory",
     .words = {"gpusim: GPUSIM_FAULT=0:cudaMalloc:memory is not understood"}},
    {.name = "an unknown kind",
     .run = nothing,
     .end = 2,
     .env = "GPUSIM_FAULT=0:cudaMalloc:1:memry",
     .words = {"gpusim: GPUSIM_FAULT=0:cudaMalloc:1:memry is not understood"}},
    {.name = "no number",
     .run = nothing,
     .end = 2,
     .env = "GPUSIM_MEMORY=2G",
     .words = {"gpusim: GPUSIM_MEMORY=2G is not understood"}},
    {0},
};
