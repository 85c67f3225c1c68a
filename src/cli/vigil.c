#include "cli/vigil.h"

#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/end_limit.h"
#include "base/flight_dump.h"
#include "base/flight_peers.h"
#include "cli/interrupt.h"
#include "cli/launch.h"
#include "cli/launch_env.h"
#include "cli/siblings.h"
#include "cli/status.h"
#include "cli/stillness.h"
#include "cli/vigil_link.h"
#include "rpc/blame.h"
#include "rpc/watchdog.h"

enum { LOOK_MS = 250, END_LIMIT_S = 4 };
static const double still_least_s = 3; /* reading a tokenizer takes a second, and has no pulse */
static const double mute_s = 2; /* after the deadline, for whom it is to say to have said it */
static const double last_words_s = 1; /* for what the server's clients are told to reach them */
static const double others_words_s = 0.3;
static const double others_first_s = 0.3;
static const double own_words_s = 0.7;  /* for a command to say that it was interrupted */
static const double killing_s = 0.5;    /* after its SIGTERM mpirun kills rank by rank */
static const double silence_s = 3;      /* of another host's rank that means nothing */
static const double host_first_s = 0.2; /* for better words of a rank's own host */
/* For the launcher's own daemons to find that a host is cut off: those that have just sent
 * something there wait for minutes. */
static const double daemon_s = 3.8;

