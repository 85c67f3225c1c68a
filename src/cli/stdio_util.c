#include "cli/stdio_util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "format/show.h"

enum { MAX_BYTES = 256 << 20, CHUNK = 1 << 16 };

static bool read_stdin(struct buffer *out, struct error *err) {
    while (out->size <= MAX_BYTES) {
        if (!buffer_reserve(out, CHUNK, err)) {
            return false;
        }
        ssize_t n = read(STDIN_FILENO, out->data + out->size, CHUNK);
        if (n < 0) {
            return error_set(err, ERROR_IO, "standard input: %s", strerror(errno));
        }
        if (n == 0) {
            return true;
        }
        out->size += (size_t)n;
    }
    return error_set(err, ERROR_INPUT, "standard input: more than %d bytes", MAX_BYTES);
}

bool stdio_read(const char *path, struct buffer *out, struct error *err) {
    return strcmp(path, "-") == 0 ? read_stdin(out, err)
                                  : buffer_read_file(out, path, MAX_BYTES, err);
}

bool stdio_read_json(const char *path, json_t **out, struct error *err) {
    struct buffer text = {0};
    json_error_t e;
    bool ok = stdio_read(path, &text, err);
    if (ok) {
        *out = json_loadb((const char *)text.data, text.size,
                          JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e);
        ok = *out || error_set(err, ERROR_JSON, "%s: line %d, column %d: %s", show_path(path).text,
                               e.line, e.column, show_text(e.text).text);
    }
    buffer_finish(&text);
    return ok;
}

bool stdio_print_json(json_t *object, size_t flags, struct error *err) {
    char *text = object ? json_dumps(object, flags) : NULL;
    json_decref(object);
    if (!text) {
        return error_set(err, ERROR_MEMORY, "cannot build the JSON output");
    }
    puts(text);
    free(text);
    return stdio_flush(err);
}

bool stdio_flush(struct error *err) {
    return (fflush(stdout) == 0 && !ferror(stdout)) ||
           error_set(err, ERROR_IO, "standard output: %s", strerror(errno));
}

json_t *stdio_ids_json(const int32_t *ids, size_t n) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) {
        json_array_append_new(list, json_integer(ids[i]));
    }
    return list;
}
