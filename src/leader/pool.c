#include "leader/pool.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/flight.h"
#include "base/log.h"
#include "leader/pool_impl.h"

enum { NOTICE_BYTES = 4096 }; /* as much as any takes */

/* ---- life ---- */

static struct worker_options worker_options_of(const struct pool_options *o) {
    return (struct worker_options){
        .control = o->control,
        .tensor = o->tensor,
        .facts = o->facts,
        .threads = o->threads,
        .timeout_s = o->timeout_s,
        .gpu = {.device = o->device, .of_locals = o->cuda_devices, .n_of_locals = o->n_cuda_device},
        .on_device = o->on_device,
    };
}

bool pool_create(struct pool **out, const struct pool_options *options, struct error *err) {
    struct pool *p = calloc(1, sizeof *p);
    if (!p) {
        return error_set(err, ERROR_MEMORY, "cannot allocate the pool");
    }
    p->options = *options;
    p->mute = -1;
    struct worker_options w = worker_options_of(options);
    if (!transport_create(&p->t, options->control, host_facts_oversubscribed(&options->facts),
                          err) ||
        !worker_create(&p->worker, &w, err)) {
        goto fail;
    }
    transport_set_timeout(p->t, options->timeout_s);
    p->world = transport_world(p->t);
    p->ranks = calloc((size_t)p->world, sizeof *p->ranks);
    p->loads = calloc((size_t)p->world, sizeof *p->loads);
    p->fits = calloc((size_t)p->world, sizeof *p->fits);
    p->places = calloc((size_t)p->world, sizeof *p->places);
    p->prints = calloc((size_t)p->world, sizeof *p->prints);
    if (!p->ranks || !p->loads || !p->fits || !p->places || !p->prints) {
        error_set(err, ERROR_MEMORY, "cannot allocate a table of %d ranks", p->world);
        goto fail;
    }
    /* Where memory is short, there is room to call a request off. */
    if (!buffer_reserve(&p->notice, NOTICE_BYTES, err)) {
        goto fail;
    }
    transport_set_hook(p->t, pool_read_notices, p);
    worker_set_poll(p->worker, pool_poll, p);
    *out = p;
    return true;
fail:
    pool_destroy(p);
    return false;
}

bool pool_trace(struct pool *p, const char *path, struct error *err) {
    bool ok = trace_open(&p->trace, path, p->world, err);
    transport_set_trace(p->t, p->trace);
    return ok;
}

bool pool_serve(const struct pool_options *options, struct error *err) {
    struct transport *t = NULL;
    struct worker *w = NULL;
    struct worker_options wo = worker_options_of(options);
    bool ok =
        transport_create(&t, options->control, host_facts_oversubscribed(&options->facts), err) &&
        worker_create(&w, &wo, err) && worker_serve(w, t, err);
    worker_destroy(w);
    transport_destroy(t);
    return ok;
}

void pool_destroy(struct pool *p) {
    if (!p) {
        return;
    }
    worker_destroy(p->worker);
    message_decoder_finish(&p->replies);
    message_decoder_finish(&p->notices);
    if (!p->stuck) {
        buffer_finish(&p->frame);
        buffer_finish(&p->notice);
    }
    buffer_finish(&p->own);
    transport_destroy(p->t);
    trace_close(p->trace);
    free(p->ranks);
    free(p->loads);
    free(p->fits);
    free(p->places);
    free(p->prints);
    free(p);
}

int pool_world(const struct pool *p) {
    return p->world;
}

const struct message_hello_ok *pool_rank(const struct pool *p, int rank) {
    return &p->ranks[rank];
}

const char *pool_isa(const struct pool *p) {
    return p->isa;
}

const char *pool_device(const struct pool *p) {
    return p->device;
}

const char *pool_dtype(const struct pool *p) {
    return p->dtype;
}

const char *pool_device_note(const struct pool *p) {
    return p->device_note;
}

double pool_send_seconds(const struct pool *p) {
    return p->send_seconds;
}

struct comm *pool_comm(struct pool *p) {
    return worker_comm(p->worker);
}

