#include "text/chat.h"

#include <stdarg.h>
#include <string.h>

#include "format/show.h"
#include "text/chat_impl.h"
#include "text/json_field.h"

/* ---- spans and output ---- */

struct span span_of(const char *text) {
    return (struct span){text, strlen(text)};
}

bool span_equal(struct span s, const char *text) {
    return s.n == strlen(text) && memcmp(s.p, text, s.n) == 0;
}

long span_find(struct span s, const char *text) {
    const char *at = memmem(s.p, s.n, text, strlen(text));
    return at ? at - s.p : -1;
}

long span_find_last(struct span s, const char *text) {
    long last = -1;
    for (long at = span_find(s, text); at >= 0;) {
        last = last < 0 ? at : last + at + 1;
        at = span_find((struct span){s.p + last + 1, s.n - (size_t)last - 1}, text);
    }
    return last;
}

struct span span_lstrip_newlines(struct span s) {
    while (s.n && s.p[0] == '\n') {
        s.p++;
        s.n--;
    }
    return s;
}

struct span span_rstrip_newlines(struct span s) {
    while (s.n && s.p[s.n - 1] == '\n') {
        s.n--;
    }
    return s;
}

bool chat_put_span(struct buffer *out, struct span s, struct error *err) {
    return buffer_append(out, s.p, s.n, err);
}

bool chat_put(struct buffer *out, struct error *err, ...) {
    bool ok = true;
    const char *text;
    va_list args;
    va_start(args, err);
    while (ok && (text = va_arg(args, const char *))) {
        ok = buffer_append(out, text, strlen(text), err);
    }
    va_end(args);
    return ok;
}

/* ---- messages ---- */

bool chat_message_at(const json_t *messages, size_t i, struct chat_message *out,
                     struct error *err) {
    const json_t *m = json_array_get(messages, i);
    const json_t *role = json_object_get(m, "role");
    const json_t *content = json_object_get(m, "content");
    if (!json_is_object(m)) {
        return error_set(err, ERROR_INPUT, "messages[%zu]: must be an object", i);
    }
    if (!json_is_string(role)) {
        return error_set(err, ERROR_INPUT, "messages[%zu].role: must be a string", i);
    }
    *out = (struct chat_message){
        .role = {json_string_value(role), json_string_length(role)},
        .content = {"", 0},
        .json = m,
        .index = i,
    };
    if (json_is_string(content)) {
        out->content = (struct span){json_string_value(content), json_string_length(content)};
        return true;
    }
    bool absent = !content || json_is_null(content);
    if (absent && json_array_size(json_object_get(m, "tool_calls")) > 0) {
        return true;
    }
    return error_set(err, ERROR_INPUT, "messages[%zu].content: must be a string, not %s", i,
                     content ? json_field_type_name(json_typeof(content)) : "missing");
}

bool chat_has_role(const json_t *messages, size_t i, const char *role) {
    const json_t *r = json_object_get(json_array_get(messages, i), "role");
    return json_is_string(r) && strcmp(json_string_value(r), role) == 0;
}

bool chat_tool_calls(const struct chat_message *m, const json_t **out, struct error *err) {
    const json_t *calls = json_object_get(m->json, "tool_calls");
    *out = json_array_size(calls) > 0 ? calls : NULL;
    return !calls || json_is_null(calls) || json_is_array(calls) ||
           error_set(err, ERROR_INPUT, "messages[%zu].tool_calls: must be an array", m->index);
}

bool chat_refuse_role(const struct chat_message *m, const char *supported, struct error *err) {
    return error_set(err, ERROR_UNSUPPORTED, "messages[%zu].role: \"%s\" (%s)", m->index,
                     show_text(m->role.p).text, supported);
}

/* ---- plain ChatML ---- */

static bool render_chatml(const json_t *messages, const char *default_system,
                          const struct chat_options *o, struct buffer *out, struct error *err) {
    if (default_system && !chat_has_role(messages, 0, "system") &&
        !chat_put(out, err, "<|im_start|>system\n", default_system, "<|im_end|>\n", NULL)) {
        return false;
    }
    for (size_t i = 0; i < json_array_size(messages); i++) {
        struct chat_message m;
        if (!chat_message_at(messages, i, &m, err)) {
            return false;
        }
        if (!span_equal(m.role, "system") && !span_equal(m.role, "user") &&
            !span_equal(m.role, "assistant")) {
            return chat_refuse_role(&m, "this template has system, user and assistant", err);
        }
        if (!chat_put(out, err, "<|im_start|>", m.role.p, "\n", NULL) ||
            !chat_put_span(out, m.content, err) || !chat_put(out, err, "<|im_end|>\n", NULL)) {
            return false;
        }
    }
    return !o->add_generation_prompt || chat_put(out, err, "<|im_start|>assistant\n", NULL);
}

/* ---- the templates ---- */

