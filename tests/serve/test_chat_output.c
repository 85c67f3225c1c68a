/* An assistant's text taken apart, cut anywhere, and the replies that it becomes. */
#include "test.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "serve/api.h"
#include "text/chat.h"

/* ---- the parts ---- */

/* Parts as text: "[r]..." reasoning, "[c]..." content, "[t]name:arguments" calls; neighbours of one
 * kind are one. */
struct seen {
    struct buffer text; /* owns */
    int kind;           /* of the last; -1: none */
};

static bool note(void *user, const struct chat_part *part, struct error *err) {
    static const char *const marks[] = {"[r]", "[c]", "[t]"};
    struct seen *s = user;
    bool ok = (s->kind == (int)part->kind && part->kind != CHAT_CALL) ||
              buffer_append(&s->text, marks[part->kind], 3, err);
    s->kind = (int)part->kind;
    if (part->kind == CHAT_CALL) {
        return ok && buffer_printf(&s->text, err, "%s:%.*s", part->call->name,
                                   (int)part->call->n_arguments, part->call->arguments);
    }
    assert_true(part->n > 0);
    return ok && buffer_append(&s->text, part->text, part->n, err);
}

/* Fed in pieces of `piece` bytes after a first one of `first`. */
static void feed(const char *text, bool reasoning, bool tools, size_t first, size_t piece,
                 const char *want) {
    struct chat_output o = {.reasoning = reasoning, .tools = tools};
    struct seen seen = {.kind = -1};
    struct error err;
    size_t length = strlen(text);
    for (size_t at = 0, n = first; at < length; at += n, n = piece) {
        n = n < length - at ? n : length - at;
        assert_ok(chat_output_push(&o, text + at, n, note, &seen, &err), &err);
    }
    assert_ok(chat_output_flush(&o, note, &seen, &err), &err);
    assert_ok(buffer_append(&seen.text, "", 1, &err), &err);
    if (strcmp((char *)seen.text.data, want) != 0) {
        fail_msg("cut at %zu, then every %zu:\n%s\nbecame\n%s\nnot\n%s", first, piece, text,
                 (char *)seen.text.data, want);
    }
    buffer_finish(&seen.text);
    chat_output_finish(&o);
}

/* Whole, cut in two at every place, and in small pieces. */
static void check(const char *text, bool reasoning, bool tools, const char *want) {
    size_t n = strlen(text);
    for (size_t first = 0; first <= n; first++) {
        feed(text, reasoning, tools, first, n, want);
    }
    for (size_t piece = 1; piece < 6; piece++) {
        feed(text, reasoning, tools, piece, piece, want);
    }
}

#define CALL(json) "<tool_call>\n" json "\n</tool_call>"

static void reasoning(void **state) {
    (void)state;
    check("", true, true, "");
    check("Hello.\n", true, true, "[c]Hello.\n");
    check("<think>\nWell,\n\nyes\n</think>\n\nHello\n\nyou\n", true, true,
          "[r]Well,\n\nyes[c]Hello\n\nyou\n");
    check("\n<think>so</think>Hi", true, false, "[r]so[c]Hi");
    check("<think>\n\n</think>\n\nHi", true, true, "[c]Hi");
    check("<think>\n\n</think>\n\n", true, true, "");
    check("<think>\nand on\n", true, true, "[r]and on\n"); /* the end came first */
    check("<think>a </thin", true, true, "[r]a </thin");   /* so, too */
    check("<think>a<think>b</think>c</think>", true, true, "[r]a<think>b[c]c</think>");
    check("a <think>b</think>", true, true, "[c]a <think>b</think>"); /* not at the start */
    check("<thin", true, true, "[c]<thin");
    check("\n<thing>", true, true, "[c]\n<thing>");
    check("<think>a</think>b", false, true, "[c]<think>a</think>b"); /* not asked for */
    check("<think>\xc3\xa9</think>\xe2\x82\xac", true, true, "[r]\xc3\xa9[c]\xe2\x82\xac");
}

