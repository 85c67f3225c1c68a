#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/show.h"
#include "serve/api_impl.h"
#include "text/stop.h"

enum {
    MAX_COMPLETION_LOGPROBS = 5, /* OpenAI's limit */
    DEFAULT_COMPLETION_TOKENS = 16,
};

/* ---- what is not there ---- */

static bool check_count(const json_t *body, const char *name, struct api_error *e) {
    int64_t n = 1;
    if (!api_get_int(body, name, 1, INT_MAX, &n, e)) {
        return false;
    }
    return n == 1 ||
           API_REFUSE(e, name, "%s: more than one completion of a prompt is not supported", name);
}

static bool check_format(const json_t *body, struct api_error *e) {
    json_t *format = NULL;
    if (!api_get_object(body, "response_format", &format, e)) {
        return false;
    }
    const json_t *type = json_object_get(format, "type");
    if (format && !json_is_string(type)) {
        return api_expected("response_format.type", "a string", type, e);
    }
    return !format || strcmp(json_string_value(type), "text") == 0 ||
           API_REFUSE(e, "response_format",
                      "response_format: type \"%s\" is not supported, only text",
                      show_text(json_string_value(type)).text);
}

static bool check_modalities(const json_t *body, struct api_error *e) {
    const json_t *list = api_field(body, "modalities");
    if (list && !json_is_array(list)) {
        return api_expected("modalities", "a list", list, e);
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));
        if (!name || strcmp(name, "text") != 0) {
            return API_REFUSE(e, "modalities", "modalities: only text is supported");
        }
    }
    return true;
}

static bool check_unsupported(const json_t *body, struct api_error *e) {
    bool echo = false;
    const json_t *suffix = api_field(body, "suffix");
    if (!check_count(body, "n", e) || !check_count(body, "best_of", e) ||
        !api_get_bool(body, "echo", &echo, e) || !check_format(body, e) ||
        !check_modalities(body, e)) {
        return false;
    }
    if (echo) {
        return API_REFUSE(e, "echo", "echo: repeating the prompt is not supported");
    }
    if (suffix && (!json_is_string(suffix) || json_string_length(suffix) > 0)) {
        return API_REFUSE(e, "suffix", "suffix: filling in before a suffix is not supported");
    }
    if (api_field(body, "functions")) {
        return API_REFUSE(e, "functions", "functions: they are not supported; use tools");
    }
    if (api_field(body, "function_call")) {
        return API_REFUSE(e, "function_call",
                          "function_call: it is not supported; use tools and tool_choice");
    }
    return !api_field(body, "audio") || API_REFUSE(e, "audio", "audio: it is not supported");
}

/* ---- how to continue ---- */

static bool read_model(const json_t *body, const struct api_model *model, struct api_error *e) {
    const json_t *name = api_field(body, "model");
    if (name && !json_is_string(name)) {
        return api_expected("model", "a string", name, e);
    }
    if (name && (json_string_length(name) != strlen(model->name) ||
                 strcmp(json_string_value(name), model->name) != 0)) {
        return api_refuse(e, 404, "invalid_request_error", "model_not_found", "model",
                          "The model `%s` does not exist; this server has `%s`.",
                          show_text(json_string_value(name)).text, show_text(model->name).text);
    }
    return true;
}

static bool read_limit(struct generate_request *g, enum api_kind kind, const json_t *body,
                       struct api_error *e) {
    int64_t most = kind == API_CHAT ? 0 : DEFAULT_COMPLETION_TOKENS;
    /* The newer name wins. */
    if (!api_get_int(body, "max_tokens", 1, INT_MAX, &most, e) ||
        !api_get_int(body, "max_completion_tokens", 1, INT_MAX, &most, e)) {
        return false;
    }
    g->max_tokens = (int)most;
    return true;
}

static bool read_logprobs(struct api_request *out, const json_t *body, struct api_error *e) {
    int64_t top = -1;
    if (out->kind == API_COMPLETION) {
        if (!api_get_int(body, "logprobs", 0, MAX_COMPLETION_LOGPROBS, &top, e)) {
            return false;
        }
        out->logprobs = top >= 0;
    } else if (!api_get_bool(body, "logprobs", &out->logprobs, e) ||
               !api_get_int(body, "top_logprobs", 0, GENERATE_MAX_LOGPROBS, &top, e)) {
        return false;
    } else if (top > 0 && !out->logprobs) {
        return API_REFUSE(e, "top_logprobs", "top_logprobs: it needs logprobs, set to true");
    }
    out->generate.logprobs = out->logprobs;
    out->generate.top_logprobs = top > 0 ? (int)top : 0;
    return true;
}

