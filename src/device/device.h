/* The device: memory, packed weight matrices and the operations of a forward pass, as one table.
 *
 * Pointers called "device" point into the device's memory (on the host device: ordinary memory).
 * Shapes are row-major, [rows, columns]; M = number of token rows in the step.
 *
 * Activations ("act" below) have the device's element type device->act: F32 on the host, BF16 or
 * F32 on a GPU. So has the KV cache, which the host also takes in BF16. The residual stream,
 * partial sums of row-parallel layers, logits, norm weights and biases are always f32.
 *
 * Host promise (the CUDA device promises a tolerance instead): every output element is computed in
 * the one order documented at its operation, whatever M, the number of threads and the instruction
 * set, so all host kernels agree to the bit. "chain" below means: acc = +0; for i in increasing
 * order acc = fma(w[i], x[i], acc). Where w is quantized, i counts its groups instead, x is
 * quantized in the same groups, and acc = fma(d_w * d_x, s, acc) with s = sum of q_w * q_x over the
 * group, which is exact. Of x: a = max |x|, d_x = a / 127 and q_x = x * (127 / a) to the nearest
 * whole number, halves to even; zeros where a < 2^-100; d_x = NaN and zeros where some x of the
 * group is NaN or infinite. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/error.h"
#include "base/leaf_tree.h"

enum {
    KV_BLOCK = 64,             /* positions in one KV block, and in one block of attention */
    DEVICE_MAX_HEAD_DIM = 512, /* larger is refused as unsupported */
    DEVICE_MAX_RECORDED = 32, /* tokens of a batch that may be recorded, and so padded up to this */
};

struct device;
struct matrix; /* a packed weight matrix, opaque: layout is the device's own */

/* How a row-parallel input is cut. Columns [bounds[l], bounds[l + 1]) are local leaf l (possibly
 * empty). pieces[] are the maximal subtrees of the whole tree that this rank owns, as runs of local
 * leaves; each is summed in the tree's order (left = ceil(n/2)). A column-parallel matrix uses
 * no plan: one leaf, one piece. */
struct leaf_plan {
    int n_leaf;
    int leaf_cols; /* bounds but the last are multiples of it; 0: of nothing known */
    int bounds[LEAF_TREE_MAX_LEAVES + 1];
    int n_piece;
    struct leaf_run pieces[LEAF_TREE_MAX_PIECES];
};

/* One sequence's part of a step: tokens rows [row, row + n_tok) stand at positions
 * [pos, pos + n_tok); position p lives in KV block blocks[p / KV_BLOCK]. */
struct seq_run {
    int row;
    int n_tok;
    int pos;
    int n_block;
    const int32_t *blocks; /* borrowed, host memory */
};

/* One layer's attention, this rank's heads only. */
struct attention_shape {
    int n_head;    /* query heads of this rank */
    int n_kv_head; /* KV heads of this rank */
    int head_dim;
    int head_first; /* global index of the first query head of this rank */
    int group;      /* query heads per KV head in the model: kv(h) = h / group */
    int kv_first;   /* global index of the first KV head of this rank */
    float scale;    /* 1/sqrt(head_dim) */
};

/* The tokens of a step. Replicated: equal on every rank. */
struct device_batch {
    int n_tok;
    const int32_t *ids; /* [n_tok] host memory, borrowed */
    int n_seq;
    const struct seq_run *seqs; /* [n_seq] borrowed; they cover rows [0, n_tok) without gaps */
    int n_row;
    const int32_t *rows;    /* [n_row] rows whose output is wanted, ascending; borrowed */
    const int32_t *targets; /* [n_row] what log_sum_exp looks for, -1: nothing; borrowed. NULL: for
                             * no row */
};

/* What every batch of a model, and what is done with it on this rank, stays within. */
struct batch_limits {
    int max_tok;
    int max_seq;
    int max_ctx;                      /* positions of one sequence */
    int max_cols;                     /* of a linear's input */
    int max_groups;                   /* of one whose weights are quantized, 0: none are */
    int max_leaves;                   /* of a linear's plan */
    int max_candidates;               /* of top_k, a row */
    struct attention_shape attention; /* n_head 0: there is none */
};

