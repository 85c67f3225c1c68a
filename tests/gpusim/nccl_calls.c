/* Collectives of the simulated libnccl, as operations of the simulated streams. Every rank sends
 * its part to every other, so that each sees all calls and can compare them; reductions add in the
 * order of the ranks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nccl_impl.h"

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

static int group_depth;
static struct call *group, **group_end = &group;
static cudaStream_t group_stream;

static const char *type_name(int dtype) {
    static const char *const names[] = {"int8",   "uint8",   "int32",   "uint32",  "int64",
                                        "uint64", "float16", "float32", "float64", "bfloat16"};
    return dtype >= 0 && dtype < 10 ? names[dtype] : "unknown type";
}

void nccl_describe(char *out, size_t size, const struct net_header *h) {
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
    if (theirs->gave_up) { /* no mistake of its own */
        c->state = nccl_fail(ncclRemoteError, "rank %d has left", rank);
        return;
    }
    nccl_describe(a, sizeof a, mine);
    nccl_describe(b, sizeof b, theirs);
    gpusim_finding("mismatched collectives: rank %d calls %s, rank %d calls %s", c->rank, a, rank,
                   b);
    c->state =
        nccl_fail(ncclInvalidUsage, "mismatched collectives: %s here, %s on rank %d", a, b, rank);
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
        if (k->kind == NET_COLLECTIVE && nccl_fault("collective", c, &kind) != ncclSuccess) {
            c->state = ncclRemoteError;
        }
        k->hangs_now = k->hangs || (kind && strcmp(kind, "hang") == 0);
        if (!k->receives && !k->hangs_now && c->state == ncclSuccess) {
            send_out(k);
        }
    }
    nccl_progress(c);
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
        return nccl_fail(ncclUnhandledCudaError, "%s: the stream refuses it", op.name);
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
    ncclResult_t r = nccl_fault(call->receives ? "ncclRecv" : call->header.call, c, &kind);
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
    r = enqueue(k, stream);
    return kind && strcmp(kind, "async") == 0 ? ncclSuccess : r; /* seen later */
}

API ncclResult_t ncclGroupStart(void); /* nccl.h has no prototypes of these two */
API ncclResult_t ncclGroupEnd(void);

API ncclResult_t ncclGroupStart(void) {
    group_depth++;
    return ncclSuccess;
}

API ncclResult_t ncclGroupEnd(void) {
    if (group_depth == 0) {
        return nccl_fail(ncclInvalidUsage, "ncclGroupEnd without ncclGroupStart");
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
