/* What the launcher's environment says before MPI_Init: enough to let rank 0 alone print usage
 * errors, and to notice N worlds of one. */
#pragma once

#include <stdbool.h>

#include "base/error.h"

enum launcher {
    LAUNCHER_NONE, /* started by hand */
    LAUNCHER_MPIRUN,
    LAUNCHER_SRUN,
    LAUNCHER_OTHER_MPI,
    LAUNCHER_PMIX
};

struct launch_env {
    enum launcher launcher;
    int rank; /* 0 when unknown */
    int size; /* at least rank + 1 */
    bool has_pmix;
};

struct launch_env launch_env_read(void);

/* True on the rank that talks to the user: rank 0, as far as the environment tells. */
bool launch_env_is_leader(void);

/* Ranks on this host, as far as the environment tells; at least 1. */
int launch_env_local_size(void);

/* Which of them this is, from 0; -1 when unknown. */
int launch_env_local_rank(void);

/* Before MPI_Init: will the processes find each other? Errors: COMM_INIT, saying what to type. */
bool launch_env_check(struct error *err);

/* After MPI_Init: have they? Errors: COMM_INIT. */
bool launch_env_check_world(int world, struct error *err);
