#include "leader/scheduler.h"

#include <stdlib.h>

#include "base/clock.h"

struct ticket {
    struct generation *generation; /* owns */
    scheduler_event *on_event;
    void *user;
    int n_block;         /* that its whole length takes */
    int n_tok;           /* in the step under way; 0: none */
    double begun;        /* its first step did; 0: none */
    bool over;           /* it has had its last event, or was cancelled */
    struct ticket *next; /* in the queue */
};

struct scheduler {
    struct engine *engine;
    const struct tokenizer *tokenizer;
    struct scheduler_options options;
    struct ticket **running; /* owns [max_batch], in the order of admission */
    int n_running;
    struct ticket *first, **end; /* the queue */
    int n_waiting;
    int blocks_used;
    bool stepping;
    double since; /* the last step's end, or the first request's arrival after idling */
    struct engine_part *parts;   /* owns [max_batch] */
    struct step_result *results; /* owns [max_batch] */
    struct scheduler_stats stats;
};

bool scheduler_create(struct scheduler **out, struct engine *engine,
                      const struct tokenizer *tokenizer, const struct scheduler_options *options,
                      struct error *err) {
    int batch = options->max_batch;
    if (batch < 1 || batch > engine_max_seqs(engine) || options->prefill_chunk < 1 ||
        options->prefill_chunk > engine_max_tok(engine) - batch || options->max_waiting < 0) {
        return error_set(err, ERROR_USAGE,
                         "a batch of %d and %d prompt tokens: the engine takes %d sequences and %d "
                         "tokens a step",
                         batch, options->prefill_chunk, engine_max_seqs(engine),
                         engine_max_tok(engine));
    }
    struct scheduler *s = calloc(1, sizeof *s);
    if (!s) {
        return error_set(err, ERROR_MEMORY, "cannot allocate the scheduler");
    }
    *s = (struct scheduler){.engine = engine, .tokenizer = tokenizer, .options = *options};
    s->end = &s->first;
    s->running = calloc((size_t)batch, sizeof *s->running);
    s->parts = calloc((size_t)batch, sizeof *s->parts);
    s->results = calloc((size_t)batch, sizeof *s->results);
    if (!s->running || !s->parts || !s->results) {
        scheduler_destroy(s);
        return error_set(err, ERROR_MEMORY, "cannot allocate the scheduler");
    }
    *out = s;
    return true;
}

static void ticket_destroy(struct ticket *t) {
    generation_destroy(t->generation);
    free(t);
}

/* ---- the queue ---- */

bool scheduler_add(struct scheduler *s, const struct generate_request *request,
                   scheduler_event *on_event, void *user, struct ticket **out, struct error *err) {
    if (s->n_running + s->n_waiting >= s->options.max_batch + s->options.max_waiting) {
        return error_set(err, ERROR_BUSY, "%d requests run and %d wait already", s->n_running,
                         s->n_waiting);
    }
    if (scheduler_idle(s)) {
        s->since = clock_now();
    }
    struct ticket *t = calloc(1, sizeof *t);
    if (!t) {
        return error_set(err, ERROR_MEMORY, "cannot allocate a request");
    }
    *t = (struct ticket){.on_event = on_event, .user = user};
    if (!generation_create(&t->generation, s->engine, s->tokenizer, request, err)) {
        free(t);
        return false;
    }
    t->n_block = engine_blocks_for(generation_most_positions(t->generation));
    *s->end = t;
    s->end = &t->next;
    s->n_waiting++;
    *out = t;
    return true;
}

static struct ticket *take_first(struct scheduler *s) {
    struct ticket *t = s->first;
    s->first = t->next;
    s->end = s->first ? s->end : &s->first;
    s->n_waiting--;
    return t;
}

static bool unqueue(struct scheduler *s, const struct ticket *t) {
    for (struct ticket **at = &s->first; *at; at = &(*at)->next) {
        if (*at == t) {
            *at = t->next;
            s->end = t->next ? s->end : at;
            s->n_waiting--;
            return true;
        }
    }
    return false;
}

/* Nobody overtakes: a large request at the head waits until there is room, and the others with it.
 */
static void admit(struct scheduler *s) {
    while (s->first && s->n_running < s->options.max_batch &&
           s->first->n_block <= engine_blocks(s->engine) - s->blocks_used) {
        struct ticket *t = take_first(s);
        s->blocks_used += t->n_block;
        s->running[s->n_running++] = t;
    }
}

/* Lets those go that are over. */
static void sweep(struct scheduler *s) {
    int kept = 0;
    for (int i = 0; i < s->n_running; i++) {
        struct ticket *t = s->running[i];
        if (t->over) {
            s->blocks_used -= t->n_block;
            ticket_destroy(t);
        } else {
            s->running[kept++] = t;
        }
    }
    s->n_running = kept;
}

