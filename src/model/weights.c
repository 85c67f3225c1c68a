#include "model/weights.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/flight.h"
#include "model/loader.h"

enum { NAME_SIZE = 96 };

/* All that declaring a layer's tensors needs. */
struct builder {
    const struct model_config *config;
    const struct nn_context *nn;
    struct loader *loader;
    enum dtype quant; /* what matrices are held in, where it is quantized */
    struct weights *w;
    int layer;
};

static enum dtype held_in(const struct builder *b, enum dtype stored) {
    return dtype_is_quantized(b->quant) ? b->quant : stored;
}

static const char *layer_name(char *out, int layer, const char *rest) {
    snprintf(out, NAME_SIZE, "model.layers.%d.%s", layer, rest);
    return out;
}

static bool vector_alloc(const struct builder *b, int n, float **out, struct error *err) {
    void *p = NULL;
    bool ok = b->nn->device->ops->alloc(b->nn->device, (size_t)n * sizeof(float), &p, err);
    *out = p;
    return ok;
}

static bool add_norm(const struct builder *b, const char *name, int size, float **out,
                     struct error *err) {
    return vector_alloc(b, size, out, err) &&
           loader_add_vector(b->loader, name, size, 0, size, *out, err);
}

static bool add_layer_norm(const struct builder *b, const char *rest, int size, float **out,
                           struct error *err) {
    char name[NAME_SIZE];
    return add_norm(b, layer_name(name, b->layer, rest), size, out, err);
}

/* One tensor of a column-parallel layer: `total` outputs, of which this rank takes `run`, placed at
 * row `at` of the fused matrix. */
struct column_part {
    const char *proj; /* "self_attn.q_proj" */
    int total;
    struct leaf_run run;
};

static bool add_column(const struct builder *b, struct sharded_linear *l, int n_part,
                       const struct column_part *parts, bool bias, struct error *err) {
    char names[3][NAME_SIZE], rest[64];
    const char *list[3];
    int rows = 0;
    enum dtype dtype = DTYPE_F32; /* the parts', or F32 where they differ: widening is exact */
    for (int i = 0; i < n_part; i++) {
        enum dtype stored;
        snprintf(rest, sizeof rest, "%s.weight", parts[i].proj);
        list[i] = layer_name(names[i], b->layer, rest);
        rows += parts[i].run.count;
        if (!loader_dtype(b->loader, list[i], parts[i].total, b->config->hidden, &stored, err)) {
            return false;
        }
        dtype = i == 0 || stored == dtype ? stored : DTYPE_F32;
    }
    if (!sharded_linear_init(l, b->nn, held_in(b, dtype), rows, b->config->hidden, bias, NULL,
                             err)) {
        return false;
    }
    int at = 0;
    for (int i = 0; i < n_part; i++) {
        const struct column_part *p = &parts[i];
        struct loader_part part = {p->run.first, p->run.count, 0, b->config->hidden};
        if (!loader_add_matrix(b->loader, list[i], p->total, b->config->hidden, part, l->w, at,
                               err)) {
            return false;
        }
        snprintf(rest, sizeof rest, "%s.bias", p->proj);
        if (bias && !loader_add_vector(b->loader, layer_name(names[i], b->layer, rest), p->total,
                                       p->run.first, p->run.count, l->bias + at, err)) {
            return false;
        }
        at += p->run.count;
    }
    return true;
}

static bool add_row(const struct builder *b, struct sharded_linear *l, const char *proj, int total,
                    struct leaf_run run, const struct leaf_plan *plan, bool bias,
                    struct error *err) {
    char name[NAME_SIZE], rest[64];
    int out = b->config->hidden;
    snprintf(rest, sizeof rest, "%s.weight", proj);
    const char *full = layer_name(name, b->layer, rest);
    enum dtype dtype;
    if (!loader_dtype(b->loader, full, out, total, &dtype, err) ||
        !sharded_linear_init(l, b->nn, held_in(b, dtype), out, run.count, bias, plan, err)) {
        return false;
    }
    struct loader_part part = {0, out, run.first, run.count};
    if (!loader_add_matrix(b->loader, full, out, total, part, l->w, 0, err)) {
        return false;
    }
    snprintf(rest, sizeof rest, "%s.bias", proj);
    return !bias || loader_add_vector(b->loader, layer_name(name, b->layer, rest), out, 0, out,
                                      l->bias, err);
}

static struct leaf_run times(struct leaf_run run, int n) {
    return (struct leaf_run){run.first * n, run.count * n};
}

static bool add_attention(const struct builder *b, struct layer_weights *l, struct error *err) {
    const struct model_config *c = b->config;
    const struct shard *s = &b->nn->shard;
    int d = c->head_dim;
    const struct column_part qkv[] = {
        {"self_attn.q_proj", c->n_head * d, times(s->heads, d)},
        {"self_attn.k_proj", c->n_kv_head * d, times(s->kv_heads, d)},
        {"self_attn.v_proj", c->n_kv_head * d, times(s->kv_heads, d)},
    };
    if (!add_layer_norm(b, "input_layernorm.weight", c->hidden, &l->attention_norm, err) ||
        !add_column(b, &l->qkv, 3, qkv, c->qkv_bias, err)) {
        return false;
    }
    if (c->qk_norm && (!add_layer_norm(b, "self_attn.q_norm.weight", d, &l->q_norm, err) ||
                       !add_layer_norm(b, "self_attn.k_norm.weight", d, &l->k_norm, err))) {
        return false;
    }
    return add_row(b, &l->o, "self_attn.o_proj", c->n_head * d, times(s->heads, d), &b->w->o_plan,
                   c->o_bias, err);
}

