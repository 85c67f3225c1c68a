#include "cli/vigil.h"

#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/flight_dump.h"
#include "base/flight_peers.h"
#include "cli/interrupt.h"
#include "cli/status.h"
#include "rpc/blame.h"

enum { LOOK_MS = 1000 };
static const double last_words_s = 1; /* for what the server's clients are told to reach them */
static const double killing_s = 0.5;  /* after its SIGTERM mpirun kills rank by rank */

static struct {
    int rank, world;
    double timeout_s;
    struct pollfd *watched; /* owns [world]: fd -1 where there is nothing to watch */
    double *stopped_s;      /* owns [world]: for how long each has been seen stopped */
    pthread_mutex_t lock;
    struct error lost; /* under the lock; kind NONE: nobody is */
} vigil = {.lock = PTHREAD_MUTEX_INITIALIZER};

bool vigil_lost(struct error *out) {
    pthread_mutex_lock(&vigil.lock);
    *out = vigil.lost;
    pthread_mutex_unlock(&vigil.lock);
    return out->kind != ERROR_NONE;
}

/* The lowest rank of this host that can still speak does. */
static bool is_speaker(void) {
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
    flight_dump(err.message);
    interrupt_raise_kill();
    if (is_speaker() && !flight_neighbour_has_said() && status_claim()) {
        flight_note_said();
        status_print_error(&err);
        status_write_file(&err);
    }
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
        vigil.stopped_s[r] = stopped ? vigil.stopped_s[r] + passed_s : 0;
        if (vigil.stopped_s[r] > vigil.timeout_s + 2 && is_speaker()) {
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
    int n = 0;
    for (int r = 0; r < world; r++) {
        vigil.watched[r] = (struct pollfd){.fd = flight_watch(r), .events = POLLIN};
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