void scheduler_cancel(struct scheduler *s, struct ticket *t) {
    if (unqueue(s, t)) {
        ticket_destroy(t);
        return;
    }
    t->over = true;
    if (!s->stepping) {
        sweep(s);
    }
}

double scheduler_begun(const struct ticket *t) {
    return t->begun;
}

bool scheduler_idle(const struct scheduler *s) {
    return s->n_running + s->n_waiting == 0;
}

/* ---- a step ---- */

/* Every sequence that decodes, and as much of the prompts as a chunk holds, oldest first. */
static int choose_parts(struct scheduler *s, double now) {
    int n = 0, chunk = s->options.prefill_chunk;
    for (int i = 0; i < s->n_running; i++) {
        struct ticket *t = s->running[i];
        int left = generation_prompt_left(t->generation);
        t->n_tok = left == 0 ? 1 : left < chunk ? left : chunk;
        if (t->n_tok > 0) {
            chunk -= left > 0 ? t->n_tok : 0;
            t->begun = t->begun > 0 ? t->begun : now;
            s->parts[n++] = generation_part(t->generation, t->n_tok);
        }
    }
    return n;
}

static void tell(struct ticket *t, const struct generation_event *event) {
    t->on_event(t->user, event);
    t->over = t->over || event->finished;
}

static void tell_failure(struct ticket *t, const struct error *why) {
    const struct generation_event event = {.text = "", .finished = true, .error = why};
    tell(t, &event);
}

/* Hands a step's results out, which stand in the order of the parts. */
static void take_results(struct scheduler *s) {
    for (int i = 0, part = 0; i < s->n_running; i++) {
        struct ticket *t = s->running[i];
        struct generation_event event;
        struct error err;
        bool any;
        if (t->n_tok == 0) {
            continue;
        }
        bool prompt = generation_prompt_left(t->generation) > 0;
        s->stats.prompt_tokens += prompt ? (uint64_t)t->n_tok : 0;
        if (!generation_take(t->generation, t->n_tok, &s->results[part++], &event, &any, &err)) {
            tell_failure(t, &err);
        } else if (any) {
            s->stats.generated_tokens++;
            tell(t, &event);
        }
    }
}

/* The step that they are in could not even begin. */
static void fail_parts(struct scheduler *s, const struct error *why) {
    s->stepping = true;
    for (int i = 0; i < s->n_running; i++) {
        if (s->running[i]->n_tok > 0 && !s->running[i]->over) {
            tell_failure(s->running[i], why);
        }
    }
    s->stepping = false;
    sweep(s);
}

bool scheduler_step(struct scheduler *s, struct error *err) {
    admit(s);
    int n = choose_parts(s, clock_now());
    if (n == 0) {
        return true;
    }
    double begun = clock_now(), sent = engine_send_seconds(s->engine);
    if (!engine_step(s->engine, s->parts, n, s->results, err)) {
        if (!engine_is_usable(s->engine)) {
            return false;
        }
        fail_parts(s, err);
        return true;
    }
    double step = clock_now() - begun - (engine_send_seconds(s->engine) - sent);
    s->stepping = true;
    take_results(s);
    s->stepping = false;
    sweep(s);
    double now = clock_now();
    s->stats.n_step++;
    s->stats.step_seconds += step;
    s->stats.leader_seconds += now - s->since - step;
    s->since = now;
    return true;
}

void scheduler_fail(struct scheduler *s, const struct error *why) {
    s->stepping = true;
    for (int i = 0; i < s->n_running; i++) {
        if (!s->running[i]->over) {
            tell_failure(s->running[i], why);
        }
    }
    s->stepping = false;
    sweep(s);
    while (s->first) {
        struct ticket *t = take_first(s);
        tell_failure(t, why);
        ticket_destroy(t);
    }
}

struct scheduler_stats scheduler_stats(const struct scheduler *s) {
    struct scheduler_stats stats = s->stats;
    stats.running = s->n_running;
    stats.waiting = s->n_waiting;
    stats.blocks_used = s->blocks_used;
    stats.blocks_total = engine_blocks(s->engine);
    return stats;
}

void scheduler_destroy(struct scheduler *s) {
    if (s) {
        for (int i = 0; i < s->n_running; i++) {
            ticket_destroy(s->running[i]);
        }
        while (s->first) {
            ticket_destroy(take_first(s));
        }
        free(s->running);
        free(s->parts);
        free(s->results);
        free(s);
    }
}
