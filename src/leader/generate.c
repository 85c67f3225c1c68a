#include "leader/generate.h"

#include <string.h>

#include "base/clock.h"
#include "text/stop.h"

const char *finish_reason_name(enum finish_reason r) {
    static const char *const names[] = {"stop", "length", "interrupted"};
    _Static_assert(sizeof names / sizeof names[0] == FINISH_COUNT, "named reasons");
    return names[r];
}

/* One generation under way. */
struct generation {
    struct engine *engine;
    const struct tokenizer *tokenizer;
    const struct generate_request *request;
    struct generate_result *out;
    struct sequence *seq;
    struct sampler *sampler;
    struct detokenizer detokenizer;
    struct stop_matcher stop;
    struct buffer fresh; /* text of the last token, before stop strings are looked for */
};

static bool is_eos(const struct model_config *c, int32_t id) {
    for (int i = 0; i < c->n_eos; i++) {
        if (c->eos[i] == id) {
            return true;
        }
    }
    return false;
}

/* Passes on the text that came after byte `shown` of the result. False: the reader wants no more.
 */
static bool show(const struct generation *g, size_t shown) {
    const struct buffer *text = &g->out->text;
    return !g->request->on_text || text->size == shown ||
           g->request->on_text(g->request->user, (const char *)text->data + shown,
                               text->size - shown);
}

/* Detokenizes one id (or, at the end, what is still pending) into the result. */
static bool add_text(struct generation *g, int32_t id, bool last, bool *more, struct error *err) {
    if (!g->tokenizer) {
        return true;
    }
    size_t shown = g->out->text.size;
    buffer_clear(&g->fresh);
    bool ok = last ? detokenizer_flush(&g->detokenizer, &g->fresh, err)
                   : detokenizer_push(&g->detokenizer, g->tokenizer, id, g->request->skip_special,
                                      &g->fresh, err);
    ok = ok && stop_matcher_push(&g->stop, g->fresh.data, g->fresh.size, &g->out->text, err) &&
         (!last || stop_matcher_flush(&g->stop, &g->out->text, err));
    *more = ok && show(g, shown);
    return ok;
}

static enum step_output output_kind(const struct sampling *s, int *k) {
    *k = sampling_candidates(s);
    return *k > 0 && *k <= STEP_MAX_CANDIDATES ? STEP_OUTPUT_CANDIDATES : STEP_OUTPUT_LOGITS;
}

static bool pick(struct generation *g, const struct step_result *r, int32_t *id,
                 struct error *err) {
    if (r->values) {
        return sampler_pick(g->sampler, r->values, r->ids, r->n_candidate, id, err);
    }
    /* The sampler works in place; the model's buffer is ours until the next step. */
    return sampler_pick_logits(g->sampler, (float *)(uintptr_t)r->logits,
                               engine_config(g->engine)->vocab, id, err);
}

static bool interrupted(const struct generation *g) {
    return g->request->interrupted && g->request->interrupted();
}

/* Takes the token that `r` leads to. *going: another step is to follow. */
static bool take_token(struct generation *g, const struct step_result *r, int limit, int32_t *id,
                       bool *going, struct error *err) {
    bool more = true;
    if (!pick(g, r, id, err) || !token_list_push(&g->out->ids, *id, err)) {
        return false;
    }
    if (!g->request->ignore_eos && is_eos(engine_config(g->engine), *id)) {
        g->out->finish = FINISH_STOP;
        return true;
    }
    if (!sampler_accept(g->sampler, *id, false, err) || !add_text(g, *id, false, &more, err)) {
        return false;
    }
    if (g->stop.stopped) {
        g->out->finish = FINISH_STOP;
    } else if (!more || interrupted(g)) {
        g->out->finish = FINISH_INTERRUPTED;
    } else {
        g->out->finish = FINISH_LENGTH;
        *going = (int)g->out->ids.n < limit;
    }
    return true;
}

static bool run(struct generation *g, struct error *err) {
    const struct generate_request *q = g->request;
    int room = engine_ctx(g->engine) - q->n_prompt + 1; /* the last token needs no position */
    int limit = q->max_tokens && q->max_tokens < room ? q->max_tokens : room;
    struct engine_part part = {.seq = g->seq, .tokens = q->prompt, .n_tok = q->n_prompt};
    part.output = output_kind(&q->sampling, &part.top_k);
    struct step_result result;
    double start = clock_now(), first = 0;

    if (!engine_feed(g->engine, &part, &result, q->interrupted, err)) {
        return false;
    }
    for (bool going = true; going;) {
        int32_t id;
        going = false;
        if (!take_token(g, &result, limit, &id, &going, err)) {
            return false;
        }
        first = first > 0 ? first : clock_now();
        part.tokens = &id;
        part.n_tok = 1;
        if (going && !engine_step(g->engine, &part, 1, &result, err)) {
            return false;
        }
    }
    bool more;
    g->out->prefill_seconds = first - start;
    g->out->decode_seconds = clock_now() - first;
    return add_text(g, 0, true, &more, err);
}

bool generate(struct engine *e, const struct tokenizer *tokenizer,
              const struct generate_request *request, struct generate_result *out,
              struct error *err) {
    struct generate_result result = {0};
    struct generation g = {.engine = e, .tokenizer = tokenizer, .request = request, .out = &result};
    bool ok = engine_check_ids(engine_config(e), engine_ctx(e), "prompt", request->prompt,
                               request->n_prompt, err) &&
              sampling_validate(&request->sampling, err) &&
              stop_matcher_init(&g.stop, request->n_stop, request->stops, err) &&
              sampler_create(&g.sampler, &request->sampling, err) &&
              sequence_create(e, &g.seq, err);
    for (int i = 0; ok && i < request->n_prompt; i++) {
        ok = sampler_accept(g.sampler, request->prompt[i], true, err);
    }
    ok = ok && run(&g, err);
    sequence_destroy(g.seq);
    sampler_destroy(g.sampler);
    stop_matcher_finish(&g.stop);
    buffer_finish(&g.fresh);
    if (!ok) {
        generate_result_finish(&result);
        return false;
    }
    *out = result; /* moves */
    return true;
}

void generate_result_finish(struct generate_result *r) {
    token_list_finish(&r->ids);
    buffer_finish(&r->text);
    *r = (struct generate_result){0};
}
