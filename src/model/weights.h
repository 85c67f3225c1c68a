/* One rank's weights, by name: which tensor of the checkpoint, and which part of it, lands where.
 */
#pragma once

#include "format/safetensors.h"
#include "model/config.h"
#include "model/model.h"
#include "nn/sharded_linear.h"

/* H = hidden, D = head_dim, h and k = this rank's query and KV heads, F = its part of the MLP. */
struct layer_weights {
    float *attention_norm;         /* [H] */
    struct sharded_linear qkv;     /* column: [(h + 2k) D, H]: q heads, k heads, v heads */
    float *q_norm;                 /* [D]; NULL where the model has none */
    float *k_norm;                 /* [D]; NULL where the model has none */
    struct sharded_linear o;       /* row: [H, h D] */
    float *mlp_norm;               /* [H] */
    struct sharded_linear gate_up; /* column: [2 F, H]: gate, then up */
    struct sharded_linear down;    /* row: [H, F] */
};

struct weights {
    int n_layer;
    int hidden;
    int head_dim;
    struct matrix *embedding; /* owns [V, H], V = this rank's part of the vocabulary */
    struct matrix *head;      /* owns [V, H]; the embedding itself when tied */
    float *final_norm;        /* [H] */
    struct layer_weights *layers;
    struct leaf_plan o_plan;
    struct leaf_plan down_plan;
    uint64_t bytes_read;
    uint64_t n_nonfinite;
};

/* Holds the tensors that memory depends on to the configuration: where these fit, the sizes that
 * config.json claims are the file's own, and a footprint computed from them is no fantasy.
 * Errors: ST_TENSOR, UNSUPPORTED. */
bool weights_check(const struct model_config *config, const struct st_set *set, struct error *err);

/* Allocates and reads this rank's shard of the checkpoint; its matrices are held as stored or,
 * where `quant` is quantized, in that. Rank-local: no communication.
 * Errors: loader's, MEMORY. */
bool weights_load(struct weights *out, const struct model_config *config,
                  const struct nn_context *nn, const struct st_set *set, enum dtype quant,
                  const struct model_progress *progress, struct error *err);

void weights_finish(struct weights *w, struct device *device);