/* What the operations are to be called with: at least the batch's own numbers, equal on every rank.
 * A GPU pads small batches to the size of a recording; what padding rows hold is unspecified. */
struct batch_size {
    int n_tok;
    int n_row;
};

/* One layer's KV pool: n_block blocks, each [n_kv_head][KV_BLOCK][head_dim] of dtype, for K and for
 * V. The host's layout within a (block, head) is in host/kernels.h; sizes come from
 * device_ops.kv_block_bytes. On the host BF16 means that a value is rounded once, to nearest even,
 * when it is appended; attention widens it. */
struct kv_layer {
    void *k;          /* device */
    void *v;          /* device */
    enum dtype dtype; /* that device_takes_kv */
};

/* Of some consecutive logits of a row, -inf and 0 where there are none. NaN or +inf among them
 * makes the sum NaN. */
struct exp_sum {
    float max;
    float sum;    /* of exp(x - max) */
    float target; /* the target's logit; 0 where it is not among these */
};

struct device_ops {
    const char *name;
    void (*destroy)(struct device *);

    /* ---- memory ---- */
    /* Zeroed memory, 64-byte aligned, huge pages where they help. Errors: MEMORY. */
    bool (*alloc)(struct device *, size_t bytes, void **out, struct error *);
    void (*free)(struct device *, void *p, size_t bytes);
    /* Both wait: src may be changed, and dst read, on return. download also waits for everything
     * enqueued before. Errors: DEVICE, DEADLINE, and whatever broke the work that was enqueued. */
    bool (*upload)(struct device *, void *dst, const void *src, size_t bytes, struct error *);
    bool (*download)(struct device *, void *dst, const void *src, size_t bytes, struct error *);
    /* Waits until everything enqueued is done. */
    bool (*sync)(struct device *, struct error *);
    /* Bytes that all ranks on this device may still take together. NULL on the host, whose limits
     * host_limits_read tells. */
    size_t (*memory_free)(struct device *);

    /* ---- packed matrices ---- */
    /* Bytes a [rows, cols] matrix of dtype takes when packed; groups of a quantized one start anew
     * every leaf_cols columns (dtype_units). A GPU holds every matrix in act, whatever dtype says.
     */
    size_t (*matrix_bytes)(const struct device *, enum dtype dtype, int rows, int cols,
                           int leaf_cols);
    /* Errors: MEMORY, SHAPE, UNSUPPORTED (a GPU has no quantized ones). */
    bool (*matrix_create)(struct device *, enum dtype dtype, int rows, int cols, int leaf_cols,
                          struct matrix **out, struct error *);
    /* Packs src, [n_rows, n_cols] of src_dtype with src_stride bytes between rows (host memory,
     * borrowed, any alignment), into rows [row, row + n_rows) x columns [col, col + n_cols).
     * src_dtype must be the matrix's, or anything when the matrix is F32 (widening is exact) or
     * quantized, as it then is here: the columns are whole groups, and no values are that already.
     * A GPU rounds to act, to nearest even. Adds the number of NaN and infinite values to
     * *n_nonfinite. Calls for disjoint parts may run on several threads, unless
     * device->main_thread_only. A GPU may still be copying on return, from memory of its own;
     * device_ops.sync waits for it. */
    bool (*matrix_fill)(struct device *, struct matrix *, int row, int n_rows, int col, int n_cols,
                        enum dtype src_dtype, const void *src, size_t src_stride,
                        size_t *n_nonfinite, struct error *);
    void (*matrix_destroy)(struct device *, struct matrix *);

