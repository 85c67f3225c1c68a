/* The OpenAI API's bodies: what they lead to, and what is refused. */
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api_case.h"

/* ---- bodies that are fine ---- */

/* The prompt as text, special tokens and all. */
static void decode_prompt(const struct api_request *q, struct buffer *text) {
    struct error err;
    assert_ok(
        tokenizer_decode(api_case_model.tokenizer, q->prompt.ids, q->prompt.n, false, text, &err),
        &err);
    assert_ok(buffer_append(text, "", 1, &err), &err);
}

static void assert_prompt(enum api_kind kind, const char *body, const char *want) {
    struct api_request q;
    struct buffer text = {0};
    api_case_parse(&q, kind, body);
    decode_prompt(&q, &text);
    assert_string_equal((char *)text.data, want);
    buffer_finish(&text);
    api_request_finish(&q);
}

#define USER(text) "<|im_start|>user\n" text "<|im_end|>\n"
#define ASSISTANT  "<|im_start|>assistant\n"

static void prompts(void **state) {
    (void)state;
    assert_prompt(API_CHAT, CHAT(""), USER("Hi") ASSISTANT);
    assert_prompt(API_CHAT, CHAT(",\"messages\":[{\"role\":\"user\",\"content\":\"Ho\"}]"),
                  USER("Ho") ASSISTANT); /* the last of two */
    assert_prompt(API_CHAT,
                  "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":"
                  "\"a\"},{\"type\":\"text\",\"text\":\"b\"}]}]}",
                  USER("a\nb") ASSISTANT);
    assert_prompt(API_CHAT, CHAT(",\"chat_template_kwargs\":{\"enable_thinking\":false}"),
                  USER("Hi") ASSISTANT "<think>\n\n</think>\n\n");
    assert_prompt(API_CHAT, CHAT(",\"chat_template_kwargs\":{\"enable_thinking\":null,\"x\":1}"),
                  USER("Hi") ASSISTANT);
    assert_prompt(API_CHAT, CHAT(",\"tools\":[{\"x\":1}],\"tool_choice\":\"none\""),
                  USER("Hi") ASSISTANT);
    assert_prompt(API_CHAT,
                  "{\"messages\":[{\"role\":\"developer\",\"content\":\"Be brief.\"},"
                  "{\"role\":\"user\",\"content\":\"Hi\"}]}",
                  "<|im_start|>system\nBe brief.<|im_end|>\n" USER("Hi") ASSISTANT);
    assert_prompt(API_COMPLETION, TEXT(""), "Hi");
    assert_prompt(API_COMPLETION, "{\"prompt\":[\"Hi\"]}", "Hi");
    assert_prompt(API_COMPLETION, "{\"prompt\":[0,1,1008]}", "!\"<|im_start|>");
    assert_prompt(API_COMPLETION, "{\"prompt\":[[2,1]]}", "#\"");
    assert_prompt(API_COMPLETION, "{\"prompt\":\"<|im_end|>\\u00e9\"}", "<|im_end|>\xc3\xa9");
}

/* What is longer than the context, in text or ids, and what just fits. */
static void lengths(void **state) {
    (void)state;
    static const char *const bodies[] = {"{\"prompt\":[1,2,3,4,5]}", "{\"prompt\":\"! ! ! ! !\"}",
                                         CHAT("")};
    struct api_request q;
    struct api_error e;
    for (size_t i = 0; i < 3; i++) {
        enum api_kind kind = i < 2 ? API_COMPLETION : API_CHAT;
        api_case_model.ctx = 0;
        api_case_parse(&q, kind, bodies[i]);
        int n = (int)q.prompt.n;
        api_request_finish(&q);
        api_case_model.ctx = n;
        api_case_parse(&q, kind, bodies[i]);
        api_request_finish(&q);
        api_case_model.ctx = n - 1;
        assert_false(
            api_request_parse(&q, kind, bodies[i], strlen(bodies[i]), &api_case_model, &e));
        assert_int_equal(e.status, 400);
        assert_string_equal(e.code, "context_length_exceeded");
        assert_string_equal(e.param, i < 2 ? "prompt" : "messages");
        assert_non_null(
            strstr(e.message, i == 0 ? "has 5 tokens, the context only 4" : "more than"));
    }
    api_case_model.ctx = 0;
}

