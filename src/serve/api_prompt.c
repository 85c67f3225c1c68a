#include <stdio.h>
#include <string.h>

#include "format/show.h"
#include "serve/api_impl.h"
#include "text/chat.h"

/* ---- chats ---- */

/* Parts become one text, a line each: what vLLM and llama.cpp give a template that knows no parts.
 */
static bool join_parts(json_t *message, const json_t *parts, const char *param,
                       struct api_error *e) {
    struct buffer text = {0};
    struct error why;
    bool ok = true;
    for (size_t i = 0; ok && i < json_array_size(parts); i++) {
        const json_t *part = json_array_get(parts, i);
        const char *type = json_string_value(json_object_get(part, "type"));
        const json_t *words = json_object_get(part, "text");
        char at[80];
        snprintf(at, sizeof at, "%.40s[%zu]", param, i);
        if (!json_is_object(part) || !type) {
            ok = api_expected(at, "an object with a type", part, e);
        } else if (strcmp(type, "text") != 0) {
            ok = API_REFUSE(e, at, "%s: parts of type \"%s\" are not supported, only text", at,
                            show_text(type).text);
        } else if (!json_is_string(words)) {
            snprintf(at, sizeof at, "%.40s[%zu].text", param, i);
            ok = api_expected(at, "a string", words, e);
        } else {
            ok =
                (buffer_append(&text, "\n", i > 0, &why) &&
                 buffer_append(&text, json_string_value(words), json_string_length(words), &why)) ||
                api_refuse_failure(e, NULL, &why);
        }
    }
    const char *joined = text.size ? (const char *)text.data : "";
    if (ok && json_object_set_new(message, "content", json_stringn(joined, text.size)) != 0) {
        ok = api_refuse_memory(e);
    }
    buffer_finish(&text);
    return ok;
}

/* OpenAI's newer word for a system message, which no template knows. */
static bool rename_developer(json_t *message, struct api_error *e) {
    const char *role = json_string_value(json_object_get(message, "role"));
    return strcmp(role, "developer") != 0 ||
           json_object_set_new(message, "role", json_string("system")) == 0 || api_refuse_memory(e);
}

/* Only what the templates do not check, and what needs a form that they take. */
static bool read_messages(json_t *messages, struct api_error *e) {
    if (!json_is_array(messages) || json_array_size(messages) == 0) {
        return api_expected("messages", "a list of at least one message", messages, e);
    }
    for (size_t i = 0; i < json_array_size(messages); i++) {
        json_t *message = json_array_get(messages, i);
        json_t *content = api_field(message, "content");
        char param[80];
        if (!json_is_object(message)) {
            snprintf(param, sizeof param, "messages[%zu]", i);
            return api_expected(param, "an object", message, e);
        }
        if (!json_is_string(json_object_get(message, "role"))) {
            snprintf(param, sizeof param, "messages[%zu].role", i);
            return api_expected(param, "a string", json_object_get(message, "role"), e);
        }
        if (!rename_developer(message, e)) {
            return false;
        }
        snprintf(param, sizeof param, "messages[%zu].content", i);
        if (json_is_array(content)) {
            if (!join_parts(message, content, param, e)) {
                return false;
            }
        } else if (content && !json_is_string(content)) {
            return api_expected(param, "a string or a list of parts", content, e);
        }
    }
    return true;
}

/* What a request says of tools. */
struct tool_wish {
    json_t *tools;    /* that the template is told of; NULL: none */
    bool must;        /* one is to be called ... */
    const char *name; /* ... this one; NULL: which, the model says */
};

static const char *function_name(const json_t *tool) {
    return json_string_value(json_object_get(json_object_get(tool, "function"), "name"));
}

static bool read_tools(const json_t *body, json_t **out, struct api_error *e) {
    json_t *tools = api_field(body, "tools");
    if (tools && !json_is_array(tools)) {
        return api_expected("tools", "a list", tools, e);
    }
    for (size_t i = 0; i < json_array_size(tools); i++) {
        if (!json_is_object(json_array_get(tools, i))) {
            char param[40];
            snprintf(param, sizeof param, "tools[%zu]", i);
            return api_expected(param, "an object", json_array_get(tools, i), e);
        }
    }
    *out = tools;
    return true;
}

