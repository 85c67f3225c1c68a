#include "text/json_field.h"

#include <string.h>

const char *json_field_type_name(json_type t) {
    switch (t) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a fraction";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    default:
        return "null";
    }
}

static const char *dot(const char *path) {
    return path[0] ? "." : "";
}

bool json_field_get(const json_t *parent, const char *path, const char *name, json_type want,
                    bool optional, json_t **out, struct error *err) {
    if (!json_is_object(parent)) {
        return error_set(err, ERROR_TOKENIZER, "%s: must be an object",
                         path[0] ? path : "the whole file");
    }
    json_t *v = json_object_get(parent, name);
    if (!v || json_is_null(v)) {
        *out = NULL;
        return optional ||
               error_set(err, ERROR_TOKENIZER, "%s%s%s: is missing", path, dot(path), name);
    }
    if (json_typeof(v) != want) {
        return error_set(err, ERROR_TOKENIZER, "%s%s%s: must be %s, not %s", path, dot(path), name,
                         json_field_type_name(want), json_field_type_name(json_typeof(v)));
    }
    *out = v;
    return true;
}

bool json_field_bool(const json_t *parent, const char *path, const char *name, bool missing,
                     bool *out, struct error *err) {
    const json_t *v = json_object_get(parent, name);
    if (v && !json_is_boolean(v) && !json_is_null(v)) {
        return error_set(err, ERROR_TOKENIZER, "%s%s%s: must be a boolean, not %s", path, dot(path),
                         name, json_field_type_name(json_typeof(v)));
    }
    *out = v && !json_is_null(v) ? json_is_true(v) : missing;
    return true;
}

bool json_field_tag(const json_t *object, const char *path, const char **out, struct error *err) {
    json_t *type;
    if (!json_field_get(object, path, "type", JSON_STRING, false, &type, err)) {
        return false;
    }
    *out = json_string_value(type);
    return true;
}
