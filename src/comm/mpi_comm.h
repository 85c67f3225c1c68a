/* The MPI communicator from the inside; for mpi.c and mpi_tree.c only. */
#pragma once

#include "comm/wire.h"

/* The tree's exchange for one number of leaves, kept. Pieces are numbered over all ranks
 * in leaf order; rank r's are first_piece[r] ... first_piece[r + 1] - 1. */
struct mpi_tree_plan {
    int n_leaf; /* 0: none yet */
    bool balanced;
    int *first_piece;           /* owns [world + 1] */
    struct leaf_tree_add *adds; /* owns [n_add] */
    int n_add;
    const float **piece; /* owns [n_add + 1]: where each piece lies during one collective */
};

/* A step's sums are over the ranks (the embedding) and over the model's leaves. */
enum { MPI_TREE_PLANS = 2 };

struct comm_mpi {
    struct comm base;
    struct wire wire;
    struct mpi_tree_plan plans[MPI_TREE_PLANS]; /* those used last */
    struct mpi_tree_plan *plan;                 /* of the sum under way */
    void *scratch;                              /* owns; for what is received from other ranks */
    size_t scratch_bytes;
};

/* At least `bytes` of scratch, its content undefined. Errors: MEMORY. */
bool mpi_comm_scratch(struct comm_mpi *c, size_t bytes, void **out, struct error *err);

/* See comm_ops.reserve; *n_message: that one sum posts at a time. */
bool mpi_tree_reserve(struct comm_mpi *c, size_t n, int n_leaf, size_t *n_message,
                      struct error *err);
bool mpi_tree_all_reduce(struct comm *base, float *out, float *pieces, size_t n, int n_leaf,
                         struct error *err);

void mpi_tree_plan_finish(struct mpi_tree_plan *plan);
