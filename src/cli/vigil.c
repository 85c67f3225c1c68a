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
#include "cli/vigil_link.h"
#include "rpc/blame.h"
#include "rpc/watchdog.h"

enum { LOOK_MS = 500 };
static const double last_words_s = 1;   /* for what the server's clients are told to reach them */
static const double own_words_s = 0.7;  /* for a command to say that it was interrupted */
static const double killing_s = 0.5;    /* after its SIGTERM mpirun kills rank by rank */
static const double silence_s = 3;      /* of another host's rank that means nothing */
static const double host_first_s = 0.2; /* ranks of its host know more of one that has ended */
/* For the launcher's own daemons to find that a host is cut off: those that have just sent
 * something there wait for minutes. */
static const double daemon_s = 3;

static struct {
    int rank, world;
    double timeout_s;
    char launcher[32]; /* its name, where it is watched */
    /* owns [world + 2]: fd -1 where there is nothing to watch; then the links, and the launcher */
    struct pollfd *watched;
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
static bool launcher_is_parent(char name[32]) {
    static const char *const known[] = {"mpirun", "mpiexec", "orterun", "orted"};
    process_read(getppid(), "comm", name, 32);
    name[strcspn(name, "\n")] = 0;
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

bool vigil_is_first(void) {
    for (int r = 0; r < vigil.rank; r++) {
        char state = flight_process_state(r);
        if (state ? !strchr("TtZX", state) : vigil_link_lives(r)) {
            return false;
        }
    }
    return true;
}

bool vigil_has_been_said(void) {
    return flight_neighbour_has_said() || vigil_link_has_said();
}

void vigil_note_said(const struct error *err, bool ends_all) {
    flight_note_said(error_exit_code(err->kind));
    if (ends_all) {
        vigil_link_say(VIGIL_SAID, err);
    }
}

void vigil_pass_on(const struct error *err) {
    vigil_link_say(VIGIL_LOST, err);
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

/* The file is rank 0's while it may live, even on a host that is out of reach: ranks may share
 * their files all the same. */
static void tell(const struct error *err, bool cut) {
    bool said = vigil_has_been_said(), first = vigil_is_first();
    if (!said && first) {
        vigil_note_said(err, true);
        status_print_error(err);
        tell_siblings();
    } else if (!said) {
        vigil_link_say(VIGIL_LOST, err);
    }
    if ((!said && first && !cut) || vigil.rank == 0) {
        status_write_file(err);
    }
}

static void end_with(const struct error *err, int exit_code) {
    bool cut = err->has_rank && vigil_link_is_out_of_reach(err->rank);
    double end = clock_now() + (cut ? daemon_s : last_words_s);
    pthread_mutex_lock(&vigil.lock);
    vigil.lost = *err;
    pthread_mutex_unlock(&vigil.lock);
    interrupt_raise_kill();
    watchdog_postpone(2 * (last_words_s + daemon_s));
    if (cut && vigil.rank != 0) { /* a line of this host's would be such a thing to send */
        clock_sleep(daemon_s);
    }
    if (status_claim()) { /* else the main thread does */
        tell(err, cut);
    }
    flight_dump(err->message);
    do {
        clock_sleep(last_words_s);
    } while (clock_now() < end && !isfinite(interrupt_killed_at()));
    _exit(exit_code);
}

/* said: the exit code with which that rank has ended, and told why; or not above 0. */
static void end(int rank, int said) {
    struct error err = {0};
    if (!find(rank, &err)) {
        error_set(&err, ERROR_RANK_LOST, "its process has ended");
        error_at_rank(&err, rank);
    }
    note_place(err.rank);
    end_with(&err, said > 0 ? said : error_exit_code(err.kind));
}

static bool is_killing(void) {
    return clock_now() - interrupt_killed_at() > killing_s;
}

/* A rank has ended: well, by the launcher's hand, or else all others shall. */
static void look_at_ended(int rank) {
    const struct flight *f = flight_of_rank(rank);
    int said = f ? flight_said(f) : 0;
    vigil.watched[rank].fd = -1; /* once is enough; the descriptor is left to the process' end */
    if (said != 0 && !is_killing()) {
        end(rank, said);
    }
}

/* Stopped with all others, as by Ctrl-Z, this thread was stopped too, and finds them running. */
static void look_at_stopped(double passed_s) {
    for (int r = 0; r < vigil.world; r++) {
        bool stopped = vigil.watched[r].fd >= 0 && flight_process_state(r) == 'T';
        bool before = vigil.stopped_s[r] >= 0;
        vigil.stopped_s[r] = !stopped ? -1 : before ? vigil.stopped_s[r] + passed_s : 0;
        if (vigil.stopped_s[r] >= vigil.timeout_s && vigil_is_speaker()) {
            end(r, 0);
        }
    }
}

/* Without the launcher, or its daemon on this host, nobody ends the ranks any more. */
static void end_without_launcher(void) {
    struct error err;
    error_set(&err, ERROR_RANK_LOST, "%s, which started it, has ended", vigil.launcher);
    error_at_rank(&err, vigil.rank);
    end_with(&err, error_exit_code(err.kind));
}

static int watch_launcher(void) {
    return launcher_is_parent(vigil.launcher) ? (int)syscall(SYS_pidfd_open, getppid(), 0U) : -1;
}

/* ---- other hosts ---- */

/* "rank 0 is in step #91, layer 3 mlp all-reduce #1234" */
static const char *own_place(char *out, size_t size) {
    struct blame_rank self;
    char request[BLAME_ENTRY_SIZE], collective[BLAME_ENTRY_SIZE];
    blame_look(&self, vigil.rank, NULL);
    bool in_request = self.rpc.number > 0 && self.rpc.leave_ns == 0;
    bool in_collective = self.collective.number > 0 && self.collective.leave_ns == 0;
    snprintf(out, size, "rank %d is %s%s%s%s", vigil.rank, in_request ? "in " : "idle",
             in_request ? blame_entry_text(&self.rpc, request) : "", in_collective ? ", " : "",
             in_collective ? blame_entry_text(&self.collective, collective) : "");
    return out;
}

static void end_far(int rank, double silent_s) {
    struct error err;
    char place[3 * BLAME_ENTRY_SIZE];
    own_place(place, sizeof place);
    if (silent_s > 0) {
        error_set(&err, ERROR_DEADLINE, "hang: no sign of life for %.3g s%s; %s", silent_s,
                  vigil_link_is_out_of_reach(rank) ? ", nor of its host" : ", though of its host",
                  place);
    } else {
        error_set(&err, ERROR_RANK_LOST, "its process has ended; %s", place);
    }
    error_at_rank(&err, rank);
    end_with(&err, error_exit_code(err.kind));
}

static void look_at_links(double passed_s) {
    struct error why;
    double patience_s = fmax(vigil.timeout_s, silence_s);
    vigil_link_turn(passed_s);
    if (vigil_link_heard(&why)) {
        end_with(&why, error_exit_code(why.kind));
    }
    int ended = vigil_link_ended(), silent = vigil_link_silent(patience_s);
    if (ended >= 0 && !is_killing()) {
        clock_sleep(host_first_s);
        vigil_link_turn(0);
        if (vigil_link_heard(&why)) {
            end_with(&why, error_exit_code(why.kind));
        }
        end_far(ended, 0);
    }
    if (silent >= 0) {
        end_far(silent, patience_s);
    }
}

static void *watch(void *unused) {
    double before = clock_now(), turn = before;
    (void)unused;
    for (;;) {
        int n = poll(vigil.watched, (nfds_t)vigil.world + 2, LOOK_MS);
        for (int r = 0; n > 0 && r < vigil.world; r++) {
            if (vigil.watched[r].revents) {
                look_at_ended(r);
            }
        }
        if (n > 0 && vigil.watched[vigil.world + 1].revents) {
            end_without_launcher();
        }
        double now = clock_now();
        look_at_links(fmin(now - turn, 2e-3 * LOOK_MS));
        turn = now;
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
        flight_note_said(error_exit_code(err->kind));
        status_print_error(err);
        status_write_file(err);
    }
}

void vigil_look_at_siblings(void) {
    struct launch_env env = launch_env_read();
    bool all_here = launch_env_local_size() == env.size && env.size <= MOST_SIBLINGS;
    int lost = -1, first = env.size;
    char name[32];
    if (atomic_load(&vigil.begun) || !all_here || !launcher_is_parent(name)) {
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
    bool all_known = launch_env_local_size() == env.size || vigil_link_is_whole();
    if (env.rank == 0 && all_known && !vigil_has_been_said()) {
        error_set(&err, ERROR_INTERRUPTED, "the launcher is ending the job");
        error_at_rank(&err, 0);
        say(&err);
    }
}

static void tell_of_watchdog(void) {
    struct error err;
    error_set(&err, ERROR_DEADLINE, "is stuck: its own line says where");
    error_at_rank(&err, vigil.rank);
    vigil_link_say(VIGIL_SAID, &err);
    tell_siblings();
}

void vigil_begin(void) {
    watchdog_on_end(tell_of_watchdog);
}

bool vigil_start(int rank, int world, double timeout_s, struct error *err) {
    pthread_t thread;
    vigil.rank = rank;
    vigil.world = world;
    vigil.timeout_s = timeout_s;
    vigil.watched = calloc((size_t)world + 2, sizeof *vigil.watched);
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
    vigil.watched[world] = (struct pollfd){.fd = vigil_link_fd(), .events = POLLIN};
    vigil.watched[world + 1] = (struct pollfd){.fd = watch_launcher(), .events = POLLIN};
    n += vigil.watched[world].fd >= 0 || vigil.watched[world + 1].fd >= 0;
    int failed = n > 0 ? pthread_create(&thread, NULL, watch, NULL) : 0;
    if (failed) {
        return error_set(err, ERROR_INTERNAL, "cannot start a thread: %s", strerror(failed));
    }
    if (n > 0) {
        pthread_detach(thread);
    }
    return true;
}
