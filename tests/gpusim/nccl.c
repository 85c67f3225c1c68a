/* The simulated libnccl: versions, communicators, buffers. */
#include <nccl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "nccl_impl.h"

enum { VERSION_MULTI_RANK = 23000 };

static struct ncclComm *comms;
static char last_error[256];
ncclResult_t nccl_fail(ncclResult_t r, const char *fmt, ...) {
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

ncclResult_t nccl_fault(const char *name, struct ncclComm *c, const char **kind) {
    *kind = gpusim_fault(name);
    if (!*kind) {
        return ncclSuccess;
    }
    if (strcmp(*kind, "remote") == 0) {
        return nccl_fail(ncclRemoteError, "%s: simulated remote error", name);
    }
    if (strcmp(*kind, "error") == 0 || strcmp(*kind, "memory") == 0) {
        return nccl_fail(strcmp(*kind, "memory") == 0 ? ncclUnhandledCudaError : ncclInternalError,
                         "%s: simulated failure", name);
    }
    if (strcmp(*kind, "async") == 0 && c) {
        c->state = nccl_fail(ncclSystemError, "%s: simulated asynchronous error", name);
    }
    return ncclSuccess;
}

/* ---- communicators ---- */

API ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    const char *kind;
    unsigned char random[16];
    ncclResult_t r = nccl_fault("ncclGetUniqueId", NULL, &kind);
    if (r != ncclSuccess) {
        return r;
    }
    memset(id, 0, sizeof *id);
    if (getrandom(random, sizeof random, 0) != sizeof random) {
        return nccl_fail(ncclSystemError, "getrandom failed");
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
            return nccl_fail(ncclInvalidUsage, "rank %d has %d ranks, rank %d has %d", c->rank,
                             c->world, r, h->world);
        }
        if (h && strcmp(h->device, mine->device) == 0 && !one_gpu_for_two()) {
            return nccl_fail(ncclInvalidUsage,
                             "Duplicate GPU detected: rank %d and rank %d both on %s", c->rank, r,
                             mine->device);
        }
    }
    return ncclSuccess;
}

static struct net_hello hello_of(const struct ncclComm *c) {
    struct net_hello h = {.world = c->world, .rank = c->rank};
    snprintf(h.device, sizeof h.device, "device %d", c->device);
    return h;
}

void nccl_progress(struct ncclComm *c) {
    if (!c->net || (c->state != ncclSuccess && c->state != ncclInProgress)) {
        return;
    }
    net_progress(c->net);
    if (!c->ready) {
        struct net_hello mine = hello_of(c);
        ncclResult_t r = c->init_fault
                             ? nccl_fail(ncclSystemError, "ncclCommInitRank: simulated failure")
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
        c->state = nccl_fail(ncclRemoteError, "rank %d closed its connection", lost);
    }
}

API ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int world, ncclUniqueId id, int rank,
                                        ncclConfig_t *config) {
    const char *kind;
    ncclResult_t r = nccl_fault("ncclCommInitRankConfig", NULL, &kind);
    *out = NULL;
    if (r != ncclSuccess) {
        return r;
    }
    if (world < 1 || rank < 0 || rank >= world) {
        return nccl_fail(ncclInvalidArgument, "rank %d of %d", rank, world);
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
        nccl_progress(c);
        usleep(100);
    }
    return c->state;
}

API ncclResult_t ncclCommInitRank(ncclComm_t *out, int world, ncclUniqueId id, int rank) {
    return ncclCommInitRankConfig(out, world, id, rank, NULL);
}

API ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *out) {
    nccl_progress(c);
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
    nccl_fault("ncclCommAbort", NULL, &kind);
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
    ncclResult_t r = nccl_fault("ncclCommFinalize", c, &kind);
    if (r != ncclSuccess) {
        return r;
    }
    const struct net_header bye = {
        .kind = NET_BYE, .call = "ncclCommFinalize", .gave_up = gpusim_gave_up()};
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

/* Calls of others that this rank has never made. */
static void report_unmet(const struct ncclComm *c) {
    for (int r = 0; c->net && !gpusim_gave_up() && r < c->world; r++) {
        const void *payload;
        char theirs[128];
        const struct net_header *h = r == c->rank ? NULL : net_peek(c->net, r, &payload);
        if (h && (h->kind == NET_COLLECTIVE || h->kind == NET_SEND)) {
            nccl_describe(theirs, sizeof theirs, h);
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
    ncclResult_t r = nccl_fault("ncclMemAlloc", NULL, &kind);
    if (r != ncclSuccess) {
        return r;
    }
    return cudaMalloc(out, bytes) == cudaSuccess
               ? ncclSuccess
               : nccl_fail(ncclUnhandledCudaError, "out of memory");
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
