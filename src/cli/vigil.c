#include "cli/vigil.h"

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/flight_dump.h"
#include "base/flight_peers.h"
#include "base/process.h"
#include "cli/interrupt.h"
#include "cli/launch_env.h"
#include "cli/status.h"
#include "rpc/blame.h"
#include "rpc/watchdog.h"

enum { LOOK_MS = 500 };
static const double last_words_s = 1;  /* for what the server's clients are told to reach them */
static const double own_words_s = 0.7; /* for a command to say that it was interrupted */
static const double killing_s = 0.5;   /* after its SIGTERM mpirun kills rank by rank */

static struct {
    int rank, world;
    double timeout_s;
    struct pollfd *watched; /* owns [world]: fd -1 where there is nothing to watch */
    double *stopped_s; /* owns [world]: for how long each has been seen stopped; -1: it is not */
    atomic_bool begun; /* the ranks know each other */
    pthread_mutex_t lock;
    struct error lost; /* under the lock; kind NONE: nobody is */
} vigil = {.lock = PTHREAD_MUTEX_INITIALIZER};

bool vigil_lost(struct error *out) {
    pthread_mutex_lock(&vigil.lock);
    *out = vigil.lost;
    pthread_mutex_unlock(&vigil.lock);
    return out->kind != ERROR_NONE;
}

/* ---- the launcher's children on this host ---- */

