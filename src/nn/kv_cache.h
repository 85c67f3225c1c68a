/* The paged KV cache of one rank: for every layer a pool of KV_BLOCK-position blocks for K and V,
 * of this rank's KV heads. Which block belongs to which sequence is the leader's business; block
 * numbers are the same on every rank. (Kwon et al., "PagedAttention", 2023.) */
#pragma once

#include "nn/context.h"

struct kv_cache {
    int n_layer;
    int n_block;
    size_t layer_bytes;      /* of K alone; V takes as much */
    struct kv_layer *layers; /* owns [n_layer] */
};

/* dtype: one that the device takes. Errors: MEMORY. */
bool kv_cache_init(struct kv_cache *kv, const struct nn_context *nn, enum dtype dtype, int n_layer,
                   int n_block, struct error *err);
void kv_cache_finish(struct kv_cache *kv, struct device *device);
