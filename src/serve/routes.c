/* What the paths mean. On HTTP's thread. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "format/show.h"
#include "serve/embedded.h"
#include "serve/server_impl.h"
#include "text/utf8.h"

struct route {
    const char *method, *path;
    void (*answer)(struct server *s, const char *body, size_t n, struct http_answer *out);
};

static void refuse(struct http_answer *out, const struct api_error *e) {
    buffer_clear(&out->body);
    out->status = e->status;
    (void)api_error_body(e, &out->body, NULL);
}

static void no_memory(struct http_answer *out) {
    struct api_error e;
    api_refuse_memory(&e);
    refuse(out, &e);
}

/* Moves the object into the answer. */
static void send_json(struct http_answer *out, json_t *object) {
    char *text = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    if (!text || !buffer_append(&out->body, text, strlen(text), NULL)) {
        no_memory(out);
    }
    free(text);
    json_decref(object);
}

/* As far as it is UTF-8: a reason may be cut in the middle of a character. */
static json_t *words(const char *text) {
    return json_stringn(text, utf8_valid_prefix(text, strlen(text)));
}

static void get_health(struct server *s, const char *body, size_t n, struct http_answer *out) {
    struct api_error why;
    enum server_state state = server_state(s, &why);
    (void)body, (void)n;
    out->routine = true;
    json_t *j = json_pack("{s:s}", "status", server_state_name(state));
    if (state != SERVER_READY) {
        out->status = 503;
        json_object_set_new(j, "reason", words(why.message));
    }
    send_json(out, j);
}

static void get_models(struct server *s, const char *body, size_t n, struct http_answer *out) {
    (void)body, (void)n;
    struct api_error why;
    struct served *model = server_model(s, &why);
    (void)api_models_body(model ? &model->api : NULL, true, &out->body, NULL);
    served_release(model);
}

/* Numbers of the ranks that are about to be shown get fresh for the next reader. */
static void refresh_ranks(struct server *s) {
    if (rank_stats_want(&s->ranks)) {
        server_wake(s);
    }
}

static void get_metrics(struct server *s, const char *body, size_t n, struct http_answer *out) {
    (void)body, (void)n;
    out->type = "text/plain; version=0.0.4";
    out->routine = true;
    refresh_ranks(s);
    pthread_mutex_lock(&s->lock);
    bool ok = metrics_text(&s->metrics, s->model_name, &out->body, NULL);
    pthread_mutex_unlock(&s->lock);
    (void)(ok && rank_stats_text(&s->ranks, &out->body, NULL));
}

static void get_ranks(struct server *s, const char *body, size_t n, struct http_answer *out) {
    struct api_error why;
    (void)body, (void)n;
    out->routine = true;
    refresh_ranks(s);
    json_t *j = rank_stats_json(&s->ranks);
    enum server_state state = server_state(s, &why);
    json_object_set_new(j, "state", json_string(server_state_name(state)));
    if (state != SERVER_READY) {
        json_object_set_new(j, "reason", words(why.message));
    }
    pthread_mutex_lock(&s->lock);
    const struct scheduler_stats *t = &s->metrics.scheduler;
    json_object_set_new(j, "model",
                        s->state == SERVER_UNLOADED ? json_null() : words(s->model_name));
    json_object_set_new(j, "running", json_integer(t->running));
    json_object_set_new(j, "waiting", json_integer(t->waiting));
    json_object_set_new(j, "kv_blocks_used", json_integer(t->blocks_used));
    json_object_set_new(j, "kv_blocks_total", json_integer(t->blocks_total));
    json_object_set_new(j, "prompt_tokens", json_integer((json_int_t)t->prompt_tokens));
    json_object_set_new(j, "generated_tokens", json_integer((json_int_t)t->generated_tokens));
    json_object_set_new(j, "errors", last_errors_json(&s->errors));
    pthread_mutex_unlock(&s->lock);
    send_json(out, j);
}

static void submit(struct server *s, struct job *j, struct http_answer *out) {
    out->job = j;
    server_submit(s, j);
}

