/* Mistakes with collectives, on the simulated libnccl, between processes. */
#include <nccl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "test_sim.h"

enum { N = 32, WORLD = 2 };

#define DONE(call) CHECK((call) == ncclSuccess)

static struct {
    ncclComm_t comm;
    cudaStream_t stream;
    void *a, *b; /* 2 * N words: i + 1 in a, unwritten in b */
} s;

static ncclResult_t state(void) {
    ncclResult_t r = ncclInternalError;
    DONE(ncclCommGetAsyncError(s.comm, &r));
    return r;
}

static ncclResult_t join_with(int world, int rank, int device) {
    ncclUniqueId id = {0};
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclResult_t r;
    config.blocking = 0;
    snprintf(id.internal, sizeof id.internal, "%s", sim_meeting());
    OK(cudaSetDevice(device));
    CHECK(ncclCommInitRankConfig(&s.comm, world, id, rank, &config) == ncclInProgress);
    while ((r = state()) == ncclInProgress) {
        usleep(100);
    }
    return r;
}

static void begin(int world, int rank) {
    unsigned numbers[2 * N];
    for (unsigned i = 0; i < 2 * N; i++) {
        numbers[i] = i + 1;
    }
    DONE(join_with(world, rank, rank));
    OK(cudaStreamCreateWithFlags(&s.stream, cudaStreamNonBlocking));
    s.a = device_words(numbers, 2 * N);
    s.b = device_words(NULL, 2 * N);
}

/* The first call of a communicator may go on in the background. */
static void called(ncclResult_t r) {
    while (r == ncclInProgress) {
        r = state();
    }
    DONE(r);
}

static void all_reduce(size_t n, ncclDataType_t t, ncclRedOp_t op) {
    called(ncclAllReduce(s.a, s.b, n, t, op, s.comm, s.stream));
}

/* Waits until the stream is done, or NCCL says what is wrong. */
static ncclResult_t await(void) {
    cudaError_t e;
    while ((e = cudaStreamQuery(s.stream)) == cudaErrorNotReady) {
        ncclResult_t r = state();
        if (r != ncclSuccess) {
            return r;
        }
        usleep(100);
    }
    OK(e);
    return ncclSuccess;
}

static void end(void) {
    OK(cudaFree(s.a));
    OK(cudaFree(s.b));
    OK(cudaStreamDestroy(s.stream));
    called(ncclCommFinalize(s.comm));
    DONE(ncclCommDestroy(s.comm));
}

/* The ranks' calls did not fit. */
static void end_of_mismatch(void) {
    CHECK(await() == ncclInvalidUsage);
    CHECK(strstr(ncclGetLastError(s.comm), "mismatched collectives"));
    DONE(ncclCommAbort(s.comm));
}

/* ---- as it should be ---- */

static void expect(const void *device, size_t i, unsigned value) {
    unsigned got[2 * N];
    OK(cudaMemcpy(got, device, (i + 1) * sizeof *got, cudaMemcpyDeviceToHost));
    CHECK(got[i] == value);
}

static void no_mistake(int rank) {
    begin(WORLD, rank);
    all_reduce(N, ncclUint32, ncclSum);
    DONE(await());
    expect(s.b, 4, 10);
    all_reduce(N, ncclUint32, ncclMax);
    DONE(await());
    expect(s.b, 4, 5);
    DONE(ncclAllGather(s.a, s.b, N, ncclUint32, s.comm, s.stream));
    DONE(await());
    expect(s.b, N + 4, 5);
    DONE(ncclBroadcast(rank == 1 ? (char *)s.a + 4 : s.a, s.b, N, ncclUint32, 1, s.comm, s.stream));
    DONE(await());
    expect(s.b, 4, 6);
    DONE(ncclGroupStart());
    DONE(ncclSend(s.a, 3, ncclUint32, 1 - rank, s.comm, s.stream));
    DONE(ncclRecv(s.b, 3, ncclUint32, 1 - rank, s.comm, s.stream));
    DONE(ncclGroupEnd());
    DONE(await());
    expect(s.b, 2, 3);
    end();
}

