#include "cli/stdio_util.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/launch.h"
#include "format/show.h"

enum { MAX_BYTES = 256 << 20, CHUNK = 1 << 16 };

void stdio_fill_closed(void) {
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        /* the wrong direction on purpose; open takes the lowest number that is free */
        if (fcntl(fd, F_GETFD) < 0 &&
            open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) < 0) {
            return;
        }
    }
}

const char *stdio_name(const char *path) {
    return strcmp(path, "-") == 0 ? "standard input" : path;
}

/* False once the user wants an end. */
static bool wait_for_stdin(void) {
    struct pollfd fds[2] = {{.fd = STDIN_FILENO, .events = POLLIN},
                            {.fd = launch_interrupt_fd(), .events = POLLIN}};
    while (poll(fds, 2, -1) < 0 && errno == EINTR) {
    }
    return !launch_interrupted();
}

static bool read_stdin(struct buffer *out, struct error *err) {
    while (out->size <= MAX_BYTES) {
        if (!buffer_reserve(out, CHUNK, err)) {
            return false;
        }
        if (!wait_for_stdin()) {
            return error_set(err, ERROR_INTERRUPTED, "interrupted");
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
