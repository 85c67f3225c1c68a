/* The MPI communicator from the inside; for mpi.c and mpi_*.c only. */
#pragma once

#include "comm/shm.h"
#include "comm/wire.h"

/* The tree's exchange for one number of leaves, kept. Pieces are numbered over all ranks
 * in leaf order; rank r's are first_piece[r] ... first_piece[r + 1] - 1. */
struct mpi_tree_plan {
    int n_leaf; /* 0: none yet */
    bool balanced;
    int *first_piece;           /* owns [world + 1] */
    int most_pieces;            /* that a rank has */
    struct leaf_tree_add *adds; /* owns [n_add] */
    int n_add;
    const float **piece; /* owns [n_add + 1]: where each piece lies during one collective */
};

/* A step's sums are over the ranks (the embedding) and over the model's leaves. */
enum {
    MPI_TREE_PLANS = 2,
    MPI_TREE_LINE = 16 /* floats: slices and pieces begin on cache lines */
};

struct comm_mpi {
    struct comm base;
    struct wire wire;
    struct shm shm;                             /* where all ranks are on one host, and have it */
    struct mpi_tree_plan plans[MPI_TREE_PLANS]; /* those used last */
    struct mpi_tree_plan *plan;                 /* of the sum under way */
    void *scratch;                              /* owns; for what is received from other ranks */
    size_t scratch_bytes;
};

/* At least `bytes` of scratch, its content undefined. Errors: MEMORY. */
bool mpi_comm_scratch(struct comm_mpi *c, size_t bytes, void **out, struct error *err);

/* Everybody to everybody: one message each way. dst [world][bytes], this rank's part in place. */
bool mpi_gather_direct(struct comm_mpi *c, char *dst, size_t bytes, struct error *err);

/* See comm_ops.reserve; *n_message: that one sum posts at a time. */
bool mpi_tree_reserve(struct comm_mpi *c, size_t n, int n_leaf, size_t *n_message,
                      struct error *err);
bool mpi_tree_all_reduce(struct comm *base, float *out, float *pieces, size_t n, int n_leaf,
                         struct error *err);

static inline int mpi_tree_pieces_of(const struct mpi_tree_plan *plan, int rank) {
    return plan->first_piece[rank + 1] - plan->first_piece[rank];
}

/* Where rank r's slice of n floats begins, on a cache line; r = world gives n. */
size_t mpi_tree_slice_start(size_t n, int world, int r);

void mpi_tree_plan_finish(struct mpi_tree_plan *plan);

/* Sets up shared memory between the ranks, which all run on this host, or tells why not in
 * base.why_not_shared, alike on all. Within a collective. Errors: those of wire_wait; MEMORY. */
bool mpi_shm_set_up(struct comm_mpi *c, uint64_t token, bool crowded, struct error *err);

/* As all_reduce_tree, by c->plan; within a collective. */
bool mpi_shm_reduce(struct comm_mpi *c, float *out, const float *pieces, size_t n,
                    struct error *err);
