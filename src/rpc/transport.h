/* Frames over MPI point-to-point, with a deadline on every wait and next to no CPU while idle.
 *
 * Never blocks inside MPI: sends are MPI_Isend and MPI_Test, receives are posted into buffers of a
 * fixed size before the frame comes, and tested; a frame that does not fit there is announced
 * first. (Where it does not and was not, as from no leader, Open MPI's receive fails as truncated;
 * with the single copy of its shared memory 4.1 overruns the buffer instead.) One transport per
 * process and communicator, used by the main thread only: rank 0 receives replies and notices, the
 * other ranks requests and notices from rank 0. */
#pragma once

#include <mpi.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "rpc/messages.h"
#include "rpc/trace.h"

struct transport;

enum { TRANSPORT_ANY_RANK = -1, TRANSPORT_ANY_SIDE = -1 };

/* One received frame. */
struct frame {
    int source;
    enum message_side side;
    const void *data; /* borrowed from the transport until it looks for frames again */
    size_t size;
};

/* `comm` is borrowed, errors must return. yield_early: more ranks than cores share this host.
 * Errors: MEMORY. */
bool transport_create(struct transport **out, MPI_Comm comm, bool yield_early, struct error *err);
void transport_destroy(struct transport *t);

/* Room for frames of so many bytes, so that receiving one allocates nothing. Errors: MEMORY. */
bool transport_reserve(struct transport *t, size_t bytes, struct error *err);

int transport_world(const struct transport *t);

/* Records every frame from now on. Borrowed; NULL: none. */
void transport_set_trace(struct transport *t, struct trace *trace);

/* Called now and then while waiting (at most once a millisecond); false ends the wait with its
 * error. */
typedef bool transport_hook(void *user, struct error *err);
void transport_set_hook(struct transport *t, transport_hook *hook, void *user);

/* How long one large frame may take once it has begun: so long, and a minute at the most. */
void transport_set_timeout(struct transport *t, double timeout_s);

/* Starts sending; data must stay as it is until transport_flush returns true. After a failed flush
 * it must never be freed, for MPI may still read it. Errors: COMM, PROTOCOL (too large). */
bool transport_post(struct transport *t, int peer, enum message_side side, const void *data,
                    size_t size, struct error *err);

/* Waits at most timeout_s until everything posted is sent. Errors: DEADLINE (has the rank), COMM.
 */
bool transport_flush(struct transport *t, double timeout_s, struct error *err);

/* True when nothing posted is still on its way; does not wait. */
bool transport_is_flushed(struct transport *t);

/* Receives a frame if one is there: *got says so. source and side may be ANY; of notices to rank 0
 * the source must be.
 * Errors: COMM, MEMORY, PROTOCOL (too large, or not as announced; the frame is gone), DEADLINE (a
 * large frame began but never ended). */
bool transport_poll(struct transport *t, int source, int side, struct frame *out, bool *got,
                    struct error *err);

/* Waits for a frame, at most timeout_s (INFINITY: for ever). A frame that is already there is
 * received even when timeout_s is not above 0. Errors: as transport_poll, DEADLINE, the hook's. */
bool transport_receive(struct transport *t, int source, int side, double timeout_s,
                       struct frame *out, struct error *err);
