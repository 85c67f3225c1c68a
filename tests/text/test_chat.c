/* Chat templates against what Jinja renders, and what is refused. */
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/chat.h"
#include "text_data.h"

static struct tokenizer *qwen3;

static void assert_text(const char *id, const struct buffer *got, const json_t *want) {
    if (got->size != json_string_length(want) ||
        memcmp(got->data, json_string_value(want), got->size) != 0) {
        fail_msg("%s: rendered\n%.*s\nnot\n%s", id, (int)got->size, (char *)got->data,
                 json_string_value(want));
    }
}

static enum chat_template by_name(const char *name) {
    for (int i = 0; i < CHAT_TEMPLATE_COUNT; i++) {
        if (strcmp(chat_template_name((enum chat_template)i), name) == 0) {
            return (enum chat_template)i;
        }
    }
    fail_msg("no template \"%s\"", name);
    return CHAT_TEMPLATE_COUNT;
}

/* ---- Qwen3's goldens: text and ids ---- */

static void check_golden(const json_t *line, void *ctx) {
    const struct tokenizer *t = ctx;
    const json_t *kwargs = json_object_get(line, "kwargs");
    const json_t *thinking = json_object_get(kwargs, "enable_thinking");
    struct chat_options o = {
        .add_generation_prompt = json_is_true(json_object_get(line, "add_generation_prompt")),
        .enable_thinking = !json_is_false(thinking),
    };
    const char *id = json_string_value(json_object_get(line, "id"));
    struct buffer out = {0};
    struct token_list ids = {0};
    struct error err;
    enum chat_template template;
    assert_ok(chat_template_detect(t, &template, &err), &err);
    assert_int_equal(template, CHAT_QWEN3);
    assert_ok(chat_render(template, json_object_get(line, "messages"),
                          json_object_get(kwargs, "tools"), &o, NULL, &out, &err),
              &err);
    assert_text(id, &out, json_object_get(line, "text"));
    assert_ok(tokenizer_encode(t, (char *)out.data, out.size, false, &ids, &err), &err);
    text_data_assert_ids(id, json_object_get(line, "ids"), ids.ids, ids.n);
    token_list_finish(&ids);
    buffer_finish(&out);
}

static void qwen3_goldens(void **state) {
    (void)state;
    qwen3 = text_data_qwen3();
    if (!qwen3) {
        skip();
    }
    assert_int_equal(
        text_data_each("tokenizer/qwen3_chat_template_golden.jsonl", check_golden, qwen3), 21);
    tokenizer_destroy(qwen3);
}

/* ---- every template against Jinja ---- */

static void check_rendered(const json_t *line, void *ctx) {
    (void)ctx;
    struct chat_options o = {
        .add_generation_prompt = json_is_true(json_object_get(line, "add_generation_prompt")),
        .enable_thinking = !json_is_false(json_object_get(line, "enable_thinking")),
    };
    const char *name = json_string_value(json_object_get(line, "template"));
    struct buffer out = {0};
    struct error err;
    assert_ok(chat_render(by_name(name), json_object_get(line, "messages"),
                          json_object_get(line, "tools"), &o, "<|begin_of_text|>", &out, &err),
              &err);
    assert_text(json_string_value(json_object_get(line, "id")), &out,
                json_object_get(line, "text"));
    buffer_finish(&out);
}

static void all_templates(void **state) {
    (void)state;
    assert_int_equal(text_data_each("chat/rendered.jsonl", check_rendered, NULL), 160);
}

static void llama31_shows_the_date(void **state) {
    (void)state;
    struct error err;
    struct buffer out = {0};
    struct chat_options o = {.date = "01 Feb 2025"};
    json_t *messages = json_loads("[{\"role\": \"user\", \"content\": \"Hi\"}]", 0, NULL);
    assert_ok(chat_render(CHAT_LLAMA31, messages, NULL, &o, "<B>", &out, &err), &err);
    assert_ok(buffer_append(&out, "", 1, &err), &err);
    assert_string_equal((char *)out.data,
                        "<B><|start_header_id|>system<|end_header_id|>\n\n"
                        "Cutting Knowledge Date: December 2023\nToday Date: 01 Feb 2025\n\n"
                        "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>");
    json_decref(messages);
    buffer_finish(&out);
}

/* ---- detection ---- */

/* What detecting a tokenizer with this chat template (NULL: none) gives; the message in err. */
static bool detect(const char *template, enum chat_template *out, struct error *err) {
    char dir[64];
    struct buffer file = {0};
    struct tokenizer *t = NULL;
    text_data_make_dir(dir);
    assert_ok(buffer_read_file(&file, text_data_path("tiny-qwen3/tokenizer.json"), 1 << 20, err),
              err);
    text_data_write(dir, "tokenizer.json", file.data, file.size);
    if (template) {
        text_data_write(dir, "chat_template.jinja", template, strlen(template));
    }
    assert_ok(tokenizer_load(&t, dir, 0, err), err);
    bool ok = chat_template_detect(t, out, err);
    tokenizer_destroy(t);
    buffer_finish(&file);
    text_data_remove_dir(dir);
    return ok;
}

/* ChatML around a default system message. */
#define CHATML(system)                                                                             \
    "{% for message in messages %}" system                                                         \
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"       \
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
#define DEFAULT(text)                                                                              \
    "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n" text         \
    "<|im_end|>\n' }}{% endif %}"

