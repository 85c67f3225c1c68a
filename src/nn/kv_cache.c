#include "nn/kv_cache.h"

#include <stdlib.h>

bool kv_cache_init(struct kv_cache *kv, const struct nn_context *nn, enum dtype dtype, int n_layer,
                   int n_block, struct error *err) {
    struct device *d = nn->device;
    struct kv_cache made = {.n_layer = n_layer, .n_block = n_block};
    made.layer_bytes = (size_t)n_block * d->ops->kv_block_bytes(d, dtype, nn->shard.kv_heads.count,
                                                                nn->dims.head_dim);
    made.layers = calloc((size_t)n_layer, sizeof *made.layers);
    if (!made.layers) {
        return error_set(err, ERROR_MEMORY, "cannot allocate the table of %d KV layers", n_layer);
    }
    for (int i = 0; i < n_layer; i++) {
        made.layers[i].dtype = dtype;
        if (!d->ops->alloc(d, made.layer_bytes, &made.layers[i].k, err) ||
            !d->ops->alloc(d, made.layer_bytes, &made.layers[i].v, err)) {
            kv_cache_finish(&made, d);
            return error_wrap(err, "KV cache");
        }
    }
    *kv = made;
    return true;
}

void kv_cache_finish(struct kv_cache *kv, struct device *device) {
    for (int i = 0; kv->layers && i < kv->n_layer; i++) {
        device->ops->free(device, kv->layers[i].k, kv->layer_bytes);
        device->ops->free(device, kv->layers[i].v, kv->layer_bytes);
    }
    free(kv->layers);
    *kv = (struct kv_cache){0};
}
