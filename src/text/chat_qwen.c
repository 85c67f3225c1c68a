#include <string.h>

#include "text/chat_impl.h"
#include "text/python_json.h"

/* The system block that lists the tools, after the system message's own words. */
static bool put_tools(const json_t *tools, struct buffer *out, struct error *err) {
    if (!chat_put(out, err,
                  "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
                  "You are provided with function signatures within <tools></tools> XML tags:\n"
                  "<tools>",
                  NULL)) {
        return false;
    }
    for (size_t i = 0; i < json_array_size(tools); i++) {
        if (!chat_put(out, err, "\n", NULL) ||
            !python_json_dump(json_array_get(tools, i), out, err)) {
            return error_wrap(err, "tools[%zu]", i);
        }
    }
    return chat_put(out, err,
                    "\n</tools>\n\nFor each function call, return a json object with function name "
                    "and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n"
                    "{\"name\": <function-name>, \"arguments\": <args-json-object>}\n"
                    "</tool_call><|im_end|>\n",
                    NULL);
}

/* {"name": ..., "arguments": ...} of one call; string_as_is: arguments that are a string already
 * hold JSON. */
static bool put_tool_call(const json_t *call, bool string_as_is, struct buffer *out,
                          struct error *err) {
    const json_t *function = json_object_get(call, "function");
    if (json_object_size(function) > 0) {
        call = function;
    }
    const json_t *name = json_object_get(call, "name");
    const json_t *arguments = json_object_get(call, "arguments");
    if (!json_is_string(name)) {
        return error_set(err, ERROR_INPUT, "name: must be a string");
    }
    if (!arguments) {
        return error_set(err, ERROR_INPUT, "arguments: is missing");
    }
    struct span raw = {json_string_value(arguments), json_string_length(arguments)};
    return chat_put(out, err, "<tool_call>\n{\"name\": \"", json_string_value(name),
                    "\", \"arguments\": ", NULL) &&
           (string_as_is && raw.p ? chat_put_span(out, raw, err)
                                  : python_json_dump(arguments, out, err)) &&
           chat_put(out, err, "}\n</tool_call>", NULL);
}

/* A tool's answer; neighbouring ones share one user turn. */
static bool put_tool_response(const json_t *messages, const struct chat_message *m,
                              struct buffer *out, struct error *err) {
    bool first = m->index == 0 || !chat_has_role(messages, m->index - 1, "tool");
    bool last = !chat_has_role(messages, m->index + 1, "tool");
    return chat_put(out, err, first ? "<|im_start|>user" : "", "\n<tool_response>\n", NULL) &&
           chat_put_span(out, m->content, err) &&
           chat_put(out, err, "\n</tool_response>", last ? "<|im_end|>\n" : "", NULL);
}

static bool put_turn(const struct chat_message *m, struct buffer *out, struct error *err) {
    return chat_put(out, err, "<|im_start|>", m->role.p, "\n", NULL) &&
           chat_put_span(out, m->content, err) && chat_put(out, err, "<|im_end|>\n", NULL);
}

static const char known_roles[] = "this template has system, user, assistant and tool";

/* ---- Qwen3 ---- */

/* True for a user's message that only wraps a tool's answer. */
static bool is_tool_response(struct span content) {
    struct span open = span_of("<tool_response>");
    struct span close = span_of("</tool_response>");
    return content.n >= open.n && memcmp(content.p, open.p, open.n) == 0 && content.n >= close.n &&
           memcmp(content.p + content.n - close.n, close.p, close.n) == 0;
}

/* Index of the last question that a person asked: thinking before it is dropped. */
static bool last_query(const json_t *messages, size_t *out, struct error *err) {
    size_t n = json_array_size(messages);
    *out = n - 1;
    for (size_t i = n; i-- > 0;) {
        struct chat_message m;
        if (!chat_message_at(messages, i, &m, err)) {
            return false;
        }
        if (span_equal(m.role, "user") && !is_tool_response(m.content)) {
            *out = i;
            break;
        }
    }
    return true;
}

/* Takes an assistant's thinking apart from its answer. */
static bool split_thinking(const struct chat_message *m, struct span *thinking,
                           struct span *content, struct error *err) {
    const json_t *field = json_object_get(m->json, "reasoning_content");
    *thinking = (struct span){"", 0};
    *content = m->content;
    if (field && !json_is_null(field)) {
        if (!json_is_string(field)) {
            return error_set(err, ERROR_INPUT, "messages[%zu].reasoning_content: must be a string",
                             m->index);
        }
        *thinking = (struct span){json_string_value(field), json_string_length(field)};
        return true;
    }
    static const char open[] = "<think>";
    static const char close[] = "</think>";
    long first = span_find(m->content, close);
    if (first < 0) {
        return true;
    }
    size_t after = (size_t)span_find_last(m->content, close) + sizeof close - 1;
    *content = span_lstrip_newlines((struct span){m->content.p + after, m->content.n - after});
    *thinking = span_rstrip_newlines((struct span){m->content.p, (size_t)first});
    long start = span_find_last(*thinking, open);
    if (start >= 0) {
        size_t skip = (size_t)start + sizeof open - 1;
        *thinking = (struct span){thinking->p + skip, thinking->n - skip};
    }
    *thinking = span_lstrip_newlines(*thinking);
    return true;
}

static bool put_qwen3_calls(const struct chat_message *m, struct span content, struct buffer *out,
                            struct error *err) {
    const json_t *calls;
    if (!chat_tool_calls(m, &calls, err)) {
        return false;
    }
    for (size_t i = 0; i < json_array_size(calls); i++) {
        if (!chat_put(out, err, i > 0 || content.n > 0 ? "\n" : "", NULL) ||
            !put_tool_call(json_array_get(calls, i), true, out, err)) {
            return error_wrap(err, "messages[%zu].tool_calls[%zu]", m->index, i);
        }
    }
    return true;
}

