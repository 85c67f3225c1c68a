#include "comm/nccl/nccl_comm.h"

#include <nccl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "comm/nccl/nccl_log.h"
#include "device/cuda/cuda_device.h"

_Static_assert(COMM_ID_BYTES == NCCL_UNIQUE_ID_BYTES, "a communicator's id");

enum {
    NCCL_TRIAL_BYTES = 1 << 20,
    NCCL_LOOKS_PER_POLL = 16,
    NCCL_SMALL = 256, /* numbers of a reduction on host memory at a time */
};

/* A buffer from ncclMemAlloc. */
struct nccl_buffer {
    void *data;
    void *handle; /* of its registration; NULL: none */
    struct nccl_buffer *next;
};

struct comm_nccl {
    struct comm base;
    struct cuda_device *device;  /* borrowed */
    ncclComm_t nccl;             /* NULL once destroyed or aborted */
    struct nccl_buffer *buffers; /* owns; those that ncclMemAlloc gave */
    uint32_t *small;             /* owns, device [NCCL_SMALL] */
    uint64_t entry;              /* in the flight record, of the last collective */
    bool registers;              /* every rank can allocate by ncclMemAlloc and register that */
};

static struct comm_nccl *nccl_of(struct comm *c) {
    return (struct comm_nccl *)c;
}

const char *nccl_comm_version(void) {
    static char text[32];
    int v = nccl_comm_version_code();
    snprintf(text, sizeof text, "%d.%d.%d", v / 10000, v / 100 % 100, v % 100);
    return text;
}

int nccl_comm_version_code(void) {
    int v = 0;
    return ncclGetVersion(&v) == ncclSuccess ? v : 0;
}

/* `what`, NCCL's word for the result, and its longer ones where it has some. */
static bool nccl_error(struct error *err, enum error_kind kind, ncclResult_t r, ncclComm_t comm,
                       const char *what) {
    const char *more = ncclGetLastError(comm);
    bool any = more && *more;
    return error_set(err, kind, "%s: %s%s%.200s", what, ncclGetErrorString(r), any ? ": " : "",
                     any ? more : "");
}

bool nccl_comm_unique_id(uint8_t id[COMM_ID_BYTES], struct error *err) {
    ncclUniqueId made;
    nccl_log_to_stderr();
    ncclResult_t r = ncclGetUniqueId(&made);
    if (r != ncclSuccess) {
        return nccl_error(err, ERROR_NCCL_INIT, r, NULL, "ncclGetUniqueId");
    }
    memcpy(id, made.internal, COMM_ID_BYTES);
    return true;
}

/* Ends the communicator without the others' help. Graphs must be gone. */
static void abort_comm(void *user) {
    struct comm_nccl *c = user;
    c->base.broken = true;
    if (c->nccl) {
        ncclCommAbort(c->nccl);
        c->nccl = NULL;
    }
}

static bool broken(struct comm_nccl *c) {
    c->base.broken = true;
    return cuda_break(c->device); /* drops the graphs, then aborts */
}

/* Sees a call through that answered `r`: it may go on in the background. */
static bool finish(struct comm_nccl *c, ncclResult_t r, enum error_kind kind, const char *what,
                   struct error *err) {
    double deadline = clock_now() + c->base.timeout_s;
    for (int look = 1; r == ncclInProgress; look++) {
        ncclResult_t e = ncclCommGetAsyncError(c->nccl, &r);
        if (e != ncclSuccess) {
            r = e;
        }
        if (r == ncclInProgress && look % NCCL_LOOKS_PER_POLL == 0) {
            if (c->base.poll && !c->base.poll(c->base.poll_user, err)) {
                return broken(c);
            }
            double now = clock_now();
            flight_pulse(now);
            if (now > deadline) {
                error_set(err, ERROR_DEADLINE, "%s: not done within %g s", what, c->base.timeout_s);
                return broken(c);
            }
            sched_yield();
        }
    }
    if (r != ncclSuccess) {
        nccl_error(err, kind, r, c->nccl, what);
        if (r == ncclRemoteError) {
            cuda_ask_others(c->device, err);
        }
        return broken(c);
    }
    return true;
}

