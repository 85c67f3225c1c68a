#include "device/host/host.h"

#include <string.h>

static bool check_plan(const struct leaf_plan *plan, int cols, struct error *err) {
    bool ok = plan->n_leaf >= 1 && plan->n_leaf <= LEAF_TREE_MAX_LEAVES && plan->n_piece >= 1 &&
              plan->n_piece <= LEAF_TREE_MAX_PIECES && plan->bounds[0] >= 0;
    for (int l = 0; ok && l < plan->n_leaf; l++) {
        ok = plan->bounds[l] <= plan->bounds[l + 1] && plan->bounds[l + 1] <= cols;
    }
    for (int p = 0; ok && p < plan->n_piece; p++) {
        const struct leaf_run *run = &plan->pieces[p];
        ok = run->first >= 0 && run->count >= 1 && run->count <= plan->n_leaf - run->first;
    }
    return ok || error_set(err, ERROR_SHAPE, "a leaf plan that does not fit %d columns", cols);
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

bool host_linear_reserve(struct host_device *h, const struct batch_limits *l, struct error *err) {
    int max_tile = h->kernels->linear_max_tile;
    /* Tiles are of equal size, so that each may be padded by a token. */
    size_t tok = (size_t)l->max_tok + (size_t)(l->max_tok / max_tile) + 1;
    return host_scratch_reserve(&h->x, tok * (size_t)l->max_cols * sizeof(float), err) &&
           host_team_reserve(h, h->n_thread,
                             block_bytes(LINEAR_CHUNK) * (size_t)tree_levels(l->max_leaves), err);
}

struct linear_call {
    struct host_device *device;
    struct linear_job job;
    const float *x;
    size_t x_stride;
    float *packed;
    int n_tile;
    int n_panel;
    int n_chunk; /* cuts of the tiles, outer */
    int n_group; /* cuts of the panels, inner */
    int chunk_tiles;
    int group_panels;
};

/* Tokens of a tile side by side, column by column; missing ones are zero. */
static void pack_tile(void *ctx, int tile, void *scratch) {
    (void)scratch;
    const struct linear_call *call = ctx;
    int n = call->job.tile_tok;
    int cols = call->job.cols;
    float *to = call->packed + (size_t)tile * cols * n;
    for (int t = 0; t < n; t++) {
        int m = tile * n + t;
        bool missing = m >= call->job.n_tok;
        const float *from = call->x + (missing ? 0 : m * call->x_stride);
        for (int i = 0; i < cols; i++) {
            to[(size_t)i * n + t] = missing ? 0 : from[i];
        }
    }
}

static bool pack_tokens(struct linear_call *call, struct error *err) {
    struct host_device *h = call->device;
    if (call->job.tile_tok == 1 || call->job.cols == 0) { /* packed as it stands */
        call->job.x = call->x;
        return true;
    }
    size_t floats = (size_t)call->n_tile * call->job.cols * call->job.tile_tok;
    if (!host_scratch_reserve(&h->x, floats * sizeof(float), err)) {
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
    call->group_panels = h->kernels->linear_panels[call->job.tile_tok];
    call->n_group = (call->n_panel + call->group_panels - 1) / call->group_panels;
    int most = LINEAR_CHUNK / call->job.tile_tok;
    call->n_chunk = (call->n_tile + most - 1) / most;
    while (call->n_group * call->n_chunk < 4 * h->n_thread && call->n_chunk < call->n_tile) {
        call->n_chunk++;
    }
    call->chunk_tiles = (call->n_tile + call->n_chunk - 1) / call->n_chunk;
    call->n_chunk = (call->n_tile + call->chunk_tiles - 1) / call->chunk_tiles;
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
    if (!check_plan(plan, w->cols, err)) {
        return false;
    }
    if (n_tok == 0 || w->rows == 0) {
        return true;
    }
    struct linear_call call = {.device = h, .x = x, .x_stride = x_stride};
    int max_tile = h->kernels->linear_max_tile;
    call.n_tile = (n_tok + max_tile - 1) / max_tile;
    int tile_tok = (n_tok + call.n_tile - 1) / call.n_tile;
    call.n_tile = (n_tok + tile_tok - 1) / tile_tok;
    call.n_panel = (w->rows + VEC_WIDTH - 1) / VEC_WIDTH;
    call.job = (struct linear_job){.y = y,
                                   .w = w->data,
                                   .panel_bytes = w->panel_bytes,
                                   .dtype = w->dtype,
                                   .rows = w->rows,
                                   .cols = w->cols,
                                   .n_tok = n_tok,
                                   .tile_tok = tile_tok,
                                   .plan = plan};
    cut_work(&call);
    size_t scratch = block_bytes(call.chunk_tiles * tile_tok) * (size_t)plan_levels(plan);
    return pack_tokens(&call, err) &&
           host_team_run(h, call.n_chunk * call.n_group, work_linear, &call, scratch, err);
}
