#include "rpc/transport.h"

#include <endian.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "base/clock.h"
#include "rpc/waiter.h"

enum {
    TAG_FRAME = 64,           /* + side: a frame, or the announcement of a large one */
    TAG_LARGE = 72,           /* + side: a large frame, after its announcement */
    INLINE_BYTES = 2048,      /* a larger frame is announced; this much every MPI sends eagerly */
    ANNOUNCEMENT_MARK = 0xc1, /* a byte that no msgpack begins with */
    ANNOUNCEMENT_BYTES = 9,   /* the mark, then the frame's size, big-endian */
};

static const double hook_every_s = 1e-3;
static const double longest_transfer_s = 60;
static const double cancel_s = 1;

/* Where the frames of one side arrive. Its receive is posted when somebody looks for a frame, which
 * after a frame is while the answer to it is on its way: posting takes no time from a round trip,
 * and a frame that finds its receive posted needs no probe. */
struct slot {
    int source; /* MPI_ANY_SOURCE: of notices to rank 0 */
    enum message_side side;
    bool posted;
    MPI_Request request; /* persistent; MPI_REQUEST_NULL until first used */
    unsigned char data[INLINE_BYTES];
};

struct posted {
    MPI_Request request; /* MPI_REQUEST_NULL: the entry is free */
    int peer;
    unsigned char announcement[ANNOUNCEMENT_BYTES];
};

struct transport {
    MPI_Comm comm; /* borrowed */
    int rank, world;
    bool yield_early;
    double transfer_s;  /* of one frame that has begun */
    struct slot *slots; /* owns [n_slot]; the one that is most waited for first */
    int n_slot;
    struct buffer large;   /* the last large frame received */
    struct posted *posted; /* owns [post_capacity] */
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

/* Rank 0 hears replies from each rank and notices from any, the others requests and notices from
 * rank 0. */
static void make_slots(struct transport *t) {
    for (int i = 0; i < t->n_slot; i++) {
        t->slots[i].request = MPI_REQUEST_NULL;
    }
    if (t->rank == 0) {
        for (int r = 1; r < t->world; r++) {
            t->slots[r - 1].source = r;
            t->slots[r - 1].side = SIDE_REPLY;
        }
        t->slots[t->n_slot - 1].source = MPI_ANY_SOURCE;
    } else {
        t->slots[0].side = SIDE_REQUEST;
    }
    t->slots[t->n_slot - 1].side = SIDE_NOTICE;
}

bool transport_create(struct transport **out, MPI_Comm comm, bool yield_early, struct error *err) {
    struct transport *t = calloc(1, sizeof *t);
    if (!t) {
        return error_set(err, ERROR_MEMORY, "cannot allocate the transport");
    }
    t->comm = comm;
    t->yield_early = yield_early;
    t->transfer_s = longest_transfer_s;
    MPI_Comm_rank(comm, &t->rank);
    MPI_Comm_size(comm, &t->world);
    t->n_slot = t->rank == 0 ? t->world : 2;
    t->post_capacity = 2 * t->world + 8;
    t->slots = calloc((size_t)t->n_slot, sizeof *t->slots);
    t->posted = calloc((size_t)t->post_capacity, sizeof *t->posted);
    if (!t->slots || !t->posted) {
        free(t->slots);
        free(t->posted);
        free(t);
        return error_set(err, ERROR_MEMORY, "cannot allocate the transport");
    }
    make_slots(t);
    for (int i = 0; i < t->post_capacity; i++) {
        t->posted[i].request = MPI_REQUEST_NULL;
    }
    prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL); /* naps of 50 us, not of 100 */
    *out = t;
    return true;
}

/* Takes back a receive. False: something is arriving and does not end, so that its memory must
 * never be freed. */