static void tools_are_rendered(void **state) {
    (void)state;
    struct api_request q[2];
    api_case_parse(&q[0], API_CHAT, CHAT(""));
    api_case_parse(&q[1], API_CHAT,
                   CHAT(",\"tools\":[{\"type\":\"function\"}],\"tool_choice\":\"auto\""));
    assert_true(q[1].prompt.n > q[0].prompt.n + 20);
    assert_true(q[0].reasoning && q[1].reasoning); /* Qwen3 */
    assert_true(q[1].tools && !q[0].tools);
    assert_false(q[1].one_call);
    api_request_finish(&q[0]);
    api_request_finish(&q[1]);
    api_case_parse(&q[0], API_CHAT,
                   CHAT(",\"tools\":[{\"type\":\"function\"}],\"parallel_tool_calls\":false"));
    assert_true(q[0].tools && q[0].one_call);
    api_request_finish(&q[0]);
    api_case_parse(&q[0], API_CHAT,
                   CHAT(",\"tools\":[{\"type\":\"function\"}],\"tool_choice\":\"none\""));
    assert_false(q[0].tools); /* what looks like a call is text then */
    api_request_finish(&q[0]);
}

static void assert_begun(const char *choice, const char *begun) {
    static const char no_thinking[] = ASSISTANT "<think>\n\n</think>\n\n";
    struct api_request q;
    struct buffer prompt = {0};
    char body[400], end[200];
    snprintf(
        body, sizeof body,
        "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],\"tools\":[{\"type\":\"function\","
        "\"function\":{\"name\":\"a\\\"b\"}}],\"tool_choice\":%s}",
        choice);
    api_case_parse(&q, API_CHAT, body);
    assert_int_equal(q.begun.size, strlen(begun));
    assert_memory_equal(q.begun.data, begun, strlen(begun));
    decode_prompt(&q, &prompt);
    snprintf(end, sizeof end, "%s%s", no_thinking, begun);
    assert_true(prompt.size > strlen(end) + 1);
    assert_string_equal((char *)prompt.data + prompt.size - 1 - strlen(end), end);
    buffer_finish(&prompt);
    api_request_finish(&q);
}

static void calls_are_begun(void **state) {
    (void)state;
    assert_begun("\"required\"", "<tool_call>\n{\"name\": \"");
    assert_begun("{\"type\":\"function\",\"function\":{\"name\":\"a\\\"b\"}}",
                 "<tool_call>\n{\"name\": \"a\\\"b\", \"arguments\":");
}

static void defaults(void **state) {
    (void)state;
    static const char nulls[] =
        ",\"model\":null,\"max_tokens\":null,\"max_completion_tokens\":null,\"temperature\":null,"
        "\"top_p\":null,\"top_k\":null,\"min_p\":null,\"seed\":null,\"stop\":null,\"stream\":null,"
        "\"stream_options\":null,\"logprobs\":null,\"top_logprobs\":null,\"n\":null,"
        "\"best_of\":null,\"echo\":null,\"suffix\":null,\"response_format\":null,"
        "\"logit_bias\":null,\"tools\":null,\"tool_choice\":null,\"functions\":null,"
        "\"function_call\":null,\"parallel_tool_calls\":null,"
        "\"audio\":null,\"modalities\":null,\"ignore_eos\":null,\"chat_template_kwargs\":null}";
    uint64_t seed = 0;
    for (int i = 0; i < 4; i++) {
        struct api_request q;
        char body[1024];
        enum api_kind kind = i % 2 ? API_COMPLETION : API_CHAT;
        snprintf(body, sizeof body, "{%s%s", i % 2 ? "\"prompt\":\"Hi\"" : MESSAGES,
                 i < 2 ? "}" : nulls);
        api_case_parse(&q, kind, body);
        const struct sampling *s = &q.generate.sampling;
        assert_int_equal(q.generate.max_tokens, i % 2 ? 16 : 0);
        assert_true(s->temperature == 1 && s->top_p == 1 && s->top_k == 0 && s->min_p == 0);
        assert_true(s->repetition_penalty == 1 && s->presence_penalty == 0 &&
                    s->frequency_penalty == 0);
        assert_true(s->seed != seed); /* a new one each time */
        seed = s->seed;
        assert_false(q.stream || q.include_usage || q.logprobs || q.generate.logprobs);
        assert_false(q.generate.ignore_eos);
        assert_int_equal(q.generate.n_stop + q.generate.top_logprobs + s->n_bias, 0);
        assert_null(q.biases);
        api_request_finish(&q);
    }
}