/* The rank that the environment of a process gives it; -1: none, as of one that has ended. */
static int rank_of_process(int pid) {
    static const char name[] = "OMPI_COMM_WORLD_RANK=";
    static char text[128 << 10];
    size_t n = process_read(pid, "environ", text, sizeof text);
    for (const char *at = text; at < text + n; at += strlen(at) + 1) {
        if (strncmp(at, name, sizeof name - 1) == 0) {
            return atoi(at + sizeof name - 1);
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

/* Else a script may stand between it and its ranks. */
static bool launcher_is_parent(void) {
    static const char *const known[] = {"mpirun\n", "mpiexec\n", "orterun\n", "orted\n"};
    char name[32];
    process_read(getppid(), "comm", name, sizeof name);
    bool found = false;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        found = found || strcmp(name, known[i]) == 0;
    }
    return found;
}

/* All is said: this signal tells the others to leave it at that. */
static void tell_siblings(void) {
    pthread_mutex_lock(&siblings.lock);
    find_siblings(MOST_SIBLINGS);
    for (int r = 0; r < MOST_SIBLINGS; r++) {
        if (siblings.pids[r] && siblings.pids[r] != getpid()) {
            kill(siblings.pids[r], SIGUSR2);
        }
    }
    pthread_mutex_unlock(&siblings.lock);
}

/* ---- the end ---- */

/* The lowest rank of this host that can still speak does. */
bool vigil_is_speaker(void) {
    for (int r = 0; r < vigil.rank; r++) {
        char state = flight_process_state(r);
        if (state && !strchr("TtZX", state)) {
            return false;
        }
    }
    return true;
}

/* Who ended, or else who stands still, and where. */
static bool find(int suspect, struct error *err) {
    struct blame_rank *ranks = calloc((size_t)vigil.world, sizeof *ranks);
    bool found = false;
    for (int r = 0; ranks && r < vigil.world; r++) {
        blame_look(&ranks[r], r, NULL);
    }
    found = ranks && blame_find(ranks, vigil.world, suspect, err);
    free(ranks);
    return found;
}

static void note_place(int rank) {
    struct flight_owner owner;
    const struct flight *f = flight_of_rank(rank);
    if (f && flight_read_owner(f, &owner)) {
        status_set_place(owner.rank, owner.host, owner.device);
    }
}

static void end(int rank) {
    struct error err = {0};
    if (!find(rank, &err)) {
        error_set(&err, ERROR_RANK_LOST, "its process has ended");
        error_at_rank(&err, rank);
    }
    note_place(err.rank);
    pthread_mutex_lock(&vigil.lock);
    vigil.lost = err;
    pthread_mutex_unlock(&vigil.lock);
    interrupt_raise_kill();
    if (vigil_is_speaker() && !flight_neighbour_has_said() && status_claim()) {
        flight_note_said();
        status_print_error(&err);
        status_write_file(&err);
        tell_siblings();
    }
    watchdog_postpone(2 * last_words_s);
    flight_dump(err.message);
    clock_sleep(last_words_s);
    _exit(error_exit_code(err.kind));
}

/* A rank has ended: well, with its own words, by the launcher's hand, or else it is lost. */
static void look_at_ended(int rank) {
    const struct flight *f = flight_of_rank(rank);
    vigil.watched[rank].fd = -1; /* once is enough; the descriptor is left to the process' end */
    bool killing = clock_now() - interrupt_killed_at() > killing_s;
    if (f && !flight_has_said(f) && !killing) {
        end(rank);
    }
}

/* Stopped with all others, as by Ctrl-Z, this thread was stopped too, and finds them running. */
static void look_at_stopped(double passed_s) {
    for (int r = 0; r < vigil.world; r++) {
        bool stopped = vigil.watched[r].fd >= 0 && flight_process_state(r) == 'T';
        bool before = vigil.stopped_s[r] >= 0;
        vigil.stopped_s[r] = !stopped ? -1 : before ? vigil.stopped_s[r] + passed_s : 0;
        if (vigil.stopped_s[r] >= vigil.timeout_s && vigil_is_speaker()) {
            end(r);
        }
    }
}

static void *watch(void *unused) {
    double before = clock_now();
    (void)unused;
    for (;;) {
        int n = poll(vigil.watched, (nfds_t)vigil.world, LOOK_MS);
        for (int r = 0; n > 0 && r < vigil.world; r++) {
            if (vigil.watched[r].revents) {
                look_at_ended(r);
            }
        }
        double now = clock_now();
        if (now - before >= 1e-3 * LOOK_MS) {
            look_at_stopped(fmin(now - before, 2e-3 * LOOK_MS));
            before = now;
        }
    }
    return NULL;
}

/* ---- before the ranks know each other ---- */

static void say(const struct error *err) {
    char host[128] = "";
    gethostname(host, sizeof host - 1);
    if (status_claim()) {
        status_set_place(err->rank, host, "host");
        flight_note_said();
        status_print_error(err);
        status_write_file(err);
    }
}

void vigil_look_at_siblings(void) {
    struct launch_env env = launch_env_read();
    bool all_here = launch_env_local_size() == env.size && env.size <= MOST_SIBLINGS;
    int lost = -1, first = env.size;
    if (atomic_load(&vigil.begun) || !all_here || !launcher_is_parent()) {
        return;
    }
    pthread_mutex_lock(&siblings.lock);
    find_siblings(env.size);
    for (int r = env.size - 1; r >= 0; r--) {
        lost = siblings.pids[r] ? lost : r;
        first = siblings.pids[r] ? r : first;
    }
    pthread_mutex_unlock(&siblings.lock);
    if (lost < 0) {
        return;
    }
    if (first == env.rank) {
        struct error err;
        error_set(&err, ERROR_RANK_LOST, "its process has ended in MPI_Init");
        error_at_rank(&err, lost);
        say(&err);
    }
    clock_sleep(0.1); /* so that the speaker's line is out */
    _exit(error_exit_code(ERROR_RANK_LOST));
}

void vigil_say_ended(void) {
    struct launch_env env = launch_env_read();
    struct error err;
    clock_sleep(own_words_s);
    if (env.rank == 0 && launch_env_local_size() == env.size && !flight_neighbour_has_said()) {
        error_set(&err, ERROR_INTERRUPTED, "the launcher is ending the job");
        error_at_rank(&err, 0);
        say(&err);
    }
}

void vigil_begin(void) {
    watchdog_on_end(tell_siblings);
}

bool vigil_start(int rank, int world, double timeout_s, struct error *err) {
    pthread_t thread;
    vigil.rank = rank;
    vigil.world = world;
    vigil.timeout_s = timeout_s;
    vigil.watched = calloc((size_t)world, sizeof *vigil.watched);
    vigil.stopped_s = calloc((size_t)world, sizeof *vigil.stopped_s);
    if (!vigil.watched || !vigil.stopped_s) {
        return error_set(err, ERROR_MEMORY, "cannot watch over %d ranks", world);
    }
    atomic_store(&vigil.begun, true);
    int n = 0;
    for (int r = 0; r < world; r++) {
        vigil.watched[r] = (struct pollfd){.fd = flight_watch(r), .events = POLLIN};
        vigil.stopped_s[r] = -1;
        n += vigil.watched[r].fd >= 0;
    }
    int failed = n > 0 ? pthread_create(&thread, NULL, watch, NULL) : 0;
    if (failed) {
        return error_set(err, ERROR_INTERNAL, "cannot start a thread: %s", strerror(failed));
    }
    if (n > 0) {
        pthread_detach(thread);
    }
    return true;
}