static bool cancel(MPI_Request *request) {
    int done = 0;
    double start = clock_now();
    MPI_Cancel(request);
    while (!done && clock_now() - start < cancel_s) {
        if (MPI_Test(request, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) {
            return true; /* what came did not fit: it is over all the same */
        }
    }
    return done;
}

void transport_destroy(struct transport *t) {
    if (!t) {
        return;
    }
    bool all_back = true;
    for (int i = 0; i < t->n_slot; i++) {
        struct slot *s = &t->slots[i];
        bool back = !s->posted || cancel(&s->request);
        if (back && s->request != MPI_REQUEST_NULL) {
            MPI_Request_free(&s->request);
        }
        all_back = all_back && back;
    }
    if (all_back) {
        free(t->slots);
    }
    if (t->n_posted == 0) {
        free(t->posted);
    }
    buffer_finish(&t->large);
    free(t);
}

bool transport_reserve(struct transport *t, size_t bytes, struct error *err) {
    return bytes <= INLINE_BYTES || bytes > FRAME_MAX_BYTES ||
           buffer_reserve(&t->large, bytes + 1, err);
}

int transport_world(const struct transport *t) {
    return t->world;
}

void transport_set_trace(struct transport *t, struct trace *trace) {
    t->trace = trace;
}

void transport_set_hook(struct transport *t, transport_hook *hook, void *user) {
    t->hook = hook;
    t->hook_user = user;
}

void transport_set_timeout(struct transport *t, double timeout_s) {
    t->transfer_s = timeout_s < longest_transfer_s ? timeout_s : longest_transfer_s;
}

/* ---- waiting ---- */

/* What every wait does between two looks; *thorough: see waiter_pause. False: the wait is over. */
static bool keep_waiting(struct transport *t, struct waiter *w, double timeout_s, bool *thorough,
                         struct error *err) {
    *thorough = waiter_pause(w);
    if (!*thorough) {
        return true;
    }
    if (t->hook && w->now - t->hook_last >= hook_every_s) {
        t->hook_last = w->now;
        if (!t->hook(t->hook_user, err)) {
            return false;
        }
    }
    return w->now - w->start < timeout_s || error_set(err, ERROR_DEADLINE, "no answer in time");
}

/* ---- sending ---- */

/* Forgets the posted sends that are done. */
static bool reap(struct transport *t, struct error *err) {
    for (int i = 0; t->n_posted && i < t->post_capacity; i++) {
        int done = 0;
        if (t->posted[i].request != MPI_REQUEST_NULL) {
            MPI_TRY(MPI_Test(&t->posted[i].request, &done, MPI_STATUS_IGNORE), "MPI_Test");
            t->n_posted -= done;
        }
    }
    return true;
}

static struct posted *free_entry(struct transport *t) {
    int i = 0;
    while (t->posted[i].request != MPI_REQUEST_NULL) {
        i++;
    }
    return &t->posted[i];
}

/* Most sends are done before they return, and leave nothing to wait for. */
static bool post(struct transport *t, struct posted *p, int peer, int tag, const void *data,
                 size_t size, struct error *err) {
    int done = 0;
    MPI_TRY(MPI_Isend(data, (int)size, MPI_BYTE, peer, tag, t->comm, &p->request), "MPI_Isend");
    p->peer = peer;
    t->n_posted++;
    MPI_TRY(MPI_Test(&p->request, &done, MPI_STATUS_IGNORE), "MPI_Test");
    t->n_posted -= done;
    return true;
}

static bool announce(struct transport *t, int peer, enum message_side side, size_t size,
                     struct error *err) {
    struct posted *p = free_entry(t);
    uint64_t wire_size = htobe64(size);
    p->announcement[0] = ANNOUNCEMENT_MARK;
    memcpy(p->announcement + 1, &wire_size, sizeof wire_size);
    return post(t, p, peer, TAG_FRAME + (int)side, p->announcement, ANNOUNCEMENT_BYTES, err);
}

bool transport_post(struct transport *t, int peer, enum message_side side, const void *data,
                    size_t size, struct error *err) {
    bool large = size > INLINE_BYTES;
    if (size > FRAME_MAX_BYTES) {
        return error_set(err, ERROR_PROTOCOL, "a frame of %zu bytes is larger than the limit of %d",
                         size, FRAME_MAX_BYTES);
    }
    if (t->n_posted + 2 > t->post_capacity) {
        return error_set(err, ERROR_INTERNAL, "%d frames are on their way", t->n_posted);
    }
    if ((large && !announce(t, peer, side, size, err)) ||
        !post(t, free_entry(t), peer, (large ? TAG_LARGE : TAG_FRAME) + (int)side, data, size,
              err)) {
        return false;
    }
    trace_frame(t->trace, TRACE_SENT, peer, side, data, size);
    return true;
}

bool transport_is_flushed(struct transport *t) {
    return reap(t, NULL) && t->n_posted == 0;
}

/* Says which rank does not take what was posted first. */
static bool not_taken(const struct transport *t, struct error *err) {
    int i = 0;
    while (t->posted[i].request == MPI_REQUEST_NULL) {
        i++;
    }
    error_set(err, ERROR_DEADLINE, "does not take what is sent to it");
    return error_at_rank(err, t->posted[i].peer);
}

bool transport_flush(struct transport *t, double timeout_s, struct error *err) {
    struct waiter w = {.yield_early = t->yield_early};
    bool thorough;
    if (!reap(t, err)) {
        return false;
    }
    while (t->n_posted) {
        if (!keep_waiting(t, &w, timeout_s, &thorough, err)) {
            return err && err->kind == ERROR_DEADLINE && !err->has_rank ? not_taken(t, err) : false;
        }
        if (!reap(t, err)) {
            return false;
        }
    }
    return true;
}

/* ---- receiving ---- */

static bool too_large(const struct transport *t, int source, uint64_t size, uint64_t limit,
                      struct error *err) {
    error_set(err, ERROR_PROTOCOL,
              "a frame of %" PRIu64 " bytes is larger than the limit of %" PRIu64, size, limit);
    return t->rank == 0 ? error_at_rank(err, source) : false;
}

/* True for a receive that ended because what came was larger. */
static bool is_truncated(int code) {
    int class = MPI_SUCCESS;
    return code != MPI_SUCCESS && MPI_Error_class(code, &class) == MPI_SUCCESS &&
           class == MPI_ERR_TRUNCATE;
}

/* Receives what follows an announcement. Its sender is already sending, so this wait is bounded by
 * the transfer alone, unless the sender dies. *size becomes what came; more than `size` does not.
 * The hook stays out: it looks for frames, and a large one among them would need the buffer that
 * this one arrives in. */
static bool receive_exactly(struct transport *t, int source, int tag, void *data, int *size,
                            bool *truncated, struct error *err) {
    MPI_Request request;
    MPI_Status status;
    struct waiter w = {.yield_early = t->yield_early};
    int done = 0;
    MPI_TRY(MPI_Irecv(data, *size, MPI_BYTE, source, tag, t->comm, &request), "MPI_Irecv");
    for (;;) {
        int code = MPI_Test(&request, &done, &status);
        *truncated = is_truncated(code);
        if (*truncated) {
            return true;
        }
        MPI_TRY(code, "MPI_Test");
        if (done) {
            MPI_TRY(MPI_Get_count(&status, MPI_BYTE, size), "MPI_Get_count");
            return true;
        }
        if (waiter_pause(&w) && w.now - w.start > t->transfer_s) {
            if (!cancel(&request)) {
                t->large = (struct buffer){0}; /* MPI may still write there */
            }
            return error_set(err, ERROR_DEADLINE, "a frame of %d bytes began but never ended",
                             *size);
        }
    }
}

/* The frame that was announced, of a size that is not believed before it is checked. */
static bool take_large(struct transport *t, const unsigned char *announcement, struct frame *f,
                       struct error *err) {
    uint64_t announced;
    bool truncated;
    memcpy(&announced, announcement + 1, sizeof announced);
    announced = be64toh(announced);
    bool refused = announced > FRAME_MAX_BYTES; /* received into nothing, so that it is gone */
    int size = refused ? 0 : (int)announced;
    buffer_clear(&t->large);
    if (!buffer_reserve(&t->large, (size_t)size + 1, err) ||
        !receive_exactly(t, f->source, TAG_LARGE + (int)f->side, t->large.data, &size, &truncated,
                         err)) {
        return false;
    }
    if (refused) {
        return too_large(t, f->source, announced, FRAME_MAX_BYTES, err);
    }
    if (truncated || (uint64_t)size != announced) {
        error_set(err, ERROR_PROTOCOL, "a frame was announced with %" PRIu64 " bytes and has %s",
                  announced, truncated ? "more" : "less");
        return t->rank == 0 ? error_at_rank(err, f->source) : false;
    }
    f->data = t->large.data;
    f->size = (size_t)size;
    return true;
}

static bool slot_post(struct transport *t, struct slot *s, struct error *err) {
    if (s->request == MPI_REQUEST_NULL) {
        MPI_TRY(MPI_Recv_init(s->data, INLINE_BYTES, MPI_BYTE, s->source, TAG_FRAME + (int)s->side,
                              t->comm, &s->request),
                "MPI_Recv_init");
    }
    MPI_TRY(MPI_Start(&s->request), "MPI_Start");
    s->posted = true;
    return true;
}

/* Receives a frame of one slot, if one is there. */
static bool slot_look(struct transport *t, struct slot *s, struct frame *out, bool *got,
                      struct error *err) {
    MPI_Status status;
    int done = 0, size = 0;
    if (!s->posted && !slot_post(t, s, err)) {
        return false;
    }
    int code = MPI_Test(&s->request, &done, &status);
    if (is_truncated(code)) {
        s->posted = false;
        MPI_Get_count(&status, MPI_BYTE, &size);
        return too_large(t, status.MPI_SOURCE, (uint64_t)size, INLINE_BYTES, err);
    }
    MPI_TRY(code, "MPI_Test");
    *got = done;
    if (!done) {
        return true;
    }
    s->posted = false;
    MPI_TRY(MPI_Get_count(&status, MPI_BYTE, &size), "MPI_Get_count");
    *out = (struct frame){
        .source = status.MPI_SOURCE, .side = s->side, .data = s->data, .size = (size_t)size};
    if (size == ANNOUNCEMENT_BYTES && s->data[0] == ANNOUNCEMENT_MARK &&
        !take_large(t, s->data, out, err)) {
        return false;
    }
    trace_frame(t->trace, TRACE_RECEIVED, out->source, out->side, out->data, out->size);
    return true;
}

static bool slot_is_meant(const struct slot *s, int source, int side) {
    return (side == TRANSPORT_ANY_SIDE || side == (int)s->side) &&
           (source == TRANSPORT_ANY_RANK || source == s->source);
}

/* The first slot that is meant, at or after `i`; n_slot when there is none. */
static int next_slot(const struct transport *t, int i, int source, int side) {
    while (i < t->n_slot && !slot_is_meant(&t->slots[i], source, side)) {
        i++;
    }
    return i;
}

bool transport_poll(struct transport *t, int source, int side, struct frame *out, bool *got,
                    struct error *err) {
    *got = false;
    for (int i = next_slot(t, 0, source, side); i < t->n_slot && !*got;
         i = next_slot(t, i + 1, source, side)) {
        if (!slot_look(t, &t->slots[i], out, got, err)) {
            return false;
        }
    }
    return true;
}

bool transport_receive(struct transport *t, int source, int side, double timeout_s,
                       struct frame *out, struct error *err) {
    struct waiter w = {.yield_early = t->yield_early};
    int likely = next_slot(t, 0, source, side);
    if (likely == t->n_slot) {
        return error_set(err, ERROR_INTERNAL, "nothing of side %d comes from rank %d", side,
                         source);
    }
    for (bool thorough = true;;) {
        bool got;
        if (!(thorough ? transport_poll(t, source, side, out, &got, err)
                       : slot_look(t, &t->slots[likely], out, &got, err))) {
            return false;
        }
        if (got) {
            return true;
        }
        if (!keep_waiting(t, &w, timeout_s, &thorough, err)) {
            return false;
        }
    }
}
