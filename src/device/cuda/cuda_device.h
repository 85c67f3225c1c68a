/* Inside the CUDA device: what its files and the NCCL communicator share. One stream per device
 * carries everything; the main thread alone calls. Waiting is always a loop over the stream's
 * state, the communicator's, the control plane's and the clock (cuda_wait), never a blocking CUDA
 * call. */
#pragma once

#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "device/cuda/kernels.h"
#include "device/device.h"

/* What else a wait must look at: the communicator that has operations on the stream. */
struct cuda_watch {
    /* False, with its error, when the communicator has failed. */
    bool (*check)(void *user, struct error *err);
    /* The wait failed, or ran out of time: ends the communicator's operations on the stream. The
     * graphs are gone already (an abort waits for live ones). */
    void (*abort)(void *user);
    /* *all: `mine` holds on every rank. Collective; waits. */
    bool (*agree)(void *user, bool mine, bool *all, struct error *err);
    void *user;
};

/* Pinned host memory on its way to or from the device. */
struct cuda_staging {
    void *data;       /* owns, pinned */
    cudaEvent_t used; /* recorded after the last copy from or to it */
};

enum {
    CUDA_STAGING = 2, /* one is filled while the other travels */
    CUDA_STAGING_BYTES = 4 << 20,
    CUDA_MAX_RECORDINGS = 64,
};

/* The device's copy of the current batch. */
struct cuda_batch {
    struct batch_limits limits;
    int32_t *device; /* owns [capacity] */
    size_t capacity; /* numbers */
    struct cuda_staging host[CUDA_STAGING];
    int turn;
    struct kernel_batch args; /* points into device */
    bool recordable;
};

/* A run of operations under one key, for one size of the batch. */
struct cuda_recording {
    int key, n_tok, n_row;
    enum { RECORDING_SEEN, RECORDING_READY, RECORDING_REFUSED } state;
    cudaGraph_t graph;    /* owns, when READY */
    cudaGraphExec_t exec; /* owns, when READY */
};

struct cuda_device {
    struct device base;
    int index;
    bool graphs;  /* --no-cuda-graphs was not given */
    int n_sharer; /* ranks that share this GPU's memory */
    cudaStream_t stream;
    cublasHandle_t blas;
    void *blas_workspace;
    struct cuda_watch watch;
    struct cuda_staging staging[CUDA_STAGING];
    int staging_turn;
    void *scratch; /* owns, device; of decode attention; grows; this model's */
    size_t scratch_bytes;
    struct cuda_batch batch;
    struct cuda_recording recordings[CUDA_MAX_RECORDINGS];
    int n_recording;
    bool told_full;                   /* that there is room for no more */
    struct cuda_recording *recording; /* being captured now, or NULL */
};

struct matrix {
    int rows;
    int cols;
    void *data; /* owns, device, [rows, cols] act */
};

static inline struct cuda_device *cuda_of(struct device *d) {
    return (struct cuda_device *)d;
}

static inline enum kernel_type cuda_kernel_type(const struct cuda_device *c) {
    return c->base.act == DTYPE_F32 ? KERNEL_F32 : KERNEL_BF16;
}

/* Sets err to `what` and CUDA's words; MEMORY where that is what is missing, else DEVICE. */
bool cuda_error(struct error *err, cudaError_t e, const char *what);

/* For functions that return bool and have `err`. */
#define CUDA_TRY(call, what)                                                                       \
    do {                                                                                           \
        cudaError_t cuda_try_e = (call);                                                           \
        if (cuda_try_e != cudaSuccess) {                                                           \
            return cuda_error(err, cuda_try_e, what);                                              \
        }                                                                                          \
    } while (0)

/* The same for what is put on the stream of `c`. */
#define CUDA_STREAM_TRY(c, call, what)                                                             \
    do {                                                                                           \
        cudaError_t cuda_try_e = (call);                                                           \
        if (cuda_try_e != cudaSuccess) {                                                           \
            return cuda_stream_failed(c, cuda_try_e, what, err);                                   \
        }                                                                                          \
    } while (0)

/* ---- cuda_device.c ---- */
bool cuda_device_create(const struct cuda_device_options *, struct device **out, struct error *err);
/* At most one communicator at a time; NULL ends it. */
void cuda_device_watch(struct cuda_device *, const struct cuda_watch *);

/* ---- cuda_wait.c ---- */
/* Waits until the event has happened; event NULL: until the stream is empty. Errors: DEVICE,
 * DEADLINE, the watch's and the poll's; after any of them the device is broken, the graphs are
 * destroyed and the watch is told to abort. */
bool cuda_wait(struct cuda_device *, cudaEvent_t event, const char *what, struct error *err);
/* Another rank's failure often shows here first as NCCL's: waits a moment for that rank's own
 * words, which then replace err. */