/* ---- calls that do not fit ---- */

static void counts(int rank) {
    begin(WORLD, rank);
    all_reduce(rank ? 4 : 3, ncclUint32, ncclSum);
    end_of_mismatch();
}

static void types(int rank) {
    begin(WORLD, rank);
    all_reduce(4, rank ? ncclFloat32 : ncclUint32, ncclSum);
    end_of_mismatch();
}

static void operations(int rank) {
    begin(WORLD, rank);
    all_reduce(4, ncclUint32, rank ? ncclMax : ncclSum);
    end_of_mismatch();
}

static void order(int rank) {
    begin(WORLD, rank);
    for (int i = 0; i < 2; i++) {
        if (i == rank) {
            all_reduce(4, ncclUint32, ncclSum);
        } else {
            called(ncclAllGather(s.a, s.b, 4, ncclUint32, s.comm, s.stream));
        }
    }
    end_of_mismatch();
}

static void roots(int rank) {
    begin(WORLD, rank);
    called(ncclBroadcast(s.a, s.b, 4, ncclUint32, rank, s.comm, s.stream));
    end_of_mismatch();
}

/* Only who receives can see it. */
static void lengths(int rank) {
    begin(WORLD, rank);
    if (rank == 1) {
        called(ncclSend(s.a, 5, ncclUint32, 0, s.comm, s.stream));
        while (await() == ncclSuccess && state() == ncclSuccess) { /* until the other goes */
            usleep(100);
        }
        DONE(ncclCommAbort(s.comm));
        exit(FINDINGS); /* as the other rank, though it has none */
    } else {
        called(ncclRecv(s.b, 4, ncclUint32, 1, s.comm, s.stream));
        end_of_mismatch();
    }
}

/* One call more than the other rank. */
static void one_more(int rank) {
    begin(WORLD, rank);
    all_reduce(4, ncclUint32, ncclSum);
    DONE(await());
    if (rank == 0) {
        usleep(300000);
        CHECK(state() == ncclSuccess);
        end();
    } else {
        all_reduce(6, ncclUint32, ncclSum);
        end_of_mismatch();
    }
}

/* ---- buffers ---- */

static void host_buffer(int rank) {
    unsigned numbers[N] = {0};
    begin(1, rank);
    called(ncclAllReduce(s.a, numbers, N, ncclUint32, ncclSum, s.comm, s.stream));
    CHECK(cudaStreamQuery(s.stream) == cudaErrorIllegalAddress);
}

static void unwritten_buffer(int rank) {
    begin(1, rank);
    called(ncclAllReduce(s.b, s.a, N, ncclUint32, ncclSum, s.comm, s.stream));
    DONE(await());
    end();
}

static void short_buffer(int rank) {
    begin(1, rank);
    called(ncclAllReduce(s.a, (char *)s.b + 4, 2 * N, ncclUint32, ncclSum, s.comm, s.stream));
    CHECK(cudaStreamQuery(s.stream) == cudaErrorIllegalAddress);
}

static void forgets(int rank) {
    void *handle;
    begin(1, rank);
    DONE(ncclCommRegister(s.comm, s.a, 4 * N, &handle));
    end();
    DONE(join_with(1, rank, 0));
}

/* ---- graphs ---- */

static void capture(cudaGraph_t *graph, cudaGraphExec_t *exec) {
    all_reduce(4, ncclUint32, ncclSum);
    DONE(await());
    OK(cudaStreamBeginCapture(s.stream, cudaStreamCaptureModeThreadLocal));
    all_reduce(4, ncclUint32, ncclSum);
    OK(cudaStreamEndCapture(s.stream, graph));
    OK(cudaGraphInstantiate(exec, *graph, 0));
}

static atomic_bool aborted;

static void *abort_comm(void *none) {
    DONE(ncclCommAbort(s.comm));
    atomic_store(&aborted, true);
    return none;
}

