#include "cli/launch_env.h"

#include <stddef.h>
#include <stdlib.h>

/* A number from the environment; -1 when it is missing or not a number. */
static int env_int(const char *name) {
    const char *text = name ? getenv(name) : NULL;
    if (!text || !*text) {
        return -1;
    }
    char *end;
    long v = strtol(text, &end, 10);
    return *end == 0 && v >= 0 && v <= 1 << 24 ? (int)v : -1;
}

struct launch_env launch_env_read(void) {
    /* In order of preference: mpirun inside a Slurm step sets its own beside Slurm's. A rank
     * without a size does not count (a batch script has SLURM_PROCID too), except with PMIx alone.
     */
    static const struct {
        enum launcher launcher;
        const char *rank, *size;
    } known[] = {
        {LAUNCHER_MPIRUN, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
        {LAUNCHER_SRUN, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"},
        {LAUNCHER_OTHER_MPI, "PMI_RANK", "PMI_SIZE"},
        {LAUNCHER_PMIX, "PMIX_RANK", NULL},
    };
    struct launch_env env = {.size = 1, .has_pmix = getenv("PMIX_RANK") != NULL};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        int rank = env_int(known[i].rank);
        int size = env_int(known[i].size);
        if (rank < 0 || (size < 0 && known[i].size)) {
            continue;
        }
        env.launcher = known[i].launcher;
        env.rank = rank;
        env.size = size > rank ? size : rank + 1;
        break;
    }
    return env;
}

bool launch_env_is_leader(void) {
    return launch_env_read().rank == 0;
}

int launch_env_local_size(void) {
    int n = env_int("OMPI_COMM_WORLD_LOCAL_SIZE");
    if (n < 0) {
        /* "4", "4(x2)", "4,3": the first host's count is near enough */
        const char *text = getenv("SLURM_STEP_TASKS_PER_NODE");
        n = text ? atoi(text) : 1;
    }
    return n > 1 ? n : 1;
}

int launch_env_local_rank(void) {
    int rank = env_int("OMPI_COMM_WORLD_LOCAL_RANK");
    return rank >= 0 ? rank : env_int("SLURM_LOCALID");
}

/* MPI would not find the other processes: each would be a world of its own. */
bool launch_env_check(struct error *err) {
    struct launch_env env = launch_env_read();
    if (env.size < 2 || env.has_pmix) {
        return true;
    }
    if (env.launcher == LAUNCHER_SRUN) {
        return error_set(err, ERROR_COMM_INIT,
                         "srun started %d processes, but without PMIx they cannot find each other "
                         "and would be %d worlds of one; use: srun --mpi=pmix -n %d lockstep ...",
                         env.size, env.size, env.size);
    }
    if (env.launcher == LAUNCHER_OTHER_MPI) {
        return error_set(err, ERROR_COMM_INIT,
                         "another MPI's launcher started %d processes, which would be %d worlds of "
                         "one; use the mpirun of the Open MPI that lockstep was built with",
                         env.size, env.size);
    }
    return true;
}

bool launch_env_check_world(int world, struct error *err) {
    struct launch_env env = launch_env_read();
    if (env.launcher == LAUNCHER_NONE || env.launcher == LAUNCHER_PMIX || world >= env.size) {
        return true;
    }
    return error_set(err, ERROR_COMM_INIT,
                     "the launcher started %d processes, but MPI sees a world of %d: they are "
                     "separate worlds; %s",
                     env.size, world,
                     env.launcher == LAUNCHER_SRUN
                         ? "use: srun --mpi=pmix"
                         : "use the mpirun of the Open MPI that lockstep was built with");
}
