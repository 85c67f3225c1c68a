/* Collectives of tensors between ranks, as one table: self (one rank), mpi (host memory), nccl
 * (device memory).
 *
 * All are collective over the world and must be called by every rank in the same order. Buffers are
 * memory of the communicator's device. On a GPU the tensor collectives are enqueued on the device's
 * stream and the device's next wait sees them through; on the host they are done when they return.
 * Whoever waits does so for at most the communicator's timeout, then fails with DEADLINE. Only the
 * main thread calls.
 *
 * A collective that failed on the way (anything but SHAPE) leaves the communicator broken: every
 * later one fails at once with COMM, and the buffers of the failed one must not be freed or
 * changed before the process has stopped calling MPI, which may still read or write there. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/flight.h"
#include "base/leaf_tree.h"

enum { COMM_ID_BYTES = 128 };

struct comm;

/* Counts since the caller last zeroed them. Both times are 0 on a GPU, where collectives are only
 * enqueued, and in a world of one. */
struct comm_stats {
    uint64_t n_collective;
    uint64_t bytes;    /* sent by this rank; in shared memory: shown to all others, counted once */
    double wait_s;     /* in collectives, until every rank awaited is there; see wire.h */
    double transfer_s; /* the rest of the time in them: data is moved and added up */
};

struct comm_ops {
    const char *name;
    /* True where partial results are exchanged as leaf_tree pieces (the same bits for every world
     * size); false where all_reduce_tree takes one piece per rank and promises a tolerance. */
    bool exact;
    /* True where tensor collectives are only enqueued on the device's stream. */
    bool enqueues;
    void (*destroy)(struct comm *);
    /* Memory for buffers that a collective sends or receives in every step: of the device, and of a
     * kind that the transport likes best. Zeroed, 64-byte aligned. Errors: MEMORY. */
    bool (*alloc)(struct comm *, size_t bytes, void **out, struct error *err);
    void (*free)(struct comm *, void *p, size_t bytes);
    /* Room for tree sums of up to n floats over n_leaf leaves, and for gathers of up to `bytes`
     * from a rank, so that these allocate nothing. NULL: they never do. Errors: MEMORY. */
    bool (*reserve)(struct comm *, size_t n, int n_leaf, size_t bytes, struct error *err);
    /* Gives that back. NULL with reserve. */
    void (*release)(struct comm *);
    /* The tree sum of all ranks' pieces. pieces [n_piece][n] f32: this rank's maximal subtrees of
     * the tree over n_leaf leaves (as leaf_tree_pieces gives them for leaf_run_of_rank), clobbered;
     * where not exact, this rank's whole partial sum (n_piece = 1).
     * out [n] f32: complete on every rank, may be pieces itself. */
    bool (*all_reduce_tree)(struct comm *, float *out, float *pieces, size_t n, int n_leaf,
                            struct error *);
    /* x[i] = sum over ranks, uint32, wrapping. In place; x is host memory everywhere, and the
     * result is there on return. */
    bool (*all_reduce_u32)(struct comm *, uint32_t *x, size_t n, struct error *);
    /* x[i] = max over ranks. Otherwise as all_reduce_u32. */
    bool (*all_reduce_max_u32)(struct comm *, uint32_t *x, size_t n, struct error *);
    /* dst [world][bytes] = every rank's src [bytes], which may lie in its place in dst. */
    bool (*all_gather)(struct comm *, void *dst, const void *src, size_t bytes, struct error *);
    bool (*broadcast)(struct comm *, void *buf, size_t bytes, int root, struct error *);
    /* Rank 0: dst receives rank r's bytes[r] bytes at offset sum of bytes[0..r). Other ranks: dst
     * is unused. bytes [world] is the same on every rank. */
    bool (*gather)(struct comm *, void *dst, const void *src, const size_t *bytes, struct error *);
};

struct comm {
    const struct comm_ops *ops; /* first member of every communicator */
    int rank;
    int world;
    double timeout_s;
    struct comm_stats stats;
    bool broken; /* a collective failed: see above */
    /* Called while waiting, often; a false return ends the wait with its error. It lets the control
     * plane report another rank's failure while this one is inside a collective. May be NULL. */
    bool (*poll)(void *user, struct error *err);
    void *poll_user;
    /* Called before every collective, after it is in the flight record; false: the ranks do not
     * call the same. May be NULL. See check.h. */
    bool (*check)(void *user, const struct flight_call *call, struct error *err);
    void *check_user;
    bool unrecorded; /* its collectives do not go into the flight record */
    /* All ranks run on one host, and tree sums go through memory that they share. The same on all
     * ranks, as is the reason where they could but do not; "": there is none. */
    bool shares_memory;
    char why_not_shared[128];
};

/* Host memory only. */
bool comm_self_create(struct comm **out, struct error *err);

/* alloc and free of the communicators of host memory. */
bool comm_host_alloc(struct comm *c, size_t bytes, void **out, struct error *err);
void comm_host_free(struct comm *c, void *p, size_t bytes);

/* All ranks must agree whether rank-local work succeeded: if any rank's ok is false, every rank
 * returns false. A rank that failed keeps its own error; the others get COMM naming the lowest rank
 * that failed. */
bool comm_agree(struct comm *c, bool ok, struct error *err);

/* What a gather moves, all ranks together. */
static inline uint64_t comm_gather_bytes(const struct comm *c, const size_t *bytes) {
    uint64_t sum = 0;
    for (int r = 0; r < c->world; r++) {
        sum += bytes[r];
    }
    return sum;
}

void comm_destroy(struct comm *c);
