/* The operations of a forward pass: matrix products through cuBLAS, the rest by our own kernels. */
#include "device/cuda/cuda_device.h"

static bool launched(struct cuda_device *c, cudaError_t e, const char *what, struct error *err) {
    return e == cudaSuccess || cuda_stream_failed(c, e, what, err);
}

/* y = x transpose(w). Row-major y [M, rows] is column-major [rows, M], and so on: cuBLAS computes
 * transpose(y) = w transpose(x) from the same memory. */
bool cuda_linear(struct device *d, void *y, enum dtype y_dtype, const void *x, size_t x_stride,
                 const struct matrix *w, int n_tok, const struct leaf_plan *plan,
                 struct error *err) {
    struct cuda_device *c = cuda_of(d);
    const float one = 1, zero = 0;
    bool f32 = d->act == DTYPE_F32;
    cudaDataType_t in = f32 ? CUDA_R_32F : CUDA_R_16BF;
    cudaDataType_t out = y_dtype == DTYPE_F32 ? CUDA_R_32F : CUDA_R_16BF;
    if (!cuda_usable(c, err)) {
        return false;
    }
    if (plan) {
        return error_set(err, ERROR_SHAPE, "a GPU adds up no leaves");
    }
    if (n_tok == 0 || w->rows == 0) {
        return true;
    }
    if (w->cols == 0) {
        size_t bytes = (size_t)n_tok * (size_t)w->rows * dtype_size(y_dtype);
        return launched(c, cudaMemsetAsync(y, 0, bytes, c->stream), "cudaMemsetAsync", err);
    }
    cublasStatus_t s =
        cublasGemmEx(c->blas, CUBLAS_OP_T, CUBLAS_OP_N, w->rows, n_tok, w->cols, &one, w->data, in,
                     w->cols, x, in, (int)x_stride, &zero, y, out, w->rows,
                     f32 ? CUBLAS_COMPUTE_32F_PEDANTIC : CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    if (s == CUBLAS_STATUS_SUCCESS) {
        return true;
    }
    error_set(err, ERROR_DEVICE, "cublasGemmEx of %d x %d x %d: %s", w->rows, n_tok, w->cols,
              cublasGetStatusString(s));
    return c->recording ? false : cuda_break(c); /* see cuda_stream_failed */
}

bool cuda_embed(struct device *d, float *y, const struct matrix *table, int row_first,
                struct error *err) {
    struct cuda_device *c = cuda_of(d);
    return cuda_usable(c, err) &&
           launched(c,
                    kernel_embed(y, table->data, cuda_kernel_type(c), table->rows, table->cols,
                                 row_first, &c->batch.args, c->stream),
                    "embedding", err);
}

bool cuda_rmsnorm(struct device *d, void *y, float *x, const float *delta, const float *w,
                  int n_tok, int dim, float eps, struct error *err) {
    struct cuda_device *c = cuda_of(d);
    return cuda_usable(c, err) &&
           launched(c,
                    kernel_rmsnorm(y, cuda_kernel_type(c), x, delta, w, n_tok, dim, eps, c->stream),
                    "RMSNorm", err);
}

bool cuda_add(struct device *d, float *x, const float *y, size_t n, struct error *err) {
    struct cuda_device *c = cuda_of(d);
    return cuda_usable(c, err) && launched(c, kernel_add(x, y, n, c->stream), "add", err);
}

bool cuda_add_bias(struct device *d, void *x, enum dtype x_dtype, const float *b, int n_tok,
                   int dim, struct error *err) {
    struct cuda_device *c = cuda_of(d);
    enum kernel_type type = x_dtype == DTYPE_F32 ? KERNEL_F32 : KERNEL_BF16;
    return cuda_usable(c, err) &&
           launched(c, kernel_add_bias(x, type, b, n_tok, dim, c->stream), "bias", err);
}

bool cuda_silu_mul(struct device *d, void *y, const void *gu, int n_tok, int dim,
                   struct error *err) {
    struct cuda_device *c = cuda_of(d);
    return cuda_usable(c, err) &&
           (dim == 0 ||
            launched(c, kernel_silu_mul(y, gu, cuda_kernel_type(c), n_tok, dim, c->stream), "SiLU",
                     err));
}

static struct kernel_heads heads_of(const struct attention_shape *s) {
    return (struct kernel_heads){.n_head = s->n_head,
                                 .n_kv_head = s->n_kv_head,
                                 .head_dim = s->head_dim,
                                 .head_first = s->head_first,
                                 .group = s->group,
                                 .kv_first = s->kv_first,
                                 .scale = s->scale};
}

bool cuda_rope_append(struct device *d, void *qkv, const struct attention_shape *shape,
                      const float *q_norm, const float *k_norm, float eps, const float *rope,
                      struct kv_layer kv, struct error *err) {
    struct cuda_device *c = cuda_of(d);
    struct kernel_heads heads = heads_of(shape);
    return cuda_usable(c, err) &&
           launched(c,
                    kernel_rope_append(qkv, cuda_kernel_type(c), &heads, q_norm, k_norm, eps, rope,
                                       &c->batch.args, (struct kernel_kv){kv.k, kv.v}, c->stream),
                    "rope and KV append", err);
}

/* As much as any batch takes: where it grew later, on some ranks, it would end the recordings of
 * these ranks alone. */
static bool decode_scratch(struct cuda_device *c, const struct kernel_heads *heads, int n_seq,
                           void **out, struct error *err) {
    int most = c->batch.limits.max_seq;
    return cuda_scratch(c, kernel_decode_scratch(heads, most > n_seq ? most : n_seq), out, err);
}

bool cuda_attention_reserve(struct cuda_device *c, struct error *err) {
    const struct attention_shape *shape = &c->batch.limits.attention;
    struct kernel_heads heads = heads_of(shape);
    void *unused;
    return shape->n_head == 0 || decode_scratch(c, &heads, 0, &unused, err);
}

bool cuda_attention(struct device *d, void *out, const void *qkv,
                    const struct attention_shape *shape, struct kv_layer kv, struct error *err) {
    struct cuda_device *c = cuda_of(d);
    const struct kernel_batch *b = &c->batch.args;
    struct kernel_heads heads = heads_of(shape);
    struct kernel_kv layer = {kv.k, kv.v};
    enum kernel_type type = cuda_kernel_type(c);
    void *scratch = NULL;
    if (!cuda_usable(c, err)) {
        return false;
    }
    if (b->max_seq_tok > 1) {
        return launched(c, kernel_attention_prefill(out, qkv, type, &heads, b, layer, c->stream),
                        "attention (prefill)", err);
    }
    return decode_scratch(c, &heads, b->n_seq, &scratch, err) &&
           launched(c,
                    kernel_attention_decode(out, qkv, type, &heads, b, layer, scratch, c->stream),
                    "attention (decode)", err);
}

size_t cuda_kv_block_bytes(const struct device *d, enum dtype kv, int n_kv_head, int head_dim) {
    (void)d;
    return (size_t)n_kv_head * KV_BLOCK * (size_t)head_dim * dtype_size(kv);
}

bool cuda_gather_rows(struct device *d, float *y, const float *x, int first, int n, int dim,
                      struct error *err) {
    struct cuda_device *c = cuda_of(d);
    const struct kernel_batch *b = &c->batch.args;
    if (first < 0 || n < 0 || n > b->n_row - first) {
        return error_set(err, ERROR_SHAPE, "rows %d + %d of %d", first, n, b->n_row);
    }
    return cuda_usable(c, err) &&
           (n == 0 ||
            launched(c, kernel_gather_rows(y, x, first, n, dim, b, c->stream), "gather", err));
}

bool cuda_top_k(struct device *d, float *values, int32_t *ids, const float *x, int n, int dim,
                int k, int index_first, struct error *err) {
    struct cuda_device *c = cuda_of(d);
    if (k < 1 || k > dim || k > KERNEL_MAX_CANDIDATES) {
        return error_set(err, ERROR_SHAPE, "the %d largest of %d values", k, dim);
    }
    return cuda_usable(c, err) &&
           launched(c, kernel_top_k(values, ids, x, n, dim, k, index_first, c->stream), "top-k",
                    err);
}

_Static_assert(sizeof(struct exp_sum) == 3 * sizeof(float), "what the kernel writes");

bool cuda_log_sum_exp(struct device *d, struct exp_sum *out, const float *x, int first, int n,
                      int dim, int index_first, struct error *err) {
    struct cuda_device *c = cuda_of(d);
    const struct kernel_batch *b = &c->batch.args;
    if (first < 0 || n < 0 || n > b->n_row - first) {
        return error_set(err, ERROR_SHAPE, "rows %d + %d of %d", first, n, b->n_row);
    }
    return cuda_usable(c, err) &&
           (n == 0 ||
            launched(c,
                     kernel_log_sum_exp((float *)out, x, first, n, dim, index_first, b, c->stream),
                     "log-sum-exp", err));
}
