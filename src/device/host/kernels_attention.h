/* Attention over paged K and V, one block of positions at a time; rows of a work item share what is
 * read. The scratch of an item, by rows: q, scores (then exponentials), block output, output. */
#pragma once

struct attention_rows {
    const struct attention_job *job;
    const struct attention_item *item;
    int n; /* rows: token-major, then head */
    int dim;
    int pad;    /* dim rounded up to whole vectors */
    float *q;   /* [n][dim] */
    float *s;   /* [n][KV_BLOCK] */
    float *o_j; /* [n][pad] */
    float *o;   /* [n][pad] */
    float max[ATTENTION_MAX_ROWS];
    float sum[ATTENTION_MAX_ROWS];
};

static float *row_in(const struct attention_rows *a, int r, float *base, size_t stride) {
    const struct attention_item *item = a->item;
    size_t row = (size_t)a->job->seqs[item->seq].row + item->tok + r / item->n_head;
    return base + row * stride + (size_t)(item->head + r % item->n_head) * a->dim;
}

/* Positions of block j that row r sees. */
static int row_count(const struct attention_rows *a, int r, int j) {
    int pos = a->job->seqs[a->item->seq].pos + a->item->tok + r / a->item->n_head;
    int count = pos + 1 - j * KV_BLOCK;
    return count < 0 ? 0 : count < KV_BLOCK ? count : KV_BLOCK;
}

/* acc[r][..] = chains of x[r] over w for rows [first, end), n_vec vectors wide. */
static void attention_chain(struct chain_args c, int n_row, const float *w, int n_vec) {
    const void *at[ATTENTION_VECS];
    float *acc = c.acc;
    const float *x = c.x;
    c.w = at;
    c.ahead = 2048;
    for (int v = 0, wide; v < n_vec; v += wide ? ATTENTION_VECS : 1) {
        wide = n_vec - v >= ATTENTION_VECS;
        for (int p = 0; p < ATTENTION_VECS; p++) {
            at[p] = w + (size_t)(v + (wide ? p : 0)) * VEC_WIDTH;
        }
        for (int r = 0, t; r < n_row; r += t) {
            t = n_row - r < ATTENTION_TILE ? n_row - r : ATTENTION_TILE;
            c.acc = acc + r * c.acc_step + (size_t)v * VEC_WIDTH;
            c.x = x + r * c.x_step;
            attention_chains[wide][t](&c);
        }
    }
}

/* Turns a row's first n scores into exponentials; the rest becomes +0. */
static float exponentials(float *s, int n, float scale, float *sum) {
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
    *sum = vec_sum(total);
    return max;
}

/* o_j of rows [first, n): together up to the count of the first, then each to its own. */
static void weighted_sums(const struct attention_rows *a, int first, int j, const float *v) {
    int common = row_count(a, first, j);
    int n_vec = a->pad / VEC_WIDTH;
    struct chain_args c = {.acc = a->o_j + (size_t)first * a->pad,
                           .acc_step = a->pad,
                           .x = a->s + (size_t)first * KV_BLOCK,
                           .x_step = KV_BLOCK,
                           .w_step = (size_t)a->pad * sizeof *v,
                           .n = common};
    attention_chain(c, a->n - first, v, n_vec);
    c.resume = true;
    for (int r = first + 1; r < a->n; r++) {
        c.n = row_count(a, r, j) - common;
        if (c.n > 0) {
            c.acc = a->o_j + (size_t)r * a->pad;
            c.x = a->s + (size_t)r * KV_BLOCK + common;
            attention_chain(c, 1, v + (size_t)common * a->pad, n_vec);
        }
    }
}

static void merge_block(struct attention_rows *a, int r, bool is_first, float max_j, float sum_j) {
    float *o = a->o + (size_t)r * a->pad;
    const float *o_j = a->o_j + (size_t)r * a->pad;
    if (is_first) {
        a->max[r] = max_j;
        a->sum[r] = sum_j;
        memcpy(o, o_j, (size_t)a->pad * sizeof *o);
        return;
    }
    float max = a->max[r] > max_j ? a->max[r] : max_j;
    const struct vec old = vec_set1(vec_exp1(a->max[r] - max));
    const struct vec new = vec_set1(vec_exp1(max_j - max));
    float sum[VEC_WIDTH];
    vec_store(sum, vec_fma(vec_set1(sum_j), new, vec_mul(vec_set1(a->sum[r]), old)));
    a->max[r] = max;
    a->sum[r] = sum[0];
    for (int i = 0; i < a->pad; i += VEC_WIDTH) {
        vec_store(o + i, vec_fma(vec_load(o_j + i), new, vec_mul(vec_load(o + i), old)));
    }
}

static void attend_block(struct attention_rows *a, int j) {
    const struct attention_job *job = a->job;
    size_t head = (size_t)job->seqs[a->item->seq].blocks[j] * job->shape->n_kv_head + a->item->kv;
    const float *k = job->k + head * a->pad * KV_BLOCK;
    const float *v = job->v + head * a->pad * KV_BLOCK;
    float max_j[ATTENTION_MAX_ROWS];
    float sum_j[ATTENTION_MAX_ROWS];
    int first = 0;
    while (row_count(a, first, j) == 0) {
        first++;
    }
    attention_chain((struct chain_args){.acc = a->s + (size_t)first * KV_BLOCK,
                                        .acc_step = KV_BLOCK,
                                        .x = a->q + (size_t)first * a->dim,
                                        .x_step = a->dim,
                                        .w_step = KV_BLOCK * sizeof *k,
                                        .n = a->dim},
                    a->n - first, k, KV_BLOCK / VEC_WIDTH);
    for (int r = first; r < a->n; r++) {
        float *s = a->s + (size_t)r * KV_BLOCK;
        max_j[r] = exponentials(s, row_count(a, r, j), job->shape->scale, &sum_j[r]);
    }
    weighted_sums(a, first, j, v);
    for (int r = first; r < a->n; r++) {
        merge_block(a, r, j == 0, max_j[r], sum_j[r]);
    }
}

static void kernel_attention(const struct attention_job *job, const struct attention_item *item,
                             float *scratch) {
    const struct attention_shape *shape = job->shape;
    struct attention_rows a = {.job = job, .item = item};
    a.n = item->n_tok * item->n_head;
    a.dim = shape->head_dim;
    a.pad = head_dim_pad(a.dim);
    a.s = scratch;
    a.o_j = a.s + (size_t)a.n * KV_BLOCK;
    a.o = a.o_j + (size_t)a.n * a.pad;
    a.q = a.o + (size_t)a.n * a.pad;

    size_t q_stride = (size_t)(shape->n_head + 2 * shape->n_kv_head) * a.dim;
    for (int r = 0; r < a.n; r++) {
        /* The cast drops const; q is only read. */
        memcpy(a.q + (size_t)r * a.dim, row_in(&a, r, (float *)(uintptr_t)job->qkv, q_stride),
               (size_t)a.dim * sizeof *a.q);
    }
    int last = job->seqs[item->seq].pos + item->tok + item->n_tok - 1;
    for (int j = 0; j <= last / KV_BLOCK; j++) {
        attend_block(&a, j);
    }
    for (int r = 0; r < a.n; r++) {
        float *o = a.o + (size_t)r * a.pad;
        const struct vec inverse = vec_set1(1.0f / a.sum[r]);
        for (int i = 0; i < a.pad; i += VEC_WIDTH) {
            vec_store(o + i, vec_mul(vec_load(o + i), inverse));
        }
        memcpy(row_in(&a, r, job->out, (size_t)shape->n_head * a.dim), o,
               (size_t)a.dim * sizeof *o);
    }
}
