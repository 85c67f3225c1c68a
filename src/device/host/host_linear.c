#include "device/host/host.h"

#include <string.h>

static bool check_plan(const struct leaf_plan *plan, const struct matrix *w, struct error *err) {
    bool ok = plan->n_leaf >= 1 && plan->n_leaf <= LEAF_TREE_MAX_LEAVES && plan->n_piece >= 1 &&
              plan->n_piece <= LEAF_TREE_MAX_PIECES && plan->bounds[0] >= 0;
    for (int l = 0; ok && l < plan->n_leaf; l++) {
        ok = plan->bounds[l] <= plan->bounds[l + 1] && plan->bounds[l + 1] <= w->cols &&
             host_matrix_has_bound(w, plan->bounds[l]) &&
             host_matrix_has_bound(w, plan->bounds[l + 1]);
    }
    for (int p = 0; ok && p < plan->n_piece; p++) {
        const struct leaf_run *run = &plan->pieces[p];
        ok = run->first >= 0 && run->count >= 1 && run->count <= plan->n_leaf - run->first;
    }
    return ok || error_set(err, ERROR_SHAPE, "a leaf plan that does not fit %d columns", w->cols);
}

/* Blocks of accumulators that a tree over n leaves keeps at a time. */
static int tree_levels(int n) {
    int levels = 1;
    for (; n > 1; n = leaf_tree_left(n)) {
        levels++;
    }
    return levels;
}

static int plan_levels(const struct leaf_plan *plan) {
    int most = 1;
    for (int p = 0; p < plan->n_piece; p++) {
        most = plan->pieces[p].count > most ? plan->pieces[p].count : most;
    }
    return tree_levels(most);
}

/* One level's accumulators for tiles of so many tokens together. */
static size_t block_bytes(int n_tok) {
    return (size_t)n_tok * LINEAR_MAX_PANELS * VEC_WIDTH * sizeof(float);
}

static const struct linear_tiles *tiles_of(const struct host_device *h, enum dtype dtype) {
    return dtype_is_quantized(dtype) ? h->kernels->quantized : h->kernels->plain;
}

/* Bytes of a unit of one token. */
static size_t token_unit(enum dtype dtype) {
    return dtype_is_quantized(dtype) ? TOKEN_GROUP_BYTES : sizeof(float);
}

/* Tiles are of equal size, so that each may be padded by a token. */
static size_t packed_bytes(const struct host_device *h, enum dtype dtype, int n_tok, int n_unit) {
    size_t tok = (size_t)n_tok + (size_t)(n_tok / tiles_of(h, dtype)->max_tok) + 1;
    return tok * (size_t)n_unit * token_unit(dtype);
}

bool host_linear_reserve(struct host_device *h, const struct batch_limits *l, struct error *err) {
    return host_scratch_reserve(&h->x, packed_bytes(h, DTYPE_F32, l->max_tok, l->max_cols), err) &&
           host_scratch_reserve(&h->x, packed_bytes(h, DTYPE_Q8_0, l->max_tok, l->max_groups),
                                err) &&
           host_team_reserve(h, h->n_thread,
                             block_bytes(LINEAR_CHUNK) * (size_t)tree_levels(l->max_leaves), err);
}

struct linear_call {
    struct host_device *device;
    struct linear_job job;
    const struct matrix *w;
    const float *x;
    size_t x_stride;
    unsigned char *packed;
    int n_tile;
    int n_panel;
    int n_chunk; /* cuts of the tiles, outer */
    int n_group; /* cuts of the panels, inner */
    int chunk_tiles;
    int group_panels;
};

/* Token t of a tile, all of it; from NULL: there is none, and it is zero. */
static void pack_token(const struct linear_call *call, float *to, int t, const float *from) {
    int n = call->job.tile_tok;
    for (int i = 0; i < call->job.n_unit; i++) {
        to[(size_t)i * n + t] = from ? from[i] : 0;
    }
}

static void quantize_token(const struct linear_call *call, unsigned char *tile, int t,
                           const float *from) {
    const struct matrix *w = call->w;
    int leaf = w->leaf_cols ? w->leaf_cols : w->cols;
    for (int c = 0; c < w->cols; c += leaf) {
        int n = w->cols - c < leaf ? w->cols - c : leaf;
        size_t unit = (size_t)dtype_units(w->dtype, c, w->leaf_cols);
        call->device->kernels->quantize_token(tile + unit * call->job.x_unit + 4 * t, from + c, n,
                                              call->job.tile_tok, w->dtype);
    }
}

/* Tokens of a tile side by side, unit by unit. */
static void pack_tile(void *ctx, int tile, void *scratch) {
    (void)scratch;
    const struct linear_call *call = ctx;
    const struct linear_job *job = &call->job;
    size_t bytes = (size_t)job->n_unit * job->x_unit;
    unsigned char *to = call->packed + (size_t)tile * bytes;
    bool quantized = dtype_is_quantized(job->dtype);
    if (quantized && (tile + 1) * job->tile_tok > job->n_tok) {
        memset(to, 0, bytes);
    }
    for (int t = 0; t < job->tile_tok; t++) {
        int m = tile * job->tile_tok + t;
        const float *from = m < job->n_tok ? call->x + m * call->x_stride : NULL;
        if (!quantized) {
            pack_token(call, (float *)(void *)to, t, from);
        } else if (from) {
            quantize_token(call, to, t, from);
        }
    }
}

