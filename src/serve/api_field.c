#include <stdio.h>
#include <string.h>

#include "serve/api_impl.h"
#include "text/json_field.h"

bool api_expected(const char *param, const char *what, const json_t *value, struct api_error *e) {
    if (!value) {
        return API_REFUSE(e, param, "%s: missing; expected %s", param, what);
    }
    if (json_is_integer(value)) {
        return API_REFUSE(e, param, "%s: expected %s, got %lld", param, what,
                          (long long)json_integer_value(value));
    }
    if (json_is_real(value)) {
        return API_REFUSE(e, param, "%s: expected %s, got the real number %g", param, what,
                          json_real_value(value));
    }
    return API_REFUSE(e, param, "%s: expected %s, got %s", param, what,
                      json_field_type_name(json_typeof(value)));
}

json_t *api_field(const json_t *object, const char *name) {
    const char *dot = strrchr(name, '.');
    json_t *v = json_object_get(object, dot ? dot + 1 : name);
    return json_is_null(v) ? NULL : v;
}

bool api_get_bool(const json_t *object, const char *name, bool *out, struct api_error *e) {
    const json_t *v = api_field(object, name);
    if (v && !json_is_boolean(v)) {
        return api_expected(name, "true or false", v, e);
    }
    *out = v ? json_is_true(v) : *out;
    return true;
}

bool api_get_int(const json_t *object, const char *name, int64_t min, int64_t max, int64_t *out,
                 struct api_error *e) {
    const json_t *v = api_field(object, name);
    if (v && (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max)) {
        char what[80];
        if (min == INT64_MIN) {
            snprintf(what, sizeof what, "an integer");
        } else {
            snprintf(what, sizeof what, "an integer from %lld to %lld", (long long)min,
                     (long long)max);
        }
        return api_expected(name, what, v, e);
    }
    *out = v ? json_integer_value(v) : *out;
    return true;
}

bool api_get_number(const json_t *object, const char *name, double *out, struct api_error *e) {
    const json_t *v = api_field(object, name);
    if (v && !json_is_number(v)) {
        return api_expected(name, "a number", v, e);
    }
    *out = v ? json_number_value(v) : *out;
    return true;
}

bool api_get_object(const json_t *object, const char *name, json_t **out, struct api_error *e) {
    json_t *v = api_field(object, name);
    if (v && !json_is_object(v)) {
        return api_expected(name, "an object", v, e);
    }
    *out = v;
    return true;
}

bool api_refuse_failure(struct api_error *e, const char *param, const struct error *why) {
    api_error_from(e, why);
    size_t n = strcspn(why->message, ": ");
    if (e->status == 400 && param) {
        snprintf(e->param, sizeof e->param, "%s", param);
    } else if (e->status == 400 && why->message[n] == ':' && n < sizeof e->param) {
        snprintf(e->param, sizeof e->param, "%.*s", (int)n, why->message);
    }
    return false;
}