static void calls(void **state) {
    (void)state;
    check(CALL("{\"name\": \"f\", \"arguments\": {\"x\": 0.10, \"y\": [1, {}]}}"), true, true,
          "[t]f:{\"x\": 0.10, \"y\": [1, {}]}");
    check("<think>\nhm\n</think>\n\nI see.\n" CALL("{\"name\":\"f\",\"arguments\":{}}") "\n" CALL(
              "{\"arguments\" : {\"a\":\"}\\\",\"} , \"name\":\"g\"}") "\n",
          true, true, "[r]hm[c]I see.[t]f:{}[t]g:{\"a\":\"}\\\",\"}");
    check("a\n\n" CALL("{\"name\":\"f\"}") "\n\nb\n", false, true, "[c]a[t]f:{}[c]b\n");
    check(CALL("{\"name\":\"f\",\"arguments\":\"{\\\"a\\\": 1}\"}"), false, true,
          "[t]f:{\"a\": 1}");
    check(CALL("{\"name\":\"f\",\"arguments\":null}"), false, true, "[t]f:{}");
    check("<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":1}}", true, true,
          "[t]f:{\"a\":1}"); /* without its end */
    check(CALL("{\"name\":\"f\",\"arguments\":{\"arguments\":1},\"x\":\"arguments\"}"), false, true,
          "[t]f:{\"arguments\":1}");
}

/* What is no call stays as it is. */
static void no_calls(void **state) {
    (void)state;
    static const char *const texts[] = {
        CALL("{\"name\":\"f\",\"arguments\":[1]}"),
        CALL("{\"name\":\"\"}"),
        CALL("{\"name\":1}"),
        CALL("[]"),
        CALL(""),
        "a\n" CALL("{\"name\":\"f\",") "\nb\n",
        "a\n\n<tool_call>\n{\"name\": \"f\", \"argum",
        "a <tool_cal",
        "a\n\n<tool_",
        "</tool_call> <tool-call>\n",
        "<<<tool_call",
        "<tool_call>",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        char want[200];
        snprintf(want, sizeof want, "[c]%s", texts[i]);
        check(texts[i], true, true, want);
    }
    check(CALL("{\"name\":\"f\"}"), true, false, "[c]" CALL("{\"name\":\"f\"}"));
    check("<tool_call>x</tool_call>\n" CALL("{\"name\":\"f\"}"), true, true,
          "[c]<tool_call>x</tool_call>[t]f:{}");
}

/* ---- replies ---- */

static const struct api_model model = {.name = "m"};

static bool one_call; /* what the next replies are asked for */

static char *reply(const char *text, bool stream, enum finish_reason finish) {
    const struct api_request q = {
        .kind = API_CHAT, .stream = stream, .reasoning = true, .tools = true, .one_call = one_call};
    struct api_reply r;
    struct buffer out = {0};
    struct error err;
    assert_ok(api_reply_init(&r, &q, &model, &err), &err);
    for (const char *p = text; p == text || p[-1]; p++) {
        struct generation_event e = {
            .text = p, .n_text = *p != 0, .finished = !*p, .finish = finish};
        assert_ok(api_reply_event(&r, &e, &out, &err), &err);
    }
    api_reply_finish(&r);
    assert_ok(buffer_append(&out, "", 1, &err), &err);
    return (char *)out.data;
}

/* The ids of calls are random: they become "ID", once they were seen to be some. */
static void assert_choice(json_t *choice, const char *part, const char *want) {
    size_t i;
    json_t *one, *expected = json_loads(want, 0, NULL);
    json_t *calls = json_object_get(json_object_get(choice, part), "tool_calls");
    assert_non_null(expected);
    json_array_foreach(calls, i, one) {
        const char *id = json_string_value(json_object_get(one, "id"));
        assert_int_equal(strlen(id), 29);
        assert_memory_equal(id, "call_", 5);
        json_object_set_new(one, "id", json_string("ID"));
    }
    if (!json_equal(choice, expected)) {
        fail_msg("%s\nnot\n%s", json_dumps(choice, 0), want);
    }
    json_decref(expected);
}

