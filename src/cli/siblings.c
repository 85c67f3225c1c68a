#include "cli/siblings.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/process.h"
#include "cli/launch_env.h"

/* The rank that the environment of a process gives it; -1: none, as of one that has ended. */
static int rank_of_process(int pid) {
    const char *name =
        launch_env_read().launcher == LAUNCHER_SRUN ? "SLURM_PROCID=" : "OMPI_COMM_WORLD_RANK=";
    static char text[128 << 10];
    size_t n = process_read(pid, "environ", text, sizeof text), size = strlen(name);
    for (const char *at = text; at < text + n; at += strlen(at) + 1) {
        if (strncmp(at, name, size) == 0) {
            return atoi(at + size);
        }
    }
    return -1;
}

enum { MOST_SIBLINGS = 1024 }; /* beyond that nobody looks */

/* The launcher's children on this host by rank, 0 where there is none. Several threads may look. */
static struct {
    pthread_mutex_t lock;
    int pids[MOST_SIBLINGS];
} siblings = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Under the siblings' lock. */
static void find_siblings(int world) {
    int *pids = siblings.pids;
    memset(pids, 0, sizeof siblings.pids);
    static char entries[32 << 10];
    int dir = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (long got; dir >= 0 && (got = syscall(SYS_getdents64, dir, entries, sizeof entries)) > 0;) {
        for (long at = 0; at < got;) {
            struct dirent64 *e = (struct dirent64 *)(entries + at);
            int pid = atoi(e->d_name);
            struct process_stat is;
            bool sibling = pid > 0 && process_stat(pid, &is) && is.parent == getppid();
            int rank = sibling ? rank_of_process(pid) : -1;
            if (rank >= 0 && rank < world && !pids[rank]) {
                pids[rank] = pid;
            }
            at += e->d_reclen;
        }
    }
    if (dir >= 0) {
        close(dir);
    }
}

bool siblings_launcher(char name[SIBLINGS_NAME]) {
    static const char *const known[] = {"mpirun", "mpiexec", "orterun", "orted", "slurmstepd"};
    process_read(getppid(), "comm", name, SIBLINGS_NAME);
    name[strcspn(name, "\n")] = 0;
    bool found = false;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        found = found || strcmp(name, known[i]) == 0;
    }
    return found;
}

void siblings_tell(void) {
    char name[SIBLINGS_NAME];
    if (!siblings_launcher(name)) {
        return;
    }
    pthread_mutex_lock(&siblings.lock);
    find_siblings(MOST_SIBLINGS);
    for (int r = 0; r < MOST_SIBLINGS; r++) {
        if (siblings.pids[r] && siblings.pids[r] != getpid()) {
            kill(siblings.pids[r], SIGUSR2);
        }
    }
    pthread_mutex_unlock(&siblings.lock);
}

bool siblings_is_first(int *lost) {
    struct launch_env env = launch_env_read();
    int here = launch_env_local_size(), first = -1, last = -1;
    char name[SIBLINGS_NAME];
    *lost = -1;
    if (env.rank != launch_env_local_rank() || env.size > MOST_SIBLINGS ||
        !siblings_launcher(name)) {
        return env.rank == 0;
    }
    pthread_mutex_lock(&siblings.lock);
    find_siblings(env.size);
    for (int r = env.size - 1; r >= 0; r--) {
        bool lives = siblings.pids[r] != 0;
        first = lives ? r : first;
        last = lives && last < 0 ? r : last;
        *lost = !lives && r < here ? r : *lost;
    }
    pthread_mutex_unlock(&siblings.lock);
    *lost = last < here ? *lost : -1;
    return first == env.rank;
}
