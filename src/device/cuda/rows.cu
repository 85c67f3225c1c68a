/* Operations on rows of tokens: embedding, RMSNorm, sums, SwiGLU, gathering. Each is bound by memory:
 * a block takes a row, or a grid strides over elements; four elements a thread where all is aligned. */
#include "device/cuda/kernel_util.cuh"

enum { ROW_THREADS = 128, VEC = 4, FLAT_THREADS = 256, FLAT_MAX_BLOCKS = 4096 };

/* ---- kernels ---- */

/* Grid: one block a token. */
template <typename T, int N>
static __global__ void __launch_bounds__(ROW_THREADS)
    embed(float *y, const T *table, int rows, int dim, int row_first, const int32_t *ids,
          const int32_t *sequence) {
    int m = blockIdx.x;
    int64_t row = (int64_t)ids[m] - row_first;
    bool have = sequence[m] >= 0 && row >= 0 && row < rows;
    for (int i = threadIdx.x * N; i < dim; i += ROW_THREADS * N) {
        float x[N];
        if (have) {
            load_f32<T, N>(x, table + (size_t)row * dim + i);
        }
#pragma unroll
        for (int k = 0; k < N; k++) {
            x[k] = have && x[k] != 0.0f ? x[k] : 0.0f; /* -0 becomes +0 */
        }
        store_f32<float, N>(y + (size_t)m * dim + i, x);
    }
}

/* Grid: one block a row. The row is read twice, the second time from the cache. */
template <typename T, int N, bool DELTA>
static __global__ void __launch_bounds__(ROW_THREADS)
    rmsnorm(T *y, float *x, const float *delta, const float *w, int dim, float eps) {
    __shared__ float shared[ROW_THREADS / WARP];
    size_t row = (size_t)blockIdx.x * dim;
    float sum = 0;
    for (int i = threadIdx.x * N; i < dim; i += ROW_THREADS * N) {
        float v[N];
        load_f32<float, N>(v, x + row + i);
        if (DELTA) {
            float d[N];
            load_f32<float, N>(d, delta + row + i);
#pragma unroll
            for (int k = 0; k < N; k++) {
                v[k] += d[k];
            }
            store_f32<float, N>(x + row + i, v);
        }
#pragma unroll
        for (int k = 0; k < N; k++) {
            sum = fmaf(v[k], v[k], sum);
        }
    }
    float r = 1.0f / sqrtf(block_sum<ROW_THREADS>(sum, shared) / dim + eps);
    for (int i = threadIdx.x * N; i < dim; i += ROW_THREADS * N) {
        float v[N], g[N];
        load_f32<float, N>(v, x + row + i); /* what this very thread wrote */
        load_f32<float, N>(g, w + i);
#pragma unroll
        for (int k = 0; k < N; k++) {
            v[k] = v[k] * r * g[k];
        }
        store_f32<T, N>(y + row + i, v);
    }
}

template <int N>
static __global__ void __launch_bounds__(FLAT_THREADS) add(float *x, const float *y, size_t n) {
    size_t step = (size_t)gridDim.x * FLAT_THREADS * N;
    for (size_t i = ((size_t)blockIdx.x * FLAT_THREADS + threadIdx.x) * N; i < n; i += step) {
        float a[N], b[N];
        load_f32<float, N>(a, x + i);
        load_f32<float, N>(b, y + i);
#pragma unroll
        for (int k = 0; k < N; k++) {
            a[k] += b[k];
        }
        store_f32<float, N>(x + i, a);
    }
}

template <typename T, int N>
static __global__ void __launch_bounds__(ROW_THREADS) add_bias(T *x, const float *b, int dim) {
    size_t row = (size_t)blockIdx.x * dim;
    for (int i = threadIdx.x * N; i < dim; i += ROW_THREADS * N) {
        float v[N], w[N];
        load_f32<T, N>(v, x + row + i);
        load_f32<float, N>(w, b + i);
#pragma unroll
        for (int k = 0; k < N; k++) {
            v[k] += w[k];
        }
        store_f32<T, N>(x + row + i, v);
    }
}

/* Grid: (rows, blocks along dim): only x goes beyond 65535. */
template <typename T, int N>
static __global__ void __launch_bounds__(ROW_THREADS) silu_mul(T *y, const T *gu, int dim) {
    size_t m = blockIdx.x;
    int i = (blockIdx.y * ROW_THREADS + threadIdx.x) * N;
    if (i >= dim) {
        return;
    }
    float g[N], u[N];
    load_f32<T, N>(g, gu + 2 * m * dim + i);
    load_f32<T, N>(u, gu + (2 * m + 1) * dim + i);
#pragma unroll
    for (int k = 0; k < N; k++) {
        g[k] = g[k] / (1.0f + __expf(-g[k])) * u[k];
    }
    store_f32<T, N>(y + m * dim + i, g);
}

template <int N>
static __global__ void __launch_bounds__(ROW_THREADS)
    gather_rows(float *y, const float *x, const int32_t *rows, int dim) {
    int32_t row = rows[blockIdx.x];
    for (int i = threadIdx.x * N; i < dim; i += ROW_THREADS * N) {
        float v[N];
        if (row >= 0) {
            load_f32<float, N>(v, x + (size_t)row * dim + i);
        } else {
#pragma unroll
            for (int k = 0; k < N; k++) {
                v[k] = 0.0f;
            }
        }
        store_f32<float, N>(y + (size_t)blockIdx.x * dim + i, v);
    }
}

/* ---- launchers ---- */