/* A template is known by pieces of its text that it must have and pieces that it must not. */
static const struct {
    enum chat_template is;
    const char *has[6];
    const char *lacks[6];
} fingerprints[] = {
    {CHAT_QWEN3,
     {"ns.multi_step_tool", "enable_thinking is defined and enable_thinking is false",
      "message.reasoning_content", "<tool_response>", "<tools></tools> XML tags", "<|im_start|>"},
     {"render_content", "You are a helpful", "preserve_thinking", "<parameter="}},
    {CHAT_QWEN25,
     {"You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>",
      "not message.tool_calls", "<tool_response>", "<tools></tools> XML tags", "<|im_start|>"},
     {"think", "<parameter="}},
    {CHAT_LLAMA31,
     {"Cutting Knowledge Date: December 2023", "Today Date: ", "date_string", "<|start_header_id|>",
      "<|eot_id|>", "| trim"},
     {"think"}},
    {CHAT_LLAMA3,
     {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "| trim", "bos_token"},
     {"tool", "think", "Date", "raise_exception"}},
    {CHAT_SMOLLM2,
     {"You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>",
      "loop.first", "<|im_start|>", "add_generation_prompt"},
     {"tool", "think", "trim", "bos_token"}},
    {CHAT_QWEN2,
     {"You are a helpful assistant.<|im_end|>", "loop.first", "<|im_start|>",
      "add_generation_prompt"},
     {"tool", "think", "trim", "bos_token", "vision"}},
    {CHAT_CHATML,
     {"<|im_start|>", "<|im_end|>", "add_generation_prompt", "for message in messages"},
     {"tool", "think", "trim", "system", "bos_token", "raise_exception"}},
};

static bool matches(const char *text, const char *const *has, const char *const *lacks) {
    for (int i = 0; i < 6; i++) {
        if ((has[i] && !strstr(text, has[i])) || (lacks[i] && strstr(text, lacks[i]))) {
            return false;
        }
    }
    return true;
}

bool chat_template_detect(const struct tokenizer *t, enum chat_template *out, struct error *err) {
    const char *text = tokenizer_chat_template(t);
    if (!text) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "this checkpoint has no chat template (tokenizer_config.json: "
                         "chat_template, or chat_template.jinja): it completes text, it does not "
                         "chat");
    }
    for (size_t i = 0; i < sizeof fingerprints / sizeof fingerprints[0]; i++) {
        if (matches(text, fingerprints[i].has, fingerprints[i].lacks)) {
            *out = fingerprints[i].is;
            return true;
        }
    }
    return error_set(err, ERROR_UNSUPPORTED,
                     "chat_template: not one of those known (Qwen3, Qwen2.5, Qwen2, Llama 3 to "
                     "3.3, SmolLM2, ChatML); render the prompt elsewhere and pass it as text");
}

const char *chat_template_name(enum chat_template t) {
    static const char *const names[CHAT_TEMPLATE_COUNT] = {
        [CHAT_QWEN3] = "qwen3",   [CHAT_QWEN25] = "qwen2.5",   [CHAT_QWEN2] = "qwen2",
        [CHAT_LLAMA3] = "llama3", [CHAT_LLAMA31] = "llama3.1", [CHAT_SMOLLM2] = "smollm2",
        [CHAT_CHATML] = "chatml",
    };
    return (unsigned)t < CHAT_TEMPLATE_COUNT ? names[t] : "unknown";
}

static bool check_arguments(enum chat_template t, const json_t *messages, const json_t *tools,
                            struct error *err) {
    if (!json_is_array(messages) || json_array_size(messages) == 0) {
        return error_set(err, ERROR_INPUT, "messages: must be an array of at least one message");
    }
    if (tools && !json_is_null(tools) && !json_is_array(tools)) {
        return error_set(err, ERROR_INPUT, "tools: must be an array");
    }
    if (json_array_size(tools) > 0 && t != CHAT_QWEN3 && t != CHAT_QWEN25) {
        return error_set(err, ERROR_UNSUPPORTED, "tools: not supported with the %s chat template",
                         chat_template_name(t));
    }
    return true;
}

bool chat_render(enum chat_template t, const json_t *messages, const json_t *tools,
                 const struct chat_options *options, const char *bos_token, struct buffer *out,
                 struct error *err) {
    if (!check_arguments(t, messages, tools, err)) {
        return false;
    }
    size_t before = out->size;
    const char *date = options->date ? options->date : "26 Jul 2024";
    bool ok = false;
    if (json_array_size(tools) == 0) {
        tools = NULL;
    }
    switch (t) {
    case CHAT_QWEN3:
        ok = chat_render_qwen3(messages, tools, options, out, err);
        break;
    case CHAT_QWEN25:
        ok = chat_render_qwen25(messages, tools, options, out, err);
        break;
    case CHAT_LLAMA3:
        ok = chat_render_llama(messages, NULL, bos_token, options, out, err);
        break;
    case CHAT_LLAMA31:
        ok = chat_render_llama(messages, date, bos_token, options, out, err);
        break;
    case CHAT_QWEN2:
        ok = render_chatml(messages, "You are a helpful assistant.", options, out, err);
        break;
    case CHAT_SMOLLM2:
        ok = render_chatml(messages,
                           "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
                           options, out, err);
        break;
    case CHAT_CHATML:
        ok = render_chatml(messages, NULL, options, out, err);
        break;
    case CHAT_TEMPLATE_COUNT:
        error_set(err, ERROR_INTERNAL, "no such chat template");
    }
    if (!ok) {
        out->size = before;
    }
    return ok;
}
