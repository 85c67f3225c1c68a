/* The simulated libnccl: NCCL's ABI, collectives as operations of the simulated streams. Every rank
 * sends its part to every other, so that each sees all calls and can compare them; reductions add
 * in the order of the ranks. */
#include <nccl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "gpusim.h"
#include "nccl_net.h"

#define API __attribute__((visibility("default")))

enum { VERSION_MULTI_RANK = 23000 };

struct ncclComm {
    struct net *net;
    int rank, world, device;
    ncclResult_t state; /* what ncclCommGetAsyncError says */
    bool ready, finalized, slow_once;
    bool init_fault;
    int n_registered;
    struct ncclComm *next;
};

/* One collective, send or receive; an operation of a stream, or part of a group. */
struct call {
    struct ncclComm *comm;
    enum net_kind kind; /* NET_SEND for receives, too: what is expected */
    bool receives;
    bool hangs; /* a fault: always, or */
    bool hangs_now;
    bool done;
    struct net_header header;
    const void *send; /* what this rank gives, header.bytes */
    void *receive;
    size_t receive_bytes;
    int peer;          /* of a send or a receive */
    struct call *next; /* of a group */
};

static struct ncclComm *comms;
static char last_error[256];
static int group_depth;
static struct call *group, **group_end = &group;
static cudaStream_t group_stream;

static ncclResult_t fail(ncclResult_t r, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

static ncclResult_t fail(ncclResult_t r, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    vsnprintf(last_error, sizeof last_error, fmt, args);
    va_end(args);
    return r;
}

/* ---- versions and words ---- */

/* GPUSIM_NCCL_VERSION: "22809", or "rank:version,..." with the rest as the headers say. */
static int version(void) {
    const char *text = getenv("GPUSIM_NCCL_VERSION");
    int v = NCCL_VERSION_CODE;
    if (text && !strchr(text, ':')) {
        return atoi(text);
    }
    while (text && *text) {
        int rank, one;
        if (sscanf(text, "%d:%d", &rank, &one) == 2 && rank == gpusim_rank()) {
            v = one;
        }
        text = strchr(text, ',');
        text = text ? text + 1 : NULL;
    }
    return v;
}

API ncclResult_t ncclGetVersion(int *out) {
    *out = version();
    return ncclSuccess;
}

API const char *ncclGetErrorString(ncclResult_t r) {
    switch (r) {
    case ncclSuccess:
        return "no error";
    case ncclUnhandledCudaError:
        return "unhandled cuda error";
    case ncclSystemError:
        return "unhandled system error";
    case ncclInternalError:
        return "internal error";
    case ncclInvalidArgument:
        return "invalid argument";
    case ncclInvalidUsage:
        return "invalid usage";
    case ncclRemoteError:
        return "remote process exited or there was a network error";
    case ncclInProgress:
        return "NCCL operation in progress";
    default:
        return "unknown result code";
    }
}

API const char *ncclGetLastError(ncclComm_t comm) {
    (void)comm;
    return last_error;
}

/* A fault that is due: what the call returns at once, or ncclSuccess where it takes its effect
 * later
 * (*kind says which). */
static ncclResult_t fault(const char *name, struct ncclComm *c, const char **kind) {
    *kind = gpusim_fault(name);
    if (!*kind) {
        return ncclSuccess;
    }
    if (strcmp(*kind, "remote") == 0) {
        return fail(ncclRemoteError, "%s: simulated remote error", name);
    }
    if (strcmp(*kind, "error") == 0 || strcmp(*kind, "memory") == 0) {
        return fail(strcmp(*kind, "memory") == 0 ? ncclUnhandledCudaError : ncclInternalError,
                    "%s: simulated failure", name);
    }
    if (strcmp(*kind, "async") == 0 && c) {
        c->state = fail(ncclSystemError, "%s: simulated asynchronous error", name);
    }
    return ncclSuccess;
}

/* ---- communicators ---- */

API ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    const char *kind;
    unsigned char random[16];
    ncclResult_t r = fault("ncclGetUniqueId", NULL, &kind);
    if (r != ncclSuccess) {
        return r;
    }
    memset(id, 0, sizeof *id);
    if (getrandom(random, sizeof random, 0) != sizeof random) {
        return fail(ncclSystemError, "getrandom failed");
    }
    for (size_t i = 0; i < sizeof random; i++) {
        snprintf(id->internal + 2 * i, 3, "%02x", random[i]);
    }
    return ncclSuccess;
}

