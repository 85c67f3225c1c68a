/* The simulated libcublas: matrix products as operations of the simulated streams, in f32, in
 * blocks along k whose sums are added up at the end (so that nobody mistakes the order for the
 * host's). */
#include <cublas_v2.h>
#include <stdlib.h>
#include <string.h>

#include "gpusim.h"

#define API __attribute__((visibility("default")))

enum { K_BLOCK = 32 };

static int n_handle;

static void at_end(int status, void *none) {
    (void)none;
    if (status == 0 && !gpusim_gave_up() && n_handle > 0) {
        gpusim_finding("leak at exit: %d handles of cuBLAS", n_handle);
    }
}

__attribute__((constructor)) static void begin(void) {
    on_exit(at_end, NULL);
}

struct cublasContext {
    cudaStream_t stream;
};

struct gemm {
    bool transpose_a, transpose_b;
    int m, n, k, lda, ldb, ldc;
    float alpha, beta;
    const void *a, *b;
    void *c;
    cudaDataType_t type, type_c;
};

static size_t size_of(cudaDataType_t t) {
    return t == CUDA_R_32F ? 4 : 2;
}

static float load(const void *p, cudaDataType_t t, size_t i) {
    float x;
    if (t == CUDA_R_32F) {
        memcpy(&x, (const char *)p + 4 * i, 4);
        return x;
    }
    uint16_t h;
    memcpy(&h, (const char *)p + 2 * i, 2);
    uint32_t u = (uint32_t)h << 16;
    memcpy(&x, &u, 4);
    return x;
}

static void store(void *p, cudaDataType_t t, size_t i, float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    if (t == CUDA_R_32F) {
        memcpy((char *)p + 4 * i, &u, 4);
        return;
    }
    uint16_t h = x != x ? 0x7fff : (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
    memcpy((char *)p + 2 * i, &h, 2);
}

/* The bytes of a column-major matrix, checked column by column. */
static const char *matrix(const void *p, int rows, int cols, int ld, cudaDataType_t t,
                          enum gpusim_access access) {
    const char *first = NULL;
    for (int j = 0; j < cols; j++) {
        const char *at = (const char *)p + (size_t)j * (size_t)ld * size_of(t);
        const char *data =
            gpusim_memory(at, (size_t)rows * size_of(t), access, false, "cublasGemmEx");
        if (!data) {
            return NULL;
        }
        first = j == 0 ? data : first;
    }
    return first;
}

/* Rows of op(x) that follow each other in k, as f32. */
static float *gather(const char *p, cudaDataType_t t, int ld, bool k_is_row, int n, int k) {
    float *out = malloc(sizeof(float) * (size_t)n * (size_t)k + 1);
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < k; j++) {
            size_t at =
                k_is_row ? (size_t)i * (size_t)ld + (size_t)j : (size_t)j * (size_t)ld + (size_t)i;
            out[(size_t)i * (size_t)k + (size_t)j] = load(p, t, at);
        }
    }
    return out;
}

static float dot(const float *a, const float *b, int k) {
    float sum = 0;
    for (int first = 0; first < k; first += K_BLOCK) {
        int end = first + K_BLOCK < k ? first + K_BLOCK : k;
        float block = 0;
        for (int i = first; i < end; i++) {
            block += a[i] * b[i];
        }
        sum += block;
    }
    return sum;
}

static enum gpusim_status run(void *arg, bool start, cudaError_t *error) {
    const struct gemm *g = arg;
    (void)start;
    int a_rows = g->transpose_a ? g->k : g->m, a_cols = g->transpose_a ? g->m : g->k;
    int b_rows = g->transpose_b ? g->n : g->k, b_cols = g->transpose_b ? g->k : g->n;
    const char *a = matrix(g->a, a_rows, a_cols, g->lda, g->type, GPUSIM_READ);
    const char *b = matrix(g->b, b_rows, b_cols, g->ldb, g->type, GPUSIM_READ);
    enum gpusim_access access = g->beta != 0 ? GPUSIM_READ | GPUSIM_WRITE : GPUSIM_WRITE;
    char *c = (char *)matrix(g->c, g->m, g->n, g->ldc, g->type_c, access);
    if (!a || !b || !c) {
        *error = cudaErrorIllegalAddress;
        return GPUSIM_FAILED;
    }
    float *x = gather(a, g->type, g->lda, g->transpose_a, g->m, g->k);
    float *y = gather(b, g->type, g->ldb, !g->transpose_b, g->n, g->k);
    for (int j = 0; j < g->n; j++) {
        for (int i = 0; i < g->m; i++) {
            size_t at = (size_t)j * (size_t)g->ldc + (size_t)i;
            float v =
                g->alpha * dot(x + (size_t)i * (size_t)g->k, y + (size_t)j * (size_t)g->k, g->k);
            store(c, g->type_c, at, g->beta != 0 ? v + g->beta * load(c, g->type_c, at) : v);
        }
    }
    free(x);
    free(y);
    return GPUSIM_DONE;
}