static bool aborted_after(int ms) {
    for (int i = 0; i < ms && !atomic_load(&aborted); i++) {
        usleep(1000);
    }
    return atomic_load(&aborted);
}

/* The abort comes first and must be seen to wait for both, then to end. */
static void abort_before_graphs(int rank) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    pthread_t thread;
    begin(WORLD, rank);
    capture(&graph, &exec);
    OK(cudaGraphLaunch(exec, s.stream));
    CHECK(pthread_create(&thread, NULL, abort_comm, NULL) == 0);
    CHECK(!aborted_after(300));
    OK(cudaGraphExecDestroy(exec));
    CHECK(!aborted_after(300));
    OK(cudaGraphDestroy(graph));
    CHECK(aborted_after(10000));
    pthread_join(thread, NULL);
    OK(cudaStreamSynchronize(s.stream)); /* what was launched is gone, too */
}

static void abort_after_graphs(int rank) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    begin(WORLD, rank);
    capture(&graph, &exec);
    OK(cudaGraphLaunch(exec, s.stream));
    OK(cudaGraphExecDestroy(exec));
    OK(cudaGraphDestroy(graph));
    DONE(ncclCommAbort(s.comm));
}

static void abort_never_ends(int rank) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    begin(1, rank);
    capture(&graph, &exec);
    ualarm(300000, 0);
    DONE(ncclCommAbort(s.comm)); /* by the thread that would have to destroy the graph */
}

static void destroyed_before_graphs(int rank) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    begin(1, rank);
    capture(&graph, &exec);
    end();
    OK(cudaGraphExecDestroy(exec));
    OK(cudaGraphDestroy(graph));
}

static void replays(int rank) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    begin(WORLD, rank);
    capture(&graph, &exec);
    for (int i = 0; i < 3; i++) {
        OK(cudaMemsetAsync(s.b, 0, 16, s.stream));
        OK(cudaGraphLaunch(exec, s.stream));
        DONE(await());
        expect(s.b, 3, 8);
    }
    OK(cudaGraphExecDestroy(exec));
    OK(cudaGraphDestroy(graph));
    end();
}

/* ---- communicators ---- */

static void one_gpu(int rank) {
    CHECK(join_with(WORLD, rank, 0) == ncclInvalidUsage);
    CHECK(strstr(ncclGetLastError(s.comm), "Duplicate GPU detected"));
    DONE(ncclCommAbort(s.comm));
}

static void one_gpu_allowed(int rank) {
    DONE(join_with(WORLD, rank, 0));
    called(ncclCommFinalize(s.comm));
    DONE(ncclCommDestroy(s.comm));
}

static void worlds_differ(int rank) {
    CHECK(join_with(WORLD + rank, rank, rank) == ncclInvalidUsage);
    DONE(ncclCommAbort(s.comm));
}

static void goes_away(int rank) {
    begin(WORLD, rank);
    if (rank == 1) {
        sim_meet(WORLD);
        _exit(0);
    }
    all_reduce(4, ncclUint32, ncclSum);
    sim_meet(WORLD);
    CHECK(await() == ncclRemoteError);
    DONE(ncclCommAbort(s.comm));
}

/* Both ranks tell, and both name both calls. */
#define MISMATCH(what, function, first, second)                                                    \
    {                                                                                              \
        .name = what, .run = function, .n_rank = WORLD, .n_finding = 2, .end = FINDINGS,           \
        .words = {"gpusim: rank 0: FINDING: mismatched collectives: rank 0 calls " first           \
                  ", rank 1 calls " second,                                                        \
                  "gpusim: rank 1: FINDING: mismatched collectives: rank 1 calls " second          \
                  ", rank 0 calls " first},                                                        \
    }

