/* The worker's loop. */
#include "worker/worker.h"

#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/flight.h"
#include "base/flight_dump.h"
#include "base/log.h"
#include "rpc/blame.h"

enum { REPLY_BYTES = 4096 }; /* as much as any takes */

struct server {
    struct worker *worker; /* borrowed */
    struct transport *t;   /* borrowed */
    struct message_decoder requests;
    struct message_decoder notices; /* its own: a notice is read while a step's lists are in use */
    struct buffer frame;            /* the reply on its way */
    struct buffer notice;           /* the notice on its way */
    uint64_t seq;                   /* of the request being handled */
    double timeout_s;
    double progress_last;
    bool total_told; /* of the load: how much it is, which is worth a notice at once */
    double poll_last;
    bool called_off;      /* the leader has given up the request that this rank is in */
    double patience_s;    /* until the leader speaks: INFINITY, but after a missed deadline */
    struct error overdue; /* what was missed */
    bool stuck;           /* a send never ended: MPI may still read the buffers */
};

/* A notice that a leader does not take within a second will not be missed: it has no use for it. */
static const double notice_s = 1;

static bool send_message(struct server *s, struct buffer *frame, const struct message *m,
                         struct error *err) {
    double patience_s = frame == &s->notice ? fmin(notice_s, s->timeout_s) : s->timeout_s;
    if (!message_encode(frame, m, err) ||
        !transport_post(s->t, 0, message_side(m->type), frame->data, frame->size, err)) {
        return false;
    }
    if (!transport_flush(s->t, patience_s, err)) {
        s->stuck = true;
        return false;
    }
    return true;
}

static bool send_error(struct server *s, enum message_type type, const struct error *cause,
                       struct error *err) {
    struct message m;
    message_from_error(&m, type, s->seq, cause);
    log_debug("%s", cause->message);
    return send_message(s, type == MESSAGE_TROUBLE ? &s->notice : &s->frame, &m, err);
}

static bool send_place(struct server *s, int rank, const struct blame_rank *at, struct error *err) {
    struct message m = {.type = MESSAGE_PLACE, .seq = s->seq};
    blame_to_message(at, rank, &m.place);
    return send_message(s, &s->notice, &m, err);
}

/* Somebody waits in vain: tells where this rank is, and where those of its host are that look as if
 * they could not tell themselves. */
static void tell_places(struct server *s) {
    struct flight_owner owner;
    struct blame_rank self, other;
    struct error err;
    if (!flight_read_owner(flight_own(), &owner)) {
        return;
    }
    blame_look(&self, owner.rank, NULL);
    bool ok = send_place(s, owner.rank, &self, &err);
    for (int r = 0; ok && r < owner.world; r++) {
        blame_look(&other, r, NULL);
        if (r != owner.rank && r != 0 && blame_is_odd(&other, &self)) {
            ok = send_place(s, r, &other, &err);
        }
    }
    if (!ok) {
        log_debug("where this rank is: %s", err.message);
    }
}

/* A notice from the leader: it gave up on the request `seq`, and whoever is in it must too. */
static bool read_notice(struct server *s, const struct frame *f, struct error *err) {
    struct message m;
    struct error ignored;
    if (!message_decode(&s->notices, f->data, f->size, SIDE_NOTICE, &m, &ignored)) {
        log_warn("ignored a notice: %s", ignored.message);
        return true;
    }
    if (m.type != MESSAGE_TROUBLE || m.seq < s->seq) {
        return true;
    }
    s->called_off = true;
    message_to_error(&m, err);
    if (err->kind == ERROR_DEADLINE) {
        tell_places(s);
        flight_dump(err->message);
    }
    return false;
}

/* This rank waited in vain inside a request. A leader that lives gives its verdict soon, and one
 * that does not must not be waited for for ever. */
static void expect_verdict(struct server *s, const struct error *failure, double seconds) {
    if (failure->kind == ERROR_DEADLINE && !s->called_off) {
        s->patience_s = seconds;
        s->overdue = *failure;
    }
}

/* Runs inside collectives. Rate-limited by the clock, for a probe costs more than a spin. */
static bool poll_notices(void *user, struct error *err) {
    static const double every_s = 1e-3;
    struct server *s = user;
    double now = clock_now();
    if (now - s->poll_last < every_s) {
        return true;
    }
    s->poll_last = now;
    struct frame f;
    bool got = false;
    return transport_poll(s->t, 0, SIDE_NOTICE, &f, &got, err) && (!got || read_notice(s, &f, err));
}

