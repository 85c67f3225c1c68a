/* A record of every frame that rank 0 sent or received. A stream of msgpack arrays, described in
 * docs/protocol.md. A trace that cannot be written any more is given up with one warning. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "rpc/messages.h"

#define TRACE_MAGIC "lockstep-trace"
enum { TRACE_VERSION = 1 };

struct trace;

enum trace_direction { TRACE_SENT, TRACE_RECEIVED };

/* Errors: IO. */
bool trace_open(struct trace **out, const char *path, int world, struct error *err);

/* t may be NULL: no trace. peer 0 is rank 0 itself, doing its own share. */
void trace_frame(struct trace *t, enum trace_direction direction, int peer, enum message_side side,
                 const void *frame, size_t n);

void trace_close(struct trace *t);
