#include "cli/launch_env.h"

#include <stdlib.h>

/* A number from the environment; -1 when it is missing or not a number. */
static int env_int(const char *name) {
    const char *text = getenv(name);
    if (!text || !*text) {
        return -1;
    }
    char *end;
    long v = strtol(text, &end, 10);
    return *end == 0 && v >= 0 && v <= 1 << 24 ? (int)v : -1;
}

struct launch_env launch_env_read(void) {
    /* In order of preference: mpirun inside a Slurm job sets its own beside Slurm's. SLURM_NTASKS
     * alone means nothing: a batch script and a login shell under salloc have it too. */
    static const struct {
        const char *launcher, *rank, *size;
    } known[] = {
        {"mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
        {"another MPI's launcher", "PMI_RANK", "PMI_SIZE"},
        {"srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"},
        {"a PMIx launcher", "PMIX_RANK", "PMIX_SIZE"},
    };
    struct launch_env env = {.size = 1};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        int rank = env_int(known[i].rank);
        if (rank < 0) {
            continue;
        }
        int size = env_int(known[i].size);
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