/* The device's waits ask this: has a collective on the stream failed? */
static bool check(void *user, struct error *err) {
    struct comm_nccl *c = user;
    ncclResult_t r = ncclSuccess;
    if (!c->nccl) {
        return true;
    }
    ncclResult_t e = ncclCommGetAsyncError(c->nccl, &r);
    r = e != ncclSuccess ? e : r;
    return r == ncclSuccess || r == ncclInProgress ||
           nccl_error(err, ERROR_COMM, r, c->nccl, "NCCL");
}

/* ---- buffers ---- */

static ncclResult_t registered_alloc(struct comm_nccl *c, struct nccl_buffer *b, size_t bytes) {
    ncclResult_t r = ncclMemAlloc(&b->data, bytes);
    if (r == ncclSuccess) {
        r = ncclCommRegister(c->nccl, b->data, bytes, &b->handle);
        if (r != ncclSuccess) {
            ncclMemFree(b->data);
        }
    }
    (void)cudaGetLastError(); /* it is in r */
    return r;
}

static void registered_free(struct comm_nccl *c, struct nccl_buffer *b) {
    if (b->handle && c->nccl) {
        ncclCommDeregister(c->nccl, b->handle);
    }
    ncclMemFree(b->data);
}

static bool nccl_alloc(struct comm *base, size_t bytes, void **out, struct error *err) {
    struct comm_nccl *c = nccl_of(base);
    struct device *d = &c->device->base;
    struct nccl_buffer *b = NULL;
    if (!c->nccl || !c->registers) {
        return d->ops->alloc(d, bytes, out, err);
    }
    if (!(b = calloc(1, sizeof *b))) {
        return error_set(err, ERROR_MEMORY, "no memory for a buffer");
    }
    /* No way round it on this rank alone: the others' buffers are registered. */
    ncclResult_t r = registered_alloc(c, b, bytes);
    if (r != ncclSuccess) {
        free(b);
        nccl_error(err, ERROR_MEMORY, r, c->nccl, "ncclMemAlloc");
        return error_wrap(err, "%zu bytes", bytes);
    }
    b->next = c->buffers;
    c->buffers = b;
    CUDA_TRY(cudaMemsetAsync(b->data, 0, bytes, c->device->stream), "cudaMemsetAsync");
    *out = b->data;
    return true;
}

static void nccl_free(struct comm *base, void *p, size_t bytes) {
    struct comm_nccl *c = nccl_of(base);
    struct device *d = &c->device->base;
    struct nccl_buffer **at = &c->buffers;
    if (!p || c->device->base.broken) {
        return;
    }
    while (*at && (*at)->data != p) {
        at = &(*at)->next;
    }
    if (!*at) {
        d->ops->free(d, p, bytes);
        return;
    }
    struct nccl_buffer *b = *at;
    *at = b->next;
    registered_free(c, b);
    free(b);
}

/* ---- collectives ---- */

/* Enters a collective in the flight record, where it stays entered if it never comes to the stream.
 * sent: by this rank. */
static bool begin(struct comm_nccl *c, const char *op, uint64_t bytes, enum flight_type type,
                  size_t sent, struct error *err) {
    const struct flight_call call = {op, bytes, type};
    if (c->base.broken || !c->nccl) {
        return error_set(err, ERROR_COMM, "%s: an earlier collective on this communicator failed",
                         op);
    }
    c->entry = flight_enter_collective(&call, clock_now());
    c->base.stats.n_collective++;
    c->base.stats.bytes += sent;
    return !c->base.check || c->base.check(c->base.check_user, &call, err) || broken(c);
}

/* Sees its enqueueing through. */
static bool enqueued(struct comm_nccl *c, ncclResult_t r, const char *what, struct error *err) {
    if (!finish(c, r, ERROR_COMM, what, err)) {
        return false;
    }
    flight_leave(c->entry, clock_now());
    return true;
}

static bool all_reduce_tree(struct comm *base, float *out, float *pieces, size_t n, int n_leaf,
                            struct error *err) {
    struct comm_nccl *c = nccl_of(base);
    (void)n_leaf; /* one partial sum per rank, whatever the tree */
    return begin(c, "all-reduce", n * sizeof *out, FLIGHT_F32, n * sizeof *out, err) &&
           enqueued(c,
                    ncclAllReduce(pieces, out, n, ncclFloat32, ncclSum, c->nccl, c->device->stream),
                    "ncclAllReduce", err);
}