static void complete(struct server *s, enum api_kind kind, const char *body, size_t n,
                     struct http_answer *out) {
    struct api_request request;
    struct api_error e;
    struct job *j = NULL;
    struct served *model = server_model(s, &e);
    if (!model || !api_request_parse(&request, kind, body, n, &model->api, &e)) {
        served_release(model);
        refuse(out, &e);
    } else if (!job_create(&j, &request, model, NULL)) {
        served_release(model);
        api_request_finish(&request);
        no_memory(out);
    } else {
        submit(s, j, out);
    }
}

static void post_chat(struct server *s, const char *body, size_t n, struct http_answer *out) {
    complete(s, API_CHAT, body, n, out);
}

static void post_completions(struct server *s, const char *body, size_t n,
                             struct http_answer *out) {
    complete(s, API_COMPLETION, body, n, out);
}

static void post_embeddings(struct server *s, const char *body, size_t n, struct http_answer *out) {
    struct api_error e;
    (void)s, (void)body, (void)n;
    api_refuse(&e, 400, "invalid_request_error", "unsupported", NULL,
               "embeddings are not there yet: this server completes text and chats");
    refuse(out, &e);
}

/* The member `name` of the body, which has to be an object. NULL: e says why not. */
static json_t *member(const char *body, size_t n, const char *name, json_t **root,
                      struct api_error *e) {
    *root = api_load_json(body, n, e);
    json_t *found = json_is_object(*root) ? json_object_get(*root, name) : NULL;
    if (*root && !found) {
        api_refuse(e, 400, "invalid_request_error", NULL, name,
                   "the body must be an object with %s", name);
    }
    return found;
}

static void post_tokenize(struct server *s, const char *body, size_t n, struct http_answer *out) {
    struct api_error e = {.status = 400};
    struct token_list ids = {0};
    struct error err;
    struct served *model = server_model(s, &e);
    json_t *root = NULL, *text = model ? member(body, n, "prompt", &root, &e) : NULL;
    bool ok = text != NULL;
    if (ok && !json_is_string(text)) {
        ok =
            api_refuse(&e, 400, "invalid_request_error", NULL, "prompt", "prompt must be a string");
    }
    if (ok && !tokenizer_encode(model->tokenizer, json_string_value(text), json_string_length(text),
                                true, &ids, &err)) {
        ok = api_refuse(&e, 400, "invalid_request_error", NULL, "prompt", "%s", err.message);
    }
    if (ok) {
        json_t *list = json_array();
        for (size_t i = 0; i < ids.n; i++) {
            json_array_append_new(list, json_integer(ids.ids[i]));
        }
        send_json(out, json_pack("{s:o, s:I}", "tokens", list, "count", (json_int_t)ids.n));
    } else {
        refuse(out, &e);
    }
    token_list_finish(&ids);
    json_decref(root);
    served_release(model);
}

static bool ids_of(const json_t *list, struct token_list *ids, struct api_error *e) {
    size_t i;
    json_t *id;
    struct error err;
    if (!json_is_array(list)) {
        return api_refuse(e, 400, "invalid_request_error", NULL, "tokens",
                          "tokens must be a list of ids");
    }
    json_array_foreach(list, i, id) {
        json_int_t value = json_is_integer(id) ? json_integer_value(id) : -1;
        if (value < 0 || value > INT32_MAX || !token_list_push(ids, (int32_t)value, &err)) {
            return api_refuse(e, 400, "invalid_request_error", NULL, "tokens",
                              "tokens[%zu] must be a token id", i);
        }
    }
    return true;
}

static void post_detokenize(struct server *s, const char *body, size_t n, struct http_answer *out) {
    struct api_error e = {.status = 400};
    struct token_list ids = {0};
    struct buffer text = {0};
    struct detokenizer d = {0};
    struct error err = {0};
    struct served *model = server_model(s, &e);
    json_t *root = NULL, *list = model ? member(body, n, "tokens", &root, &e) : NULL;
    bool ok = list && ids_of(list, &ids, &e);
    for (size_t i = 0; ok && i < ids.n; i++) {
        ok = detokenizer_push(&d, model->tokenizer, ids.ids[i], false, &text, &err) ||
             api_refuse(&e, 400, "invalid_request_error", NULL, "tokens", "%s", err.message);
    }
    if (ok && detokenizer_flush(&d, &text, &err)) {
        send_json(out,
                  json_pack("{s:o}", "prompt",
                            json_stringn(text.size ? (const char *)text.data : "", text.size)));
    } else {
        refuse(out, &e);
    }
    buffer_finish(&text);
    token_list_finish(&ids);
    json_decref(root);
    served_release(model);
}

