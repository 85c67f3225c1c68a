#include "api_case.h"

#include <string.h>

#include "test.h"
#include "text_data.h"

const struct sampling api_case_sampling = {.temperature = 1, .top_p = 1, .repetition_penalty = 1};
struct api_model api_case_model = {.name = "tiny", .created = 1700000000};
static struct tokenizer *qwen; /* owns */

int api_case_start(void **state) {
    (void)state;
    qwen = text_data_tokenizer("tiny-qwen3");
    api_case_model.tokenizer = qwen;
    api_case_model.sampling = api_case_sampling;
    return 0;
}

int api_case_finish(void **state) {
    (void)state;
    tokenizer_destroy(qwen);
    return 0;
}

void api_case_parse(struct api_request *q, enum api_kind kind, const char *body) {
    struct api_error e;
    if (!api_request_parse(q, kind, body, strlen(body), &api_case_model, &e)) {
        fail_msg("%s: %d %s: %s", body, e.status, e.param, e.message);
    }
    assert_int_equal(q->kind, kind);
    assert_ptr_equal(q->generate.prompt, q->prompt.ids);
    assert_int_equal(q->generate.n_prompt, q->prompt.n);
    assert_true(q->generate.skip_special);
}