static bool one_gpu_for_two(void) {
    const char *allowed = getenv("NCCL_MULTI_RANK_GPU_ENABLE");
    return version() >= VERSION_MULTI_RANK && allowed && strcmp(allowed, "1") == 0;
}

/* Compares what the others have said about themselves. */
static ncclResult_t check_peers(const struct ncclComm *c, const struct net_hello *mine) {
    for (int r = 0; r < c->world; r++) {
        const struct net_hello *h = r == c->rank ? NULL : net_peer(c->net, r);
        if (h && h->world != c->world) {
            return fail(ncclInvalidUsage, "rank %d has %d ranks, rank %d has %d", c->rank, c->world,
                        r, h->world);
        }
        if (h && strcmp(h->device, mine->device) == 0 && !one_gpu_for_two()) {
            return fail(ncclInvalidUsage, "Duplicate GPU detected: rank %d and rank %d both on %s",
                        c->rank, r, mine->device);
        }
    }
    return ncclSuccess;
}

static struct net_hello hello_of(const struct ncclComm *c) {
    struct net_hello h = {.world = c->world, .rank = c->rank};
    snprintf(h.device, sizeof h.device, "device %d", c->device);
    return h;
}

static void progress(struct ncclComm *c) {
    if (!c->net || (c->state != ncclSuccess && c->state != ncclInProgress)) {
        return;
    }
    net_progress(c->net);
    if (!c->ready) {
        struct net_hello mine = hello_of(c);
        ncclResult_t r = c->init_fault
                             ? fail(ncclSystemError, "ncclCommInitRank: simulated failure")
                             : check_peers(c, &mine);
        if (r != ncclSuccess) {
            c->state = r;
            return;
        }
        c->ready = net_ready(c->net);
        c->state = c->ready ? ncclSuccess : c->state;
    }
    int lost = net_lost(c->net);
    if (lost >= 0) {
        c->state = fail(ncclRemoteError, "rank %d closed its connection", lost);
    }
}

API ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int world, ncclUniqueId id, int rank,
                                        ncclConfig_t *config) {
    const char *kind;
    ncclResult_t r = fault("ncclCommInitRankConfig", NULL, &kind);
    *out = NULL;
    if (r != ncclSuccess) {
        return r;
    }
    if (world < 1 || rank < 0 || rank >= world) {
        return fail(ncclInvalidArgument, "rank %d of %d", rank, world);
    }
    struct ncclComm *c = calloc(1, sizeof *c);
    *c = (struct ncclComm){.rank = rank,
                           .world = world,
                           .device = gpusim_device(),
                           .state = ncclInProgress,
                           .slow_once = true,
                           .init_fault = kind && strcmp(kind, "init") == 0,
                           .next = comms};
    struct net_hello mine = hello_of(c);
    /* A rank that hangs is one that never comes. */
    bool hangs = kind && strcmp(kind, "hang") == 0;
    c->net = hangs ? NULL : net_create(id.internal, rank, world, &mine);
    comms = c;
    *out = c;
    if (config && config->blocking == 0) {
        return ncclInProgress;
    }
    while (c->state == ncclInProgress) {
        progress(c);
        usleep(100);
    }
    return c->state;
}

API ncclResult_t ncclCommInitRank(ncclComm_t *out, int world, ncclUniqueId id, int rank) {
    return ncclCommInitRankConfig(out, world, id, rank, NULL);
}

API ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *out) {
    progress(c);
    *out = c->state;
    return ncclSuccess;
}

static void unlink_comm(struct ncclComm *c) {
    for (struct ncclComm **at = &comms; *at; at = &(*at)->next) {
        if (*at == c) {
            *at = c->next;
            break;
        }
    }
    if (c->net) {
        net_destroy(c->net);
    }
    free(c);
}

API ncclResult_t ncclCommAbort(ncclComm_t c) {
    const char *kind;
    fault("ncclCommAbort", NULL, &kind);
    if (gpusim_graphs_of(c) > 0) {
        gpusim_finding("ncclCommAbort waits for %d captured graphs of the communicator, which are "
                       "alive",
                       gpusim_graphs_of(c));
    }
    while (gpusim_graphs_of(c) > 0 || (kind && strcmp(kind, "hang") == 0)) {
        usleep(1000); /* NCCL waits for captured graphs that are alive */
    }
    gpusim_give_up();
    gpusim_drop(c);
    unlink_comm(c);
    return ncclSuccess;
}