static void parameters(void **state) {
    (void)state;
    struct api_request q;
    api_case_parse(
        &q, API_CHAT,
        CHAT(",\"model\":\"tiny\",\"max_tokens\":7,\"max_completion_tokens\":9,"
             "\"temperature\":0,\"top_p\":0.5,\"top_k\":40,\"min_p\":0.25,"
             "\"repetition_penalty\":1.5,\"presence_penalty\":-1,\"frequency_penalty\":2,"
             "\"seed\":-1,\"stop\":[\"a\",\"bc\"],\"stream\":true,"
             "\"stream_options\":{\"include_usage\":true,\"x\":2},\"logprobs\":true,"
             "\"top_logprobs\":20,\"ignore_eos\":true,\"n\":1,\"best_of\":1,\"echo\":false,"
             "\"response_format\":{\"type\":\"text\"},\"logit_bias\":{},"
             "\"modalities\":[\"text\"],\"user\":\"x\",\"store\":[1]"));
    const struct sampling *s = &q.generate.sampling;
    assert_int_equal(q.generate.max_tokens, 9);
    assert_true(s->temperature == 0 && s->top_p == 0.5 && s->top_k == 40 && s->min_p == 0.25);
    assert_true(s->repetition_penalty == 1.5 && s->presence_penalty == -1 &&
                s->frequency_penalty == 2);
    assert_true(s->seed == UINT64_MAX);
    assert_int_equal(q.generate.n_stop, 2);
    assert_string_equal(q.generate.stops[1], "bc");
    assert_true(q.stream && q.include_usage && q.logprobs && q.generate.logprobs);
    assert_int_equal(q.generate.top_logprobs, 20);
    assert_true(q.generate.ignore_eos);
    api_request_finish(&q);
    assert_null(q.prompt.ids);

    api_case_parse(&q, API_COMPLETION, TEXT(",\"logprobs\":0,\"stop\":\"x\",\"max_tokens\":1"));
    assert_true(q.logprobs && q.generate.logprobs);
    assert_int_equal(q.generate.top_logprobs, 0);
    assert_int_equal(q.generate.max_tokens, 1);
    assert_string_equal(q.generate.stops[0], "x");
    api_request_finish(&q);
    api_case_parse(&q, API_COMPLETION, TEXT(",\"logprobs\":5"));
    assert_int_equal(q.generate.top_logprobs, 5);
    api_request_finish(&q);
    api_case_parse(&q, API_COMPLETION, TEXT(",\"top_k\":-1"));
    assert_int_equal(q.generate.sampling.top_k, 0);
    api_request_finish(&q);
}

static void biases(void **state) {
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        struct api_request q;
        api_case_parse(&q, kind ? API_COMPLETION : API_CHAT,
                       kind ? TEXT(",\"logit_bias\":{\"0\":-100,\"1008\":2.5}")
                            : CHAT(",\"logit_bias\":{\"0\":-100,\"1008\":2.5}"));
        const struct sampling *s = &q.generate.sampling;
        assert_int_equal(s->n_bias, 2);
        for (int i = 0; i < 2; i++) {
            assert_true(s->biases[i].id == 0 ? s->biases[i].bias == -100
                                             : s->biases[i].id == 1008 && s->biases[i].bias == 2.5);
        }
        assert_int_not_equal(s->biases[0].id, s->biases[1].id);
        assert_int_equal(sampling_candidates(s), 0);
        api_request_finish(&q);
    }
}

/* What a request leaves open is the model's to say; what it names is not. */
static void the_models_defaults(void **state) {
    (void)state;
    struct api_request q;
    api_case_model.sampling = (struct sampling){
        .temperature = 0.6, .top_p = 0.95, .top_k = 20, .min_p = 0.1, .repetition_penalty = 1.2};
    api_case_parse(&q, API_CHAT, CHAT(",\"temperature\":null"));
    const struct sampling *s = &q.generate.sampling;
    assert_true(s->temperature == 0.6 && s->top_p == 0.95 && s->top_k == 20 && s->min_p == 0.1);
    assert_true(s->repetition_penalty == 1.2 && s->presence_penalty == 0);
    api_request_finish(&q);
    api_case_parse(&q, API_COMPLETION,
                   TEXT(",\"temperature\":1,\"top_p\":1,\"top_k\":-1,\"min_p\":0,"
                        "\"repetition_penalty\":1"));
    assert_true(s->temperature == 1 && s->top_p == 1 && s->top_k == 0 && s->min_p == 0);
    assert_true(s->repetition_penalty == 1);
    api_request_finish(&q);
    api_case_model.sampling = api_case_sampling;
}

