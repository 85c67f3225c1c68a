#include "text/stop.h"

#include <string.h>

bool stop_matcher_init(struct stop_matcher *m, int n, const char *const *strings,
                       struct error *err) {
    if (n > STOP_MAX) {
        return error_set(err, ERROR_USAGE, "%d stop strings, at most %d are accepted", n, STOP_MAX);
    }
    for (int i = 0; i < n; i++) {
        size_t length = strlen(strings[i]);
        if (length == 0 || length > STOP_MAX_BYTES) {
            return error_set(err, ERROR_USAGE, "stop string %d has %zu bytes, must be 1 to %d",
                             i + 1, length, STOP_MAX_BYTES);
        }
    }
    *m = (struct stop_matcher){.n = n, .strings = strings};
    return true;
}

/* Start of the first stop string in the held text, or its size. */
static size_t find_match(const struct stop_matcher *m) {
    size_t first = m->held.size;
    for (int i = 0; i < m->n; i++) {
        const void *at = memmem(m->held.data, m->held.size, m->strings[i], strlen(m->strings[i]));
        if (at) {
            size_t pos = (size_t)((const unsigned char *)at - m->held.data);
            first = pos < first ? pos : first;
        }
    }
    return first;
}

/* Start of the longest tail of the held text that begins a stop string. */
static size_t find_tail(const struct stop_matcher *m) {
    size_t size = m->held.size;
    size_t begin = size > STOP_MAX_BYTES ? size - STOP_MAX_BYTES : 0;
    for (size_t at = begin; at < size; at++) {
        for (int i = 0; i < m->n; i++) {
            size_t tail = size - at;
            if (tail < strlen(m->strings[i]) &&
                memcmp(m->held.data + at, m->strings[i], tail) == 0) {
                return at;
            }
        }
    }
    return size;
}

/* Gives out the first n held bytes. */
static bool release(struct stop_matcher *m, size_t n, struct buffer *out, struct error *err) {
    if (n == 0) {
        return true;
    }
    if (!buffer_append(out, m->held.data, n, err)) {
        return false;
    }
    m->held.size -= n;
    memmove(m->held.data, m->held.data + n, m->held.size);
    return true;
}

bool stop_matcher_push(struct stop_matcher *m, const void *text, size_t n, struct buffer *out,
                       struct error *err) {
    if (m->stopped || n == 0) {
        return true;
    }
    if (m->n == 0) {
        return buffer_append(out, text, n, err);
    }
    if (!buffer_append(&m->held, text, n, err)) {
        return false;
    }
    size_t match = find_match(m);
    if (match < m->held.size) {
        m->stopped = true;
        return release(m, match, out, err);
    }
    return release(m, find_tail(m), out, err);
}

bool stop_matcher_flush(struct stop_matcher *m, struct buffer *out, struct error *err) {
    return m->stopped || release(m, m->held.size, out, err);
}

void stop_matcher_finish(struct stop_matcher *m) {
    buffer_finish(&m->held);
    *m = (struct stop_matcher){0};
}