static bool put_qwen3_assistant(const json_t *messages, const struct chat_message *m, size_t query,
                                struct buffer *out, struct error *err) {
    struct span thinking, content;
    if (!split_thinking(m, &thinking, &content, err)) {
        return false;
    }
    bool last = m->index + 1 == json_array_size(messages);
    bool ok = chat_put(out, err, "<|im_start|>assistant\n", NULL);
    if (m->index > query && (last || thinking.n > 0)) {
        thinking = span_lstrip_newlines(span_rstrip_newlines(thinking));
        ok = ok && chat_put(out, err, "<think>\n", NULL) && chat_put_span(out, thinking, err) &&
             chat_put(out, err, "\n</think>\n\n", NULL) &&
             chat_put_span(out, span_lstrip_newlines(content), err);
    } else {
        ok = ok && chat_put_span(out, content, err);
    }
    return ok && put_qwen3_calls(m, content, out, err) && chat_put(out, err, "<|im_end|>\n", NULL);
}

static bool put_qwen3_message(const json_t *messages, size_t i, size_t query, struct buffer *out,
                              struct error *err) {
    struct chat_message m;
    if (!chat_message_at(messages, i, &m, err)) {
        return false;
    }
    if (span_equal(m.role, "system")) {
        return i == 0 || put_turn(&m, out, err); /* the first one is in the system block */
    }
    if (span_equal(m.role, "user")) {
        return put_turn(&m, out, err);
    }
    if (span_equal(m.role, "assistant")) {
        return put_qwen3_assistant(messages, &m, query, out, err);
    }
    if (span_equal(m.role, "tool")) {
        return put_tool_response(messages, &m, out, err);
    }
    return chat_refuse_role(&m, known_roles, err);
}

bool chat_render_qwen3(const json_t *messages, const json_t *tools, const struct chat_options *o,
                       struct buffer *out, struct error *err) {
    size_t query;
    struct chat_message first;
    if (!last_query(messages, &query, err) || !chat_message_at(messages, 0, &first, err)) {
        return false;
    }
    bool system = span_equal(first.role, "system");
    if (tools) {
        if (!chat_put(out, err, "<|im_start|>system\n", NULL) ||
            (system &&
             (!chat_put_span(out, first.content, err) || !chat_put(out, err, "\n\n", NULL))) ||
            !put_tools(tools, out, err)) {
            return false;
        }
    } else if (system && !put_turn(&first, out, err)) {
        return false;
    }
    for (size_t i = 0; i < json_array_size(messages); i++) {
        if (!put_qwen3_message(messages, i, query, out, err)) {
            return false;
        }
    }
    return !o->add_generation_prompt ||
           chat_put(out, err, "<|im_start|>assistant\n",
                    o->enable_thinking ? "" : "<think>\n\n</think>\n\n", NULL);
}

/* ---- Qwen2.5 ---- */

static bool put_qwen25_calls(const struct chat_message *m, const json_t *calls, struct buffer *out,
                             struct error *err) {
    if (!chat_put(out, err, "<|im_start|>assistant", m->content.n ? "\n" : "", NULL) ||
        !chat_put_span(out, m->content, err)) {
        return false;
    }
    for (size_t i = 0; i < json_array_size(calls); i++) {
        if (!chat_put(out, err, "\n", NULL) ||
            !put_tool_call(json_array_get(calls, i), false, out, err)) {
            return error_wrap(err, "messages[%zu].tool_calls[%zu]", m->index, i);
        }
    }
    return chat_put(out, err, "<|im_end|>\n", NULL);
}

static bool put_qwen25_message(const json_t *messages, size_t i, struct buffer *out,
                               struct error *err) {
    struct chat_message m;
    const json_t *calls;
    if (!chat_message_at(messages, i, &m, err) || !chat_tool_calls(&m, &calls, err)) {
        return false;
    }
    if (span_equal(m.role, "system")) {
        return i == 0 || put_turn(&m, out, err);
    }
    if (span_equal(m.role, "assistant") && calls) {
        return put_qwen25_calls(&m, calls, out, err);
    }
    if (span_equal(m.role, "user") || span_equal(m.role, "assistant")) {
        return put_turn(&m, out, err);
    }
    if (span_equal(m.role, "tool")) {
        return put_tool_response(messages, &m, out, err);
    }
    return chat_refuse_role(&m, known_roles, err);
}

bool chat_render_qwen25(const json_t *messages, const json_t *tools, const struct chat_options *o,
                        struct buffer *out, struct error *err) {
    struct chat_message first;
    if (!chat_message_at(messages, 0, &first, err)) {
        return false;
    }
    struct span system =
        span_equal(first.role, "system")
            ? first.content
            : span_of("You are Qwen, created by Alibaba Cloud. You are a helpful assistant.");
    if (!chat_put(out, err, "<|im_start|>system\n", NULL) || !chat_put_span(out, system, err)) {
        return false;
    }
    if (tools ? !chat_put(out, err, "\n\n", NULL) || !put_tools(tools, out, err)
              : !chat_put(out, err, "<|im_end|>\n", NULL)) {
        return false;
    }
    for (size_t i = 0; i < json_array_size(messages); i++) {
        if (!put_qwen25_message(messages, i, out, err)) {
            return false;
        }
    }
    return !o->add_generation_prompt || chat_put(out, err, "<|im_start|>assistant\n", NULL);
}