/* Small numbers in host memory, by way of the device. */
static bool reduce_u32(struct comm *base, uint32_t *x, size_t n, ncclRedOp_t op, const char *name,
                       struct error *err) {
    struct comm_nccl *c = nccl_of(base);
    struct device *d = &c->device->base;
    for (size_t at = 0; at < n; at += NCCL_SMALL) {
        size_t m = n - at < NCCL_SMALL ? n - at : NCCL_SMALL;
        if (!begin(c, name, m * sizeof *x, FLIGHT_U32, m * sizeof *x, err) ||
            !cuda_upload(d, c->small, x + at, m * sizeof *x, err) ||
            !enqueued(
                c, ncclAllReduce(c->small, c->small, m, ncclUint32, op, c->nccl, c->device->stream),
                "ncclAllReduce", err) ||
            !cuda_download(d, x + at, c->small, m * sizeof *x, err)) {
            return false;
        }
    }
    return true;
}

static bool all_reduce_u32(struct comm *base, uint32_t *x, size_t n, struct error *err) {
    return reduce_u32(base, x, n, ncclSum, "all-reduce", err);
}

static bool all_reduce_max_u32(struct comm *base, uint32_t *x, size_t n, struct error *err) {
    return reduce_u32(base, x, n, ncclMax, "all-reduce max", err);
}

static bool all_gather(struct comm *base, void *dst, const void *src, size_t bytes,
                       struct error *err) {
    struct comm_nccl *c = nccl_of(base);
    return begin(c, "all-gather", bytes, FLIGHT_BYTES, bytes, err) &&
           enqueued(c, ncclAllGather(src, dst, bytes, ncclUint8, c->nccl, c->device->stream),
                    "ncclAllGather", err);
}

static bool broadcast(struct comm *base, void *buf, size_t bytes, int root, struct error *err) {
    struct comm_nccl *c = nccl_of(base);
    if (root < 0 || root >= base->world) {
        return error_set(err, ERROR_SHAPE, "broadcast: no rank %d in a world of %d", root,
                         base->world);
    }
    return begin(c, "broadcast", bytes, FLIGHT_BYTES, root == base->rank ? bytes : 0, err) &&
           enqueued(c, ncclBroadcast(buf, buf, bytes, ncclUint8, root, c->nccl, c->device->stream),
                    "ncclBroadcast", err);
}

/* Rank 0's own part stays on its GPU; the others' come by one group of receives. The copy goes
 * first: the group may still be on its way to the stream, by a thread of NCCL's, when this returns.
 */
static ncclResult_t gather_at_leader(struct comm_nccl *c, char *dst, const void *src,
                                     const size_t *bytes) {
    cudaStream_t stream = c->device->stream;
    size_t at = bytes[0];
    if (dst != src && at > 0 &&
        cudaMemcpyAsync(dst, src, at, cudaMemcpyDeviceToDevice, stream) != cudaSuccess) {
        return ncclUnhandledCudaError;
    }
    ncclResult_t r = ncclGroupStart();
    for (int i = 1; (r == ncclSuccess || r == ncclInProgress) && i < c->base.world; i++) {
        if (bytes[i] > 0) {
            r = ncclRecv(dst + at, bytes[i], ncclUint8, i, c->nccl, stream);
        }
        at += bytes[i];
    }
    ncclResult_t end = ncclGroupEnd();
    return r == ncclSuccess || r == ncclInProgress ? end : r;
}

static bool gather(struct comm *base, void *dst, const void *src, const size_t *bytes,
                   struct error *err) {
    struct comm_nccl *c = nccl_of(base);
    size_t mine = bytes[base->rank];
    if (!begin(c, "gather", comm_gather_bytes(base, bytes), FLIGHT_BYTES, base->rank ? mine : 0,
               err)) {
        return false;
    }
    ncclResult_t r = ncclSuccess;
    if (base->rank == 0) {
        r = gather_at_leader(c, dst, src, bytes);
    } else if (mine > 0) {
        r = ncclSend(src, mine, ncclUint8, 0, c->nccl, c->device->stream);
    }
    return enqueued(c, r, base->rank ? "ncclSend" : "ncclRecv", err);
}

