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
#include "cli/stillness.h"
#include "rpc/blame.h"
#include "rpc/watchdog.h"

enum { LOOK_MS = 250, END_LIMIT_S = 4 };
static const double still_least_s = 3; /* reading a tokenizer takes a second, and has no pulse */
static const double mute_s = 2; /* after the deadline, for whom it is to say to have said it */
static const double last_words_s = 1; /* for what the server's clients are told to reach them */
static const double others_first_s = 0.3;
static const double own_words_s = 0.7; /* for a command to say that it was interrupted */
static const double killing_s = 0.5;   /* after its SIGTERM mpirun kills rank by rank */

static struct {
    int rank, world;
    double timeout_s;
    struct pollfd *watched;  /* owns [world]: fd -1 where there is nothing to watch */
    struct stillness *still; /* owns [world] */
    atomic_bool begun;       /* the ranks know each other */
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

/* How long a rank may stand still. The kernel's word that it is stopped needs no second thought. */
static double deadline(int rank) {
    bool stopped = flight_process_state(rank) == 'T';
    return stopped ? vigil.timeout_s : fmax(vigil.timeout_s, still_least_s);
}

/* Of a main thread that is stuck the other threads speak; but all of them may be. */
static bool can_speak(int rank) {
    char state = flight_process_state(rank);
    double still_s = atomic_load_explicit(&vigil.still[rank].seconds, memory_order_relaxed);
    return state && !strchr("TtZX", state) && still_s < deadline(rank) + mute_s;
}

/* The lowest rank of this host that can still speak does. */
bool vigil_is_speaker(void) {
    int r = 0;
    while (r < vigil.rank && !can_speak(r)) {
        r++;
    }
    return r == vigil.rank;
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

/* kind: what is wrong with that rank, unless a closer look finds better. */
static void end(int rank, enum error_kind kind) {
    struct error err = {0};
    if (!find(rank, &err)) {
        error_set(&err, kind, "%s",
                  kind == ERROR_RANK_LOST ? "its process has ended" : "hang: it stands still");
        error_at_rank(&err, rank);
    }
    alarm(END_LIMIT_S); /* what is stuck may be what the rest needs, such as the file system */
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
        end(rank, ERROR_RANK_LOST);
    }
}

/* One that has said why it ends, or that all is well, may take its time. */
static void look_at_still(double now, double passed_s) {
    for (int r = 0; r < vigil.world; r++) {
        const struct flight *f = flight_of_rank(r);
        if (f && !flight_has_said(f)) {
            struct stillness *s = &vigil.still[r];
            uint64_t pulse = flight_read_pulse(f);
            char state = pulse == s->pulse ? flight_process_state(r) : 0;
            double still_s = stillness_look(s, pulse, state, now, passed_s);
            if (still_s > 0 && still_s >= deadline(r) && vigil_is_speaker()) {
                end(r, ERROR_DEADLINE);
            }
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
            look_at_still(now, fmin(now - before, 2e-3 * LOOK_MS));
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

/* The watchdog's: a rank of this host may have said it, or another thread. */
static bool may_say(void) {
    if (atomic_load(&vigil.begun) && !vigil_is_speaker()) {
        clock_sleep(others_first_s);
    }
    return !flight_neighbour_has_said() && status_claim();
}

static void after_watchdog(const struct error *err) {
    if (err) {
        struct error own = *err;
        error_at_rank(&own, launch_env_read().rank);
        status_write_file(&own);
    }
    tell_siblings();
}

void vigil_begin(void) {
    watchdog_on_end(may_say, after_watchdog);
}

bool vigil_start(int rank, int world, double timeout_s, struct error *err) {
    pthread_t thread;
    vigil.timeout_s = timeout_s;
    vigil.watched = calloc((size_t)world, sizeof *vigil.watched);
    vigil.still = calloc((size_t)world, sizeof *vigil.still);
    if (!vigil.watched || !vigil.still) {
        return error_set(err, ERROR_MEMORY, "cannot watch over %d ranks", world);
    }
    vigil.rank = rank;
    vigil.world = world;
    atomic_store(&vigil.begun, true);
    for (int r = 0; r < world; r++) {
        vigil.watched[r] = (struct pollfd){.fd = flight_watch(r), .events = POLLIN};
    }
    int failed = pthread_create(&thread, NULL, watch, NULL);
    if (failed) {
        return error_set(err, ERROR_INTERNAL, "cannot start a thread: %s", strerror(failed));
    }
    pthread_detach(thread);
    return true;
}
