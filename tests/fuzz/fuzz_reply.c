/* The text that a model writes, as a reply. First byte: its bits say which; second: how the text is
 * cut into tokens. Whatever the text and the cuts, what goes out is JSON, and the same in pieces as
 * in one. */
#include <string.h>

#include "format/json.h"
#include "fuzz.h"
#include "serve/api.h"
#include "text/utf8.h"

enum { MAX_TEXT = 2048 }; /* each byte may become a chunk of some 300 */

static struct api_request request_of(unsigned bits) {
    return (struct api_request){.kind = bits & 1 ? API_COMPLETION : API_CHAT,
                                .stream = bits & 2,
                                .include_usage = bits & 4,
                                .reasoning = bits & 8,
                                .tools = bits & 16,
                                .one_call = bits & 32,
                                .logprobs = bits & 64};
}

/* Bytes of the next piece: whole characters, about `step` bytes of them. */
static size_t piece(const char *text, size_t n, size_t step) {
    size_t end = step < n ? step : n;
    while (end < n && ((unsigned char)text[end] & 0xc0) == 0x80) {
        end++;
    }
    return end;
}

/* Any token but that of the zero byte: jansson reads no key that holds one. */
static int32_t token_at(const struct tokenizer *t, size_t at) {
    int32_t id = (int32_t)(at % 1000);
    size_t n;
    const char *bytes = tokenizer_token_bytes(t, id, &n);
    return memchr(bytes, 0, n) ? id + 1 : id;
}

static void reply(unsigned bits, const char *text, size_t n, size_t step, struct buffer *out) {
    const struct api_model model = {.name = "tiny", .tokenizer = fuzz_tokenizer("tiny-qwen3")};
    struct api_request q = request_of(bits);
    struct api_reply r;
    struct error err = {0};
    static const struct token_logprob top[2] = {{1, -0.5}, {700, -1e300}};
    FUZZ_CHECK(api_reply_init(&r, &q, &model, &err));
    for (size_t at = 0, size = 1; size > 0; at += size) {
        size = piece(text + at, n - at, step);
        struct generation_event event = {.has_token = size > 0,
                                         .token = {token_at(model.tokenizer, at), -0.25},
                                         .text = text + at,
                                         .n_text = size,
                                         .n_top = bits & 128 ? 2 : 0,
                                         .top = top,
                                         .finished = size == 0,
                                         .finish = FINISH_STOP};
        FUZZ_CHECK(api_reply_event(&r, &event, out, &err));
    }
    api_reply_finish(&r);
}

static void parse(const char *text, size_t n, json_t **out) {
    struct error err = {0};
    if (!json_parse(out, "reply", text, n, JSON_ALLOW_NUL, &err)) {
        fprintf(stderr, "%s: %.*s\n", err.message, (int)n, text);
        abort();
    }
}

/* What it comes to. */
struct sum {
    struct buffer text, reasoning, calls;
};

static void add(struct buffer *to, const json_t *text) {
    struct error err;
    if (json_is_string(text)) {
        FUZZ_CHECK(buffer_append(to, json_string_value(text), json_string_length(text), &err));
    }
}

static void add_choice(struct sum *s, const json_t *choice) {
    const json_t *delta = json_object_get(choice, "delta");
    delta = delta ? delta : json_object_get(choice, "message");
    add(&s->text, json_object_get(choice, "text"));
    add(&s->text, json_object_get(delta, "content"));
    add(&s->reasoning, json_object_get(delta, "reasoning_content"));
    const json_t *calls = json_object_get(delta, "tool_calls");
    for (size_t i = 0; i < json_array_size(calls); i++) {
        const json_t *function = json_object_get(json_array_get(calls, i), "function");
        FUZZ_CHECK(json_is_string(json_object_get(function, "name")));
        add(&s->calls, json_object_get(function, "name"));
        add(&s->calls, json_object_get(function, "arguments"));
    }
}

/* Every chunk of a stream, or the whole of a reply. */
static void read(const struct buffer *bytes, bool stream, struct sum *s) {
    static const char done[] = "data: [DONE]\n\n";
    const char *at = (const char *)bytes->data, *end = at + bytes->size;
    json_t *json;
    if (!stream) {
        parse(at, bytes->size, &json);
        add_choice(s, json_array_get(json_object_get(json, "choices"), 0));
        json_decref(json);
        return;
    }
    while ((size_t)(end - at) != sizeof done - 1) {
        const char *stop = memmem(at, (size_t)(end - at), "\n\n", 2);
        FUZZ_CHECK(stop && strncmp(at, "data: ", 6) == 0);
        parse(at + 6, (size_t)(stop - at) - 6, &json);
        add_choice(s, json_array_get(json_object_get(json, "choices"), 0));
        json_decref(json);
        at = stop + 2;
    }
    FUZZ_CHECK(memcmp(at, done, sizeof done - 1) == 0);
}

static bool equal(const struct buffer *a, const struct buffer *b) {
    return a->size == b->size && (a->size == 0 || memcmp(a->data, b->data, a->size) == 0);
}

static void finish(struct sum *s) {
    buffer_finish(&s->text);
    buffer_finish(&s->reasoning);
    buffer_finish(&s->calls);
}

void fuzz_one(struct fuzz_input in) {
    unsigned bits = fuzz_byte(&in);
    size_t step = 1 + fuzz_byte(&in) % 32;
    const char *text = (const char *)in.data;
    struct buffer cut = {0}, whole = {0};
    struct sum in_pieces = {0}, in_one = {0};
    if (in.size > MAX_TEXT || utf8_valid_prefix(text, in.size) < in.size) {
        return; /* no detokenizer gives what is not UTF-8 */
    }
    reply(bits, text, in.size, step, &cut);
    reply(bits & ~2u, text, in.size, in.size + 1, &whole);
    read(&cut, bits & 2, &in_pieces);
    read(&whole, false, &in_one);
    FUZZ_CHECK(equal(&in_pieces.text, &in_one.text));
    FUZZ_CHECK(equal(&in_pieces.reasoning, &in_one.reasoning));
    FUZZ_CHECK(equal(&in_pieces.calls, &in_one.calls));
    buffer_finish(&cut);
    buffer_finish(&whole);
    finish(&in_pieces);
    finish(&in_one);
}
