/* Launchers of the CUDA kernels, one .cu file per family. Plain C.
 *
 * All pointers are device memory unless said otherwise; all shapes row-major. A launcher checks
 * nothing that its caller can check, enqueues on `stream`, never waits, and returns what the launch
 * returned (cudaErrorInvalidValue for a shape it has no kernel for). `type` is the element type of
 * activations, weights and KV: bf16 (kernels compute in f32 and round once, to nearest even, when
 * they store) or f32. The residual stream, logits, norm weights and biases are always f32.
 *
 * Everything that changes from step to step is read from device memory (struct kernel_batch), so
 * that a captured launch can be replayed: scalar arguments are upper bounds only. Rows that pad a
 * batch to a captured size have sequence -1: embedding writes zeros, append writes nothing,
 * attention writes zeros. */
#pragma once

#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum kernel_type { KERNEL_F32, KERNEL_BF16 };

enum {
    KERNEL_KV_BLOCK = 64, /* = KV_BLOCK of device.h */
    KERNEL_MAX_HEAD_DIM = 256,
    KERNEL_HEAD_DIM_UNIT = 8, /* head dims are multiples of it */
    KERNEL_MAX_SPLITS = 32,   /* of one sequence's context in decode attention */
    KERNEL_MAX_CANDIDATES = 1024,
};

/* The step's batch on the device. Sequence s owns rows [seq_row[s], seq_row[s] + seq_tok[s]) at
 * positions seq_pos[s] + 0, 1, ...; position p lives in block tables[s * table_stride + p / 64]. */
struct kernel_batch {
    const int32_t *ids;      /* [n_tok] token ids */
    const int32_t *position; /* [n_tok] */
    const int32_t *sequence; /* [n_tok] index into seq_*; -1: a padding row */
    const int32_t *seq_row;  /* [n_seq] */
    const int32_t *seq_tok;  /* [n_seq]; 0: a padding sequence */
    const int32_t *seq_pos;  /* [n_seq] */
    const int32_t *tables;   /* [n_seq][table_stride] */
    const int32_t *rows;     /* [n_row] rows whose output is wanted; -1: padding, gathers zeros */
    const int32_t *targets;  /* [n_row] token whose logit log_sum_exp looks for; -1: none */
    int n_tok;
    int n_seq;
    int n_row;
    int table_stride;
    int max_seq_tok; /* upper bound of seq_tok; 1: every sequence decodes */
    int max_context; /* upper bound of seq_pos + seq_tok */
};

/* This rank's heads of one layer; see struct attention_shape in device.h. */
struct kernel_heads {
    int n_head;
    int n_kv_head;
    int head_dim;
    int head_first;
    int group;
    int kv_first;
    float scale;
};

/* One layer's KV pool: blocks of [n_kv_head][64][head_dim] of `type`, block b at b * that size. */
struct kernel_kv {
    void *k;
    void *v;
};

/* ---- rows.cu ---- */
/* y[m] = row ids[m] - row_first of table [rows, dim] of `type`, widened to f32, -0 made +0; zeros
 * where not in range or a padding row. y [n_tok, dim] f32. */
cudaError_t kernel_embed(float *y, const void *table, enum kernel_type type, int rows, int dim,
                         int row_first, const struct kernel_batch *batch, cudaStream_t stream);
/* x += delta first, where delta is not NULL; y = x * (1 / sqrt(mean(x^2) + eps)) * w.
 * x [n, dim] f32 (written only where delta is given), delta [n, dim] f32, w [dim] f32,
 * y [n, dim] of y_type; y may be x when y_type is f32. */
cudaError_t kernel_rmsnorm(void *y, enum kernel_type y_type, float *x, const float *delta,
                           const float *w, int n, int dim, float eps, cudaStream_t stream);
/* x += y, n elements. */
cudaError_t kernel_add(float *x, const float *y, size_t n, cudaStream_t stream);
/* x[m][i] += b[i]; x [n, dim] of `type`, b [dim] f32. */
cudaError_t kernel_add_bias(void *x, enum kernel_type type, const float *b, int n, int dim,
                            cudaStream_t stream);