/* ---- notices ---- */

bool pool_note_progress(struct pool *p, int rank, uint64_t done, uint64_t total,
                        struct error *err) {
    p->loads[rank] = (struct pool_load_state){.heard = clock_now(), .done = done, .total = total};
    if (!p->progress || !p->progress->report) {
        return true;
    }
    uint64_t all_done = 0, all_total = 0;
    bool known = true;
    for (int r = 0; r < p->world; r++) {
        all_done += p->loads[r].done;
        all_total += p->loads[r].total;
        known = known && p->loads[r].total > 0;
    }
    return p->progress->report(p->progress->user, all_done, known ? all_total : 0, err);
}

/* A rank knows its own place best. */
static void note_place(struct pool *p, int source, const struct message *m) {
    int rank = m->place.rank;
    if (m->seq != p->seq || rank < 0 || rank >= p->world) {
        return;
    }
    struct pool_place *place = &p->places[rank];
    if (source == rank || place->seq != m->seq || !place->own_word) {
        *place =
            (struct pool_place){.seq = m->seq, .heard = clock_now(), .own_word = source == rank};
        blame_from_message(&place->at, &m->place);
    }
}

static bool read_notice(struct pool *p, const struct frame *f, struct error *err) {
    struct message m;
    struct error ignored;
    if (!message_decode(&p->notices, f->data, f->size, SIDE_NOTICE, &m, &ignored)) {
        log_warn("ignored a notice of rank %d: %s", f->source, ignored.message);
        return true;
    }
    if (m.type == MESSAGE_PROGRESS && m.seq == p->seq) {
        return pool_note_progress(p, f->source, m.progress.bytes_done, m.progress.bytes_total, err);
    }
    if (m.type == MESSAGE_PLACE) {
        note_place(p, f->source, &m);
        return true;
    }
    if (m.type != MESSAGE_TROUBLE || m.seq <= p->settled) {
        return true;
    }
    p->settled = p->seq;
    message_to_error(&m, err);
    error_at_rank(err, f->source);
    p->trouble = *err;
    return false;
}

bool pool_poll(void *pool, struct error *err) {
    static const double every_s = 1e-3; /* a probe costs more than a spin of the collective */
    struct pool *p = pool;
    double now = clock_now();
    if (now - p->last_poll < every_s) {
        return true;
    }
    p->last_poll = now;
    return pool_read_notices(p, err);
}

bool pool_read_notices(void *pool, struct error *err) {
    struct pool *p = pool;
    for (bool got = p->world > 1; got;) {
        struct frame f;
        if (!transport_poll(p->t, TRANSPORT_ANY_RANK, SIDE_NOTICE, &f, &got, err) ||
            (got && !read_notice(p, &f, err))) {
            return false;
        }
    }
    return true;
}

/* ---- one request ---- */

static bool flush(struct pool *p, double timeout_s, struct error *err) {
    p->stuck = !transport_flush(p->t, timeout_s, err);
    return !p->stuck;
}

bool pool_send(struct pool *p, struct message *request, int rank, struct error *err) {
    request->seq = ++p->seq;
    p->mute = -1;
    buffer_clear(&p->frame);
    bool alone = p->world == 1 && !p->trace;
    if (!alone &&
        (!flush(p, p->options.timeout_s, err) || !message_encode(&p->frame, request, err))) {
        return false;
    }
    p->entry = flight_enter_rpc(p->seq, message_name(request->type), p->frame.size, clock_now());
    if (alone) {
        return true;
    }
    int first = rank < 0 ? 1 : rank;
    int end = rank < 0 ? p->world : rank + 1;
    if (rank <= 0) {
        trace_frame(p->trace, TRACE_SENT, 0, SIDE_REQUEST, p->frame.data, p->frame.size);
    }
    for (int r = first > 0 ? first : 1; r < end; r++) {
        if (!transport_post(p->t, r, SIDE_REQUEST, p->frame.data, p->frame.size, err)) {
            p->astray = true;
            return error_at_rank(err, r);
        }
    }
    return true;
}