API cublasStatus_t cublasGemmEx(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m,
                                int n, int k, const void *alpha, const void *a, cudaDataType_t at,
                                int lda, const void *b, cudaDataType_t bt, int ldb,
                                const void *beta, void *c, cudaDataType_t ct, int ldc,
                                cublasComputeType_t compute, cublasGemmAlgo_t algo) {
    const char *kind = gpusim_fault("cublasGemmEx");
    (void)algo;
    if (kind) {
        return CUBLAS_STATUS_EXECUTION_FAILED;
    }
    bool types = at == bt && (at == CUDA_R_32F || at == CUDA_R_16BF) &&
                 (ct == CUDA_R_32F || ct == at) &&
                 (compute == CUBLAS_COMPUTE_32F || compute == CUBLAS_COMPUTE_32F_PEDANTIC);
    if (!types) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    if (m < 0 || n < 0 || k < 0 || lda < (ta == CUBLAS_OP_N ? m : k) ||
        ldb < (tb == CUBLAS_OP_N ? k : n) || ldc < m) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    struct gemm *g = malloc(sizeof *g);
    *g = (struct gemm){
        ta != CUBLAS_OP_N, tb != CUBLAS_OP_N, m, n, k, lda, ldb, ldc, 0, 0, a, b, c, at, ct};
    memcpy(&g->alpha, alpha, sizeof g->alpha);
    memcpy(&g->beta, beta, sizeof g->beta);
    struct gpusim_op op = {.name = "cublasGemmEx", .run = run, .destroy = free, .arg = g};
    return gpusim_enqueue(h->stream, &op) == cudaSuccess ? CUBLAS_STATUS_SUCCESS
                                                         : CUBLAS_STATUS_EXECUTION_FAILED;
}

API cublasStatus_t cublasCreate_v2(cublasHandle_t *out) {
    if (gpusim_fault("cublasCreate")) {
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    *out = calloc(1, sizeof **out);
    n_handle += *out ? 1 : 0;
    return *out ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_ALLOC_FAILED;
}

API cublasStatus_t cublasDestroy_v2(cublasHandle_t h) {
    n_handle -= h ? 1 : 0;
    free(h);
    return CUBLAS_STATUS_SUCCESS;
}

API cublasStatus_t cublasSetStream_v2(cublasHandle_t h, cudaStream_t stream) {
    h->stream = stream;
    return CUBLAS_STATUS_SUCCESS;
}

API cublasStatus_t cublasSetMathMode(cublasHandle_t h, cublasMath_t mode) {
    (void)h; /* every sum is in f32 here */
    bool known = mode == CUBLAS_PEDANTIC_MATH ||
                 (mode & ~CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION) == CUBLAS_DEFAULT_MATH;
    return known ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

API cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t h, void *p, size_t bytes) {
    (void)h;
    return gpusim_memory(p, bytes, 0, false, "cublasSetWorkspace") ? CUBLAS_STATUS_SUCCESS
                                                                   : CUBLAS_STATUS_INVALID_VALUE;
}

API const char *cublasGetStatusString(cublasStatus_t s) {
    switch (s) {
    case CUBLAS_STATUS_SUCCESS:
        return "the operation completed successfully";
    case CUBLAS_STATUS_NOT_INITIALIZED:
        return "the library was not initialized";
    case CUBLAS_STATUS_ALLOC_FAILED:
        return "the resource allocation failed";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "an unsupported value or parameter was passed to the function";
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return "the GPU program failed to execute";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "the functionality requested is not supported";
    default:
        return "unknown status";
    }
}