static void get_page(struct server *s, const char *body, size_t n, struct http_answer *out) {
    (void)s, (void)body, (void)n;
    out->type = "text/html; charset=utf-8";
    out->policy = page_html_policy;
    (void)buffer_append(&out->body, page_html, page_html_size, NULL);
}

static void get_openapi(struct server *s, const char *body, size_t n, struct http_answer *out) {
    (void)s, (void)body, (void)n;
    (void)buffer_append(&out->body, openapi_json, openapi_json_size, NULL);
}

/* ---- the administrator's ---- */

/* "'a', 'b' or 'c'" of words, which end with NULL. */
static void list_words(char *out, size_t size, const char *const *words, const char *last) {
    size_t at = 0;
    for (int i = 0; words[i] && at < size; i++) {
        const char *between = i == 0 ? "" : words[i + 1] ? ", " : last;
        at += (size_t)snprintf(out + at, size - at, "%s'%s'", between, words[i]);
    }
}

/* The one of words that is text, or NULL. */
static const char *find_word(const char *const *words, const char *text) {
    while (*words && (!text || strcmp(*words, text) != 0)) {
        words++;
    }
    return *words;
}

/* The body, which may be empty; else an object whose members are all among fields. */
static bool admin_body(const char *body, size_t n, const char *const *fields, json_t **root,
                       struct api_error *e) {
    json_error_t at;
    const char *name;
    json_t *value;
    *root = n > 0 ? json_loadb(body, n, 0, &at) : json_object();
    if (!json_is_object(*root)) {
        return api_refuse(e, 400, "invalid_request_error", NULL, NULL,
                          "the body must be empty, or an object");
    }
    json_object_foreach(*root, name, value) {
        if (!find_word(fields, name)) {
            char known[80];
            list_words(known, sizeof known, fields, " and ");
            return api_refuse(e, 400, "invalid_request_error", NULL, name,
                              "there is no field '%.60s' here, but %s", name, known);
        }
    }
    return true;
}

/* Whether the server takes commands: it has checked its ranks, and is not about to end. */
static bool takes_commands(struct server *s, struct api_error *e) {
    enum server_state state = server_state(s, e);
    return state == SERVER_READY || state == SERVER_UNLOADED;
}

/* A member that has to be one of words; NULL where it is missing. */
static bool get_word(const json_t *root, const char *name, const char *const *words,
                     const char **out, struct api_error *e) {
    const json_t *value = json_object_get(root, name);
    *out = value ? find_word(words, json_string_value(value)) : NULL;
    if (value && !*out) {
        char known[80];
        list_words(known, sizeof known, words, " or ");
        return api_refuse(e, 400, "invalid_request_error", NULL, name, "%s must be %s", name,
                          known);
    }
    return true;
}

static const char *const load_fields[] = {"model", "kv_dtype", "quant", NULL};
static const char *const kv_dtypes[] = {"auto", "f32", "bf16", NULL};
static const char *const quants[] = {"none", "q8_0", "q4_0", NULL};

static void post_load(struct server *s, const char *body, size_t n, struct http_answer *out) {
    struct api_error e;
    struct job *j;
    json_t *root = NULL;
    struct load_wish wish = {0};
    bool ok = takes_commands(s, &e) && admin_body(body, n, load_fields, &root, &e) &&
              get_word(root, "kv_dtype", kv_dtypes, &wish.kv_dtype, &e) &&
              get_word(root, "quant", quants, &wish.quant, &e);
    json_t *name = json_object_get(root, "model");
    if (ok && name && (!json_is_string(name) || json_string_length(name) == 0)) {
        ok = api_refuse(&e, 400, "invalid_request_error", NULL, "model",
                        "model must be a string that is not empty");
    }
    char *wanted = ok && name ? strdup(json_string_value(name)) : NULL;
    if (!ok) {
        refuse(out, &e);
    } else if ((name && !wanted) || !job_create_load(&j, wanted, &wish, NULL)) {
        free(wanted);
        no_memory(out);
    } else {
        submit(s, j, out);
    }
    json_decref(root);
}

