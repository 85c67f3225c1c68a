#include "leader/replay.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "leader/pool_impl.h"

bool replay_knows(enum message_type request) {
    return message_side(request) == SIDE_REQUEST && request != MESSAGE_ECHO &&
           request != MESSAGE_BANDWIDTH && request != MESSAGE_PROBE && request != MESSAGE_SHUTDOWN;
}

/* After these a rank may be anywhere; other errors are answers. */
static bool is_fatal(struct pool *p, const struct error *err) {
    return pool_is_broken(p) || err->kind == ERROR_DEADLINE || err->kind == ERROR_COMM ||
           err->kind == ERROR_RANK_LOST;
}

static bool is_open(const char *choice) {
    return !choice || strcmp(choice, "auto") == 0;
}

static void answer_all(struct pool *p, enum message_type type, replay_reply *on_reply, void *user) {
    struct message reply = {.type = type, .seq = p->seq};
    for (int r = 0; r < p->world; r++) {
        on_reply(user, r, &reply);
    }
}

static void answer_error(struct pool *p, const struct error *err, replay_reply *on_reply,
                         void *user) {
    struct message reply;
    message_from_error(&reply, MESSAGE_ERROR, p->seq, err);
    on_reply(user, err->has_rank ? err->rank : 0, &reply);
}

/* The ranks agree once more, on what was agreed on then. */
static bool again_init(struct pool *p, const struct message_init *init, replay_reply *on_reply,
                       void *user, struct error *err) {
    const struct pool_options own = p->options;
    struct pool_options *o = &p->options;
    bool device_open = is_open(o->device);
    o->isa = o->isa || !*init->isa ? o->isa : init->isa;
    o->device = device_open ? init->device : o->device;
    o->dtype = device_open && is_open(o->dtype) ? init->dtype : o->dtype;
    o->no_graphs = o->no_graphs || !init->graphs;
    o->check_collectives = o->check_collectives || init->check;
    bool ok = pool_init(p, err);
    p->options = own;
    if (ok) {
        answer_all(p, MESSAGE_INIT_OK, on_reply, user);
    } else if (!is_fatal(p, err)) {
        answer_error(p, err, on_reply, user);
    }
    return ok || !is_fatal(p, err);
}

static bool again_step(struct pool *p, const struct step *step, replay_reply *on_reply, void *user,
                       struct error *err) {
    struct step_result *results = calloc((size_t)step->n_seq + 1, sizeof *results);
    if (!results) {
        return error_set(err, ERROR_MEMORY, "step: cannot hold %d results", step->n_seq);
    }
    bool ok = pool_step(p, step, results, err);
    if (ok) {
        struct message reply = {.type = MESSAGE_STEPPED, .seq = p->seq};
        reply.stepped.digest = worker_digest(p->worker, step, results);
        on_reply(user, 0, &reply);
    } else if (err->kind == ERROR_PROTOCOL) {
        answer_error(p, err, on_reply, user);
    }
    free(results);
    return ok || err->kind == ERROR_PROTOCOL;
}

/* A rank's reply, whatever it says. */
static bool ask(struct pool *p, int rank, const struct message *request, double deadline,
                struct message *reply, struct error *err) {
    reply->type = MESSAGE_COUNT;
    bool ok = rank == 0 ? pool_own_share(p, request, reply, err)
                        : pool_collect_patiently(p, rank, request->type + 1, deadline, reply, err);
    return ok || (reply->type == MESSAGE_ERROR && reply->seq == p->seq && !is_fatal(p, err));
}

static bool again(struct pool *p, const struct message *recorded, int rank, replay_reply *on_reply,
                  void *user, struct error *err) {
    struct message request = *recorded, reply;
    int end = rank < 0 ? p->world : rank + 1;
    p->trouble.kind = ERROR_NONE;
    if (!pool_send(p, &request, rank, err)) {
        return false;
    }
    double deadline = clock_now() + p->options.timeout_s;
    for (int r = rank < 0 ? 0 : rank; r < end; r++) {
        if (!ask(p, r, &request, deadline, &reply, err)) {
            if (r == 0) {
                pool_own_failure(p, err);
            }
            p->settled = p->seq;
            pool_call_off(p, err);
            return pool_find_culprit(p, err);
        }
        on_reply(user, r, &reply);
    }
    pool_done(p);
    return true;
}

/* The sizes are a file's: what would not fit is not allocated because it says so. */
static bool again_load(struct pool *p, const struct message *request, replay_reply *on_reply,
                       void *user, struct error *err) {
    struct message m = *request;
    struct message_load *l = &m.load;
    if (strcmp(p->device, "cuda") == 0) { /* which has no choice; the trace may be a host's */
        snprintf(l->kv_dtype, sizeof l->kv_dtype, "%s", p->dtype);
    }
    struct model_params params;
    const struct pool_load_options quiet = {0};
    memset(p->loads, 0, (size_t)p->world * sizeof *p->loads);
    /* Words that nobody knows are for the ranks to refuse. */
    if (l->measure || !worker_load_params(l, &params, err) ||
        pool_look_before_load(p, &params, &quiet, err)) {
        return again(p, &m, -1, on_reply, user, err);
    }
    if (!is_fatal(p, err)) {
        answer_error(p, err, on_reply, user);
    }
    return !is_fatal(p, err);
}

bool replay_request(struct pool *p, const struct message *request, int rank, replay_reply *on_reply,
                    void *user, struct error *err) {
    switch (request->type) {
    case MESSAGE_INIT:
        return again_init(p, &request->init, on_reply, user, err);
    case MESSAGE_STEP:
        return again_step(p, &request->step, on_reply, user, err);
    case MESSAGE_LOAD:
        return again_load(p, request, on_reply, user, err);
    case MESSAGE_PING:
        return again(p, request, rank, on_reply, user, err);
    default: /* who else asked one rank alone would leave it waiting for the others */
        return again(p, request, -1, on_reply, user, err);
    }
}