static bool is_offered(const json_t *tools, const char *name) {
    size_t i = 0;
    const char *other;
    while (i < json_array_size(tools) &&
           (!(other = function_name(json_array_get(tools, i))) || strcmp(other, name) != 0)) {
        i++;
    }
    return i < json_array_size(tools);
}

static bool read_tool_by_name(const json_t *choice, struct tool_wish *out, struct api_error *e) {
    out->must = true;
    out->name = function_name(choice);
    if (!out->name) {
        return API_REFUSE(e, "tool_choice",
                          "tool_choice: expected a function's name, as {\"type\": \"function\", "
                          "\"function\": {\"name\": ...}}");
    }
    return is_offered(out->tools, out->name) ||
           API_REFUSE(e, "tool_choice", "tool_choice: tools has no function '%s'",
                      show_text(out->name).text);
}

static bool read_tool_wish(const json_t *body, struct tool_wish *out, struct api_error *e) {
    const json_t *choice = api_field(body, "tool_choice");
    const char *word = json_string_value(choice);
    *out = (struct tool_wish){0};
    if (!read_tools(body, &out->tools, e)) {
        return false;
    }
    if (json_is_object(choice)) {
        return read_tool_by_name(choice, out, e);
    }
    if (word && strcmp(word, "none") == 0) {
        out->tools = NULL;
    } else if (word && strcmp(word, "required") == 0) {
        out->must = true;
        return json_array_size(out->tools) > 0 ||
               API_REFUSE(e, "tool_choice", "tool_choice: one is required, and tools has none");
    } else if (choice && (!word || strcmp(word, "auto") != 0)) {
        return API_REFUSE(e, "tool_choice",
                          "tool_choice: expected \"auto\", \"none\", \"required\" or a function");
    }
    return true;
}

/* A call that must be made has begun before the model goes on. The cuts lie where Qwen's own tokens
 * end. */
static bool begin_call(const struct tool_wish *wish, struct buffer *out, struct error *err) {
    static const char call[] = "<tool_call>\n{\"name\":", then[] = ", \"arguments\":";
    if (!wish->must) {
        return true;
    }
    return buffer_append(out, call, sizeof call - 1, err) &&
           (wish->name ? buffer_append(out, " ", 1, err) && api_put_text(out, wish->name, err) &&
                             buffer_append(out, then, sizeof then - 1, err)
                       : buffer_append(out, " \"", 2, err));
}

/* Clients know this refusal by its code, and cut their prompts. */
static bool refuse_length(struct api_error *e, const char *param, const char *more, size_t n,
                          int ctx) {
    return api_refuse(e, 400, "invalid_request_error", "context_length_exceeded", param,
                      "the prompt has %s%zu tokens, the context only %d (--ctx)", more, n, ctx);
}

/* Of a text that is much too long only as much as the context holds is read. */
static bool encode(struct api_request *out, const struct api_model *model, const char *text,
                   size_t n, bool add_special, const char *param, struct api_error *e) {
    struct error why;
    size_t most = model->ctx ? (size_t)model->ctx : SIZE_MAX;
    bool more;
    if (!tokenizer_encode_most(model->tokenizer, text, n, add_special, most, &more, &out->prompt,
                               &why)) {
        return api_refuse_failure(e, param, &why);
    }
    return !more || refuse_length(e, param, "more than ", most, model->ctx);
}

