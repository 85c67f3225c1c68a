/* Inside the host device: what its files share. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "device/device.h"
#include "device/host/kernels.h"

/* A buffer that only grows, so that a step in steady state allocates nothing. */
struct host_scratch {
    void *data; /* owns, 64-byte aligned */
    size_t size;
};

struct host_device {
    struct device base;
    const struct host_kernels *kernels;
    int n_thread;
    struct host_scratch *scratch; /* one per thread, its own */
    struct host_scratch x;        /* linear: packed tokens */
    struct host_scratch items;    /* attention: work items */
    struct host_scratch parts;    /* attention: partial results, where threads share an item */
    struct device_batch batch;    /* the current one; borrows */
};

struct matrix {
    enum dtype dtype;
    int rows;
    int cols;
    int leaf_cols; /* columns after which groups start anew; 0: none do */
    int n_unit;    /* of a row: columns or, quantized, groups */
    size_t panel_bytes;
    size_t bytes;
    unsigned char *data; /* owns */
};

static inline struct host_device *host_of(struct device *d) {
    return (struct host_device *)d;
}

/* ---- host_memory.c ---- */
/* Zeroed, 64-byte aligned, in huge pages where it is large; NULL when there is none. */
void *host_memory_alloc(size_t bytes);
void host_memory_free(void *p, size_t bytes);
size_t host_memory_available(void);
/* Bytes of this process that stand in memory; 0: unknown. */
uint64_t host_memory_resident(void);
/* Errors: MEMORY (the old buffer stays). What it held is lost. */
bool host_scratch_reserve(struct host_scratch *, size_t bytes, struct error *err);
void host_scratch_finish(struct host_scratch *);

/* ---- host_team.c ---- */
typedef void host_work(void *ctx, int item, void *scratch);
/* Scratch memory of n threads. Errors: MEMORY. */
bool host_team_reserve(struct host_device *, int n_thread, size_t scratch_bytes, struct error *err);
/* Runs work(ctx, item, scratch) for items 0 .. n_item - 1 on the device's threads: the first item
 * of thread t is t, the others go to whoever is free. Every thread's scratch has scratch_bytes.
 * Errors: MEMORY. */
bool host_team_run(struct host_device *, int n_item, host_work *work, void *ctx,
                   size_t scratch_bytes, struct error *err);
/* Part i of n equal parts of [0, total). */
struct range host_team_part(int total, int n, int i);

/* ---- matrices: host_matrix.c ---- */
size_t host_matrix_bytes(const struct device *, enum dtype dtype, int rows, int cols,
                         int leaf_cols);
bool host_matrix_create(struct device *, enum dtype dtype, int rows, int cols, int leaf_cols,
                        struct matrix **out, struct error *err);
/* Whether a group, or a column of what is not quantized, begins or the row ends at column col. */
bool host_matrix_has_bound(const struct matrix *, int col);
/* Row `row` as f32. */
void host_matrix_row(const struct matrix *, int row, float *y);
bool host_matrix_fill(struct device *, struct matrix *, int row, int n_rows, int col, int n_cols,
                      enum dtype src_dtype, const void *src, size_t src_stride, size_t *n_nonfinite,
                      struct error *err);
void host_matrix_destroy(struct device *, struct matrix *);

/* ---- operations: host_linear.c, host_rows.c, host_attention.c, host_top_k.c ---- */
/* Scratch memory for calls within the limits. Errors: MEMORY. */
bool host_linear_reserve(struct host_device *, const struct batch_limits *, struct error *err);
bool host_attention_reserve(struct host_device *, const struct batch_limits *, struct error *err);
bool host_linear(struct device *, void *y, enum dtype y_dtype, const void *x, size_t x_stride,
                 const struct matrix *w, int n_tok, const struct leaf_plan *plan,
                 struct error *err);
bool host_embed(struct device *, float *y, const struct matrix *table, int row_first,
                struct error *err);
bool host_rmsnorm(struct device *, void *y, float *x, const float *delta, const float *w, int n_tok,
                  int dim, float eps, struct error *err);
bool host_add(struct device *, float *x, const float *y, size_t n, struct error *err);
bool host_add_bias(struct device *, void *x, enum dtype x_dtype, const float *b, int n_tok, int dim,
                   struct error *err);
bool host_silu_mul(struct device *, void *y, const void *gu, int n_tok, int dim, struct error *err);
bool host_gather_rows(struct device *, float *y, const float *x, int first, int n, int dim,
                      struct error *err);
bool host_rope_append(struct device *, void *qkv, const struct attention_shape *,
                      const float *q_norm, const float *k_norm, float eps, const float *rope,
                      struct kv_layer kv, struct error *err);
bool host_attention(struct device *, void *out, const void *qkv, const struct attention_shape *,
                    struct kv_layer kv, struct error *err);
size_t host_kv_block_bytes(const struct device *, enum dtype kv, int n_kv_head, int head_dim);
/* The k <= n largest of x[0..n), largest first, ties by lower index, NaN as -inf. */
void host_select(const struct host_kernels *, float *values, int32_t *ids, const float *x, int n,
                 int k);
bool host_top_k(struct device *, float *values, int32_t *ids, const float *x, int n, int dim, int k,
                int index_first, struct error *err);
