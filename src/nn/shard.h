/* Shard arithmetic: what one rank holds of a model. Plain numbers from plain numbers; depends on no
 * device and no communicator, so `plan` can use it for worlds that do not exist. */
#pragma once

#include <stdbool.h>

#include "base/error.h"
#include "base/leaf_tree.h"
#include "device/device.h"

enum { SHARD_UNIT = 32 }; /* columns of `down` are dealt out in units of this many */

/* The model's sizes that sharding depends on. */
struct shard_dims {
    int n_head;
    int n_kv_head;
    int head_dim;
    int intermediate;
    int vocab;
};

/* One rank's part. Leaves = query heads. */
struct shard {
    int world;
    int rank;
    struct leaf_run heads;    /* query heads, which are also this rank's leaves */
    struct leaf_run kv_heads; /* KV heads its query heads need; may overlap with other ranks' */
    struct leaf_run mlp;      /* rows of gate and up, columns of down; may be empty */
    struct leaf_run vocab;    /* rows of the embedding and the head */
};

/* Errors: UNSUPPORTED, when world is larger than the number of query heads; says the largest. */
bool shard_compute(struct shard *out, const struct shard_dims *dims, int world, int rank,
                   struct error *err);

/* First column of leaf l of `down` over all leaves, l = 0 .. n_leaf (n_leaf: intermediate). */
int shard_mlp_bound(const struct shard_dims *dims, int leaf);

/* How this rank's columns of o (one head a leaf) and of down are cut; bounds are relative to the
 * rank's first column. */
void shard_plan_o(struct leaf_plan *out, const struct shard_dims *dims, const struct shard *s);
void shard_plan_down(struct leaf_plan *out, const struct shard_dims *dims, const struct shard *s);
