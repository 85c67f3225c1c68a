#include "rpc/exchange.h"

#include <stdlib.h>
#include <string.h>

struct exchange_reader {
    struct trace_reader *trace; /* owns */
    int world;
    uint64_t number;
    struct buffer frame;             /* the request under way: its decoder borrows it */
    struct message_decoder requests; /* of that one */
    struct message_decoder others;   /* of every other frame */
    struct trace_entry next;         /* the first frame of the next request */
    bool has_next;
    bool *has_reply;         /* owns [world] */
    struct message *replies; /* owns [world] */
};

bool exchange_reader_open(struct exchange_reader **out, const char *path, struct error *err) {
    struct exchange_reader *r = calloc(1, sizeof *r);
    if (!r) {
        return error_set(err, ERROR_MEMORY, "cannot read a trace");
    }
    if (!trace_reader_open(&r->trace, path, err)) {
        free(r);
        return false;
    }
    r->world = trace_reader_world(r->trace);
    r->has_reply = calloc((size_t)r->world, sizeof *r->has_reply);
    r->replies = calloc((size_t)r->world, sizeof *r->replies);
    if (!r->has_reply || !r->replies) {
        error_set(err, ERROR_MEMORY, "cannot hold the replies of %d ranks", r->world);
        exchange_reader_close(r);
        return false;
    }
    *out = r;
    return true;
}

void exchange_reader_close(struct exchange_reader *r) {
    if (r) {
        trace_reader_close(r->trace);
        message_decoder_finish(&r->requests);
        message_decoder_finish(&r->others);
        buffer_finish(&r->frame);
        free(r->has_reply);
        free(r->replies);
        free(r);
    }
}

const struct trace_reader *exchange_reader_trace(const struct exchange_reader *r) {
    return r->trace;
}

static bool is_request(const struct trace_entry *e) {
    return e->direction == TRACE_SENT && e->side == SIDE_REQUEST;
}

static bool decode(struct exchange_reader *r, const struct trace_entry *e, struct message *out,
                   struct error *err) {
    return message_decode(&r->others, e->frame, e->size, e->side, out, err) ||
           trace_reader_blame(r->trace, err);
}

/* Reads on to the next request; what comes before the first one belongs to none. */
static bool find_request(struct exchange_reader *r, bool *got, struct error *err) {
    *got = true;
    while (*got && !r->has_next) {
        if (!trace_reader_next(r->trace, &r->next, got, err)) {
            return false;
        }
        r->has_next = *got && is_request(&r->next);
    }
    return true;
}

/* Other programs have other messages: the first request says which. */
static bool check_protocol(const struct exchange_reader *r, const struct message *m,
                           struct error *err) {
    if (m->type != MESSAGE_HELLO || m->hello.protocol == PROTOCOL_VERSION) {
        return true;
    }
    error_set(err, ERROR_INPUT, "recorded with protocol %d; this program speaks %d",
              m->hello.protocol, PROTOCOL_VERSION);
    return trace_reader_blame(r->trace, err);
}

static bool begin(struct exchange_reader *r, struct exchange *out, struct error *err) {
    buffer_clear(&r->frame);
    if (!buffer_append(&r->frame, r->next.frame, r->next.size, err)) {
        return false;
    }
    r->has_next = false;
    memset(r->has_reply, 0, (size_t)r->world * sizeof *r->has_reply);
    *out = (struct exchange){.number = ++r->number,
                             .rank = r->next.peer,
                             .has_reply = r->has_reply,
                             .replies = r->replies};
    if (!message_decode(&r->requests, r->frame.data, r->frame.size, SIDE_REQUEST, &out->request,
                        err)) {
        return trace_reader_blame(r->trace, err);
    }
    return check_protocol(r, &out->request, err);
}

/* Keeps a reply, or what a rank that failed in a step told: it has no other. Replies to requests
 * that were given up come late, and are nobody's. */
static void keep(struct exchange_reader *r, const struct exchange *x, int peer,
                 const struct message *m) {
    bool reply = message_side(m->type) == SIDE_REPLY;
    bool trouble = m->type == MESSAGE_TROUBLE && x->request.type == MESSAGE_STEP;
    if (m->seq == x->request.seq && (reply || trouble) && !r->has_reply[peer]) {
        r->has_reply[peer] = true;
        r->replies[peer] = *m;
        r->replies[peer].type = trouble ? MESSAGE_ERROR : m->type;
    }
}

/* One more frame. *done: it begins the next request. */
static bool take(struct exchange_reader *r, struct exchange *x, bool *done, struct error *err) {
    struct message m;
    if (!decode(r, &r->next, &m, err)) {
        return false;
    }
    if (is_request(&r->next)) {
        *done = r->has_next = m.seq != x->request.seq;
        x->rank = *done || x->rank == r->next.peer ? x->rank : -1;
    } else if (r->next.direction == TRACE_RECEIVED) {
        keep(r, x, r->next.peer, &m);
    }
    return true;
}

bool exchange_reader_next(struct exchange_reader *r, struct exchange *out, bool *got,
                          struct error *err) {
    bool more = true, done = false;
    if (!find_request(r, got, err)) {
        return false;
    }
    if (!*got) {
        return true;
    }
    uint64_t start = r->next.when_ns, end = start;
    if (!begin(r, out, err)) {
        return false;
    }
    while (!done) {
        if (!trace_reader_next(r->trace, &r->next, &more, err)) {
            return false;
        }
        if (!more) {
            break;
        }
        if (!take(r, out, &done, err)) {
            return false;
        }
        end = !done && r->next.when_ns > end ? r->next.when_ns : end;
    }
    out->seconds = 1e-9 * (double)(end - start);
    out->rank = r->world == 1 ? -1 : out->rank;
    return true;
}