    /* ---- the step ---- */
    /* Room for the device's copy of batches and for what the operations keep in between, once per
     * model, so that a step allocates nothing. Errors: MEMORY. */
    bool (*batch_reserve)(struct device *, const struct batch_limits *, struct error *);
    void (*batch_release)(struct device *);
    /* Makes this the current batch, which embed, rope_append, attention and gather_rows work on.
     * Its arrays must stay until the next one begins. Errors: DEVICE. */
    bool (*batch_begin)(struct device *, const struct device_batch *, struct batch_size *out,
                        struct error *);
    /* Recording: a run of operations and collectives that is the same in many steps, up to the
     * content of the batch, may be recorded once and replayed. `key` names it, together with the
     * sizes that batch_begin gave. *replayed: everything has been enqueued already, and the caller
     * must leave it out and not call record_end; else it enqueues as ever and then calls
     * record_end, also when that failed (ok). *again: the recording did not work out and nothing
     * has run; the caller must enqueue once more and call record_end again. The host never
     * records. */
    bool (*record_begin)(struct device *, int key, bool *replayed, struct error *);
    bool (*record_end)(struct device *, bool ok, bool *again, struct error *);

    /* ---- operations; all enqueue, none waits ---- */
    /* y[p][m][o] = tree sum over the leaves of piece p of chain(w[o], x[m], columns of the leaf).
     * Bounds of the plan are where groups begin. x [M, cols] act device with x_stride elements
     * between rows; y [n_piece][M][rows] device, dense, of y_dtype: F32, or act. plan NULL: one
     * chain over all columns, n_piece = 1. A GPU takes no plan: the order of its sums is cuBLAS's.
     */
    bool (*linear)(struct device *, void *y, enum dtype y_dtype, const void *x, size_t x_stride,
                   const struct matrix *w, int n_tok, const struct leaf_plan *plan, struct error *);
    /* y[m] = row ids[m] - row_first of table, widened (quantized: d * q), -0 made +0; zeros when
     * not in [row_first, row_first + rows). y [M, cols] f32 device. */
    bool (*embed)(struct device *, float *y, const struct matrix *table, int row_first,
                  struct error *);
    /* x += delta, where delta is not NULL; then y[m][i] = (x[m][i] * r) * w[i],
     * r = 1 / sqrt(sum(x^2) / dim + eps). The sum: 16 lanes, lane l holds fma over i = l, l + 16,
     * ... in order; lanes are added 0+8.., 0+4.., 0+2.., 0+1. x, delta [M, dim] f32 device; y [M,
     * dim] act device; w [dim] f32 device; no alias, but y may be x where act is F32. */
    bool (*rmsnorm)(struct device *, void *y, float *x, const float *delta, const float *w,
                    int n_tok, int dim, float eps, struct error *);
    /* x += y, elementwise, f32. */
    bool (*add)(struct device *, float *x, const float *y, size_t n, struct error *);
    /* x[m][i] += b[i]; x of x_dtype (F32 or act). */
    bool (*add_bias)(struct device *, void *x, enum dtype x_dtype, const float *b, int n_tok,
                     int dim, struct error *);
    /* y[m][i] = silu(gu[m][i]) * gu[m][dim + i], silu(g) = g / (1 + exp(-g)).
     * gu [M, 2 dim], y [M, dim] act device, no alias. */
    bool (*silu_mul)(struct device *, void *y, const void *gu, int n_tok, int dim, struct error *);
    /* For every row: optional per-head RMSNorm of q and k (q_norm, k_norm [head_dim], NULL: none),
     * rotate-half RoPE of q and k by the row's position, q in place, k and v appended to the KV
     * pool.
     * qkv [M][(n_head + 2 n_kv_head) * head_dim] act device: q heads, k heads, v heads; what the
     * latter two hold afterwards is unspecified.
     * rope [n_position][head_dim] f32 device: cos in [0, head_dim/2), sin in the rest.
     * Rotation: a' = a*cos - b*sin, b' = b*cos + a*sin with a = x[i], b = x[i + head_dim/2];
     * computed as fma(a, cos, -(b*sin)) and fma(b, cos, a*sin). */
    bool (*rope_append)(struct device *, void *qkv, const struct attention_shape *,
                        const float *q_norm, const float *k_norm, float eps, const float *rope,
                        struct kv_layer, struct error *);
    /* Causal attention over the paged KV pool, out [M][n_head * head_dim] act device.
     * Query row at position p, for each block j = 0 .. p / KV_BLOCK, t over its positions <= p:
     *   s_t = chain(q, k_t) * scale;  m_j = max s_t;  e_t = exp(s_t - m_j)
     *   l_j = 16 lanes, lane i = ((e_i + e_{i+16}) + e_{i+32}) + e_{i+48}, then as in rmsnorm
     *   o_j[d] = chain over t of (e_t, v_t[d])
     * Blocks merge in order: m' = max(m, m_j), a = exp(m - m'), b = exp(m_j - m'),
     *   l = fma(l_j, b, l * a), o[d] = fma(o_j[d], b, o[d] * a); the first is taken as it is.
     * out = o * (1 / l). Positions past p count as e = +0. exp: device/host/vec_math.h. */
    bool (*attention)(struct device *, void *out, const void *qkv, const struct attention_shape *,
                      struct kv_layer, struct error *);
    /* Bytes of one KV block of K (and as many of V) for n_kv_head heads. */
    size_t (*kv_block_bytes)(const struct device *, enum dtype kv, int n_kv_head, int head_dim);
    /* Rows first .. first + n of the batch's list of wanted rows, of x [M, dim], gathered densely
     * into y [n, dim]; f32. */
    bool (*gather_rows)(struct device *, float *y, const float *x, int first, int n, int dim,
                        struct error *);
    /* The k largest of each row of x [n, dim], largest first, ties by lower index, NaN as -inf;
     * index + index_first. values [n, k] f32, ids [n, k] int32, device; k <= dim. */
    bool (*top_k)(struct device *, float *values, int32_t *ids, const float *x, int n, int dim,
                  int k, int index_first, struct error *);
    /* What log softmax needs of this rank's part of each row, x [n, dim] f32 device, indices from
     * index_first on: out[i], for i < n, of the target of the batch's wanted row first + i.
     * out [n] device. NULL on the host: a sum in parts has other bits for other numbers of ranks.
     */
    bool (*log_sum_exp)(struct device *, struct exp_sum *out, const float *x, int first, int n,
                        int dim, int index_first, struct error *);
};

