#include "cli/stdio_util.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/flight.h"
#include "cli/launch.h"
#include "format/json.h"
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

void stdio_may_wait(void) {
    flight_pulse((double)INFINITY);
}

void stdio_waited(void) {
    flight_pulse(clock_now());
}

const char *stdio_name(const char *path) {
    return strcmp(path, "-") == 0 ? "standard input" : path;
}

/* False once the user wants an end. */
static bool wait_for_input(int fd) {
    struct pollfd fds[2] = {{.fd = fd, .events = POLLIN},
                            {.fd = launch_interrupt_fd(), .events = POLLIN}};
    while (poll(fds, 2, -1) < 0 && errno == EINTR) {
    }
    return !launch_interrupted();
}

static bool read_stream(int fd, const char *name, struct buffer *out, struct error *err) {
    stdio_may_wait();
    while (out->size <= MAX_BYTES) {
        if (!buffer_reserve(out, CHUNK, err)) {
            return false;
        }
        if (!wait_for_input(fd)) {
            return error_set(err, ERROR_INTERRUPTED, "interrupted");
        }
        ssize_t n = read(fd, out->data + out->size, CHUNK);
        if (n < 0) {
            return error_set(err, ERROR_IO, "%s: %s", name, strerror(errno));
        }
        if (n == 0) {
            stdio_waited();
            return true;
        }
        out->size += (size_t)n;
    }
    return error_set(err, ERROR_INPUT, "%s: more than %d bytes", name, MAX_BYTES);
}

/* Such as a shell's <(command) is. */
static bool is_stream(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISCHR(st.st_mode));
}

bool stdio_read(const char *path, struct buffer *out, struct error *err) {
    if (strcmp(path, "-") == 0) {
        return read_stream(STDIN_FILENO, stdio_name(path), out, err);
    }
    if (!is_stream(path)) {
        return buffer_read_file(out, path, MAX_BYTES, err);
    }
    /* O_NONBLOCK: a pipe without a writer is waited for where Ctrl-C is heard. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return error_set(err, ERROR_IO, "%s: %s", show_path(path).text, strerror(errno));
    }
    bool ok = read_stream(fd, show_path(path).text, out, err);
    close(fd);
    return ok;
}

bool stdio_read_json(const char *path, json_t **out, struct error *err) {
    struct buffer text = {0};
    bool ok =
        stdio_read(path, &text, err) &&
        json_parse(out, stdio_name(path), (const char *)text.data, text.size, JSON_ALLOW_NUL, err);
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

void stdio_note(const char *text) {
    fputs(text, stderr);
}

bool stdio_flush(struct error *err) {
    return (fflush(stdout) == 0 && !ferror(stdout)) ||
           error_set(err, ERROR_IO, "standard output: %s", strerror(errno));
}

void stdio_print_ids(const struct token_list *ids) {
    for (size_t i = 0; i < ids->n; i++) {
        printf("%s%d", i ? " " : "", (int)ids->ids[i]);
    }
    putchar('\n');
}

json_t *stdio_ids_json(const struct token_list *ids) {
    json_t *list = json_array();
    for (size_t i = 0; i < ids->n; i++) {
        json_array_append_new(list, json_integer(ids->ids[i]));
    }
    return list;
}
