#include "leader/generation.h"

#include <stdlib.h>
#include <string.h>

#include "device/host/row.h"
#include "model/logprob.h"
#include "text/stop.h"

const char *finish_reason_name(enum finish_reason r) {
    static const char *const names[] = {"stop", "length", "interrupted"};
    _Static_assert(sizeof names / sizeof names[0] == FINISH_COUNT, "named reasons");
    return names[r];
}

struct generation {
    struct engine *engine;
    const struct tokenizer *tokenizer;
    const struct generate_request *request;
    struct sequence *seq;
    struct sampler *sampler;
    struct detokenizer detokenizer;
    struct stop_matcher stop;
    struct buffer fresh; /* text of the last token, before stop strings are looked for */
    struct buffer text;  /* of the last event */
    int limit;           /* tokens to sample at most */
    int n_fed;           /* of the prompt */
    int n_generated;
    int32_t last;  /* token sampled, to be fed next */
    float *logits; /* owns [vocab]; the sampler works in place. NULL: no log-probabilities */
    struct token_logprob top[GENERATE_MAX_LOGPROBS];
};

static bool is_eos(const struct model_config *c, int32_t id) {
    for (int i = 0; i < c->n_eos; i++) {
        if (c->eos[i] == id) {
            return true;
        }
    }
    return false;
}

static bool init(struct generation *g, struct error *err) {
    const struct generate_request *q = g->request;
    const struct model_config *c = engine_config(g->engine);
    if (!engine_check_ids(c, engine_ctx(g->engine), "prompt", q->prompt, q->n_prompt, err) ||
        !stop_matcher_init(&g->stop, q->n_stop, q->stops, err) ||
        !sampler_create(&g->sampler, &q->sampling, err) ||
        !sequence_create(g->engine, &g->seq, err)) {
        return false;
    }
    for (int i = 0; i < q->n_prompt; i++) {
        if (!sampler_accept(g->sampler, q->prompt[i], true, err)) {
            return false;
        }
    }
    int room = engine_ctx(g->engine) - q->n_prompt + 1; /* the last token needs no position */
    g->limit = q->max_tokens && q->max_tokens < room ? q->max_tokens : room;
    if (q->logprobs && !(g->logits = malloc((size_t)c->vocab * sizeof *g->logits))) {
        return error_set(err, ERROR_MEMORY, "cannot allocate a row of logits");
    }
    return true;
}

bool generation_create(struct generation **out, struct engine *engine,
                       const struct tokenizer *tokenizer, const struct generate_request *request,
                       struct error *err) {
    struct generation *g = calloc(1, sizeof *g);
    if (!g) {
        return error_set(err, ERROR_MEMORY, "cannot allocate a generation");
    }
    *g = (struct generation){.engine = engine, .tokenizer = tokenizer, .request = request};
    if (!init(g, err)) {
        generation_destroy(g);
        return false;
    }
    *out = g;
    return true;
}

void generation_destroy(struct generation *g) {
    if (g) {
        sequence_destroy(g->seq);
        sampler_destroy(g->sampler);
        stop_matcher_finish(&g->stop);
        buffer_finish(&g->fresh);
        buffer_finish(&g->text);
        free(g->logits);
        free(g);
    }
}

int generation_prompt_left(const struct generation *g) {
    return g->request->n_prompt - g->n_fed;
}

int generation_most_positions(const struct generation *g) {
    return g->request->n_prompt + g->limit - 1;
}

struct engine_part generation_part(const struct generation *g, int n) {
    const struct generate_request *q = g->request;
    int left = generation_prompt_left(g);
    struct engine_part part = {.seq = g->seq, .n_tok = n};
    part.tokens = left > 0 ? q->prompt + g->n_fed : &g->last;
    if (n < left) {
        part.output = STEP_OUTPUT_NONE;
        return part;
    }
    part.top_k = q->logprobs ? 0 : sampling_candidates(&q->sampling);
    bool candidates = part.top_k > 0 && part.top_k <= STEP_MAX_CANDIDATES;
    part.output = candidates ? STEP_OUTPUT_CANDIDATES : STEP_OUTPUT_LOGITS;
    return part;
}

