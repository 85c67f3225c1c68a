/* JSON from files that strangers wrote: small helpers over jansson, whose errors name the file, and
 * the field or the line. Nesting deeper than jansson's 2048 levels and a key that appears twice are
 * errors. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/error.h"

/* Reads and parses a whole regular file of at most `limit` bytes. The caller owns *out
 * (json_decref). flags: json_parse's. Errors: IO, MEMORY (buffer_read_file's), JSON (with line and
 * column). */
bool json_read_file(json_t **out, const char *path, size_t limit, size_t flags, struct error *err);

/* Parses n bytes; `file` is what errors call them. flags: 0, or JSON_ALLOW_NUL for strings that may
 * hold U+0000. Integers beyond 64 bits become reals. Errors: JSON, MEMORY. */
bool json_parse(json_t **out, const char *file, const char *text, size_t n, size_t flags,
                struct error *err);

/* An object in a file, and how errors speak of it. All pointers borrowed. */
struct json_fields {
    const json_t *object;
    const char *file;     /* "models/tiny/config.json" */
    const char *prefix;   /* "", or "rope_scaling." for an object inside another */
    enum error_kind kind; /* of the errors below */
};

/* Errors: `kind`, when value is no object; `name` says which field it is, "" for the whole file. */
bool json_fields_init(struct json_fields *out, const json_t *value, const char *file,
                      const char *name, const char *prefix, enum error_kind kind,
                      struct error *err);

/* True when the field is there and not null. */
bool json_has(const struct json_fields *f, const char *key);

/* Typed fields. Errors: `kind`, "FILE: FIELD: expected an integer from 1 to 1024, got "x"". The
 * ones called _or leave *out alone, so that it holds the default, when the field is absent or null.
 */
bool json_get_int(const struct json_fields *f, const char *key, int64_t min, int64_t max,
                  int64_t *out, struct error *err);
bool json_get_number(const struct json_fields *f, const char *key, double min, double max,
                     double *out, struct error *err);
bool json_get_number_or(const struct json_fields *f, const char *key, double min, double max,
                        double *out, struct error *err);
bool json_get_bool_or(const struct json_fields *f, const char *key, bool *out, struct error *err);
bool json_get_string(const struct json_fields *f, const char *key, const char **out,
                     struct error *err);
bool json_get_string_or(const struct json_fields *f, const char *key, const char **out,
                        struct error *err);

/* Says that a field is wrong: "FILE: FIELD: expected WHAT, got VALUE"; returns false. value NULL:
 * "it is missing". */
bool json_bad_field(const struct json_fields *f, const char *key, const char *what,
                    const json_t *value, struct error *err);
