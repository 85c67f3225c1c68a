#include "text/chat_impl.h"
#include "text/unicode.h"
#include "text/utf8.h"

/* Python's str.strip(), which takes U+001C to U+001F for white space too. */
static bool is_python_space(uint32_t cp) {
    return unicode_is_space(cp) || (cp >= 0x1c && cp <= 0x1f);
}

static struct span trim(struct span s) {
    uint32_t cp;
    size_t len;
    while (s.n && (len = utf8_decode(s.p, s.n, &cp)) && is_python_space(cp)) {
        s.p += len;
        s.n -= len;
    }
    while (s.n) {
        size_t i = s.n - 1;
        while (i > 0 && ((unsigned char)s.p[i] & 0xc0) == 0x80) {
            i--;
        }
        if (!utf8_decode(s.p + i, s.n - i, &cp) || !is_python_space(cp)) {
            break;
        }
        s.n = i;
    }
    return s;
}

static bool put_header(const char *role, struct buffer *out, struct error *err) {
    return chat_put(out, err, "<|start_header_id|>", role, "<|end_header_id|>\n\n", NULL);
}

static bool put_message(const json_t *messages, size_t i, struct buffer *out, struct error *err) {
    struct chat_message m;
    const json_t *calls;
    if (!chat_message_at(messages, i, &m, err) || !chat_tool_calls(&m, &calls, err)) {
        return false;
    }
    if (calls) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "messages[%zu].tool_calls: not supported with Llama's chat template", i);
    }
    if (!span_equal(m.role, "system") && !span_equal(m.role, "user") &&
        !span_equal(m.role, "assistant")) {
        return chat_refuse_role(&m, "this template has system, user and assistant", err);
    }
    return put_header(m.role.p, out, err) && chat_put_span(out, trim(m.content), err) &&
           chat_put(out, err, "<|eot_id|>", NULL);
}

/* 3.1's system message always comes, with the dates before the user's own words. */
static bool put_dated_system(const json_t *messages, const char *date, struct buffer *out,
                             struct error *err) {
    struct chat_message first;
    if (!chat_message_at(messages, 0, &first, err)) {
        return false;
    }
    struct span system = span_equal(first.role, "system") ? trim(first.content) : span_of("");
    return put_header("system", out, err) &&
           chat_put(out, err, "Cutting Knowledge Date: December 2023\nToday Date: ", date, "\n\n",
                    NULL) &&
           chat_put_span(out, system, err) && chat_put(out, err, "<|eot_id|>", NULL);
}

bool chat_render_llama(const json_t *messages, const char *date, const char *bos_token,
                       const struct chat_options *o, struct buffer *out, struct error *err) {
    size_t first = 0;
    if (!chat_put(out, err, bos_token ? bos_token : "", NULL)) {
        return false;
    }
    if (date) {
        if (!put_dated_system(messages, date, out, err)) {
            return false;
        }
        first = chat_has_role(messages, 0, "system") ? 1 : 0;
    }
    for (size_t i = first; i < json_array_size(messages); i++) {
        if (!put_message(messages, i, out, err)) {
            return false;
        }
    }
    return !o->add_generation_prompt || put_header("assistant", out, err);
}
