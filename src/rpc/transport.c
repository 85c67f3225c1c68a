#include "rpc/transport.h"

#include <math.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/prctl.h>

#include "base/clock.h"

enum {
    PROBES_PER_WAKE = 2, /* the first call makes progress, the second one matches */
    SPINS_PER_CLOCK = 16,
    TAG_BASE = 64, /* tag = TAG_BASE + side */
};

static const double spin_s = 2e-3;
static const double nap_first_s = 50e-6;
static const double nap_longest_s = 3e-3;
static const double hook_every_s = 1e-3;
static const double transfer_s = 60; /* of one frame that has begun */

struct transport {
    MPI_Comm comm; /* borrowed */
    int rank, world;
    bool yield_early;
    struct buffer inbox; /* the last frame received */
    MPI_Request *posted; /* owns [post_capacity] */
    int *posted_to;      /* owns [post_capacity] */
    int n_posted, post_capacity;
    struct trace *trace; /* borrowed; may be NULL */
    transport_hook *hook;
    void *hook_user;
    double hook_last;
};

/* MPI's own words for a failed call. */
static bool mpi_error(int code, const char *call, struct error *err) {
    char text[MPI_MAX_ERROR_STRING] = "";
    int n = 0;
    MPI_Error_string(code, text, &n);
    return error_set(err, ERROR_COMM, "%s: %s", call, text);
}

#define MPI_TRY(call, name)                                                                        \
    do {                                                                                           \
        int code_ = (call);                                                                        \
        if (code_ != MPI_SUCCESS) {                                                                \
            return mpi_error(code_, name, err);                                                    \
        }                                                                                          \
    } while (0)

bool transport_create(struct transport **out, MPI_Comm comm, bool yield_early, struct error *err) {
    struct transport *t = calloc(1, sizeof *t);
    if (!t) {
        return error_set(err, ERROR_MEMORY, "cannot allocate the transport");
    }
    t->comm = comm;
    t->yield_early = yield_early;
    MPI_Comm_rank(comm, &t->rank);
    MPI_Comm_size(comm, &t->world);
    t->post_capacity = t->world + 8;
    t->posted = malloc((size_t)t->post_capacity * sizeof *t->posted);
    t->posted_to = malloc((size_t)t->post_capacity * sizeof *t->posted_to);
    if (!t->posted || !t->posted_to) {
        transport_destroy(t);
        return error_set(err, ERROR_MEMORY, "cannot allocate the transport");
    }
    prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL); /* naps of 50 us, not of 100 */
    *out = t;
    return true;
}

void transport_destroy(struct transport *t) {
    if (t) {
        buffer_finish(&t->inbox);
        free(t->posted);
        free(t->posted_to);
        free(t);
    }
}

int transport_rank(const struct transport *t) {
    return t->rank;
}

int transport_world(const struct transport *t) {
    return t->world;
}

MPI_Comm transport_comm(const struct transport *t) {
    return t->comm;
}

void transport_set_trace(struct transport *t, struct trace *trace) {
    t->trace = trace;
}

void transport_set_hook(struct transport *t, transport_hook *hook, void *user) {
    t->hook = hook;
    t->hook_user = user;
}

/* ---- waiting ---- */

/* Spins for spin_s, then naps longer and longer. The clock is first read when there is something to
 * wait for: reading it costs as much as a probe, and most answers are there at once. */
struct waiter {
    double timeout_s;
    double start; /* 0: not yet known */
    double now;
    double nap; /* 0: still spinning */
    unsigned spins;
};

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* True when it has looked at the clock. */
static bool wait_a_little(const struct transport *t, struct waiter *w) {
    if (w->nap > 0) {
        clock_sleep(w->nap);
        w->nap = fmin(2 * w->nap, nap_longest_s);
    } else if (t->yield_early) {
        sched_yield();
    } else {
        relax();
    }
    if (w->nap == 0 && ++w->spins % SPINS_PER_CLOCK) {
        return false;
    }
    w->now = clock_now();
    if (w->start == 0) {
        w->start = w->now;
    } else if (w->nap == 0 && w->now - w->start > spin_s) {
        w->nap = nap_first_s;
    }
    return true;
}

/* What every wait does between two looks. False: the wait is over. */
static bool keep_waiting(struct transport *t, struct waiter *w, struct error *err) {
    if (!wait_a_little(t, w)) {
        return true;
    }
    if (t->hook && w->now - t->hook_last >= hook_every_s) {
        t->hook_last = w->now;
        if (!t->hook(t->hook_user, err)) {
            return false;
        }
    }
    return w->now - w->start < w->timeout_s || error_set(err, ERROR_DEADLINE, "no answer in time");
}

void transport_idle(int fd, double seconds) {
    struct timespec t = {.tv_sec = (time_t)seconds};
    t.tv_nsec = (long)((seconds - (double)t.tv_sec) * 1e9);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    ppoll(&p, 1, &t, NULL);
}

/* ---- sending ---- */

