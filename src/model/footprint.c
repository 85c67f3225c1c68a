#include "model/footprint.h"

enum { PANEL_ROWS = 16, HEAD_DIM_PAD = 32 };

static uint64_t add(uint64_t a, uint64_t b) {
    uint64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

static uint64_t mul(uint64_t a, uint64_t b) {
    uint64_t product;
    return __builtin_mul_overflow(a, b, &product) ? UINT64_MAX : product;
}

static uint64_t padded(int64_t n, int multiple) {
    return (uint64_t)((n + multiple - 1) / multiple * multiple);
}

enum dtype footprint_dtype(const struct st_set *set, enum dtype none) {
    enum dtype found = none;
    bool any = false;
    for (int i = 0; i < st_count(set); i++) {
        const struct st_tensor *t = st_at(set, i);
        if (t->n_dim == 2 && t->supported) {
            found = !any || t->dtype == found ? t->dtype : DTYPE_F32;
            any = true;
        }
    }
    return found;
}

struct shard_dims footprint_dims(const struct model_config *c) {
    return (struct shard_dims){.n_head = c->n_head,
                               .n_kv_head = c->n_kv_head,
                               .head_dim = c->head_dim,
                               .intermediate = c->intermediate,
                               .vocab = c->vocab};
}

/* leaf_cols: see struct leaf_plan. */
static uint64_t matrix(const struct footprint_params *p, int64_t rows, int64_t cols,
                       int leaf_cols) {
    if (p->device) {
        return p->device->ops->matrix_bytes(p->device, p->dtype, (int)rows, (int)cols, leaf_cols);
    }
    uint64_t units = (uint64_t)dtype_units(p->dtype, (int)cols, leaf_cols);
    return mul(mul(padded(rows, PANEL_ROWS), units), dtype_size(p->dtype));
}

static size_t act_bytes(const struct footprint_params *p) {
    return p->device ? dtype_size(p->device->act) : sizeof(float);
}

/* Rows of q, k and v together. */
static int64_t qkv_rows(const struct model_config *c, const struct shard *s) {
    return ((int64_t)s->heads.count + 2 * (int64_t)s->kv_heads.count) * c->head_dim;
}

static uint64_t layer_weights(const struct model_config *c, const struct shard *s,
                              const struct footprint_params *p) {
    int64_t mlp = s->mlp.count;
    int64_t floats = 2 * (int64_t)c->hidden; /* the two norms */
    uint64_t bytes = matrix(p, qkv_rows(c, s), c->hidden, 0);

    bytes = add(bytes, matrix(p, c->hidden, (int64_t)s->heads.count * c->head_dim, c->head_dim));
    bytes = add(bytes, matrix(p, 2 * mlp, c->hidden, 0));
    bytes = add(bytes, matrix(p, c->hidden, mlp, SHARD_UNIT));
    floats += c->qk_norm ? 2 * c->head_dim : 0;
    floats += c->qkv_bias ? qkv_rows(c, s) : 0;
    floats += c->o_bias ? c->hidden : 0;
    floats += c->mlp_bias ? 2 * mlp + c->hidden : 0;
    return add(bytes, mul((uint64_t)floats, sizeof(float)));
}

static uint64_t weights(const struct model_config *c, const struct shard *s,
                        const struct footprint_params *p) {
    uint64_t bytes = mul((uint64_t)c->n_layer, layer_weights(c, s, p));
    uint64_t table = matrix(p, s->vocab.count, c->hidden, 0);
    bytes = add(bytes, mul(c->tied ? 1 : 2, table));
    return add(bytes, (uint64_t)c->hidden * sizeof(float)); /* the final norm */
}

/* One KV block of all layers. */
static uint64_t block_bytes(const struct model_config *c, const struct shard *s,
                            const struct footprint_params *p) {
    uint64_t bytes;
    if (p->device) {
        bytes = p->device->ops->kv_block_bytes(p->device, p->kv, s->kv_heads.count, c->head_dim);
    } else {
        bytes = mul(mul((uint64_t)s->kv_heads.count * KV_BLOCK, padded(c->head_dim, HEAD_DIM_PAD)),
                    dtype_size(p->kv));
    }
    return mul(mul(2, bytes), (uint64_t)c->n_layer);
}

int footprint_widest_input(const struct model_config *c, const struct shard *s) {
    int heads = s->heads.count * c->head_dim, mlp = s->mlp.count;
    int widest = heads > mlp ? heads : mlp;
    return widest > c->hidden ? widest : c->hidden;
}

int footprint_widest_groups(const struct model_config *c, const struct shard *s) {
    int hidden = dtype_units(DTYPE_Q8_0, c->hidden, 0);
    int heads = dtype_units(DTYPE_Q8_0, s->heads.count * c->head_dim, c->head_dim);
    int mlp = dtype_units(DTYPE_Q8_0, s->mlp.count, SHARD_UNIT);
    int widest = heads > mlp ? heads : mlp;
    return widest > hidden ? widest : hidden;
}

/* Per token: the residual, its norm, q k v, attention's output, gate and up, their product, and
 * the partial results of a row-parallel linear: one sum, or the tree's pieces, once as computed and
 * once as received. */
static uint64_t buffers(const struct model_config *c, const struct shard *s,
                        const struct footprint_params *p) {
    struct leaf_run pieces[LEAF_TREE_MAX_PIECES];
    int64_t n_sum = p->one_sum ? 1 : 2 * (int64_t)leaf_tree_pieces(c->n_head, s->heads, pieces);
    int64_t wide = (1 + n_sum) * c->hidden;
    int64_t act = c->hidden + qkv_rows(c, s) + (int64_t)s->heads.count * c->head_dim +
                  3 * (int64_t)s->mlp.count;
    /* Per row of logits: the residual, this rank's logits, and on the leader everybody's. */
    int64_t logits = c->hidden + s->vocab.count + (s->rank == 0 ? c->vocab : 0);
    /* A linear's input as the host packs it. */
    int64_t packed = p->one_sum ? 0 : footprint_widest_input(c, s);
    uint64_t floats = mul((uint64_t)p->max_tok, (uint64_t)(wide + packed));
    floats = add(floats, mul((uint64_t)p->max_logits, (uint64_t)logits));
    floats = add(floats, mul((uint64_t)p->ctx, (uint64_t)c->head_dim));
    uint64_t narrow = add(mul((uint64_t)p->max_tok, (uint64_t)act),
                          mul((uint64_t)p->max_logits, (uint64_t)c->hidden));
    return add(mul(floats, sizeof(float)), mul(narrow, act_bytes(p)));
}

struct footprint footprint_of_shard(const struct model_config *c, const struct shard *shard,
                                    const struct footprint_params *params) {
    return (struct footprint){.weights = weights(c, shard, params),
                              .kv = mul((uint64_t)params->n_block, block_bytes(c, shard, params)),
                              .buffers = buffers(c, shard, params)};
}

uint64_t footprint_total(const struct footprint *f) {
    return add(add(f->weights, f->kv), f->buffers);
}