/* Tells the leader how far this rank has read, and hears whether it still wants the model. */
static bool report_progress(void *user, uint64_t bytes_done, uint64_t bytes_total,
                            struct error *err) {
    static const double every_s = 0.1;
    struct server *s = user;
    struct error ignored;
    double now = clock_now();
    bool news = bytes_total > 0 && !s->total_told;
    if ((now - s->progress_last < every_s && !news) || !transport_is_flushed(s->t)) {
        return true;
    }
    s->progress_last = now;
    s->total_told = s->total_told || news;
    struct message m = {.type = MESSAGE_PROGRESS, .seq = s->seq};
    m.progress = (struct message_progress){bytes_done, bytes_total};
    if (!send_message(s, &s->notice, &m, &ignored)) {
        log_warn("progress: %s", ignored.message);
    }
    return poll_notices(user, err);
}

/* Handles a step, which has no reply: its failure is a notice. */
static bool serve_step(struct server *s, const struct message *request, uint64_t entry,
                       struct error *err) {
    static const double verdict_s = 1;
    struct error failure;
    if (worker_prepare(s->worker, &request->step, NULL, &failure) &&
        worker_run(s->worker, &failure)) {
        flight_leave(entry, clock_now());
        return true;
    }
    expect_verdict(s, &failure, verdict_s);
    if (failure.kind == ERROR_DEADLINE && !s->called_off) {
        tell_places(s);
    }
    if (failure.kind != ERROR_PROTOCOL) {
        flight_dump(failure.message);
    }
    return send_error(s, MESSAGE_TROUBLE, &failure, err);
}

/* Second half of init. Its failure is a notice as well: the reply has been sent. */
static bool serve_join(struct server *s, struct error *err) {
    struct error failure;
    return worker_join(s->worker, true, &failure) || send_error(s, MESSAGE_TROUBLE, &failure, err);
}

/* The others may wait inside the collective that failed here, and rank 0 sees no reply before it is
 * out of it. (A missed deadline is theirs, too, but that NCCL's abort here ends their waits first,
 * as the loss of this rank: these words are better.) */
static bool warn_of_broken(struct server *s, const struct error *failure, struct error *err) {
    const struct comm *c = worker_comm(s->worker);
    bool first =
        c && c->broken && !s->called_off && (failure->kind != ERROR_DEADLINE || c->ops->enqueues);
    return !first || send_error(s, MESSAGE_TROUBLE, failure, err);
}

/* Room for the model's steps, which come as frames: a step that cannot be read fails on this rank
 * alone, and with it the job. */
static bool reserve_steps(struct server *s, const struct message_load *load, struct error *err) {
    if (load->measure || load->max_tok < 1 || load->n_block < 1) {
        return true;
    }
    int n_seq = load->max_tok < STEP_MAX_SEQS ? load->max_tok : STEP_MAX_SEQS;
    size_t bytes = message_step_bytes(n_seq, load->max_tok, load->n_block);
    return (message_decoder_reserve(&s->requests, n_seq, bytes, err) &&
            transport_reserve(s->t, bytes, err)) ||
           error_wrap(err, "load");
}

static bool handle(struct server *s, const struct message *request, struct message *reply,
                   struct error *err) {
    return (request->type != MESSAGE_LOAD || reserve_steps(s, &request->load, err)) &&
           worker_handle(s->worker, request, reply, err);
}

/* No other frame takes memory to be read, so this one was a step, in which the others are by now.
 * Its number was not read either. */
static bool tell_unread_step(struct server *s, const struct error *failure, struct error *err) {
    s->seq = UINT64_MAX; /* whichever it is */
    return send_error(s, MESSAGE_TROUBLE, failure, err);
}