API ncclResult_t ncclCommFinalize(ncclComm_t c) {
    const char *kind;
    ncclResult_t r = fault("ncclCommFinalize", c, &kind);
    if (r != ncclSuccess) {
        return r;
    }
    const struct net_header bye = {.kind = NET_BYE, .call = "ncclCommFinalize"};
    for (int p = 0; c->net && p < c->world; p++) {
        if (p != c->rank) {
            net_send(c->net, p, &bye, NULL);
        }
    }
    c->finalized = true;
    if (kind && strcmp(kind, "hang") == 0) {
        c->state = ncclInProgress; /* and so it stays */
    }
    return c->state;
}

static const char *type_name(int dtype) {
    static const char *const names[] = {"int8",   "uint8",   "int32",   "uint32",  "int64",
                                        "uint64", "float16", "float32", "float64", "bfloat16"};
    return dtype >= 0 && dtype < 10 ? names[dtype] : "unknown type";
}

/* A call as its caller wrote it. */
static void describe(char *out, size_t size, const struct net_header *h) {
    static const char *const ops[] = {"sum", "prod", "max", "min", "avg"};
    int n = snprintf(out, size, "%s", h->call);
    if (h->kind == NET_COLLECTIVE || h->kind == NET_SEND) {
        n += snprintf(out + n, size - (size_t)n, "(count %llu, %s", (unsigned long long)h->count,
                      type_name(h->dtype));
        if (strcmp(h->call, "ncclAllReduce") == 0) {
            n += snprintf(out + n, size - (size_t)n, ", %s",
                          h->redop >= 0 && h->redop < 5 ? ops[h->redop] : "unknown operation");
        } else if (strcmp(h->call, "ncclBroadcast") == 0) {
            n += snprintf(out + n, size - (size_t)n, ", root %d", h->root);
        }
        snprintf(out + n, size - (size_t)n, ")");
    }
}

/* Calls of others that this rank has never made. */
static void report_unmet(const struct ncclComm *c) {
    for (int r = 0; c->net && r < c->world; r++) {
        const void *payload;
        char theirs[128];
        const struct net_header *h = r == c->rank ? NULL : net_peek(c->net, r, &payload);
        if (h && (h->kind == NET_COLLECTIVE || h->kind == NET_SEND)) {
            describe(theirs, sizeof theirs, h);
            gpusim_finding(
                "mismatched collectives: rank %d calls ncclCommDestroy, rank %d calls %s", c->rank,
                r, theirs);
        }
    }
}

API ncclResult_t ncclCommDestroy(ncclComm_t c) {
    if (gpusim_graphs_of(c) > 0) {
        gpusim_finding("ncclCommDestroy while a captured graph of the communicator is alive");
    }
    if (c->n_registered > 0) {
        gpusim_finding("ncclCommDestroy with %d buffers registered", c->n_registered);
    }
    report_unmet(c);
    if (!c->finalized) {
        ncclCommFinalize(c);
    }
    gpusim_drop(c);
    unlink_comm(c);
    return ncclSuccess;
}

API ncclResult_t ncclCommCount(const ncclComm_t c, int *out) {
    *out = c->world;
    return ncclSuccess;
}

API ncclResult_t ncclCommUserRank(const ncclComm_t c, int *out) {
    *out = c->rank;
    return ncclSuccess;
}

API ncclResult_t ncclCommCuDevice(const ncclComm_t c, int *out) {
    *out = c->device;
    return ncclSuccess;
}

static void at_end(int status, void *none) {
    (void)none;
    for (struct ncclComm *c = comms; status == 0 && !gpusim_gave_up() && c; c = c->next) {
        gpusim_finding("leak at exit: the communicator of rank %d of %d", c->rank, c->world);
    }
}

__attribute__((constructor)) static void begin(void) {
    on_exit(at_end, NULL);
}

/* ---- buffers ---- */

API ncclResult_t ncclMemAlloc(void **out, size_t bytes) {
    const char *kind;
    ncclResult_t r = fault("ncclMemAlloc", NULL, &kind);
    if (r != ncclSuccess) {
        return r;
    }
    return cudaMalloc(out, bytes) == cudaSuccess ? ncclSuccess
                                                 : fail(ncclUnhandledCudaError, "out of memory");
}

