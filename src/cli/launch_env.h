/* What the launcher's environment says before MPI_Init: enough to let rank 0 alone print usage
 * errors, and to notice N worlds of one. */
#pragma once

#include <stdbool.h>

struct launch_env {
    const char *launcher; /* "mpirun", "srun", "another launcher", or NULL: started by hand */
    int rank;             /* 0 when unknown */
    int size;             /* 1 when unknown */
};

struct launch_env launch_env_read(void);

/* True on the rank that talks to the user: rank 0, as far as the environment tells. */
bool launch_env_is_leader(void);