static bool add_mlp(const struct builder *b, struct layer_weights *l, struct error *err) {
    const struct model_config *c = b->config;
    const struct column_part gate_up[] = {
        {"mlp.gate_proj", c->intermediate, b->nn->shard.mlp},
        {"mlp.up_proj", c->intermediate, b->nn->shard.mlp},
    };
    return add_layer_norm(b, "post_attention_layernorm.weight", c->hidden, &l->mlp_norm, err) &&
           add_column(b, &l->gate_up, 2, gate_up, c->mlp_bias, err) &&
           add_row(b, &l->down, "mlp.down_proj", c->intermediate, b->nn->shard.mlp,
                   &b->w->down_plan, c->mlp_bias, err);
}

static bool add_vocabulary(const struct builder *b, const char *name, struct matrix **out,
                           struct error *err) {
    const struct model_config *c = b->config;
    struct device *d = b->nn->device;
    struct leaf_run rows = b->nn->shard.vocab;
    struct loader_part part = {rows.first, rows.count, 0, c->hidden};
    enum dtype dtype;
    return loader_dtype(b->loader, name, c->vocab, c->hidden, &dtype, err) &&
           d->ops->matrix_create(d, held_in(b, dtype), rows.count, c->hidden, 0, out, err) &&
           loader_add_matrix(b->loader, name, c->vocab, c->hidden, part, *out, 0, err);
}

static bool declare(struct builder *b, struct error *err) {
    struct weights *w = b->w;
    if (!add_vocabulary(b, "model.embed_tokens.weight", &w->embedding, err)) {
        return false;
    }
    if (b->config->tied) {
        w->head = w->embedding;
    } else if (!add_vocabulary(b, "lm_head.weight", &w->head, err)) {
        return false;
    }
    for (b->layer = 0; b->layer < w->n_layer; b->layer++) {
        struct layer_weights *l = &w->layers[b->layer];
        if (!add_attention(b, l, err) || !add_mlp(b, l, err)) {
            return false;
        }
        flight_pulse(clock_now()); /* memory is given and taken in seconds, where there is much */
    }
    return add_norm(b, "model.norm.weight", b->config->hidden, &w->final_norm, err);
}

static bool check_shape(const struct st_set *set, const char *name, int n_dim, int64_t rows,
                        int64_t cols, struct error *err) {
    const struct st_tensor *t;
    return st_require(set, name, n_dim, (int64_t[]){rows, cols}, &t, err);
}

bool weights_check(const struct model_config *c, const struct st_set *set, struct error *err) {
    char name[NAME_SIZE];
    int64_t d = c->head_dim, hidden = c->hidden;
    return check_shape(set, "model.embed_tokens.weight", 2, c->vocab, hidden, err) &&
           check_shape(set, layer_name(name, 0, "self_attn.q_proj.weight"), 2, c->n_head * d,
                       hidden, err) &&
           check_shape(set, layer_name(name, 0, "self_attn.k_proj.weight"), 2, c->n_kv_head * d,
                       hidden, err) &&
           check_shape(set, layer_name(name, 0, "mlp.gate_proj.weight"), 2, c->intermediate, hidden,
                       err) &&
           check_shape(set, layer_name(name, c->n_layer - 1, "input_layernorm.weight"), 1, hidden,
                       0, err);
}

bool weights_load(struct weights *out, const struct model_config *config,
                  const struct nn_context *nn, const struct st_set *set, enum dtype quant,
                  const struct model_progress *progress, struct error *err) {
    bool ok = false;
    struct loader *loader = NULL;

    /* The plans are pointed to by the layers, so everything is built in place. */
    *out = (struct weights){
        .n_layer = config->n_layer, .hidden = config->hidden, .head_dim = config->head_dim};
    shard_plan_o(&out->o_plan, &nn->dims, &nn->shard);
    shard_plan_down(&out->down_plan, &nn->dims, &nn->shard);
    out->layers = calloc((size_t)config->n_layer, sizeof *out->layers);
    if (!out->layers) {
        error_set(err, ERROR_MEMORY, "cannot allocate the table of %d layers", config->n_layer);
        goto out;
    }
    struct builder b = {.config = config, .nn = nn, .quant = quant, .w = out};
    if (!loader_create(&loader, set, nn->device, err)) {
        goto out;
    }
    b.loader = loader;
    ok = declare(&b, err) && loader_run(loader, progress, &out->bytes_read, &out->n_nonfinite, err);
out:
    loader_destroy(loader);
    if (!ok) {
        weights_finish(out, nn->device);
    }
    return ok;
}

static void vector_free(struct device *d, float *v, int n) {
    d->ops->free(d, v, (size_t)n * sizeof(float));
}

void weights_finish(struct weights *w, struct device *device) {
    for (int i = 0; w->layers && i < w->n_layer; i++) {
        struct layer_weights *l = &w->layers[i];
        vector_free(device, l->attention_norm, w->hidden);
        vector_free(device, l->mlp_norm, w->hidden);
        vector_free(device, l->q_norm, w->head_dim);
        vector_free(device, l->k_norm, w->head_dim);
        sharded_linear_finish(&l->qkv, device);
        sharded_linear_finish(&l->o, device);
        sharded_linear_finish(&l->gate_up, device);
        sharded_linear_finish(&l->down, device);
        flight_pulse(clock_now());
    }
    free(w->layers);
    vector_free(device, w->final_norm, w->hidden);
    if (w->head && w->head != w->embedding) {
        device->ops->matrix_destroy(device, w->head);
    }
    if (w->embedding) {
        device->ops->matrix_destroy(device, w->embedding);
    }
    *w = (struct weights){0};
}
