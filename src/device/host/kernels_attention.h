/* Attention over paged K and V, one block of positions at a time; the rows of a work item share
 * what is read. While a block's K is read its V is on the way, and then the next block's K: decode
 * waits for memory and for nothing else. */
#pragma once

/* The scratch of an item. A part: see attention_part_floats. */
struct attention_rows {
    const struct attention_job *job;
    const struct attention_item *item;
    int n; /* rows: token-major, then head */
    int dim;
    int pad;          /* kv_dim_pad */
    size_t part_size; /* floats */
    float *q;         /* [n][pad], dim of which are used */
    float *s;         /* [n][KV_BLOCK] scores, then exponentials */
    float *block;     /* [n] parts of a block, where they are merged at once */
    float *merged;    /* [n] parts: all blocks so far */
};

enum { PART_MAX, PART_SUM, PART_OUTPUT = VEC_WIDTH };

static int item_rows(const struct attention_item *item) {
    return item->n_tok * item->n_head;
}

static size_t row_offset(const struct attention_job *job, const struct attention_item *item, int r,
                         size_t stride) {
    size_t row = (size_t)job->seqs[item->seq].row + item->tok + r / item->n_head;
    return row * stride + (size_t)(item->head + r % item->n_head) * job->shape->head_dim;
}

/* Positions of block j that row r sees. */
static int row_count(const struct attention_job *job, const struct attention_item *item, int r,
                     int j) {
    int pos = job->seqs[item->seq].pos + item->tok + r / item->n_head;
    int count = pos + 1 - j * KV_BLOCK;
    return count < 0 ? 0 : count < KV_BLOCK ? count : KV_BLOCK;
}

/* acc[r][..] = chains of x[r] over the panels of w, [n_panel][panel_rows][KV_PANEL] of dtype, for
 * n_row rows. What lies c.ahead bytes beyond w is fetched meanwhile, once. */
static void attention_chain(struct chain_args c, int n_row, enum dtype dtype, const void *w,
                            int n_panel, int panel_rows) {
    const size_t panel_bytes = (size_t)panel_rows * KV_PANEL * dtype_size(dtype);
    const int n_vec = n_panel * KV_PANEL_VECS;
    const void *at[ATTENTION_VECS];
    float *acc = c.acc;
    const float *x = c.x;
    const size_t ahead = c.ahead;
    c.w = at;
    for (int v = 0, wide; v < n_vec; v += wide ? ATTENTION_VECS : KV_PANEL_VECS) {
        wide = n_vec - v >= ATTENTION_VECS;
        for (int p = 0; p < (wide ? ATTENTION_VECS : KV_PANEL_VECS); p++) {
            size_t panel = (size_t)(v + p) / KV_PANEL_VECS, vec = (size_t)p % KV_PANEL_VECS;
            at[p] = (const unsigned char *)w + panel * panel_bytes +
                    (dtype == DTYPE_BF16 ? 0 : vec * VEC_WIDTH * sizeof(float));
        }
        for (int r = 0, t; r < n_row; r += t) {
            t = n_row - r < ATTENTION_TILE ? n_row - r : ATTENTION_TILE;
            c.acc = acc + r * c.acc_step + (size_t)v * VEC_WIDTH;
            c.x = x + r * c.x_step;
            c.ahead = r == 0 ? ahead : 0;
            attention_chains[dtype][wide][t](&c);
        }
    }
}

