/* Inside a worker: what its files share. */
#pragma once

#include "comm/check.h"
#include "device/host/probe.h"
#include "worker/worker.h"

struct worker {
    struct worker_options options;
    int rank, world;
    struct gpu gpu; /* as hello has found it */
    bool gpu_known;
    bool on_gpu;              /* device and comm are the plug-in's */
    struct device *device;    /* owns; from init on */
    struct comm *comm;        /* owns; from worker_join on */
    bool wants_check;         /* of collectives: as init has said */
    MPI_Comm check_mpi;       /* owns; its own, for the check; MPI_COMM_NULL: none */
    struct comm_check *check; /* owns; may be NULL */
    struct model *model;      /* owns; from load to unload */
    struct probe *probe;      /* owns; from the first probe on */
    transport_hook *poll;
    void *poll_user;
    uint64_t resident_before; /* bytes of this process in memory before the load */
    struct model_progress progress;
    struct message_stats stats; /* of its steps, since they were last asked for */
};

/* ---- worker.c ---- */

/* Seconds beyond the deadlines that the waits inside of CUDA and NCCL have of their own. */
enum { WORKER_SLACK_S = 3 };

/* CUDA and NCCL may block for ever where they should not: on a GPU, the watchdog ends this process
 * then. */
void worker_guard(const struct worker *w, const char *phase, double seconds);
void worker_unguard(const struct worker *w);

/* ---- worker_init.c ---- */

/* Looks for the rank's GPU, once. Errors: gpu_find's. */
bool worker_find_gpu(struct worker *w, struct error *err);
/* The first half of init. */
bool worker_handle_init(struct worker *w, const struct message *request, struct message *reply,
                        struct error *err);