/* ---- bodies that are not ---- */

static const struct bad {
    enum api_kind kind;
    const char *body;
    const char *param; /* "": null */
    const char *says;
} bad[] = {
    {API_CHAT, "", "", "not JSON"},
    {API_CHAT, "{\"a\":", "", "line 1"},
    {API_CHAT, "{\"a\":\"\xff\"}", "", "0xff"},
    {API_CHAT, "[1]", "", "object"},
    {API_CHAT, "{}", "messages", "missing"},
    {API_CHAT, "{\"messages\":[]}", "messages", "at least one"},
    {API_CHAT, "{\"messages\":{}}", "messages", "an object"},
    {API_CHAT, "{\"messages\":[1]}", "messages[0]", "an object"},
    {API_CHAT, "{\"messages\":[{\"content\":\"a\"}]}", "messages[0].role", "missing"},
    {API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":1}]}", "messages[0].content",
     "parts"},
    {API_CHAT, "{\"messages\":[{\"role\":\"user\"}]}", "messages[0].content", "missing"},
    {API_CHAT, "{\"messages\":[{\"role\":\"cook\",\"content\":\"a\"}]}", "messages[0].role",
     "cook"},
    {API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}",
     "messages[0].content[0]", "image_url"},
    {API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}",
     "messages[0].content[0].text", "missing"},
    {API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":[7]}]}", "messages[0].content[0]",
     "object"},
    {API_CHAT, CHAT(",\"tools\":{}"), "tools", "a list"},
    {API_CHAT, CHAT(",\"tools\":[1]"), "tools[0]", "an object"},
    {API_CHAT, CHAT(",\"tools\":[],\"tool_choice\":\"required\""), "tool_choice", "tools has none"},
    {API_CHAT, CHAT(",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"f\"}}"),
     "tool_choice", "no function 'f'"},
    {API_CHAT, CHAT(",\"tools\":[{}],\"tool_choice\":{\"type\":\"function\"}"), "tool_choice",
     "a function's name"},
    {API_CHAT, CHAT(",\"tool_choice\":1"), "tool_choice", "auto"},
    {API_CHAT, CHAT(",\"parallel_tool_calls\":1"), "parallel_tool_calls", "true or false"},
    {API_CHAT, CHAT(",\"function_call\":\"auto\""), "function_call", "tool_choice"},
    {API_CHAT, CHAT(",\"tool_choice\":\"x\""), "tool_choice", "auto"},
    {API_CHAT, CHAT(",\"functions\":[]"), "functions", "tools"},
    {API_CHAT, CHAT(",\"chat_template_kwargs\":1"), "chat_template_kwargs", "object"},
    {API_CHAT, CHAT(",\"chat_template_kwargs\":{\"enable_thinking\":0}"),
     "chat_template_kwargs.enable_thinking", "true or false"},
    {API_CHAT, CHAT(",\"max_tokens\":0"), "max_tokens", "from 1"},
    {API_CHAT, CHAT(",\"max_completion_tokens\":1.5"), "max_completion_tokens", "integer"},
    {API_CHAT, CHAT(",\"temperature\":\"1\""), "temperature", "a string"},
    {API_CHAT, CHAT(",\"temperature\":-1"), "temperature", "from 0"},
    {API_CHAT, CHAT(",\"top_p\":0"), "top_p", "above 0"},
    {API_CHAT, CHAT(",\"top_k\":-2"), "top_k", "from -1"},
    {API_CHAT, CHAT(",\"top_k\":0.5"), "top_k", "integer"},
    {API_CHAT, CHAT(",\"min_p\":2"), "min_p", "from 0 to 1"},
    {API_CHAT, CHAT(",\"repetition_penalty\":0"), "repetition_penalty", "above 0"},
    {API_CHAT, CHAT(",\"presence_penalty\":true"), "presence_penalty", "number"},
    {API_CHAT, CHAT(",\"frequency_penalty\":1000"), "frequency_penalty", "100"},
    {API_CHAT, CHAT(",\"seed\":1.0"), "seed", "an integer, got"},
    {API_CHAT, CHAT(",\"stop\":\"\""), "stop", "1 to"},
    {API_CHAT, CHAT(",\"stop\":[]"), "stop", "1 to 16"},
    {API_CHAT, CHAT(",\"stop\":[\"a\",\"\"]"), "stop[1]", "1 to"},
    {API_CHAT, CHAT(",\"stop\":[\"a\",2]"), "stop[1]", "a string"},
    {API_CHAT, CHAT(",\"stop\":\"a\\u0000b\""), "stop", "U+0000"},
    {API_CHAT, CHAT(",\"stop\":5"), "stop", "string"},
    {API_CHAT,
     CHAT(",\"stop\":[\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\","
          "\"a\",\"a\",\"a\",\"a\",\"a\"]"),
     "stop", "16"},
    {API_CHAT, CHAT(",\"stream\":1"), "stream", "true or false"},
    {API_CHAT, CHAT(",\"stream_options\":[]"), "stream_options", "object"},
    {API_CHAT, CHAT(",\"stream_options\":{\"include_usage\":1}"), "stream_options.include_usage",
     "true or false"},
    {API_CHAT, CHAT(",\"stream_options\":{}"), "stream_options", "stream is true"},
    {API_COMPLETION, TEXT(",\"stream\":false,\"stream_options\":{\"include_usage\":true}"),
     "stream_options", "stream is true"},
    {API_CHAT, CHAT(",\"logprobs\":1"), "logprobs", "true or false"},
    {API_CHAT, CHAT(",\"logprobs\":true,\"top_logprobs\":21"), "top_logprobs", "0 to 20"},
    {API_CHAT, CHAT(",\"top_logprobs\":2"), "top_logprobs", "logprobs"},
    {API_CHAT, CHAT(",\"ignore_eos\":\"no\""), "ignore_eos", "true or false"},
    {API_CHAT, CHAT(",\"n\":2"), "n", "not supported"},
    {API_CHAT, CHAT(",\"n\":0"), "n", "from 1"},
    {API_CHAT, CHAT(",\"response_format\":{\"type\":\"json_object\"}"), "response_format",
     "json_object"},
    {API_CHAT, CHAT(",\"response_format\":{}"), "response_format.type", "missing"},
    {API_CHAT, CHAT(",\"response_format\":{\"type\":\"json_schema\"}"), "response_format",
     "json_schema"},
    {API_CHAT, CHAT(",\"logit_bias\":[1]"), "logit_bias", "an object"},
    {API_CHAT, CHAT(",\"logit_bias\":{\"hot\":1}"), "logit_bias", "\"hot\""},
    {API_CHAT, CHAT(",\"logit_bias\":{\"\":1}"), "logit_bias", "token ids as keys"},
    {API_CHAT, CHAT(",\"logit_bias\":{\"01\":1}"), "logit_bias", "\"01\""},
    {API_CHAT, CHAT(",\"logit_bias\":{\"-1\":1}"), "logit_bias", "\"-1\""},
    {API_CHAT, CHAT(",\"logit_bias\":{\"12345678901\":1}"), "logit_bias", "12345678901"},
    {API_COMPLETION, TEXT(",\"logit_bias\":{\"99999\":1}"), "logit_bias", "99999"},
    {API_COMPLETION, TEXT(",\"logit_bias\":{\"5\":100.5}"), "logit_bias",
     "-100 to 100 for token 5"},
    {API_COMPLETION, TEXT(",\"logit_bias\":{\"4\":1,\"5\":\"1\"}"), "logit_bias", "for token 5"},
    {API_CHAT, CHAT(",\"audio\":{}"), "audio", "not supported"},
    {API_CHAT, CHAT(",\"modalities\":[\"text\",\"audio\"]"), "modalities", "only text"},
    {API_CHAT, CHAT(",\"model\":3"), "model", "a string"},
    {API_COMPLETION, "{}", "prompt", "missing"},
    {API_COMPLETION, "{\"prompt\":\"\"}", "prompt", "empty"},
    {API_COMPLETION, "{\"prompt\":[]}", "prompt", "empty"},
    {API_COMPLETION, "{\"prompt\":[\"\"]}", "prompt", "empty"},
    {API_COMPLETION, "{\"prompt\":[[]]}", "prompt", "empty"},
    {API_COMPLETION, "{\"prompt\":[\"a\",\"b\"]}", "prompt", "only one"},
    {API_COMPLETION, "{\"prompt\":[[1],[2]]}", "prompt", "only one"},
    {API_COMPLETION, "{\"prompt\":{}}", "prompt", "an object"},
    {API_COMPLETION, "{\"prompt\":[1,\"a\"]}", "prompt[1]", "token id"},
    {API_COMPLETION, "{\"prompt\":[1,-5]}", "prompt[1]", "-5"},
    {API_COMPLETION, "{\"prompt\":[[1,99999]]}", "prompt[0][1]", "99999"},
    {API_COMPLETION, TEXT(",\"logprobs\":6"), "logprobs", "0 to 5"},
    {API_COMPLETION, TEXT(",\"logprobs\":true"), "logprobs", "integer"},
    {API_COMPLETION, TEXT(",\"echo\":true"), "echo", "not supported"},
    {API_COMPLETION, TEXT(",\"best_of\":3"), "best_of", "not supported"},
    {API_COMPLETION, TEXT(",\"suffix\":\"x\""), "suffix", "not supported"},
};

