/* Non-blocking messages of one collective at a time, and their wait with a deadline (shm.h has the
 * other).
 *
 * A collective is wire_begin, any number of (posts, wire_wait), wire_end.
 *
 * Why an early peer's message for the next collective is never taken for this one: every rank calls
 * the same collectives in the same order with the same sizes, so the messages rank A sends to rank
 * B and the receives B posts from A form the same sequence, and MPI matches messages between two
 * ranks in the order they were sent. The tag, which changes from one collective to the next, adds
 * nothing to that; it turns a broken rule (ranks that differ in the order or number of collectives)
 * into a deadline instead of wrong numbers.
 *
 * After a failure the communicator is broken (comm.h), because MPI may still hold messages of the
 * failed collective. Receives that had not met their message are cancelled, so that a late one
 * cannot write into freed memory; of messages that were half way MPI may go on using the buffers.
 */
#pragma once

#include <mpi.h>

#include "base/flight.h"
#include "comm/comm.h"

enum { WIRE_NAMES = 16 }; /* ranks that an error names */

struct wire_peer {
    int rank;
    bool receiving;
    bool first; /* of a message's chunks */
};

struct wire {
    MPI_Comm mpi;      /* borrows */
    struct comm *comm; /* borrows: rank, timeout, poll, stats */
    const char *name;  /* of the collective under way, for errors */
    uint64_t sequence; /* of the collective under way, in this communicator */
    uint64_t entry;    /* its own in the flight record */
    double start, deadline;
    double waited; /* of the time since start: see wire_wait */
    int n;         /* requests under way */
    int capacity;
    MPI_Request *request;     /* owns [capacity] */
    struct wire_peer *peer;   /* owns [capacity] */
    unsigned spins_per_yield; /* calls of MPI_Testall between two sched_yield */
};

void wire_init(struct wire *w, MPI_Comm mpi, struct comm *comm);

/* False where MPI still uses buffers: then the caller must leak those of its own that it posted. */
bool wire_finish(struct wire *w);

/* Room for n messages of up to `bytes` each. Errors: MEMORY. */
bool wire_reserve(struct wire *w, size_t n, size_t bytes, struct error *err);

/* Errors: COMM, where an earlier collective failed; what comm->check says. */
bool wire_begin(struct wire *w, const struct flight_call *call, struct error *err);

/* Posts. Zero bytes post nothing, on either side. Errors: COMM, MEMORY. */
bool wire_receive(struct wire *w, void *to, size_t bytes, int rank, struct error *err);
bool wire_send(struct wire *w, const void *from, size_t bytes, int rank, struct error *err);

/* Waits for everything posted. Until the first chunk of each message, in and out, has arrived, that
 * is waiting for the other ranks (comm_stats.wait_s), which may have yet to come to this
 * collective; what follows is transfer. Errors: DEADLINE, naming the ranks; COMM; what comm->poll
 * says. */
bool wire_wait(struct wire *w, struct error *err);

/* What a wait of another kind within a collective does some hundred times a millisecond: this
 * thread is seen to be alive, the control plane is heard, and MPI gets on with what is under way.
 * Errors: COMM; what comm->poll says. */
bool wire_attend(struct wire *w, double now, struct error *err);

/* DEADLINE, naming the ranks [n] that were awaited in vain, the first of many. Returns false. */
bool wire_late(struct wire *w, const int *rank, int n, struct error *err);

/* Ends the collective: counts it if ok, else marks the communicator as broken. Returns ok. */
bool wire_end(struct wire *w, bool ok);