static const char *const unload_fields[] = {"timeout", NULL};

static void post_unload(struct server *s, const char *body, size_t n, struct http_answer *out) {
    enum { MOST = 86400 };
    struct api_error e;
    struct job *j;
    json_t *root = NULL;
    bool ok = takes_commands(s, &e) && admin_body(body, n, unload_fields, &root, &e);
    json_t *timeout = json_object_get(root, "timeout");
    double seconds = json_is_number(timeout) ? json_number_value(timeout) : -1;
    if (ok && timeout && !(seconds >= 0 && seconds <= MOST)) {
        ok = api_refuse(&e, 400, "invalid_request_error", NULL, "timeout",
                        "timeout must be a number of seconds, 0 to %d", MOST);
    }
    if (!ok) {
        refuse(out, &e);
    } else if (!job_create_unload(&j, seconds, NULL)) {
        no_memory(out);
    } else {
        submit(s, j, out);
    }
    json_decref(root);
}

static void post_shutdown(struct server *s, const char *body, size_t n, struct http_answer *out) {
    struct api_error e;
    json_t *root = n > 0 ? json_loadb(body, n, 0, NULL) : NULL; /* json_is_object is a macro */
    if (n > 0 && !json_is_object(root)) {
        api_refuse(&e, 400, "invalid_request_error", NULL, NULL,
                   "the body must be empty, or an object");
        refuse(out, &e);
    } else {
        out->status = 202;
        send_json(out, json_pack("{s:s}", "status", "draining"));
        server_stop(s);
    }
    json_decref(root);
}

static const struct route routes[] = {
    {"GET", "/", get_page},
    {"GET", "/health", get_health},
    {"GET", "/metrics", get_metrics},
    {"GET", "/ranks", get_ranks},
    {"GET", "/openapi.json", get_openapi},
    {"GET", "/v1/models", get_models},
    {"POST", "/v1/chat/completions", post_chat},
    {"POST", "/v1/completions", post_completions},
    {"POST", "/v1/embeddings", post_embeddings},
    {"POST", "/tokenize", post_tokenize},
    {"POST", "/detokenize", post_detokenize},
    {"POST", "/v1/admin/load", post_load},
    {"POST", "/v1/admin/unload", post_unload},
    {"POST", "/v1/admin/shutdown", post_shutdown},
};

static void get_model(struct server *s, const char *name, struct http_answer *out) {
    struct api_error e;
    struct served *model = server_model(s, &e);
    if (model && strcmp(name, model->name) == 0) {
        (void)api_models_body(&model->api, false, &out->body, NULL);
    } else {
        if (model) {
            api_refuse(&e, 404, "invalid_request_error", "model_not_found", "model",
                       "there is no model '%.200s' here, but '%s'", name, model->name);
        }
        refuse(out, &e);
    }
    served_release(model);
}

/* other: the method that is there for the path; NULL: none. */
static void not_found(const char *method, const char *path, const char *other,
                      struct http_answer *out) {
    struct api_error e;
    if (other) {
        out->allow = strcmp(other, "GET") == 0 ? "GET, HEAD" : other;
        api_refuse(&e, 405, "invalid_request_error", "method_not_allowed", NULL,
                   "%.200s takes %s, not %.20s", path, other, method);
    } else {
        api_refuse(&e, 404, "invalid_request_error", "not_found", NULL, "there is no %.200s here",
                   path);
    }
    refuse(out, &e);
}

void server_handle(void *user, const char *method, const char *path, const char *body, size_t n,
                   struct http_answer *out) {
    static const char models[] = "/v1/models/";
    struct server *s = user;
    const char *other = NULL;
    if (strcmp(method, "HEAD") == 0) {
        method = "GET"; /* the body is left out on the way */
    }
    if (strncmp(path, models, sizeof models - 1) == 0) {
        if (strcmp(method, "GET") == 0) {
            get_model(s, path + sizeof models - 1, out);
        } else {
            not_found(method, path, "GET", out);
        }
        return;
    }
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        const struct route *r = &routes[i];
        if (strcmp(path, r->path) != 0) {
            continue;
        }
        if (strcmp(method, r->method) != 0) {
            other = r->method;
        } else {
            r->answer(s, body, n, out);
            return;
        }
    }
    not_found(method, path, other, out);
}
