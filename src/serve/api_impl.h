/* What the api_*.c files share, and nobody else includes. */
#pragma once

#include <jansson.h>

#include "serve/api.h"

/* ---- writing JSON (api_json.c) ---- */

/* Appends the text as a JSON string, quotes and all; what is not UTF-8 in it becomes U+FFFD.
 * Errors: MEMORY, as of all below. */
bool api_put_string(struct buffer *out, const char *text, size_t n, struct error *err);
bool api_put_text(struct buffer *out, const char *text, struct error *err);
/* 9 significant digits; null for what JSON has no number for. */
bool api_put_real(struct buffer *out, double x, struct error *err);

/* ---- reading fields (api_field.c) ---- */

/* 400 and invalid_request_error. */
#define API_REFUSE(e, param, ...)                                                                  \
    api_refuse(e, 400, "invalid_request_error", NULL, param, __VA_ARGS__)

/* "temperature: expected a number, got a string"; false. value NULL: it is missing. */
bool api_expected(const char *param, const char *what, const json_t *value, struct api_error *e);

/* The member, NULL where it is missing or null. */
json_t *api_field(const json_t *object, const char *name);

/* Typed members, left alone where they are missing or null. `name` may be "parent.member" for
 * errors to name: then `object` is the parent. */
bool api_get_bool(const json_t *object, const char *name, bool *out, struct api_error *e);
bool api_get_int(const json_t *object, const char *name, int64_t min, int64_t max, int64_t *out,
                 struct api_error *e);
bool api_get_number(const json_t *object, const char *name, double *out, struct api_error *e);
/* NULL where it is missing or null. */
bool api_get_object(const json_t *object, const char *name, json_t **out, struct api_error *e);

/* Turns a failure into a refusal that names `param`, or the field its message begins with where
 * that is NULL. */
bool api_refuse_failure(struct api_error *e, const char *param, const struct error *why);

/* ---- how to choose among tokens (api_sampling.c) ---- */

/* The model's defaults, and what the request says of them, into out->generate.sampling. */
bool api_read_sampling(struct api_request *out, const json_t *body, const struct api_model *model,
                       struct api_error *e);

/* ---- what to continue (api_prompt.c) ---- */

/* The prompt's tokens into out->prompt. Rewrites the body's messages. */
bool api_read_chat(struct api_request *out, json_t *body, const struct api_model *model,
                   struct api_error *e);
bool api_read_prompt(struct api_request *out, const json_t *body, const struct api_model *model,
                     struct api_error *e);