static struct {
    int rank, world;
    double timeout_s;
    struct pollfd *watched;  /* owns [world + 1]: fd -1 where there is nothing; then the links */
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
static bool is_speaker(void) {
    int r = 0;
    while (r < vigil.rank && !can_speak(r)) {
        r++;
    }
    return r == vigil.rank;
}

bool vigil_is_first(void) {
    for (int r = 0; r < vigil.rank; r++) {
        if (flight_process_state(r) ? can_speak(r) : vigil_link_lives(r)) {
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

void vigil_note_place(int rank) {
    struct flight_owner owner;
    const struct flight *f = flight_of_rank(rank);
    if (f && flight_read_owner(f, &owner)) {
        status_set_place(rank, owner.host, owner.device);
    }
}

/* Who says the line writes the file, and so does rank 0, whose it is, where another host has said
 * it. Not without rank 0 while that may live on a host that is out of reach: ranks may share their
 * files all the same. */
static void tell(const struct error *err, bool cut) {
    struct error why;
    bool said = vigil_has_been_said(), first = vigil_is_first();
    bool writes = vigil.rank == 0 ? !said || vigil_link_heard(&why) : !said && first && !cut;
    if (!said && first) {
        vigil_note_said(err, true);
        status_print_error(err);
        siblings_tell();
    } else if (!said) {
        vigil_link_say(VIGIL_LOST, err);
    }
    if (writes) {
        status_write_file(err);
    }
}

/* Until rank 0's clients have heard of it, the others from another rank, and the launcher of a host
 * that is cut off. */
static void linger(bool cut) {
    double least_s = vigil.rank == 0 ? last_words_s : others_words_s;
    double end = clock_now() + (cut ? daemon_s : least_s);
    clock_sleep(least_s);
    while (clock_now() < end && !isfinite(interrupt_killed_at())) {
        clock_sleep(0.1);
    }
}

static void end_with(const struct error *err, int exit_code) {
    bool cut = err->has_rank && vigil_link_is_out_of_reach(err->rank);
    end_limit(END_LIMIT_S + (cut ? (unsigned)ceil(daemon_s) : 0), exit_code);
    pthread_mutex_lock(&vigil.lock);
    vigil.lost = *err;
    pthread_mutex_unlock(&vigil.lock);
    interrupt_raise_kill();
    watchdog_postpone(2 * (last_words_s + daemon_s));
    bool waits_first = cut && vigil.rank != 0; /* a line of its own would be such a thing to send */
    if (waits_first) {
        linger(cut);
    }
    if (status_claim()) { /* else the main thread does */
        tell(err, cut);
    }
    flight_dump(err->message);
    if (!waits_first) {
        linger(cut);
    }
    _exit(exit_code);
}

/* kind: what is wrong with that rank, unless a closer look finds better. said: the exit code with
 * which it has ended, and told why; or not above 0. */
static void end(int rank, enum error_kind kind, int said) {
    struct error err = {0};
    end_limit(END_LIMIT_S, said > 0 ? said : error_exit_code(kind));
    if (!find(rank, &err)) {
        error_set(&err, kind, "%s",
                  kind == ERROR_RANK_LOST ? "its process has ended" : "hang: it stands still");
        error_at_rank(&err, rank);
    }
    vigil_note_place(err.rank);
    end_with(&err, said > 0 ? said : error_exit_code(err.kind));
}

static bool is_killing(void) {
    return clock_now() - interrupt_killed_at() > killing_s;
}

/* A rank has ended: well, by the launcher's hand, or else all others shall. Where it has said why,
 * mpirun ends them within two seconds, and hangs itself now and then if they go meanwhile. */
static void look_at_ended(int rank) {
    const struct flight *f = flight_of_rank(rank);
    int said = f ? flight_said(f) : 0;
    bool left_to_launcher = said > 0 && launch_env_read().launcher == LAUNCHER_MPIRUN;
    vigil.watched[rank].fd = -1; /* once is enough; the descriptor is left to the process' end */
    if (said != 0 && !left_to_launcher && !is_killing()) {
        end(rank, ERROR_RANK_LOST, said);
    }
}

/* One that has said why it ends, or that all is well, may take its time. */
static void look_at_still(double now, double passed_s) {
    for (int r = 0; r < vigil.world; r++) {
        const struct flight *f = flight_of_rank(r);
        if (f && flight_said(f) < 0) {
            struct stillness *s = &vigil.still[r];
            uint64_t pulse = flight_read_pulse(f);
            char state = pulse == s->pulse ? flight_process_state(r) : 0;
            double still_s = stillness_look(s, pulse, state, now, passed_s);
            if (still_s > 0 && still_s >= deadline(r) && is_speaker()) {
                end(r, ERROR_DEADLINE, 0);
            }
        }
    }
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

static void end_far(const struct error *err, int rank) {
    struct error at = *err;
    char place[3 * BLAME_ENTRY_SIZE];
    size_t used = strlen(at.message);
    snprintf(at.message + used, sizeof at.message - used, "; %s", own_place(place, sizeof place));
    error_at_rank(&at, rank);
    end_with(&at, error_exit_code(at.kind));
}

static void end_silent(int rank) {
    struct error err;
    error_set(&err, ERROR_DEADLINE, "hang: no sign of life for %.2g s, %s of its host",
              vigil_link_silence(rank), vigil_link_is_out_of_reach(rank) ? "nor" : "though");
    end_far(&err, rank);
}

/* The ranks of its host know more of it. */
static void end_ended(int rank) {
    struct error err;
    clock_sleep(host_first_s);
    vigil_link_turn(0);
    if (vigil_link_heard(&err)) {
        end_with(&err, error_exit_code(err.kind));
    }
    error_set(&err, ERROR_RANK_LOST, "its process has ended");
    end_far(&err, rank);
}

/* Somebody has told why the job ends. Where that is the launcher's will, mpirun ends this rank,
 * too, and hangs itself now and then if ranks go meanwhile. */
static bool shall_follow(struct error *why) {
    return vigil_link_heard(why) &&
           (why->kind != ERROR_INTERRUPTED || launch_env_read().launcher != LAUNCHER_MPIRUN);
}

static void look_at_links(double passed_s) {
    struct error why;
    vigil_link_turn(passed_s);
    if (shall_follow(&why)) {
        end_with(&why, error_exit_code(why.kind));
    }
    int ended = vigil_link_ended(), silent = vigil_link_silent(fmax(vigil.timeout_s, silence_s));
    if (ended >= 0 && !is_killing()) {
        end_ended(ended);
    }
    if (silent >= 0) {
        end_silent(silent);
    }
}

static void *watch(void *unused) {
    double before = clock_now(), turn = before;
    (void)unused;
    for (;;) {
        int n = poll(vigil.watched, (nfds_t)vigil.world + 1, LOOK_MS);
        double now = clock_now();
        look_at_links(fmin(now - turn, 2e-3 * LOOK_MS)); /* first: they tell why others end */
        turn = now;
        for (int r = 0; n > 0 && r < vigil.world; r++) {
            if (vigil.watched[r].revents) {
                look_at_ended(r);
            }
        }
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
        vigil_note_said(err, true);
        status_print_error(err);
        status_write_file(err);
    }
}

static void say_lost_in_init(int lost) {
    struct error err;
    if (lost >= 0) {
        error_set(&err, ERROR_RANK_LOST, "its process has ended in %s", launch_phase());
    } else {
        error_set(&err, ERROR_INTERRUPTED, "the launcher is ending the job in %s", launch_phase());
    }
    error_at_rank(&err, lost >= 0 ? lost : launch_env_read().rank);
    say(&err);
}

static void leave_init(bool says, int lost, int code) {
    end_limit(END_LIMIT_S, code);
    if (says) {
        say_lost_in_init(lost);
    }
    clock_sleep(0.1); /* so that the speaker's line is out */
    _exit(code);
}

void vigil_look_at_siblings(void) {
    int lost;
    if (atomic_load(&vigil.begun)) {
        return;
    }
    bool first = siblings_is_first(&lost);
    if (lost < 0) {
        return;
    }
    leave_init(first, lost, error_exit_code(ERROR_RANK_LOST));
}

void vigil_end_in_init(bool told) {
    int lost;
    if (atomic_load(&vigil.begun)) {
        return;
    }
    bool first = siblings_is_first(&lost) && !told;
    int code = !first ? 1 /* srun's own is the highest of all, and shall be that of who speaks */
                      : error_exit_code(lost >= 0 ? ERROR_RANK_LOST : ERROR_INTERRUPTED);
    leave_init(first, lost, code);
}

void vigil_say_ended(void) {
    struct launch_env env = launch_env_read();
    struct error err;
    int silent = vigil_link_silent(silence_s);
    if (silent >= 0 && vigil_link_is_out_of_reach(silent)) { /* which is why */
        end_silent(silent);
    }
    clock_sleep(own_words_s);
    bool all_known = launch_env_local_size() == env.size || vigil_link_is_whole();
    if (env.rank == 0 && all_known && !vigil_has_been_said()) {
        error_set(&err, ERROR_INTERRUPTED, "the launcher is ending the job");
        error_at_rank(&err, 0);
        say(&err);
    }
}

void vigil_let_others_first(void) {
    if (atomic_load(&vigil.begun) && !vigil_is_first()) {
        clock_sleep(others_first_s);
    }
}

bool vigil_may_say(void) {
    vigil_let_others_first();
    return !vigil_has_been_said() && status_claim();
}

static void after_watchdog(const struct error *err) {
    struct error own;
    error_set(&own, ERROR_DEADLINE, "%s", err ? err->message : "is stuck: its own line says why");
    error_at_rank(&own, launch_env_read().rank);
    if (err) {
        status_write_file(&own);
    }
    vigil_link_say(VIGIL_SAID, &own);
    siblings_tell();
}

/* ---- the launcher ---- */

/* Without it, or its daemon on this host, nobody ends the ranks any more. */
static void *watch_launcher(void *unused) {
    char name[SIBLINGS_NAME];
    struct error err;
    struct pollfd p = {.fd = -1, .events = POLLIN};
    (void)unused;
    if (siblings_launcher(name)) {
        p.fd = (int)syscall(SYS_pidfd_open, getppid(), 0U);
    }
    if (p.fd < 0) {
        return NULL;
    }
    while (poll(&p, 1, -1) < 1) {
    }
    error_set(&err, ERROR_RANK_LOST, "%s, which started it, has ended", name);
    if (!atomic_load(&vigil.begun)) { /* nobody is there to be told */
        _exit(error_exit_code(err.kind));
    }
    error_at_rank(&err, vigil.rank);
    end_with(&err, error_exit_code(err.kind));
    return NULL;
}

static bool start_thread(void *(*run)(void *), struct error *err) {
    pthread_t thread;
    int failed = pthread_create(&thread, NULL, run, NULL);
    if (failed) {
        return error_set(err, ERROR_INTERNAL, "cannot start a thread: %s", strerror(failed));
    }
    pthread_detach(thread);
    return true;
}

bool vigil_begin(struct error *err) {
    watchdog_on_end(vigil_may_say, after_watchdog);
    return start_thread(watch_launcher, err);
}

bool vigil_start(int rank, int world, double timeout_s, struct error *err) {
    vigil.timeout_s = timeout_s;
    vigil.watched = calloc((size_t)world + 1, sizeof *vigil.watched);
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
    vigil.watched[world] = (struct pollfd){.fd = vigil_link_fd(), .events = POLLIN};
    return start_thread(watch, err);
}
