/* Stop strings in a stream of text: they end it wherever they cross token borders, and no part of
 * one is ever shown. */
#pragma once

#include "base/buffer.h"

enum { STOP_MAX = 16, STOP_MAX_BYTES = 4096 };

struct stop_matcher {
    int n;
    const char *const *strings; /* borrowed [n], none empty */
    struct buffer held;         /* text that may yet become part of a stop string */
    bool stopped;
};

/* Errors: USAGE (too many, empty, or too long). */
bool stop_matcher_init(struct stop_matcher *m, int n, const char *const *strings,
                       struct error *err);

/* Takes n bytes; appends to out what can no longer be part of a stop string. After a match
 * m->stopped is set, and the text before the match has been given out. Errors: MEMORY. */
bool stop_matcher_push(struct stop_matcher *m, const void *text, size_t n, struct buffer *out,
                       struct error *err);

/* The text has ended: gives out what was held. Errors: MEMORY. */
bool stop_matcher_flush(struct stop_matcher *m, struct buffer *out, struct error *err);

void stop_matcher_finish(struct stop_matcher *m);