/* Whether something worked on every rank. */
static bool agree(void *user, bool mine, bool *all, struct error *err) {
    struct comm_nccl *c = user;
    uint32_t failed = mine ? 0 : 1;
    if (!reduce_u32(&c->base, &failed, 1, ncclMax, "all-reduce max", err)) {
        return false;
    }
    *all = failed == 0;
    return true;
}

/* ---- beginning and end ---- */

static void destroy(struct comm *base) {
    struct comm_nccl *c = nccl_of(base);
    struct error err;
    if (!c->device->base.broken) {
        cuda_graphs_drop(c->device);
        while (c->buffers) {
            nccl_free(base, c->buffers->data, 0);
        }
        cudaFree(c->small);
        /* The others wait for this rank in MPI_Finalize, as long as any deadline. */
        c->base.timeout_s /= 2;
        if (c->nccl && finish(c, ncclCommFinalize(c->nccl), ERROR_COMM, "ncclCommFinalize", &err)) {
            ncclCommDestroy(c->nccl);
        }
    }
    while (c->buffers) { /* broken: what GPU memory there is goes with the process */
        struct nccl_buffer *b = c->buffers;
        c->buffers = b->next;
        free(b);
    }
    cuda_device_watch(c->device, NULL); /* only now: a finalize that fails is aborted, too */
    free(c);
}

static const struct comm_ops nccl_ops = {
    .name = "nccl",
    .exact = false,
    .enqueues = true,
    .destroy = destroy,
    .alloc = nccl_alloc,
    .free = nccl_free,
    .all_reduce_tree = all_reduce_tree,
    .all_reduce_u32 = all_reduce_u32,
    .all_reduce_max_u32 = all_reduce_max_u32,
    .all_gather = all_gather,
    .broadcast = broadcast,
    .gather = gather,
};

/* Where one rank's buffers are registered, all ranks' must be (NCCL's rule), so they find out
 * together whether they can. */
static bool try_memory(struct comm_nccl *c, struct error *err) {
    struct nccl_buffer b = {0};
    ncclResult_t r = registered_alloc(c, &b, NCCL_TRIAL_BYTES);
    if (r == ncclSuccess) {
        registered_free(c, &b);
    } else {
        log_debug("NCCL takes no buffers of its own: %s", ncclGetErrorString(r));
    }
    return agree(c, r == ncclSuccess, &c->registers, err);
}

static bool start(struct comm_nccl *c, const uint8_t id[COMM_ID_BYTES], struct error *err) {
    ncclUniqueId unique;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    memcpy(unique.internal, id, COMM_ID_BYTES);
    nccl_log_to_stderr();
    void *small = NULL;
    if (!cuda_alloc(&c->device->base, NCCL_SMALL * sizeof *c->small, &small, err)) {
        return false;
    }
    c->small = small;
    ncclResult_t r = ncclCommInitRankConfig(&c->nccl, c->base.world, unique, c->base.rank, &config);
    if (r != ncclSuccess && r != ncclInProgress) {
        nccl_error(err, ERROR_NCCL_INIT, r, NULL, "ncclCommInitRankConfig");
        return false;
    }
    return finish(c, r, ERROR_NCCL_INIT, "ncclCommInitRankConfig", err) && try_memory(c, err);
}

bool nccl_comm_create(struct device *device, const uint8_t id[COMM_ID_BYTES], int rank, int world,
                      double timeout_s, bool (*poll)(void *, struct error *), void *poll_user,
                      struct comm **out, struct error *err) {
    struct comm_nccl *c = calloc(1, sizeof *c);
    if (!c) {
        return error_set(err, ERROR_MEMORY, "no memory for a communicator");
    }
    c->base = (struct comm){.ops = &nccl_ops,
                            .rank = rank,
                            .world = world,
                            .timeout_s = timeout_s,
                            .poll = poll,
                            .poll_user = poll_user};
    c->device = cuda_of(device);
    log_set_rank(rank); /* the plug-in has a log of its own */
    const struct cuda_watch watch = {
        .check = check, .abort = abort_comm, .agree = agree, .user = c};
    cuda_device_watch(c->device, &watch);
    if (!start(c, id, err)) {
        broken(c);
        destroy(&c->base);
        return false;
    }
    *out = &c->base;
    return true;
}
