/* Packed matrix times tokens. A block is a few panels by a few tiles of tokens; its accumulators,
 * [tile][token][panel][16], lie in scratch, one block per level of the leaf tree. */
#pragma once

enum {
    LINEAR_DEPTH = 256,   /* columns of one pass when several tiles share the weights */
    LINEAR_GROUPS = 16,   /* the same of groups */
    LINEAR_AHEAD = 16384, /* bytes that are on their way from memory, all panels together */
};

static chain_fn *const linear_chains[DTYPE_COUNT][LINEAR_MAX_TILE + 1] = {
#define ENTRY(T, P) [T] = linear_chain_DTYPE_F32_##T,
    [DTYPE_F32] = {LINEAR_TILES(ENTRY)},
#undef ENTRY
#define ENTRY(T, P) [T] = linear_chain_DTYPE_BF16_##T,
    [DTYPE_BF16] = {LINEAR_TILES(ENTRY)},
#undef ENTRY
#define ENTRY(T, P) [T] = linear_chain_DTYPE_F16_##T,
    [DTYPE_F16] = {LINEAR_TILES(ENTRY)},
#undef ENTRY
#define ENTRY(T, P, I) [T] = group_chain_DTYPE_Q8_0_##T,
    [DTYPE_Q8_0] = {GROUP_TILES(ENTRY)},
#undef ENTRY
#define ENTRY(T, P, I) [T] = group_chain_DTYPE_Q4_0_##T,
    [DTYPE_Q4_0] = {GROUP_TILES(ENTRY)},
#undef ENTRY
};

struct block {
    const struct linear_job *job;
    chain_fn *chain;
    int width; /* panels of the tile */
    int panel; /* the first */
    int n_panel;
    struct range tiles;
    size_t size; /* floats */
};

/* Bytes of a unit of a panel. */
static int unit_bytes(const struct block *b) {
    return VEC_WIDTH * (int)dtype_size(b->job->dtype);
}

/* The first unit whose prefetch leaves the panel. From there on it goes where the next block's
 * panels begin. */
static int last_stretch(const struct block *b) {
    return b->job->n_unit - LINEAR_AHEAD / b->width / unit_bytes(b);
}

static size_t prefetch_ahead(const struct block *b, int unit) {
    size_t skip = unit < last_stretch(b) ? 0 : (size_t)(b->width - 1) * b->job->panel_bytes;
    return LINEAR_AHEAD / b->width + skip;
}

/* acc (+)= chain over units [i, i + n) for every tile. Panels that the matrix does not have
 * repeat its last one, into lanes that nobody reads. */
static void block_pass(const struct block *b, float *acc, int i, int n, bool resume) {
    const struct linear_job *job = b->job;
    const void *w[LINEAR_MAX_PANELS];
    size_t at = (size_t)i * unit_bytes(b);
    for (int p = 0; p < b->width; p++) {
        int panel = b->panel + (p < b->n_panel ? p : b->n_panel - 1);
        w[p] = job->w + (size_t)panel * job->panel_bytes + at;
    }
    struct chain_args c = {.acc = acc,
                           .acc_step = (size_t)b->width * VEC_WIDTH,
                           .w = w,
                           .ahead = prefetch_ahead(b, i),
                           .n = n,
                           .resume = resume};
    for (int tile = b->tiles.first; tile < b->tiles.end; tile++) {
        const unsigned char *x = job->x + ((size_t)tile * job->n_unit + i) * job->x_unit;
        c.x = (const float *)(const void *)x;
        b->chain(&c);
        c.acc += (size_t)job->tile_tok * c.acc_step;
    }
}

/* acc = chain over units [first, end), +0 where there are none. */
static void block_leaf(const struct block *b, float *acc, int first, int end) {
    if (first == end) {
        memset(acc, 0, b->size * sizeof *acc);
    }
    bool one_tile = b->tiles.end - b->tiles.first == 1;
    int depth = dtype_is_quantized(b->job->dtype) ? LINEAR_GROUPS : LINEAR_DEPTH;
    int stretch = last_stretch(b);
    for (int i = first, n; i < end; i += n) {
        n = one_tile || end - i < depth ? end - i : depth;
        if (i < stretch && i + n > stretch) {
            n = stretch - i;
        }
        block_pass(b, acc, i, n, i > first);
    }
}

/* acc = the tree's sum over a run of leaves; uses the blocks after acc. */
static void block_tree(const struct block *b, float *acc, struct leaf_run run) {
    const int *bounds = b->job->bounds;
    if (run.count == 1) {
        block_leaf(b, acc, bounds[run.first], bounds[run.first + 1]);
        return;
    }
    int left = leaf_tree_left(run.count);
    float *right = acc + b->size;
    block_tree(b, acc, (struct leaf_run){run.first, left});
    block_tree(b, right, (struct leaf_run){run.first + left, run.count - left});
    kernel_add(acc, right, b->size);
}

static void block_store(const struct block *b, const float *acc, float *y) {
    const struct linear_job *job = b->job;
    int row = b->panel * VEC_WIDTH;
    int n_row = b->n_panel * VEC_WIDTH < job->rows - row ? b->n_panel * VEC_WIDTH : job->rows - row;
    int first = b->tiles.first * job->tile_tok;
    int end = b->tiles.end * job->tile_tok;
    end = end < job->n_tok ? end : job->n_tok;
    for (int m = first; m < end; m++) {
        memcpy(y + (size_t)m * job->rows + row, acc, (size_t)n_row * sizeof *y);
        acc += (size_t)b->width * VEC_WIDTH;
    }
}

static void kernel_linear(const struct linear_job *job, struct range panels, struct range tiles,
                          float *scratch) {
    struct block b = {.job = job,
                      .chain = linear_chains[job->dtype][job->tile_tok],
                      .width = linear_tiles_of(job->dtype)->panels[job->tile_tok],
                      .tiles = tiles};
    b.size = (size_t)(tiles.end - tiles.first) * job->tile_tok * b.width * VEC_WIDTH;
    for (b.panel = panels.first; b.panel < panels.end; b.panel += b.width) {
        int rest = panels.end - b.panel;
        b.n_panel = rest < b.width ? rest : b.width;
        for (int p = 0; p < job->plan->n_piece; p++) {
            block_tree(&b, scratch, job->plan->pieces[p]);
            block_store(&b, scratch, job->y + (size_t)p * job->n_tok * job->rows);
        }
    }
}