bool api_read_chat(struct api_request *out, json_t *body, const struct api_model *model,
                   struct api_error *e) {
    json_t *messages = api_field(body, "messages"), *kwargs = NULL;
    struct tool_wish wish;
    struct chat_options options = {.add_generation_prompt = true, .enable_thinking = true};
    enum chat_template kind;
    bool parallel = true;
    struct error why;
    if (!read_messages(messages, e) || !read_tool_wish(body, &wish, e) ||
        !api_get_bool(body, "parallel_tool_calls", &parallel, e) ||
        !api_get_object(body, "chat_template_kwargs", &kwargs, e) ||
        !api_get_bool(kwargs, "chat_template_kwargs.enable_thinking", &options.enable_thinking,
                      e)) {
        return false;
    }
    if (!chat_template_detect(model->tokenizer, &kind, &why)) {
        api_refuse_failure(e, "messages", &why);
        return false;
    }
    options.enable_thinking = options.enable_thinking && !wish.must; /* it has no time to */
    struct buffer text = {0};
    bool ok = ((chat_render(kind, messages, wish.tools, &options,
                            tokenizer_bos_token(model->tokenizer), &text, &why) &&
                begin_call(&wish, &out->begun, &why) &&
                buffer_append(&text, out->begun.data, out->begun.size, &why)) ||
               api_refuse_failure(e, NULL, &why)) &&
              encode(out, model, (const char *)text.data, text.size, false, "messages", e);
    out->reasoning = kind == CHAT_QWEN3;
    out->one_call = !parallel;
    out->tools = json_array_size(wish.tools) > 0; /* else the template had refused them */
    buffer_finish(&text);
    return ok;
}

/* ---- completions ---- */

static bool refuse_id(struct api_error *e, const char *param, size_t i, const json_t *id,
                      const struct error *why) {
    char at[80];
    snprintf(at, sizeof at, "%.40s[%zu]", param, i);
    if (why) {
        return api_refuse_failure(e, at, why);
    }
    return json_is_integer(id)
               ? API_REFUSE(e, at, "%s: there is no token %lld", at, json_integer_value(id))
               : api_expected(at, "a token id", id, e);
}

static bool read_ids(struct api_request *out, const json_t *ids, const char *param,
                     const struct api_model *model, struct api_error *e) {
    if (model->ctx && json_array_size(ids) > (size_t)model->ctx) {
        return refuse_length(e, "prompt", "", json_array_size(ids), model->ctx);
    }
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        json_int_t value = json_is_integer(id) ? json_integer_value(id) : -1;
        struct error why;
        if (value < 0 || value > INT32_MAX) {
            return refuse_id(e, param, i, id, NULL);
        }
        if (!tokenizer_check_id(model->tokenizer, (int32_t)value, &why)) {
            return refuse_id(e, param, i, id, &why);
        }
        if (!token_list_push(&out->prompt, (int32_t)value, &why)) {
            return api_refuse_failure(e, NULL, &why);
        }
    }
    return true;
}

static bool read_text(struct api_request *out, const json_t *text, const char *param,
                      const struct api_model *model, struct api_error *e) {
    /* Even where a template of special tokens would leave something to continue. */
    return json_string_length(text) == 0 ||
           encode(out, model, json_string_value(text), json_string_length(text), true, param, e);
}

bool api_read_prompt(struct api_request *out, const json_t *body, const struct api_model *model,
                     struct api_error *e) {
    const json_t *prompt = api_field(body, "prompt"), *first = json_array_get(prompt, 0);
    bool ok;
    if (!json_is_string(prompt) && !json_is_array(prompt)) {
        return api_expected("prompt", "a string, a list of one string, or token ids", prompt, e);
    }
    if (json_array_size(prompt) > 1 && (json_is_string(first) || json_is_array(first))) {
        return API_REFUSE(e, "prompt", "prompt: %zu prompts, only one a request is supported",
                          json_array_size(prompt));
    }
    if (json_is_string(prompt)) {
        ok = read_text(out, prompt, "prompt", model, e);
    } else if (json_is_string(first)) {
        ok = read_text(out, first, "prompt[0]", model, e);
    } else if (json_is_array(first)) {
        ok = read_ids(out, first, "prompt[0]", model, e);
    } else {
        ok = read_ids(out, prompt, "prompt", model, e);
    }
    if (ok && out->prompt.n == 0) {
        ok = API_REFUSE(e, "prompt", "prompt: it is empty: there is nothing to continue");
    }
    return ok;
}
