#include "device/cuda/cuda_device.h"

#include <stdlib.h>

enum { BLAS_WORKSPACE_BYTES = 32 << 20 }; /* what cuBLAS asks for on Hopper; captures need it set */

static void cuda_destroy(struct device *d) {
    struct cuda_device *c = cuda_of(d);
    cuda_batch_release(d);
    if (c->base.broken) {
        free(c);
        return; /* see cuda_give_back */
    }
    for (int i = 0; i < CUDA_STAGING; i++) {
        cuda_staging_finish(c, &c->staging[i]);
    }
    if (c->blas) {
        cublasDestroy(c->blas);
    }
    cudaFree(c->blas_workspace);
    if (c->stream) {
        cudaStreamDestroy(c->stream);
    }
    free(c);
}

static const struct device_ops cuda_ops = {
    .name = "cuda",
    .destroy = cuda_destroy,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .upload = cuda_upload,
    .download = cuda_download,
    .sync = cuda_sync,
    .memory_free = cuda_memory_free,
    .matrix_bytes = cuda_matrix_bytes,
    .matrix_create = cuda_matrix_create,
    .matrix_fill = cuda_matrix_fill,
    .matrix_destroy = cuda_matrix_destroy,
    .batch_reserve = cuda_batch_reserve,
    .batch_release = cuda_batch_release,
    .batch_begin = cuda_batch_begin,
    .record_begin = cuda_record_begin,
    .record_end = cuda_record_end,
    .linear = cuda_linear,
    .embed = cuda_embed,
    .rmsnorm = cuda_rmsnorm,
    .add = cuda_add,
    .add_bias = cuda_add_bias,
    .silu_mul = cuda_silu_mul,
    .rope_append = cuda_rope_append,
    .attention = cuda_attention,
    .kv_block_bytes = cuda_kv_block_bytes,
    .gather_rows = cuda_gather_rows,
    .top_k = cuda_top_k,
    .log_sum_exp = cuda_log_sum_exp,
};

void cuda_device_watch(struct cuda_device *c, const struct cuda_watch *watch) {
    c->watch = watch ? *watch : (struct cuda_watch){0};
}

static bool blas_init(struct cuda_device *c, struct error *err) {
    CUDA_TRY(cudaMalloc(&c->blas_workspace, BLAS_WORKSPACE_BYTES), "cudaMalloc for cuBLAS");
    cublasStatus_t s = cublasCreate(&c->blas);
    if (s == CUBLAS_STATUS_SUCCESS) {
        s = cublasSetStream(c->blas, c->stream);
    }
    if (s == CUBLAS_STATUS_SUCCESS) { /* all sums in f32, where bf16 is stored, too; no TF32 */
        s = cublasSetMathMode(c->blas, c->base.act == DTYPE_F32
                                           ? CUBLAS_PEDANTIC_MATH
                                           : CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION);
    }
    if (s == CUBLAS_STATUS_SUCCESS) { /* after the stream: setting that takes it away */
        s = cublasSetWorkspace(c->blas, c->blas_workspace, BLAS_WORKSPACE_BYTES);
    }
    return s == CUBLAS_STATUS_SUCCESS ||
           error_set(err, ERROR_DEVICE, "cuBLAS: %s", cublasGetStatusString(s));
}

static bool init(struct cuda_device *c, struct error *err) {
    CUDA_TRY(cudaSetDevice(c->index), "cudaSetDevice");
    CUDA_TRY(cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking), "cudaStreamCreate");
    for (int i = 0; i < CUDA_STAGING; i++) {
        if (!cuda_staging_init(&c->staging[i], CUDA_STAGING_BYTES, err)) {
            return false;
        }
    }
    return blas_init(c, err);
}

bool cuda_device_create(const struct cuda_device_options *options, struct device **out,
                        struct error *err) {
    struct cuda_device *c = calloc(1, sizeof *c);
    if (!c) {
        return error_set(err, ERROR_MEMORY, "no memory for a device");
    }
    c->base = (struct device){.ops = &cuda_ops,
                              .act = options->f32 ? DTYPE_F32 : DTYPE_BF16,
                              .main_thread_only = true,
                              .head_dim_unit = KERNEL_HEAD_DIM_UNIT,
                              .head_dim_max = KERNEL_MAX_HEAD_DIM,
                              .n_thread = options->n_thread > 0 ? options->n_thread : 1,
                              .timeout_s = options->timeout_s};
    c->index = options->index;
    c->graphs = options->graphs;
    c->n_sharer = options->n_sharer > 1 ? options->n_sharer : 1;
    if (!init(c, err)) {
        cuda_destroy(&c->base);
        return error_wrap(err, "cuda:%d", options->index);
    }
    *out = &c->base;
    return true;
}