/* Forgets the posted sends that are done. */
static bool reap(struct transport *t, struct error *err) {
    int kept = 0;
    for (int i = 0; i < t->n_posted; i++) {
        int done = 0;
        MPI_TRY(MPI_Test(&t->posted[i], &done, MPI_STATUS_IGNORE), "MPI_Test");
        if (!done) {
            t->posted[kept] = t->posted[i];
            t->posted_to[kept++] = t->posted_to[i];
        }
    }
    t->n_posted = kept;
    return true;
}

bool transport_post(struct transport *t, int peer, enum message_side side, const void *data,
                    size_t size, struct error *err) {
    if (size > FRAME_MAX_BYTES) {
        return error_set(err, ERROR_PROTOCOL, "a frame of %zu bytes is larger than the limit of %d",
                         size, FRAME_MAX_BYTES);
    }
    if (t->n_posted == t->post_capacity) {
        return error_set(err, ERROR_INTERNAL, "%d frames are on their way", t->n_posted);
    }
    MPI_TRY(MPI_Isend(data, (int)size, MPI_BYTE, peer, TAG_BASE + (int)side, t->comm,
                      &t->posted[t->n_posted]),
            "MPI_Isend");
    t->posted_to[t->n_posted++] = peer;
    trace_frame(t->trace, TRACE_SENT, peer, side, data, size);
    return true;
}

bool transport_is_flushed(struct transport *t) {
    return reap(t, NULL) && t->n_posted == 0;
}

bool transport_flush(struct transport *t, double timeout_s, struct error *err) {
    struct waiter w = {.timeout_s = timeout_s};
    if (!reap(t, err)) {
        return false;
    }
    while (t->n_posted) {
        if (!keep_waiting(t, &w, err)) {
            if (err && err->kind == ERROR_DEADLINE && !err->has_rank) {
                error_set(err, ERROR_DEADLINE, "does not take what is sent to it");
                error_at_rank(err, t->posted_to[0]);
            }
            return false;
        }
        if (!reap(t, err)) {
            return false;
        }
    }
    return true;
}

/* ---- receiving ---- */

/* A frame that is larger than the limit is received into nothing. */
static bool discard(struct transport *t, MPI_Message *message, const MPI_Status *status, int size,
                    struct error *err) {
    char nothing;
    MPI_Mrecv(&nothing, 0, MPI_BYTE, message, MPI_STATUS_IGNORE); /* truncates, as it is meant to */
    error_set(err, ERROR_PROTOCOL, "a frame of %d bytes is larger than the limit of %d", size,
              FRAME_MAX_BYTES);
    return t->rank == 0 ? error_at_rank(err, status->MPI_SOURCE) : false;
}

/* Receives the matched message into the inbox. Its sender is already sending, so this wait is
 * bounded by the transfer alone, unless the sender dies. */
static bool take(struct transport *t, MPI_Message *message, MPI_Status *status, struct frame *out,
                 struct error *err) {
    int size = 0, done = 0;
    MPI_TRY(MPI_Get_count(status, MPI_BYTE, &size), "MPI_Get_count");
    if (size < 0 || size > FRAME_MAX_BYTES) {
        return discard(t, message, status, size, err);
    }
    buffer_clear(&t->inbox);
    if (!buffer_reserve(&t->inbox, (size_t)size + 1, err)) {
        return false;
    }
    MPI_Request request;
    MPI_TRY(MPI_Imrecv(t->inbox.data, size, MPI_BYTE, message, &request), "MPI_Imrecv");
    struct waiter w = {.timeout_s = transfer_s};
    for (;;) {
        MPI_TRY(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
        if (done) {
            break;
        }
        if (wait_a_little(t, &w) && w.now - w.start > w.timeout_s) {
            return error_set(err, ERROR_DEADLINE, "a frame of %d bytes began but never ended",
                             size);
        }
    }
    t->inbox.size = (size_t)size;
    *out = (struct frame){
        .source = status->MPI_SOURCE,
        .side = (enum message_side)(status->MPI_TAG - TAG_BASE),
        .data = t->inbox.data,
        .size = (size_t)size,
    };
    trace_frame(t->trace, TRACE_RECEIVED, out->source, out->side, out->data, out->size);
    return true;
}

bool transport_poll(struct transport *t, int source, int side, struct frame *out, bool *got,
                    struct error *err) {
    int from = source == TRANSPORT_ANY_RANK ? MPI_ANY_SOURCE : source;
    int tag = side == TRANSPORT_ANY_SIDE ? MPI_ANY_TAG : TAG_BASE + side;
    MPI_Message message;
    MPI_Status status;
    int flag = 0;
    for (int i = 0; i < PROBES_PER_WAKE && !flag; i++) {
        MPI_TRY(MPI_Improbe(from, tag, t->comm, &flag, &message, &status), "MPI_Improbe");
    }
    *got = flag;
    return !flag || take(t, &message, &status, out, err);
}

bool transport_receive(struct transport *t, int source, int side, double timeout_s,
                       struct frame *out, struct error *err) {
    struct waiter w = {.timeout_s = timeout_s};
    for (;;) {
        bool got = false;
        if (!transport_poll(t, source, side, out, &got, err)) {
            return false;
        }
        if (got) {
            return true;
        }
        if (!keep_waiting(t, &w, err)) {
            return false;
        }
    }
}
