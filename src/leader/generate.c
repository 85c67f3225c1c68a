#include "leader/generate.h"

#include "base/clock.h"

/* Keeps what a step led to, and passes its text on. *more: nobody wants an end. */
static bool keep(struct generate_result *out, const struct generation_event *event,
                 const struct generate_listener *l, bool *more, struct error *err) {
    out->finish = event->finish;
    if ((event->has_token && !token_list_push(&out->ids, event->token.id, err)) ||
        !buffer_append(&out->text, event->text, event->n_text, err)) {
        return false;
    }
    *more = !(l->on_text && event->n_text && !l->on_text(l->user, event->text, event->n_text)) &&
            !(l->interrupted && l->interrupted());
    return true;
}

/* Feeds the prompt, in steps as long as the engine takes, or the last token. */
static bool feed(struct engine *e, struct generation *g, const struct generate_listener *l,
                 struct generation_event *event, struct error *err) {
    for (bool any = false; !any;) {
        int left = generation_prompt_left(g), most = engine_max_tok(e);
        int n = left == 0 ? 1 : left < most ? left : most;
        struct engine_part part = generation_part(g, n);
        struct step_result result;
        if (left > 0 && l->interrupted && l->interrupted()) {
            return error_set(err, ERROR_INTERRUPTED, "interrupted");
        }
        if (!engine_step(e, &part, 1, &result, err) ||
            !generation_take(g, n, &result, event, &any, err)) {
            return false;
        }
    }
    return true;
}

static bool run(struct engine *e, struct generation *g, const struct generate_listener *l,
                struct generate_result *out, struct error *err) {
    double start = clock_now(), first = 0;
    struct generation_event event = {0};
    for (bool more = true; more && !event.finished;) {
        if (!feed(e, g, l, &event, err)) {
            return false;
        }
        first = first > 0 ? first : clock_now();
        if (!keep(out, &event, l, &more, err)) {
            return false;
        }
    }
    out->prefill_seconds = first - start;
    out->decode_seconds = clock_now() - first;
    bool ignored;
    return event.finished ||
           (generation_interrupt(g, &event, err) && keep(out, &event, l, &ignored, err));
}

bool generate(struct engine *e, const struct tokenizer *tokenizer,
              const struct generate_request *request, const struct generate_listener *listener,
              struct generate_result *out, struct error *err) {
    struct generate_result result = {0};
    struct generation *g = NULL;
    bool ok =
        generation_create(&g, e, tokenizer, request, err) && run(e, g, listener, &result, err);
    generation_destroy(g);
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
