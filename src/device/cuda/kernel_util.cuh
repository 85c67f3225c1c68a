/* What the kernels share: element types, reductions. Everything is computed in f32. */
#pragma once

#include <cuda_bf16.h>
#include <stdint.h>

#include "device/cuda/kernels.h"

enum { WARP = 32 };

static __device__ __forceinline__ float to_f32(float x) {
    return x;
}

static __device__ __forceinline__ float to_f32(__nv_bfloat16 x) {
    return __bfloat162float(x);
}

template <typename T> static __device__ __forceinline__ T from_f32(float x);

template <> __device__ __forceinline__ float from_f32<float>(float x) {
    return x;
}

template <> __device__ __forceinline__ __nv_bfloat16 from_f32<__nv_bfloat16>(float x) {
    return __float2bfloat16_rn(x);
}

/* N consecutive elements, moved by loads and stores of up to 16 bytes: p must be aligned to that. */
template <typename T, int N> struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {
    T v[N];
};

template <typename T, int N>
static __device__ __forceinline__ void load_f32(float (&out)[N], const T *p) {
    Pack<T, N> pack = *reinterpret_cast<const Pack<T, N> *>(p);
#pragma unroll
    for (int i = 0; i < N; i++) {
        out[i] = to_f32(pack.v[i]);
    }
}

template <typename T, int N>
static __device__ __forceinline__ void store_f32(T *p, const float (&in)[N]) {
    Pack<T, N> pack;
#pragma unroll
    for (int i = 0; i < N; i++) {
        pack.v[i] = from_f32<T>(in[i]);
    }
    *reinterpret_cast<Pack<T, N> *>(p) = pack;
}

static __device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int d = WARP / 2; d > 0; d /= 2) {
        x += __shfl_xor_sync(0xffffffffu, x, d);
    }
    return x;
}

static __device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int d = WARP / 2; d > 0; d /= 2) {
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, d));
    }
    return x;
}

/* Sum over a block of THREADS; every thread gets it. shared [THREADS / 32]. */
template <int THREADS> static __device__ __forceinline__ float block_sum(float x, float *shared) {
    x = warp_sum(x);
    if (threadIdx.x % WARP == 0) {
        shared[threadIdx.x / WARP] = x;
    }
    __syncthreads();
    float sum = 0;
#pragma unroll
    for (int w = 0; w < THREADS / WARP; w++) {
        sum += shared[w];
    }
    __syncthreads(); /* shared may be used again */
    return sum;
}

/* Blocks of `threads` that n items take. */
static inline unsigned blocks_for(size_t n, int threads) {
    return (unsigned)((n + (size_t)threads - 1) / (size_t)threads);
}