/* Detokenizes one id (or, at the end, what is still pending) into the event's text. */
static bool add_text(struct generation *g, int32_t id, bool last, struct error *err) {
    if (!g->tokenizer) {
        return true;
    }
    buffer_clear(&g->fresh);
    bool ok = last ? detokenizer_flush(&g->detokenizer, &g->fresh, err)
                   : detokenizer_push(&g->detokenizer, g->tokenizer, id, g->request->skip_special,
                                      &g->fresh, err);
    return ok && stop_matcher_push(&g->stop, g->fresh.data, g->fresh.size, &g->text, err) &&
           (!last || stop_matcher_flush(&g->stop, &g->text, err));
}

static void tell(const struct generation *g, struct generation_event *out) {
    out->text = g->text.size ? (const char *)g->text.data : "";
    out->n_text = g->text.size;
    out->n_prompt = g->request->n_prompt;
    out->n_generated = g->n_generated;
}

static bool finish(struct generation *g, enum finish_reason why, struct generation_event *out,
                   struct error *err) {
    out->finished = true;
    out->finish = why;
    return add_text(g, 0, true, err);
}

/* Log-probabilities of the token and of the most likely, from the logits as the model gave them. */
static void tell_logprobs(struct generation *g, struct generation_event *out) {
    int vocab = engine_config(g->engine)->vocab, asked = g->request->top_logprobs;
    int n = asked > vocab ? vocab : asked > 0 ? asked : 1;
    float values[GENERATE_MAX_LOGPROBS];
    int32_t ids[GENERATE_MAX_LOGPROBS];
    row_top_k(values, ids, g->logits, vocab, n);
    double log_sum = (double)values[0] - logprob_of_row(g->logits, vocab, ids[0]);
    for (int i = 0; i < n; i++) {
        g->top[i] = (struct token_logprob){ids[i], (double)values[i] - log_sum};
    }
    out->token.logprob = (double)g->logits[out->token.id] - log_sum;
    out->top = g->top;
    out->n_top = asked ? n : 0;
}

static bool pick(struct generation *g, const struct step_result *r, int32_t *id,
                 struct error *err) {
    if (r->values) {
        return sampler_pick(g->sampler, r->values, r->ids, r->n_candidate, id, err);
    }
    int vocab = engine_config(g->engine)->vocab;
    if (g->logits) {
        memcpy(g->logits, r->logits, (size_t)vocab * sizeof *g->logits);
    }
    /* The sampler works in place; the model's buffer is ours until the next step. */
    return sampler_pick_logits(g->sampler, (float *)(uintptr_t)r->logits, vocab, id, err);
}

bool generation_take(struct generation *g, int n, const struct step_result *r,
                     struct generation_event *out, bool *event, struct error *err) {
    struct generation_event e = {.has_token = true};
    if (generation_prompt_left(g) > 0) {
        g->n_fed += n;
    }
    *event = generation_prompt_left(g) == 0;
    if (!*event) {
        return true;
    }
    buffer_clear(&g->text);
    if (!step_result_check(r, err) || !pick(g, r, &e.token.id, err)) {
        return false;
    }
    g->last = e.token.id;
    g->n_generated++;
    bool ok;
    if (!g->request->ignore_eos && is_eos(engine_config(g->engine), g->last)) {
        ok = finish(g, FINISH_STOP, &e, err);
    } else {
        ok = sampler_accept(g->sampler, g->last, false, err) && add_text(g, g->last, false, err);
        if (ok && g->stop.stopped) {
            ok = finish(g, FINISH_STOP, &e, err);
        } else if (ok && g->n_generated == g->limit) {
            ok = finish(g, FINISH_LENGTH, &e, err);
        }
    }
    if (ok && g->logits) {
        tell_logprobs(g, &e);
    }
    tell(g, &e);
    *out = e;
    return ok;
}

bool generation_interrupt(struct generation *g, struct generation_event *out, struct error *err) {
    struct generation_event e = {0};
    buffer_clear(&g->text);
    bool ok = finish(g, FINISH_INTERRUPTED, &e, err);
    tell(g, &e);
    *out = e;
    return ok;
}
