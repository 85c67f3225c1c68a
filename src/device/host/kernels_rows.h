/* Elementwise operations, norms and rotations. */
#pragma once

static void kernel_add(float *x, const float *y, size_t n) {
    size_t i = 0;
    for (; i + VEC_WIDTH <= n; i += VEC_WIDTH) {
        vec_store(x + i, vec_add(vec_load(x + i), vec_load(y + i)));
    }
    if (i < n) {
        int rest = (int)(n - i);
        vec_store_n(x + i, vec_add(vec_load_n(x + i, rest), vec_load_n(y + i, rest)), rest);
    }
}

static float rmsnorm_factor(const float *x, int dim, float eps) {
    struct vec sum = vec_zero();
    int i = 0;
    for (; i + VEC_WIDTH <= dim; i += VEC_WIDTH) {
        struct vec v = vec_load(x + i);
        sum = vec_fma(v, v, sum);
    }
    if (i < dim) {
        struct vec v = vec_load_n(x + i, dim - i);
        sum = vec_fma(v, v, sum);
    }
    return 1.0f / sqrtf(vec_sum(sum) / (float)dim + eps);
}

static void kernel_rmsnorm(float *y, const float *x, const float *w, int dim, float eps) {
    const struct vec r = vec_set1(rmsnorm_factor(x, dim, eps));
    int i = 0;
    for (; i + VEC_WIDTH <= dim; i += VEC_WIDTH) {
        vec_store(y + i, vec_mul(vec_mul(vec_load(x + i), r), vec_load(w + i)));
    }
    if (i < dim) {
        int n = dim - i;
        vec_store_n(y + i, vec_mul(vec_mul(vec_load_n(x + i, n), r), vec_load_n(w + i, n)), n);
    }
}

static struct vec silu_mul(struct vec g, struct vec u) {
    struct vec minus = vec_sub(vec_set1(-0.0f), g);
    struct vec silu = vec_div(g, vec_add(vec_set1(1), vec_exp(minus)));
    return vec_mul(silu, u);
}

static void kernel_silu_mul(float *y, const float *gate, const float *up, int n) {
    int i = 0;
    for (; i + VEC_WIDTH <= n; i += VEC_WIDTH) {
        vec_store(y + i, silu_mul(vec_load(gate + i), vec_load(up + i)));
    }
    if (i < n) {
        int rest = n - i;
        vec_store_n(y + i, silu_mul(vec_load_n(gate + i, rest), vec_load_n(up + i, rest)), rest);
    }
}

/* Rotates up to 16 pairs (a[i], b[i]) in place. */
static void rotate(float *a, float *b, const float *cosine, const float *sine, int n) {
    struct vec va = vec_load_n(a, n);
    struct vec vb = vec_load_n(b, n);
    struct vec c = vec_load_n(cosine, n);
    struct vec s = vec_load_n(sine, n);
    struct vec minus_bs = vec_sub(vec_set1(-0.0f), vec_mul(vb, s));
    vec_store_n(a, vec_fma(va, c, minus_bs), n);
    vec_store_n(b, vec_fma(vb, c, vec_mul(va, s)), n);
}

static void rotate_head(float *x, const float *rope, int head_dim) {
    int half = head_dim / 2;
    for (int i = 0; i < half; i += VEC_WIDTH) {
        int n = half - i < VEC_WIDTH ? half - i : VEC_WIDTH;
        rotate(x + i, x + half + i, rope + i, rope + half + i, n);
    }
}

static void append_kv(const struct rope_job *job, int kv, int block, int at, const float *k,
                      const float *v) {
    int dim = job->shape->head_dim;
    int pad = kv_dim_pad(dim);
    enum dtype dtype = job->kv.dtype;
    size_t first = ((size_t)block * job->shape->n_kv_head + kv) * pad * KV_BLOCK;
    for (int i = 0; i < dim; i++) {
        size_t k_at = first + kv_k_at(dtype, pad, i, at), v_at = first + kv_v_at(dtype, i, at);
        if (dtype == DTYPE_BF16) {
            ((uint16_t *)job->kv.k)[k_at] = narrow_bf16(k[i]);
            ((uint16_t *)job->kv.v)[v_at] = narrow_bf16(v[i]);
        } else {
            ((float *)job->kv.k)[k_at] = k[i];
            ((float *)job->kv.v)[v_at] = v[i];
        }
    }
}

static void kernel_rope(const struct rope_job *job, int h) {
    const struct attention_shape *shape = job->shape;
    int dim = shape->head_dim;
    size_t stride = (size_t)(shape->n_head + 2 * shape->n_kv_head) * dim;
    bool is_k = h >= shape->n_head;
    const float *norm = is_k ? job->k_norm : job->q_norm;
    for (int s = 0; s < job->n_seq; s++) {
        const struct seq_run *seq = &job->seqs[s];
        for (int t = 0; t < seq->n_tok; t++) {
            float *x = job->qkv + (seq->row + t) * stride + (size_t)h * dim;
            int pos = seq->pos + t;
            if (norm) {
                kernel_rmsnorm(x, x, norm, dim, job->eps);
            }
            rotate_head(x, job->rope + (size_t)pos * dim, dim);
            if (is_k) {
                append_kv(job, h - shape->n_head, seq->blocks[pos / KV_BLOCK], pos % KV_BLOCK, x,
                          x + (size_t)shape->n_kv_head * dim);
            }
        }
    }
}