struct device {
    const struct device_ops *ops; /* first member of every device */
    enum dtype act;               /* element type of activations, and of the KV cache */
    bool kv_bf16;                 /* a KV cache may be BF16, too */
    bool quantized;               /* weights may be */
    bool main_thread_only;        /* loader threads may not call it */
    bool broken; /* a wait or a launch failed: nothing more can be asked of it, never on the host */
    int head_dim_unit; /* head dims it takes: multiples of this, up to head_dim_max; 0: any */
    int head_dim_max;
    int n_thread;     /* host threads that this rank may use; at least 1 */
    double timeout_s; /* of a wait for the device; the host waits for nothing */
    /* Called while waiting, often, as in struct comm. May be NULL. */
    bool (*poll)(void *user, struct error *err);
    void *poll_user;
};

static inline bool device_takes_kv(const struct device *d, enum dtype kv) {
    return kv == d->act || (kv == DTYPE_BF16 && d->kv_bf16);
}

/* ---- the host device ---- */

struct host_options {
    int n_thread;    /* OpenMP threads; >= 1 */
    const char *isa; /* "generic", "avx2", "avx512", "avx512vnni"; NULL: the best this CPU has */
};

/* Errors: UNSUPPORTED (isa unknown or not on this CPU; says which are), MEMORY. */
bool host_device_create(const struct host_options *, struct device **out, struct error *);

/* The name of the kernels the host device would use, or uses ("avx512"). */
const char *host_isa_name(const struct device *);
/* The best instruction set of this CPU; bit i of *mask says that isa i of the list is usable. */
const char *host_isa_best(void);
bool host_isa_usable(const char *isa);

/* ---- the CUDA device, which the plug-in makes: comm/plugin.h ---- */

struct cuda_device_options {
    int index;        /* among the devices this process sees */
    bool f32;         /* everything in f32, TF32 off; else bf16 */
    bool graphs;      /* capture decode steps */
    int n_thread;     /* host threads that this rank may use */
    int n_sharer;     /* ranks that share this GPU's memory; at least 1 */
    double timeout_s; /* of a wait for the GPU */
};

void device_destroy(struct device *);
