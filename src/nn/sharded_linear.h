/* Column- and row-parallel linear layers (Shoeybi et al., "Megatron-LM", 2019, section 3), with the
 * row-parallel sum taken in the fixed order of base/leaf_tree.h. */
#pragma once

#include "nn/context.h"

struct sharded_linear {
    struct matrix *w; /* owns. Column: [out/N, in], row: [out, in/N]; as stored, or quantized */
    float *bias;      /* owns, device f32; NULL: none. Column: [out/N], row: [out], whole */
    int rows;         /* of w */
    int cols;
    const struct leaf_plan
        *plan; /* borrowed. Row-parallel: how cols are cut; NULL: column-parallel */
};

/* Allocates the packed matrix, and the bias where there is one. Errors: MEMORY. */
bool sharded_linear_init(struct sharded_linear *l, const struct nn_context *nn, enum dtype dtype,
                         int rows, int cols, bool bias, const struct leaf_plan *plan,
                         struct error *err);

/* y = x transpose(w_r) + b_r: this rank's outputs from the whole input.
 * x [n_tok, in] act device, y [n_tok, out/N] act device, no alias. No communication. Enqueued. */
bool sharded_linear_column(const struct sharded_linear *l, const struct nn_context *nn, void *y,
                           const void *x, int n_tok, struct error *err);

/* y = sum over ranks of x_r transpose(w_r), + b.
 * x [n_tok, in/N] act device: this rank's columns. y [n_tok, out] f32, a buffer of the
 * communicator: complete on every rank; it must have room for the partial results, [n_piece, n_tok,
 * out] with n_piece = sharded_linear_pieces(). Collective: one all-reduce of n_tok * out floats.
 * Errors: COMM, DEADLINE. */
bool sharded_linear_row(const struct sharded_linear *l, const struct nn_context *nn, float *y,
                        const void *x, int n_tok, struct error *err);

/* Partial results that a row-parallel layer with this plan has on this rank: the plan's pieces
 * where the communicator adds them up exactly, else one. */
int sharded_linear_pieces(const struct leaf_plan *plan, const struct nn_context *nn);

void sharded_linear_finish(struct sharded_linear *l, struct device *device);