const struct program programs[] = {
    {.name = "no mistake", .run = no_mistake, .n_rank = WORLD},
    MISMATCH("counts", counts, "ncclAllReduce(count 3, uint32, sum)",
             "ncclAllReduce(count 4, uint32, sum)"),
    MISMATCH("types", types, "ncclAllReduce(count 4, uint32, sum)",
             "ncclAllReduce(count 4, float32, sum)"),
    MISMATCH("operations", operations, "ncclAllReduce(count 4, uint32, sum)",
             "ncclAllReduce(count 4, uint32, max)"),
    MISMATCH("order", order, "ncclAllReduce(count 4, uint32, sum)",
             "ncclAllGather(count 4, uint32)"),
    MISMATCH("roots", roots, "ncclBroadcast(count 4, uint32, root 0)",
             "ncclBroadcast(count 4, uint32, root 1)"),
    {.name = "lengths",
     .run = lengths,
     .n_rank = WORLD,
     .n_finding = 1,
     .end = FINDINGS,
     .words = {"gpusim: rank 0: FINDING: mismatched collectives: rank 0 calls ncclRecv(count 4, "
               "uint32), "
               "rank 1 calls ncclSend(count 5, uint32)"}},
    {.name = "one more",
     .run = one_more,
     .n_rank = WORLD,
     .n_finding = 2,
     .end = FINDINGS,
     .words =
         {"rank 0: FINDING: mismatched collectives: rank 0 calls ncclCommDestroy, rank 1 calls "
          "ncclAllReduce(count 6, uint32, sum)",
          "rank 1: FINDING: mismatched collectives: rank 1 calls ncclAllReduce(count 6, uint32, "
          "sum), rank 0 calls ncclCommFinalize"}},
    {.name = "host buffer",
     .run = host_buffer,
     .n_finding = 1,
     .end = FINDINGS,
     .words = {"ncclAllReduce: 0x", "is not device memory"}},
    {.name = "unwritten buffer",
     .run = unwritten_buffer,
     .n_finding = 1,
     .end = FINDINGS,
     .words = {"ncclAllReduce: reads 0x", "which was never written"}},
    {.name = "short buffer",
     .run = short_buffer,
     .n_finding = 1,
     .end = FINDINGS,
     .words = {"ncclAllReduce: 256 bytes at 0x", "are byte 4 and on of an allocation of 256"}},
    {.name = "forgets",
     .run = forgets,
     .n_finding = 2,
     .end = FINDINGS,
     .words = {"ncclCommDestroy with 1 buffers registered",
               "leak at exit: the communicator of rank 0 of 1"}},
    {.name = "abort before graphs",
     .run = abort_before_graphs,
     .n_rank = WORLD,
     .n_finding = 2,
     .end = FINDINGS,
     .words = {"ncclCommAbort waits for 2 captured graphs of the communicator, which are alive"}},
    {.name = "abort after graphs", .run = abort_after_graphs, .n_rank = WORLD},
    {.name = "abort never ends",
     .run = abort_never_ends,
     .n_finding = 1,
     .end = -SIGALRM,
     .words = {"ncclCommAbort waits for 2 captured graphs"}},
    {.name = "destroyed before graphs",
     .run = destroyed_before_graphs,
     .n_finding = 1,
     .end = FINDINGS,
     .words = {"ncclCommDestroy while a captured graph of the communicator is alive"}},
    {.name = "replays", .run = replays, .n_rank = WORLD},
    {.name = "one GPU", .run = one_gpu, .n_rank = WORLD},
    {.name = "one GPU, NCCL 2.30",
     .run = one_gpu,
     .n_rank = WORLD,
     .env = "GPUSIM_NCCL_VERSION=23000"},
    {.name = "one GPU, NCCL 2.30, allowed",
     .run = one_gpu_allowed,
     .n_rank = WORLD,
     .env = "GPUSIM_NCCL_VERSION=23000 NCCL_MULTI_RANK_GPU_ENABLE=1"},
    {.name = "worlds differ", .run = worlds_differ, .n_rank = WORLD},
    {.name = "goes away", .run = goes_away, .n_rank = WORLD},
    {0},
};