API ncclResult_t ncclMemFree(void *p) {
    return cudaFree(p) == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

API ncclResult_t ncclCommRegister(const ncclComm_t c, void *p, size_t bytes, void **handle) {
    if (!gpusim_memory(p, bytes, 0, false, "ncclCommRegister")) {
        return ncclInvalidArgument;
    }
    c->n_registered++;
    *handle = p;
    return ncclSuccess;
}

API ncclResult_t ncclCommDeregister(const ncclComm_t c, void *handle) {
    (void)handle;
    c->n_registered--;
    return ncclSuccess;
}

/* ---- collectives ---- */

static size_t size_of(ncclDataType_t t) {
    switch (t) {
    case ncclInt8:
    case ncclUint8:
        return 1;
    case ncclFloat16:
    case ncclBfloat16:
        return 2;
    case ncclInt32:
    case ncclUint32:
    case ncclFloat32:
        return 4;
    default:
        return 8;
    }
}

/* a = a (op) b, for the types that are used. */
static bool reduce(void *a, const void *b, size_t count, int dtype, int op) {
    for (size_t i = 0; i < count; i++) {
        if (dtype == ncclFloat32) {
            float x, y;
            memcpy(&x, (char *)a + 4 * i, 4);
            memcpy(&y, (const char *)b + 4 * i, 4);
            x = op == ncclSum ? x + y : x > y ? x : y;
            memcpy((char *)a + 4 * i, &x, 4);
        } else if (dtype == ncclUint32) {
            uint32_t x, y;
            memcpy(&x, (char *)a + 4 * i, 4);
            memcpy(&y, (const char *)b + 4 * i, 4);
            x = op == ncclSum ? x + y : x > y ? x : y;
            memcpy((char *)a + 4 * i, &x, 4);
        } else {
            return false;
        }
    }
    return op == ncclSum || op == ncclMax;
}

/* The two calls that meet do not fit. */
static void mismatch(struct ncclComm *c, const struct net_header *mine, int rank,
                     const struct net_header *theirs) {
    char a[128], b[128];
    describe(a, sizeof a, mine);
    describe(b, sizeof b, theirs);
    gpusim_finding("mismatched collectives: rank %d calls %s, rank %d calls %s", c->rank, a, rank,
                   b);
    c->state = fail(ncclInvalidUsage, "mismatched collectives: %s here, %s on rank %d", a, b, rank);
}

/* All peers' messages for this call are there, and fit. */
static bool all_there(struct call *k) {
    struct ncclComm *c = k->comm;
    for (int r = 0; r < c->world; r++) {
        const void *payload;
        const struct net_header *h = r == c->rank ? NULL : net_peek(c->net, r, &payload);
        if (r == c->rank) {
            continue;
        }
        if (!h) {
            return false;
        }
        if (h->kind != NET_COLLECTIVE || strcmp(h->call, k->header.call) != 0 ||
            h->count != k->header.count || h->dtype != k->header.dtype ||
            h->redop != k->header.redop || h->root != k->header.root) {
            mismatch(c, &k->header, r, h);
            return false;
        }
    }
    return true;
}

/* Rank r's part, the own one included. */
static const void *part_of(struct call *k, int r, const void *mine) {
    const void *payload = mine;
    if (r != k->comm->rank) {
        net_peek(k->comm->net, r, &payload);
    }
    return payload;
}

static bool combine(struct call *k, char *out, const void *mine) {
    struct ncclComm *c = k->comm;
    size_t bytes = k->header.count * size_of((ncclDataType_t)k->header.dtype);
    if (strcmp(k->header.call, "ncclAllReduce") == 0) {
        char *sum = malloc(bytes + 1);
        bool ok = true;
        memcpy(sum, part_of(k, 0, mine), bytes);
        for (int r = 1; ok && r < c->world; r++) {
            ok =
                reduce(sum, part_of(k, r, mine), k->header.count, k->header.dtype, k->header.redop);
        }
        memcpy(out, sum, bytes);
        free(sum);
        return ok;
    }
    if (strcmp(k->header.call, "ncclAllGather") == 0) {
        char *all = malloc(bytes * (size_t)c->world + 1);
        for (int r = 0; r < c->world; r++) {
            memcpy(all + (size_t)r * bytes, part_of(k, r, mine), bytes);
        }
        memcpy(out, all, bytes * (size_t)c->world);
        free(all);
        return true;
    }
    if (c->rank != k->header.root) {
        memcpy(out, part_of(k, k->header.root, mine), bytes);
    } else if (out != mine) {
        memcpy(out, mine, bytes);
    }
    return true;
}

static void send_out(struct call *k) {
    const void *data = k->header.bytes ? gpusim_memory(k->send, k->header.bytes, GPUSIM_READ, false,
                                                       k->header.call)
                                       : NULL;
    struct net_header h = k->header;
    h.bytes = data ? h.bytes : 0;
    for (int r = 0; r < k->comm->world; r++) {
        if (r != k->comm->rank && (k->kind == NET_COLLECTIVE || r == k->peer)) {
            net_send(k->comm->net, r, &h, data);
        }
    }
}

static enum gpusim_status finish_receive(struct call *k, cudaError_t *error) {
    const void *payload;
    const struct net_header *h = net_peek(k->comm->net, k->peer, &payload);
    if (!h) {
        return GPUSIM_BUSY;
    }
    if (h->kind != NET_SEND || h->bytes != k->receive_bytes) {
        mismatch(k->comm, &k->header, k->peer, h);
        return GPUSIM_BUSY;
    }
    void *to = gpusim_memory(k->receive, k->receive_bytes, GPUSIM_WRITE, false, "ncclRecv");
    if (!to) {
        *error = cudaErrorIllegalAddress;
        return GPUSIM_FAILED;
    }
    memcpy(to, payload, h->bytes);
    net_pop(k->comm->net, k->peer);
    return GPUSIM_DONE;
}

static bool is_broadcast(const struct call *k) {
    return strcmp(k->header.call, "ncclBroadcast") == 0;
}

static enum gpusim_status finish_collective(struct call *k, cudaError_t *error) {
    const char *who = k->header.call;
    bool root_only = is_broadcast(k) && k->comm->rank != k->header.root;
    size_t bytes = k->header.count * size_of((ncclDataType_t)k->header.dtype);
    if (!all_there(k)) {
        return GPUSIM_BUSY;
    }
    const void *mine = root_only ? NULL : gpusim_memory(k->send, bytes, 0, false, who);
    char *out = gpusim_memory(k->receive, k->receive_bytes, GPUSIM_WRITE, false, who);
    if ((!mine && !root_only) || !out || !combine(k, out, mine)) {
        *error = cudaErrorIllegalAddress;
        return GPUSIM_FAILED;
    }
    for (int r = 0; r < k->comm->world; r++) {
        if (r != k->comm->rank) {
            net_pop(k->comm->net, r);
        }
    }
    return GPUSIM_DONE;
}

static enum gpusim_status run_call(struct call *k, bool start, cudaError_t *error) {
    struct ncclComm *c = k->comm;
    if (start) {
        const char *kind = NULL;
        k->done = false;
        if (k->kind == NET_COLLECTIVE && fault("collective", c, &kind) != ncclSuccess) {
            c->state = ncclRemoteError;
        }
        k->hangs_now = k->hangs || (kind && strcmp(kind, "hang") == 0);
        if (!k->receives && !k->hangs_now) {
            send_out(k);
        }
    }
    progress(c);
    if (k->hangs_now || c->state != ncclSuccess) {
        return GPUSIM_BUSY; /* as a kernel that spins until it is aborted */
    }
    return k->kind == NET_COLLECTIVE ? finish_collective(k, error)
           : k->receives             ? finish_receive(k, error)
                                     : GPUSIM_DONE;
}

/* A group: its members in any order. */
static enum gpusim_status run_calls(void *arg, bool start, cudaError_t *error) {
    bool busy = false;
    for (struct call *k = arg; k; k = k->next) {
        if (!start && k->done) {
            continue;
        }
        enum gpusim_status s = run_call(k, start, error);
        if (s == GPUSIM_FAILED) {
            return s;
        }
        k->done = s == GPUSIM_DONE;
        busy = busy || !k->done;
    }
    return busy ? GPUSIM_BUSY : GPUSIM_DONE;
}

static void destroy_calls(void *arg) {
    for (struct call *k = arg, *next; k; k = next) {
        next = k->next;
        free(k);
    }
}

static ncclResult_t enqueue(struct call *first, cudaStream_t stream) {
    struct ncclComm *c = first->comm;
    struct gpusim_op op = {.name = first->header.call,
                           .run = run_calls,
                           .destroy = destroy_calls,
                           .arg = first,
                           .owner = c};
    if (gpusim_enqueue(stream, &op) != cudaSuccess) {
        return fail(ncclUnhandledCudaError, "%s: the stream refuses it", op.name);
    }
    if (c->slow_once && c->state == ncclSuccess) { /* callers must see a call through */
        c->slow_once = false;
        return ncclInProgress;
    }
    return c->state;
}

static ncclResult_t submit(const struct call *call, cudaStream_t stream) {
    struct ncclComm *c = call->comm;
    const char *kind;
    if (c->state != ncclSuccess) {
        return c->state;
    }
    ncclResult_t r = fault(call->receives ? "ncclRecv" : call->header.call, c, &kind);
    if (r != ncclSuccess) {
        return r;
    }
    struct call *k = malloc(sizeof *k);
    *k = *call;
    k->hangs = kind && strcmp(kind, "hang") == 0;
    if (group_depth > 0) {
        *group_end = k;
        group_end = &k->next;
        group_stream = stream;
        return ncclSuccess;
    }
    return enqueue(k, stream);
}

API ncclResult_t ncclGroupStart(void); /* nccl.h has no prototypes of these two */
API ncclResult_t ncclGroupEnd(void);

API ncclResult_t ncclGroupStart(void) {
    group_depth++;
    return ncclSuccess;
}

API ncclResult_t ncclGroupEnd(void) {
    if (group_depth == 0) {
        return fail(ncclInvalidUsage, "ncclGroupEnd without ncclGroupStart");
    }
    if (--group_depth > 0 || !group) {
        return ncclSuccess;
    }
    struct call *first = group;
    group = NULL;
    group_end = &group;
    return enqueue(first, group_stream);
}

static struct call collective(const char *name, ncclComm_t c, const void *send, void *receive,
                              size_t count, ncclDataType_t t) {
    struct call k = {.comm = c, .kind = NET_COLLECTIVE, .send = send, .receive = receive};
    snprintf(k.header.call, sizeof k.header.call, "%s", name);
    k.header.kind = NET_COLLECTIVE;
    k.header.count = count;
    k.header.dtype = (int32_t)t;
    k.header.bytes = count * size_of(t);
    k.receive_bytes = k.header.bytes;
    return k;
}

API ncclResult_t ncclAllReduce(const void *send, void *receive, size_t count, ncclDataType_t t,
                               ncclRedOp_t op, ncclComm_t c, cudaStream_t stream) {
    struct call k = collective("ncclAllReduce", c, send, receive, count, t);
    k.header.redop = (int32_t)op;
    return submit(&k, stream);
}

API ncclResult_t ncclAllGather(const void *send, void *receive, size_t count, ncclDataType_t t,
                               ncclComm_t c, cudaStream_t stream) {
    struct call k = collective("ncclAllGather", c, send, receive, count, t);
    k.receive_bytes *= (size_t)c->world;
    return submit(&k, stream);
}

API ncclResult_t ncclBroadcast(const void *send, void *receive, size_t count, ncclDataType_t t,
                               int root, ncclComm_t c, cudaStream_t stream) {
    struct call k = collective("ncclBroadcast", c, send, receive, count, t);
    k.header.root = root;
    k.header.bytes = c->rank == root ? k.header.bytes : 0;
    return submit(&k, stream);
}

static struct call message(ncclComm_t c, size_t count, ncclDataType_t t, int peer) {
    struct call k = collective("ncclSend", c, NULL, NULL, count, t);
    k.kind = NET_SEND;
    k.header.kind = NET_SEND;
    k.peer = peer;
    return k;
}

API ncclResult_t ncclSend(const void *send, size_t count, ncclDataType_t t, int peer, ncclComm_t c,
                          cudaStream_t stream) {
    struct call k = message(c, count, t, peer);
    k.send = send;
    return submit(&k, stream);
}

API ncclResult_t ncclRecv(void *receive, size_t count, ncclDataType_t t, int peer, ncclComm_t c,
                          cudaStream_t stream) {
    struct call k = message(c, count, t, peer);
    k.receives = true;
    k.receive = receive;
    snprintf(k.header.call, sizeof k.header.call, "ncclRecv");
    return submit(&k, stream);
}