/* Turns a row's first n scores into exponentials, the rest becomes +0; notes maximum and sum. */
static void exponentials(float *s, int n, float scale, float *part) {
    struct vec v[KV_BLOCK / VEC_WIDTH];
    struct vec top = vec_set1(-INFINITY);
    UNROLL for (int i = 0; i < KV_BLOCK / VEC_WIDTH; i++) {
        int keep = n - i * VEC_WIDTH;
        keep = keep < 0 ? 0 : keep < VEC_WIDTH ? keep : VEC_WIDTH;
        v[i] = vec_mul(vec_load(s + i * VEC_WIDTH), vec_set1(scale));
        v[i] = vec_first(v[i], keep, vec_set1(-INFINITY));
        top = vec_max(v[i], top);
    }
    float max = vec_max_lane(top);
    UNROLL for (int i = 0; i < KV_BLOCK / VEC_WIDTH; i++) {
        v[i] = vec_exp(vec_sub(v[i], vec_set1(max)));
        vec_store(s + i * VEC_WIDTH, v[i]);
    }
    struct vec total = vec_add(v[0], v[1]);
    UNROLL for (int i = 2; i < KV_BLOCK / VEC_WIDTH; i++) {
        total = vec_add(total, v[i]);
    }
    part[PART_MAX] = max;
    part[PART_SUM] = vec_sum(total);
}

/* Outputs of rows [first, n): together up to the count of the first, then each to its own. */
static void weighted_sums(const struct attention_rows *a, int first, int j, float *parts,
                          const void *v, size_t ahead) {
    enum dtype dtype = a->job->kv.dtype;
    int common = row_count(a->job, a->item, first, j);
    int n_panel = a->pad / KV_PANEL;
    size_t position = KV_PANEL * dtype_size(dtype); /* bytes of one, in a panel */
    struct chain_args c = {.acc = parts + (size_t)first * a->part_size + PART_OUTPUT,
                           .acc_step = a->part_size,
                           .x = a->s + (size_t)first * KV_BLOCK,
                           .x_step = KV_BLOCK,
                           .ahead = ahead,
                           .n = common};
    attention_chain(c, a->n - first, dtype, v, n_panel, KV_BLOCK);
    c.resume = true;
    c.ahead = 0;
    for (int r = first + 1; r < a->n; r++) {
        c.n = row_count(a->job, a->item, r, j) - common;
        if (c.n > 0) {
            c.acc = parts + (size_t)r * a->part_size + PART_OUTPUT;
            c.x = a->s + (size_t)r * KV_BLOCK + common;
            attention_chain(c, 1, dtype, (const unsigned char *)v + (size_t)common * position,
                            n_panel, KV_BLOCK);
        }
    }
}

/* to = to, then part. */
static void merge_part(float *to, const float *part, int pad) {
    float max = to[PART_MAX] > part[PART_MAX] ? to[PART_MAX] : part[PART_MAX];
    const struct vec old = vec_set1(vec_exp1(to[PART_MAX] - max));
    const struct vec new = vec_set1(vec_exp1(part[PART_MAX] - max));
    float sum[VEC_WIDTH];
    vec_store(sum, vec_fma(vec_set1(part[PART_SUM]), new, vec_mul(vec_set1(to[PART_SUM]), old)));
    to[PART_MAX] = max;
    to[PART_SUM] = sum[0];
    for (int i = PART_OUTPUT; i < PART_OUTPUT + pad; i += VEC_WIDTH) {
        vec_store(to + i, vec_fma(vec_load(part + i), new, vec_mul(vec_load(to + i), old)));
    }
}

/* Where block j of the item's KV head begins in K, and so in V: bytes. */
static size_t block_offset(const struct attention_rows *a, int j) {
    size_t block = (size_t)a->job->seqs[a->item->seq].blocks[j];
    size_t head = block * a->job->shape->n_kv_head + a->item->kv;
    return head * a->pad * KV_BLOCK * dtype_size(a->job->kv.dtype);
}

