#include "nn/shard.h"

#include <stdint.h>

int shard_mlp_bound(const struct shard_dims *dims, int leaf) {
    int n_unit = (dims->intermediate + SHARD_UNIT - 1) / SHARD_UNIT;
    int64_t unit = ((int64_t)leaf * n_unit + dims->n_head - 1) / dims->n_head;
    int64_t column = unit * SHARD_UNIT;
    return column < dims->intermediate ? (int)column : dims->intermediate;
}

bool shard_compute(struct shard *out, const struct shard_dims *dims, int world, int rank,
                   struct error *err) {
    if (world > dims->n_head) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "%d ranks are too many for a model of %d query heads; the largest number "
                         "of ranks is %d",
                         world, dims->n_head, dims->n_head);
    }
    struct shard s = {.world = world, .rank = rank};
    int group = dims->n_head / dims->n_kv_head;
    s.heads = leaf_run_of_rank(dims->n_head, world, rank);
    s.kv_heads.first = s.heads.first / group;
    s.kv_heads.count = (s.heads.first + s.heads.count - 1) / group + 1 - s.kv_heads.first;
    s.mlp.first = shard_mlp_bound(dims, s.heads.first);
    s.mlp.count = shard_mlp_bound(dims, s.heads.first + s.heads.count) - s.mlp.first;
    s.vocab = leaf_run_of_rank(dims->vocab, world, rank);
    *out = s;
    return true;
}

/* Fills in the pieces, renumbered to local leaves. */
static void plan_pieces(struct leaf_plan *p, const struct shard_dims *dims, const struct shard *s) {
    p->n_leaf = s->heads.count;
    p->n_piece = leaf_tree_pieces(dims->n_head, s->heads, p->pieces);
    for (int i = 0; i < p->n_piece; i++) {
        p->pieces[i].first -= s->heads.first;
    }
}

void shard_plan_o(struct leaf_plan *out, const struct shard_dims *dims, const struct shard *s) {
    plan_pieces(out, dims, s);
    out->leaf_cols = dims->head_dim;
    for (int l = 0; l <= s->heads.count; l++) {
        out->bounds[l] = l * dims->head_dim;
    }
}

void shard_plan_down(struct leaf_plan *out, const struct shard_dims *dims, const struct shard *s) {
    plan_pieces(out, dims, s);
    out->leaf_cols = SHARD_UNIT;
    for (int l = 0; l <= s->heads.count; l++) {
        out->bounds[l] = shard_mlp_bound(dims, s->heads.first + l) - s->mlp.first;
    }
}
