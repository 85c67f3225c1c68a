/* Reads what trace.h writes, frame by frame. The file is not trusted: what it says of sizes is held
 * to what this program could have written, and to the bytes that are there. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "rpc/messages.h"
#include "rpc/trace.h"

enum { TRACE_WORLD_MAX = 4096 };

struct trace_reader; /* opaque */

struct trace_entry {
    uint64_t when_ns; /* since the trace's start */
    enum trace_direction direction;
    int peer; /* below the trace's world */
    enum message_side side;
    const void *frame; /* borrowed from the reader, until it reads again */
    size_t size;
};

/* Errors (they name the file): IO (not a regular file, ...), INPUT (not a trace), MEMORY. */
bool trace_reader_open(struct trace_reader **out, const char *path, struct error *err);
void trace_reader_close(struct trace_reader *r);

int trace_reader_world(const struct trace_reader *r);
const char *trace_reader_build(const struct trace_reader *r);

/* The next frame; *got is false at the end. Errors (they name the file and the byte): IO, INPUT,
 * MEMORY. */
bool trace_reader_next(struct trace_reader *r, struct trace_entry *out, bool *got,
                       struct error *err);

/* After the end: true where the last entry is not whole, as of a run that was killed. */
bool trace_reader_is_cut(const struct trace_reader *r);

/* How much of the file has been read, 0 to 1. */
double trace_reader_share(const struct trace_reader *r);

/* An error of the frame that was read last: "FILE: byte 123: ..."; returns false. */
bool trace_reader_blame(const struct trace_reader *r, struct error *err);