static void refused(enum api_kind kind, const char *body, int status, const char *param,
                    const char *says) {
    struct api_request q;
    struct api_error e;
    if (api_request_parse(&q, kind, body, strlen(body), &api_case_model, &e)) {
        fail_msg("%s: accepted", body);
    }
    if (e.status != status || strcmp(e.param, param) != 0 || !strstr(e.message, says)) {
        fail_msg("%s: %d \"%s\": %s\nnot %d \"%s\": ...%s...", body, e.status, e.param, e.message,
                 status, param, says);
    }
    assert_string_equal(e.type, "invalid_request_error");
    assert_null(q.prompt.ids);
    assert_null(q.stops);
}

static void bad_bodies(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        refused(bad[i].kind, bad[i].body, 400, bad[i].param, bad[i].says);
    }
    refused(API_CHAT, CHAT(",\"model\":\"gpt-4\""), 404, "model", "gpt-4");
    refused(API_CHAT, CHAT(",\"model\":\"tiny\\u0000\""), 404, "model", "tiny");
}

static void chat_needs_a_template(void **state) {
    (void)state;
    const char *models = getenv("LOCKSTEP_MODELS");
    char dir[1024];
    struct tokenizer *t = NULL;
    struct error err;
    assert_non_null(models);
    snprintf(dir, sizeof dir, "%s/kjv-qwen3-3m", models);
    assert_ok(tokenizer_load(&t, dir, 0, &err), &err);
    const struct tokenizer *qwen = api_case_model.tokenizer;
    api_case_model.tokenizer = t;
    refused(API_CHAT, CHAT(""), 400, "messages", "no chat template");
    api_case_model.tokenizer = qwen;
    tokenizer_destroy(t);
}

