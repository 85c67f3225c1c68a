/* The body of a chat or a completion. First byte: bit 0 a completion, bit 1 Llama's tokenizer. What
 * is accepted is what a generation accepts; what is refused says why in a 4xx. */
#include <string.h>

#include "format/json.h"
#include "fuzz.h"
#include "serve/api.h"
#include "text/stop.h"

static void check_accepted(const struct api_request *q, const struct tokenizer *t) {
    const struct generate_request *g = &q->generate;
    struct stop_matcher stops;
    struct error err = {0};
    FUZZ_CHECK(g->prompt == q->prompt.ids && (size_t)g->n_prompt == q->prompt.n);
    FUZZ_CHECK(g->n_prompt > 0 && g->max_tokens >= 0);
    for (int i = 0; i < g->n_prompt; i++) {
        FUZZ_CHECK(tokenizer_check_id(t, g->prompt[i], &err));
    }
    FUZZ_CHECK(fuzz_result(sampling_validate(&g->sampling, &err), &err));
    FUZZ_CHECK(g->top_logprobs >= 0 && g->top_logprobs <= GENERATE_MAX_LOGPROBS);
    FUZZ_CHECK(fuzz_result(stop_matcher_init(&stops, g->n_stop, g->stops, &err), &err));
    stop_matcher_finish(&stops);
}

static void check_refusal(const struct api_error *e) {
    struct buffer body = {0};
    struct error err;
    json_t *json;
    fuzz_message(e->message);
    FUZZ_CHECK(e->status >= 400 && e->status < 500);
    FUZZ_CHECK(api_error_body(e, &body, &err));
    FUZZ_CHECK(json_parse(&json, "refusal", (const char *)body.data, body.size, 0, &err));
    FUZZ_CHECK(json_is_string(json_object_get(json_object_get(json, "error"), "message")));
    json_decref(json);
    buffer_finish(&body);
}

void fuzz_one(struct fuzz_input in) {
    unsigned bits = fuzz_byte(&in);
    const struct api_model model = {
        .name = "tiny",
        .tokenizer = fuzz_tokenizer(bits & 2 ? "tiny-llama" : "tiny-qwen3"),
        .sampling = {.temperature = 1, .top_p = 1, .repetition_penalty = 1}};
    struct api_request q;
    struct api_error e;
    if (api_request_parse(&q, bits & 1 ? API_COMPLETION : API_CHAT, (const char *)in.data, in.size,
                          &model, &e)) {
        check_accepted(&q, model.tokenizer);
    } else {
        check_refusal(&e);
    }
    api_request_finish(&q);
}
