/* What a log-probability needs of a row of logits, one block a row: the maximum and the sum of
 * exponentials in one pass (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018),
 * so that a row is read from memory once. */
#include "device/cuda/kernel_util.cuh"

enum { EXP_THREADS = 512, EXP_WARPS = EXP_THREADS / WARP, VEC = 4 };

/* A maximum, and the sum of exp(x - max). NaN takes no part in the maximum, but makes the sum NaN; so
 * does +inf, of which nothing can be subtracted. */
struct Sum {
    float max, sum;
};

/* What to subtract: -inf - -inf would be NaN where there is nothing yet, or nothing but -inf. */
static __device__ __forceinline__ float base_of(float max) {
    return max == -INFINITY ? 0.0f : max;
}

static __device__ __forceinline__ Sum merged(Sum a, Sum b) {
    float max = fmaxf(a.max, b.max), base = base_of(max);
    return {max, a.sum * expf(a.max - base) + b.sum * expf(b.max - base)};
}

static __device__ __forceinline__ Sum warp_merged(Sum s) {
#pragma unroll
    for (int d = WARP / 2; d > 0; d /= 2) {
        s = merged(s, {__shfl_xor_sync(0xffffffffu, s.max, d),
                       __shfl_xor_sync(0xffffffffu, s.sum, d)});
    }
    return s;
}

template <int N> static __device__ __forceinline__ Sum with(Sum s, const float (&x)[N]) {
    float max = s.max;
#pragma unroll
    for (int k = 0; k < N; k++) {
        max = fmaxf(max, x[k]);
    }
    float base = base_of(max);
    if (max != s.max) { /* rare after the first few */
        s = {max, s.sum * expf(s.max - base)};
    }
#pragma unroll
    for (int k = 0; k < N; k++) {
        s.sum += expf(x[k] - base);
    }
    return s;
}

/* Grid: one block a row. */
template <int N>
static __global__ void __launch_bounds__(EXP_THREADS)
    log_sum_exp(float *out, const float *x, int dim, int index_first, const int32_t *targets) {
    __shared__ Sum shared[EXP_WARPS];
    const float *row = x + (size_t)blockIdx.x * dim;
    Sum s = {-INFINITY, 0.0f};
    for (int i = threadIdx.x * N; i < dim; i += EXP_THREADS * N) {
        float v[N];
        load_f32<float, N>(v, row + i);
        s = with(s, v);
    }
    s = warp_merged(s);
    if (threadIdx.x % WARP == 0) {
        shared[threadIdx.x / WARP] = s;
    }
    __syncthreads();
    if (threadIdx.x < WARP) {
        s = warp_merged(threadIdx.x < EXP_WARPS ? shared[threadIdx.x] : Sum{-INFINITY, 0.0f});
        if (threadIdx.x == 0) {
            int64_t at = (int64_t)targets[blockIdx.x] - index_first;
            float *to = out + (size_t)blockIdx.x * 3;
            to[0] = s.max;
            to[1] = s.sum;
            to[2] = at >= 0 && at < dim ? row[at] : 0.0f;
        }
    }
}

cudaError_t kernel_log_sum_exp(float *out, const float *x, int first, int n, int dim,
                               int index_first, const struct kernel_batch *batch,
                               cudaStream_t stream) {
    const int32_t *targets = batch->targets + first;
    if (n < 1 || dim < 0) {
        return cudaErrorInvalidValue;
    }
    if (dim % VEC == 0 && (uintptr_t)x % (VEC * sizeof(float)) == 0) {
        log_sum_exp<VEC><<<n, EXP_THREADS, 0, stream>>>(out, x, dim, index_first, targets);
    } else {
        log_sum_exp<1><<<n, EXP_THREADS, 0, stream>>>(out, x, dim, index_first, targets);
    }
    return cudaGetLastError();
}