/* y[m][i] = silu(gu[m][i]) * gu[m][dim + i]; gu [n, 2 dim], y [n, dim], both of `type`. */
cudaError_t kernel_silu_mul(void *y, const void *gu, enum kernel_type type, int n, int dim,
                            cudaStream_t stream);
/* y[i] = x[batch->rows[first + i]] for i < n; x [.., dim] f32, y [n, dim] f32. */
cudaError_t kernel_gather_rows(float *y, const float *x, int first, int n, int dim,
                               const struct kernel_batch *batch, cudaStream_t stream);

/* ---- rope.cu ---- */
/* Optional per-head RMSNorm of q and k (q_norm, k_norm [head_dim] f32, NULL: none), rotate-half
 * RoPE by the row's position, q in place in qkv, k and v appended to the KV pool.
 * qkv [n_tok][(n_head + 2 n_kv_head) head_dim] of `type`: q heads, k heads, v heads (k and v parts
 * are left unspecified). rope [n_position][head_dim] f32: cos in the first half, sin in the rest.
 */
cudaError_t kernel_rope_append(void *qkv, enum kernel_type type, const struct kernel_heads *heads,
                               const float *q_norm, const float *k_norm, float eps,
                               const float *rope, const struct kernel_batch *batch,
                               struct kernel_kv kv, cudaStream_t stream);

/* ---- attention_decode.cu, attention_prefill.cu ---- */
/* Causal attention of every row over its sequence's positions 0 .. its own, online softmax in f32.
 * out [n_tok][n_head head_dim] of `type`; q in qkv as above. */
/* One token per sequence (max_seq_tok = 1): the context is cut into at most KERNEL_MAX_SPLITS parts
 * that are merged by a second kernel; the query heads of one KV head share its K and V.
 * scratch: kernel_decode_scratch() bytes, enough for any batch of at most max_seq sequences; may be
 * uninitialised. */
size_t kernel_decode_scratch(const struct kernel_heads *heads, int max_seq);
cudaError_t kernel_attention_decode(void *out, const void *qkv, enum kernel_type type,
                                    const struct kernel_heads *heads,
                                    const struct kernel_batch *batch, struct kernel_kv kv,
                                    void *scratch, cudaStream_t stream);
/* Any number of tokens per sequence: tiles of query rows against KV blocks (Dao,
 * "FlashAttention-2", 2023); bf16 on tensor cores (mma.sync m16n8k16), f32 on plain FMA. Sequences
 * of one token among them are right, only slower. */
cudaError_t kernel_attention_prefill(void *out, const void *qkv, enum kernel_type type,
                                     const struct kernel_heads *heads,
                                     const struct kernel_batch *batch, struct kernel_kv kv,
                                     cudaStream_t stream);

/* ---- log_sum_exp.cu ---- */
/* out[i] = {max, sum of exp(x[i][j] - max), x[i][t - index_first]} over j < dim, for i < n, with
 * t = batch->targets[first + i]; the last is 0 where that is not in [index_first, index_first +
 * dim). x [n, dim] f32, out [n, 3] f32. A NaN, or +inf, makes the sum NaN; where there is nothing
 * above -inf the maximum is -inf and the sum 0. */
cudaError_t kernel_log_sum_exp(float *out, const float *x, int first, int n, int dim,
                               int index_first, const struct kernel_batch *batch,
                               cudaStream_t stream);

/* ---- top_k.cu ---- */
/* The k largest of each row of x [n, dim] f32, largest first, ties by lower index, NaN as -inf;
 * ids are index + index_first. values [n, k] f32, ids [n, k] int32; 1 <= k <= min(dim,
 * KERNEL_MAX_CANDIDATES). */
cudaError_t kernel_top_k(float *values, int32_t *ids, const float *x, int n, int dim, int k,
                         int index_first, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
