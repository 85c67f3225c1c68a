#include "base/buffer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool buffer_reserve(struct buffer *b, size_t extra, struct error *err) {
    size_t need;
    if (__builtin_add_overflow(b->size, extra, &need)) {
        return error_set(err, ERROR_MEMORY, "a buffer of %zu + %zu bytes overflows", b->size,
                         extra);
    }
    if (need <= b->capacity) {
        return true;
    }
    size_t cap = b->capacity + b->capacity / 2; /* at most 3/4 of the address space */
    cap = cap < need ? need : cap;
    cap = cap < 64 ? 64 : cap;
    unsigned char *data = realloc(b->data, cap);
    if (!data) {
        return error_set(err, ERROR_MEMORY, "cannot allocate %zu bytes", cap);
    }
    b->data = data;
    b->capacity = cap;
    return true;
}

bool buffer_append(struct buffer *b, const void *bytes, size_t n, struct error *err) {
    if (!buffer_reserve(b, n, err)) {
        return false;
    }
    if (n) {
        memcpy(b->data + b->size, bytes, n);
    }
    b->size += n;
    return true;
}

bool buffer_printf(struct buffer *b, struct error *err, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0 || !buffer_reserve(b, (size_t)n + 1, err)) {
        return false;
    }
    va_start(args, fmt);
    vsnprintf((char *)b->data + b->size, (size_t)n + 1, fmt, args);
    va_end(args);
    b->size += (size_t)n;
    return true;
}

static bool read_all(int fd, size_t size, struct buffer *b, struct error *err) {
    if (!buffer_reserve(b, size + 1, err)) {
        return false;
    }
    while (b->size < size) {
        ssize_t n = read(fd, b->data + b->size, size - b->size);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return error_set(err, ERROR_IO, "%s", strerror(errno));
        }
        if (n == 0) {
            break; /* it shrank while we read; what is there is what counts */
        }
        b->size += (size_t)n;
    }
    b->data[b->size] = 0;
    return true;
}

bool buffer_read_file(struct buffer *out, const char *path, size_t limit, struct error *err) {
    bool ok = false;
    struct buffer b = {0};
    struct stat st;
    /* O_NONBLOCK: opening a FIFO must not wait for its writer. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0 || fstat(fd, &st) != 0) {
        error_set(err, ERROR_IO, "%s: %s", path, strerror(errno));
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        error_set(err, ERROR_IO, "%s: not a regular file", path);
        goto out;
    }
    if ((size_t)st.st_size > limit) {
        error_set(err, ERROR_IO, "%s: %zu bytes, more than the %zu that are accepted", path,
                  (size_t)st.st_size, limit);
        goto out;
    }
    if (!read_all(fd, (size_t)st.st_size, &b, err)) {
        error_wrap(err, "%s", path);
        goto out;
    }
    *out = b; /* moves */
    b = (struct buffer){0};
    ok = true;
out:
    if (fd >= 0) {
        close(fd);
    }
    buffer_finish(&b);
    return ok;
}

void buffer_clear(struct buffer *b) {
    b->size = 0;
}

void buffer_finish(struct buffer *b) {
    free(b->data);
    *b = (struct buffer){0};
}