void pool_done(struct pool *p) {
    flight_leave(p->entry, clock_now());
}

bool pool_own_share(struct pool *p, const struct message *request, struct message *reply,
                    struct error *err) {
    bool ok = worker_handle(p->worker, request, reply, err);
    if (!ok) {
        error_at_rank(err, 0);
        message_from_error(reply, MESSAGE_ERROR, request->seq, err);
    }
    pool_trace_own(p, reply);
    return ok;
}

void pool_trace_own(struct pool *p, const struct message *reply) {
    if (p->trace && message_encode(&p->own, reply, NULL)) {
        trace_frame(p->trace, TRACE_RECEIVED, 0, SIDE_REPLY, p->own.data, p->own.size);
    }
}

/* Decodes a reply. A hello_ok that cannot be read may come from another version, and says so. */
static bool decode_reply(struct pool *p, const struct frame *f, struct message *reply,
                         struct error *err) {
    reply->hello_ok.protocol = PROTOCOL_VERSION;
    if (message_decode(&p->replies, f->data, f->size, SIDE_REPLY, reply, err)) {
        return true;
    }
    if (reply->type == MESSAGE_HELLO_OK && reply->hello_ok.protocol != PROTOCOL_VERSION) {
        error_set(err, ERROR_VERSION, "speaks protocol %d, rank 0 speaks %d",
                  reply->hello_ok.protocol, PROTOCOL_VERSION);
    }
    return false;
}

bool pool_collect(struct pool *p, int rank, enum message_type expect, double timeout_s,
                  struct message *reply, struct error *err) {
    const char *what = message_name(expect - 1); /* the request */
    double end = clock_now() + timeout_s;
    struct frame f;
    do {
        if (!transport_receive(p->t, rank, SIDE_REPLY, fmax(0, end - clock_now()), &f, err)) {
            if (err->kind == ERROR_DEADLINE && !err->has_rank) {
                error_set(err, ERROR_DEADLINE, "%s: no reply in time (--timeout)", what);
                p->mute = p->mute < 0 ? rank : p->mute;
            }
            return error_at_rank(err, rank);
        }
        if (!decode_reply(p, &f, reply, err)) {
            error_wrap(err, "reply to %s", what);
            return error_at_rank(err, rank);
        }
        /* An older number: late, its request was given up. 0: our frame was not understood. */
    } while (reply->seq < p->seq && !(reply->type == MESSAGE_ERROR && reply->seq == 0));
    if (reply->type == MESSAGE_ERROR) {
        message_to_error(reply, err);
        return error_at_rank(err, rank);
    }
    if (reply->type != expect || reply->seq != p->seq) {
        error_set(err, ERROR_PROTOCOL, "%s was answered with %s, number %llu with %llu", what,
                  message_name(reply->type), (unsigned long long)p->seq,
                  (unsigned long long)reply->seq);
        return error_at_rank(err, rank);
    }
    return true;
}

bool pool_ask(struct pool *p, int rank, struct message *request, struct message *reply,
              struct error *err) {
    if (!pool_send(p, request, rank, err)) {
        return false;
    }
    bool ok = rank == 0
                  ? pool_own_share(p, request, reply, err)
                  : pool_collect(p, rank, request->type + 1, p->options.timeout_s, reply, err);
    if (ok) {
        pool_done(p);
    }
    return ok || pool_find_culprit(p, err);
}

bool pool_is_broken(struct pool *p) {
    const struct comm *c = worker_comm(p->worker);
    return p->stuck || p->astray || (c && c->broken);
}

void pool_call_off(struct pool *p, const struct error *cause) {
    struct message m;
    struct error e;
    message_from_error(&m, MESSAGE_TROUBLE, p->seq, cause);
    if (p->stuck || !message_encode(&p->notice, &m, &e)) {
        return;
    }
    for (int r = 1; r < p->world; r++) {
        if (!transport_post(p->t, r, SIDE_NOTICE, p->notice.data, p->notice.size, &e)) {
            log_warn("rank %d: %s", r, e.message);
        }
    }
}

