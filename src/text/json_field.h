/* Reading fields of a parsed JSON file with errors that name the field: "model.vocab: must be an
 * object, not a string". `path` is the parent's name, "" for the root; all errors are of the kind
 * given by the caller's file and wrapped with its name by the caller. */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "base/error.h"

/* "an object", "a string", "null", ... */
const char *json_field_type_name(json_type t);

/* The member `name` of the object `parent`, of type `want`. Missing and null give NULL in *out
 * when it is optional. Errors: TOKENIZER. */
bool json_field_get(const json_t *parent, const char *path, const char *name, json_type want,
                    bool optional, json_t **out, struct error *err);

/* A boolean; missing and null mean `missing`. Errors: TOKENIZER. */
bool json_field_bool(const json_t *parent, const char *path, const char *name, bool missing,
                     bool *out, struct error *err);

/* The "type" of a tagged object such as {"type": "ByteLevel", ...}. Errors: TOKENIZER. */
bool json_field_tag(const json_t *object, const char *path, const char **out, struct error *err);
