#include "format/json.h"

#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "format/show.h"

/* The string that ends, quote and all, before byte `end`; "" when none does. */
static struct shown string_before(const char *text, size_t end) {
    char key[128] = "";
    if (end > 1 && text[end - 1] == '"') {
        size_t open = end - 1;
        while (open > 0 && text[open - 1] != '"') {
            open--;
        }
        size_t n = end - 1 - open;
        snprintf(key, sizeof key, "%.*s", (int)(n < sizeof key ? n : sizeof key - 1), text + open);
    }
    return show_text(key);
}

/* The key whose value the parser was in when it stopped at byte `end`: the last string before it
 * that a colon follows. "" when there is none. */
static struct shown last_key(const char *text, size_t end) {
    while (end > 0 && text[end - 1] != ':') {
        end--;
    }
    end -= end > 0;
    while (end > 0 && memchr(" \t\r\n", text[end - 1], 4)) {
        end--;
    }
    return string_before(text, end);
}

/* jansson says "out of memory" now and then, calls it a syntax error elsewhere, and may even go on
 * with a character less: so that it is seen where memory is given. */
static _Thread_local bool out_of_memory;
static json_malloc_t allocate_before;

static void *allocate(size_t n) {
    void *p = allocate_before(n);
    out_of_memory = out_of_memory || !p;
    return p;
}

__attribute__((constructor)) static void watch_memory(void) {
    json_free_t free_before;
    json_get_alloc_funcs(&allocate_before, &free_before);
    json_set_alloc_funcs(allocate, free_before);
}

static bool parse_error(const char *file, const char *text, size_t n, const json_error_t *where,
                        struct error *err) {
    if (out_of_memory) {
        return error_set(err, ERROR_MEMORY, "%s: no memory to read it", show_path(file).text);
    }
    size_t stop = where->position > 0 ? (size_t)where->position : 0;
    stop = stop < n ? stop : n;
    bool twice = json_error_code(where) == json_error_duplicate_key;
    struct shown key = twice ? string_before(text, stop) : last_key(text, stop);
    return error_set(err, ERROR_JSON, "%s: not valid JSON: line %d, column %d%s%s: %s",
                     show_path(file).text, where->line, where->column, key.text[0] ? ", at " : "",
                     key.text, show_text(where->text).text);
}

/* The end of the string or number that begins at byte i, or of the one byte of anything else. */
static size_t token_end(const char *text, size_t n, size_t i) {
    size_t end = i + 1;
    if (text[i] == '"') {
        while (end < n && text[end] != '"') {
            end += text[end] == '\\' ? 2 : 1;
        }
        return end < n ? end + 1 : n;
    }
    while (text[i] >= '0' && text[i] <= '9' && end < n &&
           memchr("0123456789.eE+-", text[end], 15)) {
        end++;
    }
    return end;
}

/* Copies the text with "e0" after integers that may not fit 64 bits, which makes reals of them. */
static bool relax_integers(struct buffer *out, const char *text, size_t n) {
    enum { SAFE_DIGITS = 18 };
    for (size_t i = 0, end; i < n; i = end) {
        end = token_end(text, n, i);
        bool huge = text[i] != '"' && end - i > SAFE_DIGITS && !memchr(text + i, '.', end - i) &&
                    !memchr(text + i, 'e', end - i) && !memchr(text + i, 'E', end - i);
        if (!buffer_append(out, text + i, end - i, NULL) ||
            (huge && !buffer_append(out, "e0", 2, NULL))) {
            return false;
        }
    }
    return true;
}

bool json_parse(json_t **out, const char *file, const char *text, size_t n, size_t flags,
                struct error *err) {
    struct buffer relaxed = {0};
    json_error_t where;
    out_of_memory = false;
    json_t *value = json_loadb(text, n, JSON_REJECT_DUPLICATES | flags, &where);
    /* Nobody needs such a number, but transformers writes 10^30 for "no limit". */
    if (!value && json_error_code(&where) == json_error_numeric_overflow &&
        relax_integers(&relaxed, text, n)) {
        text = (const char *)relaxed.data;
        n = relaxed.size;
        value = json_loadb(text, n, JSON_REJECT_DUPLICATES | flags, &where);
    }
    if (value && out_of_memory) {
        json_decref(value);
        value = NULL;
    }
    bool ok = value || parse_error(file, text, n, &where, err);
    if (ok) {
        *out = value;
    }
    buffer_finish(&relaxed);
    return ok;
}