static void known_templates_are_recognised(void **state) {
    (void)state;
    static const struct {
        enum chat_template want;
        const char *text;
    } cases[] = {
        {CHAT_CHATML, CHATML("")},
        {CHAT_QWEN2, CHATML(DEFAULT("You are a helpful assistant."))},
        {CHAT_SMOLLM2,
         CHATML(DEFAULT("You are a helpful AI assistant named SmolLM, trained by Hugging Face"))},
    };
    struct error err;
    enum chat_template got;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_ok(detect(cases[i].text, &got, &err), &err);
        assert_string_equal(chat_template_name(got), chat_template_name(cases[i].want));
    }
    struct tokenizer *llama = text_data_tokenizer("tiny-llama");
    assert_ok(chat_template_detect(llama, &got, &err), &err);
    assert_int_equal(got, CHAT_LLAMA3);
    assert_string_equal(tokenizer_bos_token(llama), "<|begin_of_text|>");
    tokenizer_destroy(llama);
    struct tokenizer *qwen = text_data_tokenizer("tiny-qwen3");
    assert_ok(chat_template_detect(qwen, &got, &err), &err);
    assert_int_equal(got, CHAT_QWEN3);
    assert_null(tokenizer_bos_token(qwen));
    tokenizer_destroy(qwen);
}

static void other_templates_are_refused(void **state) {
    (void)state;
    static const char *const cases[] = {
        NULL,
        "",
        "{{ messages[0].content }}",
        CHATML(DEFAULT("You are a pirate.")),
        CHATML("{% if tools %}{{ tools }}{% endif %}"),
        CHATML("{{ message.reasoning_content | trim }}"),
        "[INST] {{ messages[0]['content'] }} [/INST]",
    };
    struct error err;
    enum chat_template got;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_false(detect(cases[i], &got, &err));
        assert_int_equal(err.kind, ERROR_UNSUPPORTED);
        assert_non_null(strstr(err.message, i == 0 ? "no chat template" : "chat_template"));
    }
}

/* ---- bad messages ---- */

static void bad_messages_name_the_field(void **state) {
    (void)state;
    static const struct {
        enum chat_template template;
        const char *messages, *tools;
        enum error_kind kind;
        const char *names;
    } cases[] = {
        {CHAT_QWEN3, "[]", NULL, ERROR_INPUT, "messages"},
        {CHAT_QWEN3, "{}", NULL, ERROR_INPUT, "messages"},
        {CHAT_QWEN3, "[1]", NULL, ERROR_INPUT, "messages[0]"},
        {CHAT_QWEN3, "[{\"content\": \"x\"}]", NULL, ERROR_INPUT, "messages[0].role"},
        {CHAT_QWEN3, "[{\"role\": 1, \"content\": \"x\"}]", NULL, ERROR_INPUT, "messages[0].role"},
        {CHAT_QWEN3, "[{\"role\": \"user\"}]", NULL, ERROR_INPUT, "messages[0].content"},
        {CHAT_LLAMA3, "[{\"role\": \"user\", \"content\": 3}]", NULL, ERROR_INPUT,
         "messages[0].content"},
        {CHAT_CHATML, "[{\"role\": \"user\", \"content\": null}]", NULL, ERROR_INPUT,
         "messages[0].content"},
        {CHAT_QWEN3, "[{\"role\": \"critic\", \"content\": \"x\"}]", NULL, ERROR_UNSUPPORTED,
         "messages[0].role"},
        {CHAT_SMOLLM2, "[{\"role\": \"tool\", \"content\": \"x\"}]", NULL, ERROR_UNSUPPORTED,
         "messages[0].role"},
        {CHAT_LLAMA31, "[{\"role\": \"ipython\", \"content\": \"x\"}]", NULL, ERROR_UNSUPPORTED,
         "messages[0].role"},
        {CHAT_QWEN3, "[{\"role\": \"assistant\", \"content\": \"\", \"reasoning_content\": 1}]",
         NULL, ERROR_INPUT, "messages[0].reasoning_content"},
        {CHAT_QWEN3, "[{\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": 1}]", NULL,
         ERROR_INPUT, "messages[0].tool_calls"},
        {CHAT_QWEN3, "[{\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": [{}]}]", NULL,
         ERROR_INPUT, "messages[0].tool_calls[0]: name"},
        {CHAT_QWEN25,
         "[{\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": [{\"name\": \"f\"}]}]",
         NULL, ERROR_INPUT, "messages[0].tool_calls[0]: arguments"},
        {CHAT_LLAMA31, "[{\"role\": \"assistant\", \"tool_calls\": [{\"name\": \"f\"}]}]", NULL,
         ERROR_UNSUPPORTED, "messages[0].tool_calls"},
        {CHAT_QWEN3, "[{\"role\": \"user\", \"content\": \"x\"}]", "{}", ERROR_INPUT, "tools"},
        {CHAT_LLAMA3, "[{\"role\": \"user\", \"content\": \"x\"}]", "[1]", ERROR_UNSUPPORTED,
         "tools"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error err;
        struct buffer out = {0};
        struct chat_options o = {.enable_thinking = true};
        json_t *messages = json_loads(cases[i].messages, 0, NULL);
        json_t *tools = cases[i].tools ? json_loads(cases[i].tools, 0, NULL) : NULL;
        assert_non_null(messages);
        assert_false(chat_render(cases[i].template, messages, tools, &o, "", &out, &err));
        if (err.kind != cases[i].kind || !strstr(err.message, cases[i].names)) {
            fail_msg("case %zu: %s: %s", i, error_kind_name(err.kind), err.message);
        }
        assert_int_equal(out.size, 0);
        json_decref(messages);
        json_decref(tools);
        buffer_finish(&out);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(qwen3_goldens),
        cmocka_unit_test(all_templates),
        cmocka_unit_test(llama31_shows_the_date),
        cmocka_unit_test(known_templates_are_recognised),
        cmocka_unit_test(other_templates_are_refused),
        cmocka_unit_test(bad_messages_name_the_field),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
