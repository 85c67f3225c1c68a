/* The requests of a trace, one after the other, each with the replies to it. */
#pragma once

#include "rpc/trace_read.h"

struct exchange {
    uint64_t number;        /* of the request in the trace, counted from 1 */
    struct message request; /* a step is borrowed from the reader */
    int rank;               /* the one that was asked; -1: all */
    double seconds;         /* from the request to the last of its frames */
    const bool *has_reply;  /* borrowed [world] */
    const struct message
        *replies; /* borrowed [world]; its own notice of trouble is a step's reply */
};

struct exchange_reader; /* opaque */

/* Errors: trace_reader_open's. */
bool exchange_reader_open(struct exchange_reader **out, const char *path, struct error *err);
void exchange_reader_close(struct exchange_reader *r);

/* The file, for its world, its end, and how far it is read. Borrowed. */
const struct trace_reader *exchange_reader_trace(const struct exchange_reader *r);

/* The next request, until *got is false; valid until the next call. Errors: trace_reader_next's;
 * INPUT (a frame that cannot be understood, another protocol). */
bool exchange_reader_next(struct exchange_reader *r, struct exchange *out, bool *got,
                          struct error *err);
