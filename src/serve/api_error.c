#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "serve/api_impl.h"

bool api_refuse(struct api_error *e, int status, const char *type, const char *code,
                const char *param, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    *e = (struct api_error){.status = status, .type = type, .code = code};
    snprintf(e->param, sizeof e->param, "%s", param ? param : "");
    vsnprintf(e->message, sizeof e->message, fmt, args);
    va_end(args);
    return false;
}

bool api_refuse_memory(struct api_error *e) {
    return api_refuse(e, 503, "no_memory", NULL, NULL, "the server is out of memory");
}

void api_error_from(struct api_error *out, const struct error *why) {
    int status = 503;
    const char *type = error_kind_name(why->kind), *code = NULL;
    if (why->kind == ERROR_INPUT || why->kind == ERROR_USAGE || why->kind == ERROR_UNSUPPORTED) {
        status = 400;
        type = "invalid_request_error";
    } else if (why->kind == ERROR_BUSY) {
        status = 429;
        type = "rate_limit_error";
        code = "queue_full";
    }
    if (why->has_rank) {
        api_refuse(out, status, type, code, NULL, "rank %d: %s", why->rank, why->message);
        out->has_rank = true;
        out->rank = why->rank;
    } else {
        api_refuse(out, status, type, code, NULL, "%s", why->message);
    }
}

static bool put_or_null(struct buffer *out, const char *text, struct error *err) {
    return text && text[0] ? api_put_text(out, text, err) : buffer_append(out, "null", 4, err);
}

static bool put_rank(const struct api_error *e, struct buffer *out, struct error *err) {
    return !e->has_rank || (buffer_printf(out, err, ",\"rank\":%d,\"host\":", e->rank) &&
                            put_or_null(out, e->host, err));
}

static bool put_error(const char *before, const struct api_error *e, const char *after,
                      struct buffer *out, struct error *err) {
    size_t size = out->size;
    bool ok = buffer_printf(out, err, "%s{\"error\":{\"message\":", before) &&
              api_put_text(out, e->message, err) && buffer_printf(out, err, ",\"type\":") &&
              put_or_null(out, e->type, err) && buffer_printf(out, err, ",\"param\":") &&
              put_or_null(out, e->param, err) && buffer_printf(out, err, ",\"code\":") &&
              put_or_null(out, e->code, err) && put_rank(e, out, err) &&
              buffer_printf(out, err, "}}%s", after);
    if (!ok) {
        out->size = size;
    }
    return ok;
}

bool api_error_body(const struct api_error *e, struct buffer *out, struct error *err) {
    return put_error("", e, "", out, err);
}

bool api_error_event(const struct api_error *e, struct buffer *out, struct error *err) {
    return put_error("data: ", e, "\n\n", out, err);
}