/* parts [n] of block j: of the rows from the first that sees it, which is returned. */
static int attend_block(const struct attention_rows *a, int j, float *parts) {
    const struct attention_job *job = a->job;
    const enum dtype dtype = job->kv.dtype;
    const unsigned char *k = (const unsigned char *)job->kv.k + block_offset(a, j);
    const unsigned char *v = (const unsigned char *)job->kv.v + block_offset(a, j);
    const unsigned char *next = v;
    if (j + 1 < a->item->blocks.end) {
        next = (const unsigned char *)job->kv.k + block_offset(a, j + 1);
    }
    int first = 0;
    while (row_count(job, a->item, first, j) == 0) {
        first++;
    }
    attention_chain((struct chain_args){.acc = a->s + (size_t)first * KV_BLOCK,
                                        .acc_step = KV_BLOCK,
                                        .x = a->q + (size_t)first * a->pad,
                                        .x_step = a->pad,
                                        .ahead = (uintptr_t)v - (uintptr_t)k,
                                        .n = a->dim},
                    a->n - first, dtype, k, KV_BLOCK / KV_PANEL, a->pad);
    for (int r = first; r < a->n; r++) {
        exponentials(a->s + (size_t)r * KV_BLOCK, row_count(job, a->item, r, j), job->shape->scale,
                     parts + (size_t)r * a->part_size);
    }
    weighted_sums(a, first, j, parts, v, (uintptr_t)next - (uintptr_t)v);
    return first;
}

/* Writes row r's output, from the part with all its blocks. */
static void finish_row(const struct attention_job *job, const struct attention_item *item, int r,
                       float *part) {
    int dim = job->shape->head_dim;
    const struct vec inverse = vec_set1(1.0f / part[PART_SUM]);
    float *o = part + PART_OUTPUT;
    for (int i = 0; i < dim; i += VEC_WIDTH) {
        vec_store(o + i, vec_mul(vec_load(o + i), inverse));
    }
    memcpy(job->out + row_offset(job, item, r, (size_t)job->shape->n_head * dim), o,
           (size_t)dim * sizeof *o);
}

static void attend_and_merge(const struct attention_rows *a, int j) {
    if (j == 0) {
        attend_block(a, 0, a->merged);
        return;
    }
    for (int r = attend_block(a, j, a->block); r < a->n; r++) {
        size_t at = (size_t)r * a->part_size;
        merge_part(a->merged + at, a->block + at, a->pad);
    }
}

static void kernel_attention(const struct attention_job *job, const struct attention_item *item,
                             float *scratch) {
    const struct attention_shape *shape = job->shape;
    struct attention_rows a = {.job = job, .item = item, .n = item_rows(item)};
    a.dim = shape->head_dim;
    a.pad = kv_dim_pad(a.dim);
    a.part_size = attention_part_floats(a.dim);
    a.s = scratch;
    a.q = a.s + (size_t)a.n * KV_BLOCK;
    a.block = a.q + (size_t)a.n * a.pad;
    a.merged = a.block + (size_t)a.n * a.part_size;

    size_t q_stride = (size_t)(shape->n_head + 2 * shape->n_kv_head) * a.dim;
    for (int r = 0; r < a.n; r++) {
        memcpy(a.q + (size_t)r * a.pad, job->qkv + row_offset(job, item, r, q_stride),
               (size_t)a.dim * sizeof *a.q);
    }
    for (int j = item->blocks.first; j < item->blocks.end; j++) {
        if (item->parts) {
            attend_block(&a, j, item->parts + (size_t)j * a.n * a.part_size);
        } else {
            attend_and_merge(&a, j);
        }
    }
    for (int r = 0; r < a.n && !item->parts; r++) {
        finish_row(job, item, r, a.merged + (size_t)r * a.part_size);
    }
}

static void kernel_attention_merge(const struct attention_job *job,
                                   const struct attention_item *item, int r) {
    int pad = kv_dim_pad(job->shape->head_dim);
    size_t part_size = attention_part_floats(job->shape->head_dim);
    float *merged = item->parts + (size_t)r * part_size;
    for (int j = 1; row_count(job, item, r, j) > 0; j++) {
        merge_part(merged, merged + (size_t)j * item_rows(item) * part_size, pad);
    }
    finish_row(job, item, r, merged);
}