static void too_many_biases(void **state) {
    (void)state;
    char body[8000];
    for (int n = 300; n <= 301; n++) {
        int at = snprintf(body, sizeof body, "{\"prompt\":\"Hi\",\"logit_bias\":{");
        for (int i = 0; i < n; i++) {
            at += snprintf(body + at, sizeof body - (size_t)at, "%s\"%d\":%d", i ? "," : "", i,
                           i % 100);
        }
        snprintf(body + at, sizeof body - (size_t)at, "}}");
        if (n > 300) {
            refused(API_COMPLETION, body, 400, "logit_bias", "at most 300");
        } else {
            struct api_request q;
            api_case_parse(&q, API_COMPLETION, body);
            assert_int_equal(q.generate.sampling.n_bias, 300);
            api_request_finish(&q);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts),
        cmocka_unit_test(lengths),
        cmocka_unit_test(tools_are_rendered),
        cmocka_unit_test(calls_are_begun),
        cmocka_unit_test(defaults),
        cmocka_unit_test(parameters),
        cmocka_unit_test(biases),
        cmocka_unit_test(the_models_defaults),
        cmocka_unit_test(bad_bodies),
        cmocka_unit_test(too_many_biases),
        cmocka_unit_test(chat_needs_a_template),
    };
    return cmocka_run_group_tests(tests, api_case_start, api_case_finish);
}