static bool pack_tokens(struct linear_call *call, struct error *err) {
    struct host_device *h = call->device;
    bool as_it_stands = call->job.tile_tok == 1 && !dtype_is_quantized(call->job.dtype);
    if (as_it_stands || call->job.n_unit == 0) {
        call->job.x = (const unsigned char *)call->x;
        return true;
    }
    size_t bytes = (size_t)call->n_tile * call->job.n_unit * call->job.x_unit;
    if (!host_scratch_reserve(&h->x, bytes, err)) {
        return false;
    }
    call->packed = h->x.data;
    call->job.x = call->packed;
    if (call->n_tile == 1) {
        pack_tile(call, 0, NULL);
        return true;
    }
    return host_team_run(h, call->n_tile, pack_tile, call, 0, err);
}

static void work_linear(void *ctx, int item, void *scratch) {
    const struct linear_call *call = ctx;
    int tile = item / call->n_group * call->chunk_tiles;
    struct range tiles = {tile, tile + call->chunk_tiles};
    tiles.end = tiles.end < call->n_tile ? tiles.end : call->n_tile;
    struct range panels;
    if (call->group_panels) {
        int panel = item % call->n_group * call->group_panels;
        panels = (struct range){panel, panel + call->group_panels};
        panels.end = panels.end < call->n_panel ? panels.end : call->n_panel;
    } else {
        panels = host_team_part(call->n_panel, call->n_group, item % call->n_group);
    }
    call->device->kernels->linear(&call->job, panels, tiles, scratch);
}

/* One tile is bound by memory: every thread streams its own run of panels. Several are bound by
 * arithmetic: chunks of tiles small enough for the cache, by few panels, to whoever is free. */
static void cut_work(struct linear_call *call) {
    const struct host_device *h = call->device;
    if (call->n_tile == 1) {
        call->chunk_tiles = call->n_chunk = 1;
        call->n_group = h->n_thread < call->n_panel ? h->n_thread : call->n_panel;
        return;
    }
    call->group_panels = tiles_of(h, call->w->dtype)->panels[call->job.tile_tok];
    call->n_group = (call->n_panel + call->group_panels - 1) / call->group_panels;
    int most = LINEAR_CHUNK / call->job.tile_tok;
    call->n_chunk = (call->n_tile + most - 1) / most;
    while (call->n_group * call->n_chunk < 4 * h->n_thread && call->n_chunk < call->n_tile) {
        call->n_chunk++;
    }
    call->chunk_tiles = (call->n_tile + call->n_chunk - 1) / call->n_chunk;
    call->n_chunk = (call->n_tile + call->chunk_tiles - 1) / call->chunk_tiles;
}

/* The plan's bounds, as they are or in `units`. */
static const int *bounds_in_units(const struct leaf_plan *plan, const struct matrix *w,
                                  int units[]) {
    if (!dtype_is_quantized(w->dtype)) {
        return plan->bounds;
    }
    for (int l = 0; l <= plan->n_leaf; l++) {
        units[l] = dtype_units(w->dtype, plan->bounds[l], w->leaf_cols);
    }
    return units;
}

bool host_linear(struct device *d, void *y, enum dtype y_dtype, const void *x, size_t x_stride,
                 const struct matrix *w, int n_tok, const struct leaf_plan *plan,
                 struct error *err) {
    (void)y_dtype; /* F32 is all there is */
    struct host_device *h = host_of(d);
    struct leaf_plan whole;
    if (!plan) {
        whole.n_leaf = whole.n_piece = 1;
        whole.bounds[0] = 0;
        whole.bounds[1] = w->cols;
        whole.pieces[0] = (struct leaf_run){0, 1};
        plan = &whole;
    }
    if (n_tok < 0 || (n_tok > 1 && x_stride < (size_t)w->cols)) {
        return error_set(err, ERROR_SHAPE, "%d tokens of %zu values for %d columns", n_tok,
                         x_stride, w->cols);
    }
    if (!check_plan(plan, w, err)) {
        return false;
    }
    if (n_tok == 0 || w->rows == 0) {
        return true;
    }
    struct linear_call call = {.device = h, .w = w, .x = x, .x_stride = x_stride};
    int max_tile = tiles_of(h, w->dtype)->max_tok;
    call.n_tile = (n_tok + max_tile - 1) / max_tile;
    int tile_tok = (n_tok + call.n_tile - 1) / call.n_tile;
    call.n_tile = (n_tok + tile_tok - 1) / tile_tok;
    int units[LEAF_TREE_MAX_LEAVES + 1];
    call.n_panel = (w->rows + VEC_WIDTH - 1) / VEC_WIDTH;
    call.job = (struct linear_job){.y = y,
                                   .w = w->data,
                                   .panel_bytes = w->panel_bytes,
                                   .dtype = w->dtype,
                                   .rows = w->rows,
                                   .n_unit = w->n_unit,
                                   .x_unit = (size_t)tile_tok * token_unit(w->dtype),
                                   .n_tok = n_tok,
                                   .tile_tok = tile_tok,
                                   .plan = plan,
                                   .bounds = bounds_in_units(plan, w, units)};
    cut_work(&call);
    size_t scratch = block_bytes(call.chunk_tiles * tile_tok) * (size_t)plan_levels(plan);
    return pack_tokens(&call, err) &&
           host_team_run(h, call.n_chunk * call.n_group, work_linear, &call, scratch, err);
}
