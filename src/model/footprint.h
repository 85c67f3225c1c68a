/* What a rank will allocate for a model, worked out from numbers alone: for `plan`, and for the
 * loader, which refuses what will not fit before it allocates any of it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/error.h"
#include "format/safetensors.h"
#include "model/config.h"
#include "nn/shard.h"

struct footprint_params {
    enum dtype dtype; /* of the matrices, as they are held; norms and biases are f32 */
    enum dtype kv;    /* of the KV cache */
    int ctx;          /* positions of one sequence: the table of rotations */
    int64_t n_block;  /* KV blocks of KV_BLOCK positions, all sequences together */
    int max_tok;      /* tokens of one step */
    int max_logits;   /* rows of logits computed at a time */
    /* The communicator takes a rank's partial results as one sum, in place; false: as the fixed
     * tree's pieces, and holds those that it receives, too. */
    bool one_sum;
    /* Borrowed; whose sizes they are. NULL: the host's, which needs no device: matrices in panels
     * of 16 rows, the head dimension of the KV cache padded to 32. */
    const struct device *device;
};

/* Bytes. Sums that overflow stay at UINT64_MAX. */
struct footprint {
    uint64_t weights;
    uint64_t kv;
    uint64_t buffers; /* activations of one step, logits, the table of rotations */
};

/* The dtype to count a checkpoint's matrices in: theirs, or F32, as some are widened to, where they
 * are not all of one (which is then an upper bound); `none` where there are none. */
enum dtype footprint_dtype(const struct st_set *set, enum dtype none);

struct shard_dims footprint_dims(const struct model_config *c);

struct footprint footprint_of_shard(const struct model_config *c, const struct shard *shard,
                                    const struct footprint_params *params);

/* The most columns that a linear of this rank takes. */
int footprint_widest_input(const struct model_config *c, const struct shard *shard);

/* The same in groups, as it is quantized. */
int footprint_widest_groups(const struct model_config *c, const struct shard *shard);

uint64_t footprint_total(const struct footprint *f);