/* One request. False: this rank cannot go on. */
static bool serve_request(struct server *s, const struct frame *f, bool *done, struct error *err) {
    struct message request, reply;
    struct error failure;
    bool understood =
        message_decode(&s->requests, f->data, f->size, SIDE_REQUEST, &request, &failure);
    s->seq = request.seq;
    s->called_off = false;
    s->total_told = false;
    if (!understood && failure.kind == ERROR_MEMORY && request.type == MESSAGE_COUNT) {
        return tell_unread_step(s, &failure, err);
    }
    if (!understood) {
        return send_error(s, request.type == MESSAGE_STEP ? MESSAGE_TROUBLE : MESSAGE_ERROR,
                          &failure, err);
    }
    uint64_t entry =
        flight_enter_rpc(request.seq, message_name(request.type), f->size, clock_now());
    if (request.type == MESSAGE_STEP) {
        return serve_step(s, &request, entry, err);
    }
    static const double slack_s = 5; /* the leader first hears all others */
    bool handled = handle(s, &request, &reply, &failure);
    if (!handled) {
        expect_verdict(s, &failure, s->timeout_s + slack_s);
        if (!warn_of_broken(s, &failure, err)) {
            return false;
        }
    }
    if (!(handled ? send_message(s, &s->frame, &reply, err)
                  : send_error(s, MESSAGE_ERROR, &failure, err))) {
        return false;
    }
    if (handled) {
        flight_leave(entry, clock_now());
    }
    if (handled && request.type == MESSAGE_INIT) {
        s->timeout_s = request.init.timeout_s;
        transport_set_timeout(s->t, s->timeout_s);
    }
    if (handled && request.type == MESSAGE_UNLOAD) { /* what was set aside for steps goes, too */
        message_decoder_finish(&s->requests);
    }
    *done = request.type == MESSAGE_SHUTDOWN;
    return request.type != MESSAGE_INIT || serve_join(s, err);
}

static bool serve_frame(struct server *s, const struct frame *f, bool *done, struct error *err) {
    struct error ignored;
    switch (f->side) {
    case SIDE_REQUEST:
        return serve_request(s, f, done, err);
    case SIDE_NOTICE:
        read_notice(s, f, &ignored); /* about a request that this rank is done with */
        return true;
    default:
        return true;
    }
}

/* Rank 0 says nothing. Where it runs on this host its record may tell more, or that of another. */
static void blame_leader(struct error *err) {
    struct flight_owner owner;
    struct blame_rank *ranks = NULL;
    struct flight_entry *entries = NULL;
    struct error found;
    bool ok = false;
    if (flight_read_owner(flight_own(), &owner) && owner.world > 0) {
        ranks = calloc((size_t)owner.world, sizeof *ranks);
        entries = calloc((size_t)owner.world * FLIGHT_ENTRIES, sizeof *entries);
    }
    if (ranks && entries) {
        for (int r = 0; r < owner.world; r++) {
            blame_look(&ranks[r], r, entries + (size_t)r * FLIGHT_ENTRIES);
        }
        ok = blame_find(ranks, owner.world, 0, &found);
    }
    if (ok) {
        *err = found;
    }
    error_wrap(err, "no word from rank 0%s", ok ? "" : " after");
    free(entries);
    free(ranks);
}

bool worker_serve(struct worker *w, struct transport *t, struct error *err) {
    struct server s = {.worker = w, .t = t, .timeout_s = 60, .patience_s = (double)INFINITY};
    struct model_progress progress = {.report = report_progress, .user = &s};
    bool done = false;
    worker_set_poll(w, poll_notices, &s);
    worker_set_progress(w, &progress);
    /* Where memory is short, there is room to say so. */
    bool ok =
        buffer_reserve(&s.frame, REPLY_BYTES, err) && buffer_reserve(&s.notice, REPLY_BYTES, err);
    while (ok && !done) {
        struct frame f;
        ok = transport_receive(t, 0, TRANSPORT_ANY_SIDE, s.patience_s, &f, err);
        if (ok) {
            s.patience_s = (double)INFINITY;
            ok = serve_frame(&s, &f, &done, err);
        } else if (err->kind == ERROR_PROTOCOL) {
            s.seq = 0; /* a frame too large to be read */
            struct error cause = *err;
            ok = send_error(&s, MESSAGE_ERROR, &cause, err);
        } else if (err->kind == ERROR_DEADLINE && isfinite(s.patience_s)) {
            *err = s.overdue;
            blame_leader(err);
        }
    }
    worker_set_poll(w, NULL, NULL);
    worker_set_progress(w, NULL);
    message_decoder_finish(&s.requests);
    message_decoder_finish(&s.notices);
    if (!s.stuck) {
        buffer_finish(&s.frame);
        buffer_finish(&s.notice);
    }
    return ok;
}
