#include "text/python_json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 200 };

static bool append(struct buffer *out, const char *text, struct error *err) {
    return buffer_append(out, text, strlen(text), err);
}

static bool dump_string(const char *s, size_t n, struct buffer *out, struct error *err) {
    static const char short_escapes[][2] = {{'"', '"'},  {'\\', '\\'}, {'\n', 'n'}, {'\r', 'r'},
                                            {'\t', 't'}, {'\b', 'b'},  {'\f', 'f'}};
    if (!append(out, "\"", err)) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        char text[8] = {s[i]};
        size_t size = 1;
        if ((unsigned char)s[i] < 0x20) {
            size = (size_t)snprintf(text, sizeof text, "\\u%04x", (unsigned)s[i]);
        }
        for (size_t k = 0; k < sizeof short_escapes / sizeof short_escapes[0]; k++) {
            if (s[i] == short_escapes[k][0]) {
                text[0] = '\\';
                text[1] = short_escapes[k][1];
                size = 2;
            }
        }
        if (!buffer_append(out, text, size, err)) {
            return false;
        }
    }
    return append(out, "\"", err);
}

/* The shortest decimal that reads back as x, as Python's repr() writes it. */
static bool dump_real(double x, struct buffer *out, struct error *err) {
    char text[40];
    int digits = 1;
    do {
        snprintf(text, sizeof text, "%.*e", digits - 1, x);
    } while (strtod(text, NULL) != x && ++digits <= 17);
    int exponent = atoi(strchr(text, 'e') + 1);
    if (exponent < -4 || exponent >= 16) {
        return append(out, text, err); /* C's e+XX is Python's */
    }
    int decimals = digits - 1 - exponent;
    return buffer_printf(out, err, "%.*f", decimals > 1 ? decimals : 1, x);
}

static bool dump(const json_t *v, int depth, struct buffer *out, struct error *err) {
    if (depth > MAX_DEPTH) {
        return error_set(err, ERROR_INPUT, "JSON nested deeper than %d", MAX_DEPTH);
    }
    bool first = true;
    switch (json_typeof(v)) {
    case JSON_OBJECT: {
        const char *key;
        json_t *item;
        if (!append(out, "{", err)) {
            return false;
        }
        json_object_foreach((json_t *)v, key, item) {
            if (!append(out, first ? "" : ", ", err) || !dump_string(key, strlen(key), out, err) ||
                !append(out, ": ", err) || !dump(item, depth + 1, out, err)) {
                return false;
            }
            first = false;
        }
        return append(out, "}", err);
    }
    case JSON_ARRAY: {
        size_t i;
        const json_t *item;
        if (!append(out, "[", err)) {
            return false;
        }
        json_array_foreach(v, i, item) {
            if (!append(out, i == 0 ? "" : ", ", err) || !dump(item, depth + 1, out, err)) {
                return false;
            }
        }
        return append(out, "]", err);
    }
    case JSON_STRING:
        return dump_string(json_string_value(v), json_string_length(v), out, err);
    case JSON_INTEGER:
        return buffer_printf(out, err, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
    case JSON_REAL:
        return dump_real(json_real_value(v), out, err);
    case JSON_TRUE:
        return append(out, "true", err);
    case JSON_FALSE:
        return append(out, "false", err);
    default:
        return append(out, "null", err);
    }
}

bool python_json_dump(const json_t *value, struct buffer *out, struct error *err) {
    return dump(value, 0, out, err);
}