static bool add_stop(struct api_request *out, const json_t *stop, const char *param,
                     struct api_error *e) {
    size_t n = json_string_length(stop);
    if (!json_is_string(stop)) {
        return api_expected(param, "a string", stop, e);
    }
    if (n == 0 || n > STOP_MAX_BYTES || strlen(json_string_value(stop)) != n) {
        return API_REFUSE(e, param,
                          "%s: expected 1 to %d bytes without U+0000, got a string of %zu", param,
                          STOP_MAX_BYTES, n);
    }
    char *copy = strdup(json_string_value(stop));
    if (!copy) {
        return api_refuse_memory(e);
    }
    out->stops[out->generate.n_stop++] = copy; /* moves */
    return true;
}

static bool read_stops(struct api_request *out, const json_t *body, struct api_error *e) {
    const json_t *stop = api_field(body, "stop");
    size_t n = json_array_size(stop);
    bool ok = true;
    if (!stop) {
        return true;
    }
    if (!json_is_string(stop) && (n < 1 || n > STOP_MAX)) {
        return API_REFUSE(e, "stop", "stop: expected a string or a list of 1 to %d", STOP_MAX);
    }
    out->stops = calloc(n ? n : 1, sizeof *out->stops);
    if (!out->stops) {
        return api_refuse_memory(e);
    }
    if (json_is_string(stop)) {
        ok = add_stop(out, stop, "stop", e);
    }
    for (size_t i = 0; ok && i < n; i++) {
        char param[40];
        snprintf(param, sizeof param, "stop[%zu]", i);
        ok = add_stop(out, json_array_get(stop, i), param, e);
    }
    out->generate.stops = (const char *const *)out->stops;
    return ok;
}

static bool read_stream(struct api_request *out, const json_t *body, struct api_error *e) {
    json_t *options = NULL;
    if (!api_get_bool(body, "stream", &out->stream, e) ||
        !api_get_object(body, "stream_options", &options, e) ||
        !api_get_bool(options, "stream_options.include_usage", &out->include_usage, e)) {
        return false;
    }
    return !options || out->stream ||
           API_REFUSE(e, "stream_options",
                      "stream_options: it is only allowed where stream is true");
}

/* ---- the whole ---- */

static bool read_body(struct api_request *out, json_t *body, const struct api_model *model,
                      struct api_error *e) {
    struct generate_request *g = &out->generate;
    if (!json_is_object(body)) {
        return API_REFUSE(e, NULL, "The body must be a JSON object.");
    }
    if (!read_model(body, model, e) || !check_unsupported(body, e) ||
        !read_limit(g, out->kind, body, e) || !api_read_sampling(out, body, model, e) ||
        !read_logprobs(out, body, e) || !read_stops(out, body, e) || !read_stream(out, body, e) ||
        !api_get_bool(body, "ignore_eos", &g->ignore_eos, e) ||
        !(out->kind == API_CHAT ? api_read_chat(out, body, model, e)
                                : api_read_prompt(out, body, model, e))) {
        return false;
    }
    g->prompt = out->prompt.ids;
    g->n_prompt = (int)out->prompt.n;
    g->skip_special = true;
    return true;
}

json_t *api_load_json(const char *body, size_t n, struct api_error *e) {
    json_error_t where;
    json_t *root = json_loadb(body, n, JSON_ALLOW_NUL, &where);
    if (!root) {
        bool number = json_error_code(&where) == json_error_numeric_overflow;
        API_REFUSE(e, NULL, "%s: line %d, column %d: %s",
                   number ? "The body has a number that is out of range" : "The body is not JSON",
                   where.line, where.column, show_text(where.text).text);
    }
    return root;
}

bool api_request_parse(struct api_request *out, enum api_kind kind, const char *body, size_t n,
                       const struct api_model *model, struct api_error *err) {
    json_t *root = api_load_json(body, n, err);
    *out = (struct api_request){.kind = kind};
    bool ok = root && read_body(out, root, model, err);
    json_decref(root);
    if (!ok) {
        api_request_finish(out);
    }
    return ok;
}

void api_request_finish(struct api_request *r) {
    for (int i = 0; i < r->generate.n_stop; i++) {
        free(r->stops[i]);
    }
    free(r->stops);
    free(r->biases);
    buffer_finish(&r->begun);
    token_list_finish(&r->prompt);
    *r = (struct api_request){0};
}
