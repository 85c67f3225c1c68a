/* The forward pass of the Qwen3 family: Qwen3, Qwen2 and Llama are one pre-norm transformer with
 * grouped-query attention, rotary positions and SwiGLU; they differ in which biases and norms
 * exist.
 *
 *   x = embedding[ids]
 *   for each layer:
 *     x += o(attention(rope(norm_q(q)), rope(norm_k(k)), v)),  q, k, v = qkv(norm(x))
 *     x += down(silu(g) * u),                                  g, u = gate_up(norm(x))
 *
 * Qwen3: https://arxiv.org/abs/2505.09388; Llama 3: https://arxiv.org/abs/2407.21783. */
#include <math.h>

#include "base/flight.h"
#include "model/model_impl.h"

static bool embed(struct model *m, struct error *err) {
    const struct nn_context *nn = &m->nn;
    struct device *d = nn->device;
    struct comm *c = nn->comm;
    size_t n = (size_t)m->batch.size.n_tok * (size_t)m->config.hidden;
    /* Every row is zero on all ranks but one, so the order of the sum does not matter. */
    return d->ops->embed(d, m->act.x, m->weights.embedding, nn->shard.vocab.first, err) &&
           c->ops->all_reduce_tree(c, m->act.x, m->act.x, n, nn->shard.world, err);
}

struct attention_shape model_attention_shape(const struct model *m) {
    const struct shard *s = &m->nn.shard;
    return (struct attention_shape){
        .n_head = s->heads.count,
        .n_kv_head = s->kv_heads.count,
        .head_dim = m->config.head_dim,
        .head_first = s->heads.first,
        .group = m->config.n_head / m->config.n_kv_head,
        .kv_first = s->kv_heads.first,
        .scale = 1.0f / sqrtf((float)m->config.head_dim),
    };
}

/* What the block before left to be added to x; NULL where there is none. Each norm adds it on its
 * way: x += delta; h = norm(x). */
static const float *delta_before(const struct model *m, int layer) {
    return layer == 0 ? NULL : m->act.delta;
}

/* delta = o(attention(norm(x))) */
static bool attention_block(struct model *m, int layer, struct error *err) {
    const struct layer_weights *l = &m->weights.layers[layer];
    const struct nn_context *nn = &m->nn;
    struct activations *a = &m->act;
    struct device *d = nn->device;
    struct attention_shape shape = model_attention_shape(m);
    struct kv_layer kv = m->kv.layers[layer];
    float eps = m->config.rms_eps;
    int n_tok = m->batch.size.n_tok;

    return d->ops->rmsnorm(d, a->h, a->x, delta_before(m, layer), l->attention_norm, n_tok,
                           m->config.hidden, eps, err) &&
           sharded_linear_column(&l->qkv, nn, a->qkv, a->h, n_tok, err) &&
           d->ops->rope_append(d, a->qkv, &shape, l->q_norm, l->k_norm, eps, a->rope, kv, err) &&
           d->ops->attention(d, a->attention, a->qkv, &shape, kv, err) &&
           sharded_linear_row(&l->o, nn, a->delta, a->attention, n_tok, err);
}

/* delta = down(silu(gate(norm(x))) * up(norm(x))) */
static bool mlp_block(struct model *m, int layer, struct error *err) {
    const struct layer_weights *l = &m->weights.layers[layer];
    const struct nn_context *nn = &m->nn;
    struct activations *a = &m->act;
    struct device *d = nn->device;
    int n_tok = m->batch.size.n_tok;

    return d->ops->rmsnorm(d, a->h, a->x, a->delta, l->mlp_norm, n_tok, m->config.hidden,
                           m->config.rms_eps, err) &&
           sharded_linear_column(&l->gate_up, nn, a->gate_up, a->h, n_tok, err) &&
           d->ops->silu_mul(d, a->mlp, a->gate_up, n_tok, nn->shard.mlp.count, err) &&
           sharded_linear_row(&l->down, nn, a->delta, a->mlp, n_tok, err);
}

bool forward(struct model *m, struct error *err) {
    struct device *d = m->nn.device;
    flight_place(-1, FLIGHT_EMBEDDING);
    if (!embed(m, err)) {
        return error_wrap(err, "embedding");
    }
    for (int layer = 0; layer < m->config.n_layer; layer++) {
        flight_place(layer, FLIGHT_ATTENTION);
        if (!attention_block(m, layer, err)) {
            return error_wrap(err, "layer %d attention", layer);
        }
        flight_place(layer, FLIGHT_MLP);
        if (!mlp_block(m, layer, err)) {
            return error_wrap(err, "layer %d mlp", layer);
        }
    }
    flight_place(-1, FLIGHT_HEAD);
    return d->ops->add(d, m->act.x, m->act.delta,
                       (size_t)m->batch.size.n_tok * (size_t)m->config.hidden, err);
}