void cuda_ask_others(struct cuda_device *, struct error *err);
/* As a failed wait ends. Returns false. */
bool cuda_break(struct cuda_device *);
/* Something could not be put on the stream: sets err, returns false. The other ranks wait for this
 * one in their next collective, so it ends as a failed wait does, unless it was to be recorded
 * only.
 */
bool cuda_stream_failed(struct cuda_device *, cudaError_t e, const char *what, struct error *err);
/* False, with an error, once the device is broken. */
bool cuda_usable(const struct cuda_device *, struct error *err);

/* ---- cuda_memory.c ---- */
bool cuda_alloc(struct device *, size_t bytes, void **out, struct error *err);
void cuda_free(struct device *, void *p, size_t bytes);
bool cuda_upload(struct device *, void *dst, const void *src, size_t bytes, struct error *err);
bool cuda_download(struct device *, void *dst, const void *src, size_t bytes, struct error *err);
bool cuda_sync(struct device *, struct error *err);
size_t cuda_memory_free(struct device *);
/* cudaFree, but for a broken device: it would wait for what never ends. The process' end frees all.
 */
void cuda_give_back(const struct cuda_device *, void *p);
bool cuda_staging_init(struct cuda_staging *, size_t bytes, struct error *err);
void cuda_staging_finish(const struct cuda_device *, struct cuda_staging *);
/* The next of the device's staging buffers, once its last copy is done. */
bool cuda_staging_next(struct cuda_device *, struct cuda_staging **out, struct error *err);
/* To be called after the copy from or to it has been enqueued. */
bool cuda_staging_used(struct cuda_device *, struct cuda_staging *, struct error *err);
/* Device memory for a kernel's own use; grows. May wait. */
bool cuda_scratch(struct cuda_device *, size_t bytes, void **out, struct error *err);
/* At a model's end: growing ends the recordings, so that ranks must grow at the same steps, and
 * what one model left might do for the next on some ranks and not on others. */
void cuda_scratch_drop(struct cuda_device *);

/* ---- cuda_matrix.c ---- */
size_t cuda_matrix_bytes(const struct device *, enum dtype dtype, int rows, int cols,
                         int leaf_cols);
bool cuda_matrix_create(struct device *, enum dtype dtype, int rows, int cols, int leaf_cols,
                        struct matrix **out, struct error *err);
bool cuda_matrix_fill(struct device *, struct matrix *, int row, int n_rows, int col, int n_cols,
                      enum dtype src_dtype, const void *src, size_t src_stride, size_t *n_nonfinite,
                      struct error *err);
void cuda_matrix_destroy(struct device *, struct matrix *);

/* ---- cuda_batch.c ---- */
bool cuda_batch_reserve(struct device *, const struct batch_limits *, struct error *err);
void cuda_batch_release(struct device *);
bool cuda_batch_begin(struct device *, const struct device_batch *, struct batch_size *out,
                      struct error *err);

/* ---- cuda_record.c ---- */
bool cuda_record_begin(struct device *, int key, bool *replayed, struct error *err);
bool cuda_record_end(struct device *, bool ok, bool *again, struct error *err);
/* Destroys all graphs; recording starts over. */
void cuda_graphs_drop(struct cuda_device *);

/* ---- cuda_ops.c ---- */
/* Scratch memory for decode steps within the batch's limits. Errors: MEMORY. */
bool cuda_attention_reserve(struct cuda_device *, struct error *err);
bool cuda_linear(struct device *, void *y, enum dtype y_dtype, const void *x, size_t x_stride,
                 const struct matrix *w, int n_tok, const struct leaf_plan *plan,
                 struct error *err);
bool cuda_embed(struct device *, float *y, const struct matrix *table, int row_first,
                struct error *err);
bool cuda_rmsnorm(struct device *, void *y, float *x, const float *delta, const float *w, int n_tok,
                  int dim, float eps, struct error *err);
bool cuda_add(struct device *, float *x, const float *y, size_t n, struct error *err);
bool cuda_add_bias(struct device *, void *x, enum dtype x_dtype, const float *b, int n_tok, int dim,
                   struct error *err);
bool cuda_silu_mul(struct device *, void *y, const void *gu, int n_tok, int dim, struct error *err);
bool cuda_rope_append(struct device *, void *qkv, const struct attention_shape *,
                      const float *q_norm, const float *k_norm, float eps, const float *rope,
                      struct kv_layer kv, struct error *err);
bool cuda_attention(struct device *, void *out, const void *qkv, const struct attention_shape *,
                    struct kv_layer kv, struct error *err);
size_t cuda_kv_block_bytes(const struct device *, enum dtype kv, int n_kv_head, int head_dim);
bool cuda_gather_rows(struct device *, float *y, const float *x, int first, int n, int dim,
                      struct error *err);
bool cuda_top_k(struct device *, float *values, int32_t *ids, const float *x, int n, int dim, int k,
                int index_first, struct error *err);
bool cuda_log_sum_exp(struct device *, struct exp_sum *out, const float *x, int first, int n,
                      int dim, int index_first, struct error *err);