bool json_read_file(json_t **out, const char *path, size_t limit, size_t flags, struct error *err) {
    struct buffer text = {0};
    bool ok = buffer_read_file(&text, path, limit, err) &&
              json_parse(out, path, (const char *)text.data, text.size, flags, err);
    buffer_finish(&text);
    return ok;
}

bool json_fields_init(struct json_fields *out, const json_t *value, const char *file,
                      const char *name, const char *prefix, enum error_kind kind,
                      struct error *err) {
    struct json_fields f = {.object = value, .file = file, .prefix = prefix, .kind = kind};
    if (!json_is_object(value)) {
        struct json_fields whole = {.file = file, .prefix = "", .kind = kind};
        return json_bad_field(&whole, name, "an object", value, err);
    }
    *out = f;
    return true;
}

/* A value as an error message shows it. */
static struct shown show_value(const json_t *v) {
    char text[sizeof(struct shown) + 2];
    switch (json_typeof(v)) {
    case JSON_STRING:
        snprintf(text, sizeof text, "\"%s\"", show_text(json_string_value(v)).text);
        break;
    case JSON_INTEGER:
        snprintf(text, sizeof text, "%lld", (long long)json_integer_value(v));
        break;
    case JSON_REAL: /* 4.0 is not the integer that was expected */
        snprintf(text, sizeof text, "%.17g", json_real_value(v));
        strcat(text, strpbrk(text, ".e") ? "" : ".0");
        break;
    case JSON_OBJECT:
        return show_text("an object");
    case JSON_ARRAY:
        return show_text("a list");
    case JSON_TRUE:
        return show_text("true");
    case JSON_FALSE:
        return show_text("false");
    default:
        return show_text("null");
    }
    return show_text(text);
}

bool json_bad_field(const struct json_fields *f, const char *key, const char *what,
                    const json_t *value, struct error *err) {
    struct shown file = show_path(f->file);
    const char *colon = key[0] ? ": " : "";
    if (!value) {
        return error_set(err, f->kind, "%s%s%s%s: missing; expected %s", file.text, colon,
                         f->prefix, show_text(key).text, what);
    }
    return error_set(err, f->kind, "%s%s%s%s: expected %s, got %s", file.text, colon, f->prefix,
                     show_text(key).text, what, show_value(value).text);
}

bool json_has(const struct json_fields *f, const char *key) {
    const json_t *v = json_object_get(f->object, key);
    return v && !json_is_null(v);
}

bool json_get_int(const struct json_fields *f, const char *key, int64_t min, int64_t max,
                  int64_t *out, struct error *err) {
    const json_t *v = json_object_get(f->object, key);
    if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max) {
        char what[80];
        snprintf(what, sizeof what, "an integer from %lld to %lld", (long long)min, (long long)max);
        return json_bad_field(f, key, what, v, err);
    }
    *out = json_integer_value(v);
    return true;
}

bool json_get_number(const struct json_fields *f, const char *key, double min, double max,
                     double *out, struct error *err) {
    const json_t *v = json_object_get(f->object, key);
    if (!json_is_number(v) || !(json_number_value(v) >= min && json_number_value(v) <= max)) {
        char what[80];
        snprintf(what, sizeof what, "a number from %g to %g", min, max);
        return json_bad_field(f, key, what, v, err);
    }
    *out = json_number_value(v);
    return true;
}

bool json_get_number_or(const struct json_fields *f, const char *key, double min, double max,
                        double *out, struct error *err) {
    return !json_has(f, key) || json_get_number(f, key, min, max, out, err);
}

bool json_get_bool_or(const struct json_fields *f, const char *key, bool *out, struct error *err) {
    if (!json_has(f, key)) {
        return true;
    }
    const json_t *v = json_object_get(f->object, key);
    if (!json_is_boolean(v)) {
        return json_bad_field(f, key, "true or false", v, err);
    }
    *out = json_is_true(v);
    return true;
}

bool json_get_string(const struct json_fields *f, const char *key, const char **out,
                     struct error *err) {
    const json_t *v = json_object_get(f->object, key);
    if (!json_is_string(v)) {
        return json_bad_field(f, key, "a string", v, err);
    }
    *out = json_string_value(v);
    return true;
}

bool json_get_string_or(const struct json_fields *f, const char *key, const char **out,
                        struct error *err) {
    return !json_has(f, key) || json_get_string(f, key, out, err);
}