static void assert_whole(const char *text, enum finish_reason finish, const char *want) {
    char *got = reply(text, false, finish);
    json_t *j = json_loads(got, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(j);
    assert_choice(json_array_get(json_object_get(j, "choices"), 0), "message", want);
    json_decref(j);
    free(got);
}

#define ONE CALL("{\"name\": \"f\", \"arguments\": {\"a\": \"b\"}}")
#define TWO CALL("{\"name\": \"g\"}")
#define CALLED(name, arguments)                                                                    \
    "\"id\":\"ID\",\"type\":\"function\",\"function\":{\"name\":\"" name                           \
    "\",\"arguments\":\"" arguments "\"}}"

static void whole(void **state) {
    (void)state;
    assert_whole("<think>\nhm\n</think>\n\nYes.", FINISH_STOP,
                 "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"Yes.\","
                 "\"reasoning_content\":\"hm\"},\"logprobs\":null,\"finish_reason\":\"stop\"}");
    assert_whole(ONE "\n" TWO, FINISH_STOP,
                 "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":null,"
                 "\"tool_calls\":[{" CALLED("f", "{\\\"a\\\": \\\"b\\\"}") ",{" CALLED(
                     "g", "{}") "]},\"logprobs\":null,\"finish_reason\":\"tool_calls\"}");
    assert_whole(
        "a" TWO "b", FINISH_LENGTH,
        "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"ab\","
        "\"tool_calls\":[{" CALLED("g", "{}") "]},\"logprobs\":null,\"finish_reason\":\"length\"}");
}

/* parallel_tool_calls: false. */
static void only_one_call(void **state) {
    (void)state;
    one_call = true;
    assert_whole(
        ONE "\n" TWO, FINISH_STOP,
        "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":null,"
        "\"tool_calls\":[{" CALLED(
            "f", "{\\\"a\\\": \\\"b\\\"}") "]},"
                                           "\"logprobs\":null,\"finish_reason\":\"tool_calls\"}");
    char *got = reply(ONE "\n" TWO, true, FINISH_STOP);
    assert_non_null(strstr(got, "\"name\":\"f\""));
    assert_null(strstr(got, "\"name\":\"g\""));
    free(got);
    one_call = false;
}

static void streamed(void **state) {
    (void)state;
    static const char *const want[] = {
        "{\"role\":\"assistant\",\"content\":\"\"}",
        "{\"reasoning_content\":\"h\"}",
        "{\"reasoning_content\":\"m\"}",
        "{\"content\":\"A\"}",
        "{\"tool_calls\":[{\"index\":0," CALLED("f", "{\\\"a\\\": \\\"b\\\"}") "]}",
        "{\"tool_calls\":[{\"index\":1," CALLED("g", "{}") "]}",
        "{}",
    };
    enum { N = sizeof want / sizeof want[0] };
    char *got = reply("<think>\nhm\n</think>\n\nA\n" ONE "\n" TWO "\n", true, FINISH_STOP);
    char *at = got;
    for (int i = 0; i < N; i++) {
        char choice[400], *end = strstr(at, "\n\n");
        assert_non_null(end);
        json_t *j = json_loadb(at + 6, (size_t)(end - at) - 6, JSON_REJECT_DUPLICATES, NULL);
        snprintf(choice, sizeof choice,
                 "{\"index\":0,\"delta\":%s,\"logprobs\":null,\"finish_reason\":%s}", want[i],
                 i == N - 1 ? "\"tool_calls\"" : "null");
        assert_choice(json_array_get(json_object_get(j, "choices"), 0), "delta", choice);
        json_decref(j);
        at = end + 2;
    }
    assert_string_equal(at, "data: [DONE]\n\n");
    free(got);
}

/* ---- there and back ---- */

/* A reply's message, as clients send it back. */
struct turn {
    json_t *json;  /* owns */
    json_t *calls; /* borrowed from it; NULL: none yet */
    struct buffer text, reasoning;
};

static bool add_part(void *user, const struct chat_part *part, struct error *err) {
    struct turn *m = user;
    if (part->kind != CHAT_CALL) {
        return buffer_append(part->kind == CHAT_CONTENT ? &m->text : &m->reasoning, part->text,
                             part->n, err);
    }
    if (!m->calls) {
        m->calls = json_array();
        json_object_set_new(m->json, "tool_calls", m->calls);
    }
    json_array_append_new(m->calls, json_pack("{s:s, s:{s:s, s:s%}}", "type", "function",
                                              "function", "name", part->call->name, "arguments",
                                              part->call->arguments, part->call->n_arguments));
    return true;
}

static json_t *text_json(const struct buffer *b) {
    return json_stringn(b->size ? (const char *)b->data : "", b->size);
}

static json_t *message_of(const char *text, size_t n) {
    struct turn m = {.json = json_pack("{s:s}", "role", "assistant")};
    struct chat_output o = {.reasoning = true, .tools = true};
    struct error err;
    assert_ok(chat_output_push(&o, text, n, add_part, &m, &err), &err);
    assert_ok(chat_output_flush(&o, add_part, &m, &err), &err);
    json_object_set_new(m.json, "content",
                        m.calls && m.text.size == 0 ? json_null() : text_json(&m.text));
    if (m.reasoning.size > 0) {
        json_object_set_new(m.json, "reasoning_content", text_json(&m.reasoning));
    }
    chat_output_finish(&o);
    buffer_finish(&m.text);
    buffer_finish(&m.reasoning);
    return m.json;
}

/* Every assistant's message of the chat, made again from what the template makes of it. */
static int remake_messages(json_t *messages, const char *text) {
    static const char begin[] = "<|im_start|>assistant\n";
    size_t i;
    json_t *one;
    int n = 0;
    json_array_foreach(messages, i, one) {
        if (strcmp(json_string_value(json_object_get(one, "role")), "assistant") != 0) {
            continue;
        }
        const char *from = strstr(text, begin);
        assert_non_null(from);
        from += sizeof begin - 1;
        text = strstr(from, "<|im_end|>");
        assert_non_null(text);
        json_array_set_new(messages, i, message_of(from, (size_t)(text - from)));
        n++;
    }
    return n;
}

/* Real outputs of Qwen3's template: taken apart and sent back, a turn gives the same prompt, to the
 * byte. (So it meets the cache that its own generation filled.) */
static void replies_sent_back(void **state) {
    (void)state;
    char path[1024], *line = NULL;
    size_t size = 0;
    int n = 0, n_call = 0;
    snprintf(path, sizeof path, "%s/tokenizer/qwen3_chat_template_golden.jsonl",
             getenv("LOCKSTEP_TEST_DATA"));
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (getline(&line, &size, f) > 0) {
        json_t *chat = json_loads(line, JSON_ALLOW_NUL, NULL);
        json_t *messages = json_object_get(chat, "messages"),
               *kwargs = json_object_get(chat, "kwargs");
        const char *text = json_string_value(json_object_get(chat, "text"));
        struct chat_options options = {
            .add_generation_prompt = json_is_true(json_object_get(chat, "add_generation_prompt")),
            .enable_thinking = !json_is_false(json_object_get(kwargs, "enable_thinking"))};
        struct buffer got = {0};
        struct error err;
        n += remake_messages(messages, text);
        n_call += strstr(text, "</tool_call><|im_end|>\n<|im_start|>user\n<tool_r") != NULL;
        assert_ok(chat_render(CHAT_QWEN3, messages, json_object_get(kwargs, "tools"), &options,
                              NULL, &got, &err),
                  &err);
        if (got.size != strlen(text) || memcmp(got.data, text, got.size) != 0) {
            fail_msg("%s became\n%.*s\nnot\n%s", json_string_value(json_object_get(chat, "id")),
                     (int)got.size, (char *)got.data, text);
        }
        buffer_finish(&got);
        json_decref(chat);
    }
    free(line);
    fclose(f);
    assert_true(n >= 10 && n_call >= 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reasoning),         cmocka_unit_test(calls),
        cmocka_unit_test(no_calls),          cmocka_unit_test(whole),
        cmocka_unit_test(streamed),          cmocka_unit_test(only_one_call),
        cmocka_unit_test(replies_sent_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