/* Rows of dim elements are aligned for VEC at a time if the first is and dim is a multiple. */
static bool vectors(int dim, const void *a, const void *b = nullptr, const void *c = nullptr,
                    const void *d = nullptr) {
    uintptr_t bits = (uintptr_t)a | (uintptr_t)b | (uintptr_t)c | (uintptr_t)d;
    return dim % VEC == 0 && bits % (VEC * sizeof(float)) == 0;
}

template <typename T>
static void launch_embed(float *y, const void *table, int rows, int dim, int row_first,
                         const kernel_batch *b, cudaStream_t stream) {
    const T *t = (const T *)table;
    if (vectors(dim, y, table)) {
        embed<T, VEC>
            <<<b->n_tok, ROW_THREADS, 0, stream>>>(y, t, rows, dim, row_first, b->ids, b->sequence);
    } else {
        embed<T, 1>
            <<<b->n_tok, ROW_THREADS, 0, stream>>>(y, t, rows, dim, row_first, b->ids, b->sequence);
    }
}

cudaError_t kernel_embed(float *y, const void *table, enum kernel_type type, int rows, int dim,
                         int row_first, const struct kernel_batch *batch, cudaStream_t stream) {
    if (type == KERNEL_F32) {
        launch_embed<float>(y, table, rows, dim, row_first, batch, stream);
    } else {
        launch_embed<__nv_bfloat16>(y, table, rows, dim, row_first, batch, stream);
    }
    return cudaGetLastError();
}

template <typename T, int N>
static void launch_rmsnorm(void *y, float *x, const float *delta, const float *w, int n, int dim,
                           float eps, cudaStream_t stream) {
    if (delta) {
        rmsnorm<T, N, true><<<n, ROW_THREADS, 0, stream>>>((T *)y, x, delta, w, dim, eps);
    } else {
        rmsnorm<T, N, false><<<n, ROW_THREADS, 0, stream>>>((T *)y, x, nullptr, w, dim, eps);
    }
}

cudaError_t kernel_rmsnorm(void *y, enum kernel_type y_type, float *x, const float *delta,
                           const float *w, int n, int dim, float eps, cudaStream_t stream) {
    bool wide = vectors(dim, y, x, delta, w);
    if (y_type == KERNEL_F32 && wide) {
        launch_rmsnorm<float, VEC>(y, x, delta, w, n, dim, eps, stream);
    } else if (y_type == KERNEL_F32) {
        launch_rmsnorm<float, 1>(y, x, delta, w, n, dim, eps, stream);
    } else if (wide) {
        launch_rmsnorm<__nv_bfloat16, VEC>(y, x, delta, w, n, dim, eps, stream);
    } else {
        launch_rmsnorm<__nv_bfloat16, 1>(y, x, delta, w, n, dim, eps, stream);
    }
    return cudaGetLastError();
}

cudaError_t kernel_add(float *x, const float *y, size_t n, cudaStream_t stream) {
    bool wide = n % VEC == 0 && ((uintptr_t)x | (uintptr_t)y) % (VEC * sizeof(float)) == 0;
    unsigned blocks = blocks_for(wide ? n / VEC : n, FLAT_THREADS);
    blocks = blocks < FLAT_MAX_BLOCKS ? blocks : FLAT_MAX_BLOCKS;
    if (wide) {
        add<VEC><<<blocks, FLAT_THREADS, 0, stream>>>(x, y, n);
    } else {
        add<1><<<blocks, FLAT_THREADS, 0, stream>>>(x, y, n);
    }
    return cudaGetLastError();
}

template <typename T>
static void launch_add_bias(void *x, const float *b, int n, int dim, cudaStream_t stream) {
    if (vectors(dim, x, b)) {
        add_bias<T, VEC><<<n, ROW_THREADS, 0, stream>>>((T *)x, b, dim);
    } else {
        add_bias<T, 1><<<n, ROW_THREADS, 0, stream>>>((T *)x, b, dim);
    }
}

cudaError_t kernel_add_bias(void *x, enum kernel_type type, const float *b, int n, int dim,
                            cudaStream_t stream) {
    if (type == KERNEL_F32) {
        launch_add_bias<float>(x, b, n, dim, stream);
    } else {
        launch_add_bias<__nv_bfloat16>(x, b, n, dim, stream);
    }
    return cudaGetLastError();
}

template <typename T>
static void launch_silu_mul(void *y, const void *gu, int n, int dim, cudaStream_t stream) {
    bool wide = vectors(dim, y, gu);
    dim3 grid((unsigned)n, blocks_for(wide ? (size_t)dim / VEC : (size_t)dim, ROW_THREADS));
    if (wide) {
        silu_mul<T, VEC><<<grid, ROW_THREADS, 0, stream>>>((T *)y, (const T *)gu, dim);
    } else {
        silu_mul<T, 1><<<grid, ROW_THREADS, 0, stream>>>((T *)y, (const T *)gu, dim);
    }
}

cudaError_t kernel_silu_mul(void *y, const void *gu, enum kernel_type type, int n, int dim,
                            cudaStream_t stream) {
    if (type == KERNEL_F32) {
        launch_silu_mul<float>(y, gu, n, dim, stream);
    } else {
        launch_silu_mul<__nv_bfloat16>(y, gu, n, dim, stream);
    }
    return cudaGetLastError();
}

cudaError_t kernel_gather_rows(float *y, const float *x, int first, int n, int dim,
                               const struct kernel_batch *batch, cudaStream_t stream) {
    const int32_t *rows = batch->rows + first;
    if (vectors(dim, x, y)) {
        gather_rows<VEC><<<n, ROW_THREADS, 0, stream>>>(y, x, rows, dim);
    } else {
        gather_rows<1><<<n, ROW_THREADS, 0, stream>>>(y, x, rows, dim);
    }
    return cudaGetLastError();
}
