/* A growable run of bytes. Zero-initialised is empty and valid. */
#pragma once

#include <stddef.h>

#include "base/error.h"

struct buffer {
    unsigned char *data; /* owns */
    size_t size;
    size_t capacity;
};

/* Makes room for `extra` more bytes. Errors: MEMORY. */
bool buffer_reserve(struct buffer *b, size_t extra, struct error *err);

/* Appends n bytes. Errors: MEMORY (b unchanged). */
bool buffer_append(struct buffer *b, const void *bytes, size_t n, struct error *err);

/* Appends formatted text without its terminator. Errors: MEMORY. */
bool buffer_printf(struct buffer *b, struct error *err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Reads a whole regular file, at most `limit` bytes. The text is followed by a NUL that is not
 * counted in size. Errors: IO (missing, not a regular file, unreadable, larger than limit), MEMORY.
 */
bool buffer_read_file(struct buffer *out, const char *path, size_t limit, struct error *err);

void buffer_clear(struct buffer *b); /* keeps the memory */
void buffer_finish(struct buffer *b);