bool pool_own_failure(struct pool *p, struct error *err) {
    if (p->trouble.kind != ERROR_NONE && err->has_rank && err->rank == p->trouble.rank) {
        *err = p->trouble;
    }
    return error_at_rank(err, 0);
}

/* How long to wait for the others: after a failed collective they have failed too, or are stuck,
 * and one that did not answer will not. */
static double patience(struct pool *p, double seconds) {
    static const double after_failure_s = 1;
    bool failed = pool_is_broken(p) || p->mute >= 0;
    return fmin(p->options.timeout_s, failed ? after_failure_s : seconds);
}

static bool is_echo(enum error_kind kind) {
    return kind == ERROR_COMM || kind == ERROR_DEADLINE;
}

bool pool_keep_error(struct error *kept, const struct error *fresh) {
    if (kept->kind == ERROR_NONE || (is_echo(kept->kind) && !is_echo(fresh->kind))) {
        *kept = *fresh;
    }
    return false;
}

bool pool_collect_patiently(struct pool *p, int rank, enum message_type expect, double deadline,
                            struct message *reply, struct error *err) {
    for (;;) {
        if (pool_collect(p, rank, expect, deadline - clock_now(), reply, err)) {
            p->mute = p->mute == rank ? -1 : p->mute;
            return true;
        }
        double patience = p->loads[rank].heard + p->options.timeout_s;
        if (expect != MESSAGE_LOADED || err->kind != ERROR_DEADLINE || patience <= clock_now()) {
            return false;
        }
        deadline = patience;
    }
}

bool pool_ask_all(struct pool *p, struct message *request, pool_reply *on_reply, void *user,
                  struct error *err) {
    struct error first = {0}, e = {0};
    struct message reply;
    enum message_type expect = request->type + 1;
    bool called_off = false;
    p->trouble.kind = ERROR_NONE;
    if (!pool_send(p, request, -1, err)) {
        return false;
    }
    if (!pool_own_share(p, request, &reply, &e) || (on_reply && !on_reply(user, 0, &reply, &e))) {
        pool_own_failure(p, &e);
        pool_keep_error(&first, &e);
        if (pool_is_broken(p) || request->type == MESSAGE_LOAD) { /* which the others are in */
            pool_call_off(p, &e);
            called_off = true;
        }
    }
    double deadline = clock_now() + patience(p, p->options.timeout_s);
    for (int r = 1; r < p->world; r++) {
        if (!pool_collect_patiently(p, r, expect, deadline, &reply, &e) ||
            (on_reply && !on_reply(user, r, &reply, &e))) {
            error_at_rank(&e, r);
            pool_keep_error(&first, &e);
            if (request->type == MESSAGE_LOAD && !called_off) { /* the rest would read on in vain */
                pool_call_off(p, &e);
                called_off = true;
            }
        }
    }
    if (first.kind != ERROR_NONE) {
        p->settled = p->seq;
        *err = first;
        return pool_find_culprit(p, err);
    }
    pool_done(p);
    return true;
}

/* ---- the end ---- */

bool pool_shutdown(struct pool *p, struct error *err) {
    static const double shutdown_s = 5;
    struct message request = {.type = MESSAGE_SHUTDOWN}, reply;
    struct error first = {0}, e = {0};
    double deadline = clock_now() + patience(p, shutdown_s);
    p->settled = UINT64_MAX; /* what goes wrong now is of no more interest */
    if (!flush(p, deadline - clock_now(), &e) || !pool_send(p, &request, -1, &e)) {
        log_warn("shutdown: %s", e.message);
        pool_keep_error(&first, &e);
    } else {
        pool_own_share(p, &request, &reply, &e);
    }
    for (int r = 1; r < p->world; r++) {
        if (!pool_collect(p, r, MESSAGE_BYE, deadline - clock_now(), &reply, &e)) {
            log_warn("shutdown: rank %d: %s", r, e.message);
            pool_keep_error(&first, &e);
        }
    }
    if (first.kind != ERROR_NONE || !flush(p, deadline - clock_now(), &first)) {
        if (err) {
            *err = first;
        }
        return false;
    }
    return true;
}
