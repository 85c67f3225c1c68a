/* For programs that run under mpirun: one GPU and one communicator per rank, as `lockstep` has. */
#pragma once

#include <stdbool.h>

#include "comm/comm.h"
#include "comm/plugin.h"
#include "device/device.h"

struct gpu_rank {
    const struct cuda_plugin *plugin;
    struct device *device; /* owns */
    struct comm *comm;     /* owns */
};

/* Prints, and ends all ranks. */
_Noreturn void gpu_rank_die(const char *what, const struct error *err);

/* Collective, after MPI_Init. Dies of any error. */
void gpu_rank_start(struct gpu_rank *, bool f32, bool graphs);
void gpu_rank_finish(struct gpu_rank *);
