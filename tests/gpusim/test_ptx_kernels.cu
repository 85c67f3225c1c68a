// Kernels for test_ptx_nvcc.c, which knows what they compute: what nvcc makes of ordinary CUDA C.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math_constants.h>
#include <stdint.h>

__device__ float block_sum(float x, float *part) {
    for (int m = 16; m > 0; m /= 2) {
        x += __shfl_xor_sync(0xffffffff, x, m);
    }
    if (threadIdx.x % 32 == 0) {
        part[threadIdx.x / 32] = x;
    }
    __syncthreads();
    x = threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0;
    if (threadIdx.x < 32) {
        for (int m = 16; m > 0; m /= 2) {
            x += __shfl_down_sync(0xffffffff, x, m);
        }
        if (threadIdx.x == 0) {
            part[0] = x;
        }
    }
    __syncthreads();
    return part[0];
}

// y = x / sqrt(mean(x^2) + eps), one block per row.
extern "C" __global__ void rmsnorm(__nv_bfloat16 *y, const float *x, int dim, float eps) {
    __shared__ float part[32];
    const float *row = x + (size_t)blockIdx.x * dim;
    float s = 0;
    for (int i = threadIdx.x; i < dim; i += blockDim.x) {
        s += row[i] * row[i];
    }
    s = 1.0f / sqrtf(block_sum(s, part) / dim + eps);
    for (int i = threadIdx.x; i < dim; i += blockDim.x) {
        y[(size_t)blockIdx.x * dim + i] = __float2bfloat16(row[i] * s);
    }
}

__device__ uint32_t shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

__device__ void copy16(void *to, const void *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from));
}

__device__ void ldmatrix4(uint32_t r[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)));
}

__device__ void ldmatrix2_trans(uint32_t r[2], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row)));
}

__device__ void mma(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// c [16 grid, 32] = a [16 grid, k] b [k, 32]; 4 warps, each 8 columns; k in steps of 16, the next
// one on its way while one is multiplied. BUG 1: does not wait for it; 2: no barrier behind the
// wait; 3: no barrier before the buffer is filled again.
template <int BUG>
__device__ void matmul_body(float *c, const __nv_bfloat16 *a, const __nv_bfloat16 *b, int k) {
    __shared__ __align__(16) __nv_bfloat16 ta[2][16][16];
    __shared__ __align__(16) __nv_bfloat16 tb[2][16][32];
    const int t = threadIdx.x;
    const int lane = t % 32;
    const int warp = t / 32;
    float d[4] = {0, 0, 0, 0};
    const int n_step = k / 16;

    a += (size_t)blockIdx.x * 16 * k;
    auto fill = [&](int step) {
        if (step < n_step) {
            const int at = step % 2;
            if (t < 32) {
                copy16(&ta[at][t / 2][t % 2 * 8], a + (size_t)(t / 2) * k + step * 16 + t % 2 * 8);
            } else if (t < 96) {
                const int i = t - 32;
                copy16(&tb[at][i / 4][i % 4 * 8], b + (size_t)(step * 16 + i / 4) * 32 + i % 4 * 8);
            }
        }
        asm volatile("cp.async.commit_group;");
    };
    fill(0);
    for (int step = 0; step < n_step; step++) {
        uint32_t ra[4], rb[2];
        fill(step + 1);
        if (BUG == 1) {
            asm volatile("cp.async.wait_group 2;");
        } else {
            asm volatile("cp.async.wait_group 1;");
        }
        if (BUG != 2) {
            __syncthreads();
        }
        ldmatrix4(ra, &ta[step % 2][lane % 16][lane / 16 * 8]);
        ldmatrix2_trans(rb, &tb[step % 2][lane % 16][warp * 8]);
        mma(d, ra, rb);
        if (BUG != 3) {
            __syncthreads();
        }
    }
    c += (size_t)blockIdx.x * 16 * 32 + warp * 8 + lane % 4 * 2;
    for (int i = 0; i < 4; i++) {
        c[(lane / 4 + i / 2 * 8) * 32 + i % 2] = d[i];
    }
}

#define MATMUL(name, bug)                                                                          \
    extern "C" __global__ void name(float *c, const __nv_bfloat16 *a, const __nv_bfloat16 *b,      \
                                    int k) {                                                       \
        matmul_body<bug>(c, a, b, k);                                                              \
    }
MATMUL(matmul, 0)
MATMUL(matmul_no_wait, 1)
MATMUL(matmul_no_barrier, 2)
MATMUL(matmul_refills_early, 3)

// y [n] = x reversed, by blocks of blockDim: dynamic shared memory.
extern "C" __global__ void reverse(int *y, const int *x, int n) {
    extern __shared__ int tile[];
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    tile[threadIdx.x] = i < n ? x[i] : 0;
    __syncthreads();
    const int j = blockDim.x - 1 - threadIdx.x;
    if (blockIdx.x * blockDim.x + j < n) {
        y[n - 1 - (blockIdx.x * blockDim.x + j)] = tile[j];
    }
}

// 16 bins of the values' low bits, of the whole grid.
extern "C" __global__ void histogram(unsigned *bins, const unsigned *x, int n) {
    __shared__ unsigned own[16];
    if (threadIdx.x < 16) {
        own[threadIdx.x] = 0;
    }
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        atomicAdd(&own[x[i] % 16], 1u);
    }
    __syncthreads();
    if (threadIdx.x < 16) {
        atomicAdd(&bins[threadIdx.x], own[threadIdx.x]);
    }
}

__noinline__ __device__ float choose(int which, float x, float *second) {
    *second = x * 2;
    switch (which) {
    case 0:
        return expf(x);
    case 1:
        return logf(x + 1);
    case 2:
        return sinf(x * 1000);
    case 3:
        return tanhf(x);
    case 4:
        return powf(x + 1, 2.5f);
    case 5:
        return rsqrtf(x + 1);
    case 6:
        return (float)sqrt((double)x);
    case 7:
        return x / 3.0f;
    case 8:
        return erff(x);
    default:
        return fmodf(x, 0.3f);
    }
}

extern "C" __global__ void functions(float *y, const float *x, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        float second;
        const float first = choose(i % 10, x[i], &second);
        y[2 * i] = first;
        y[2 * i + 1] = second;
    }
}

__constant__ int order[8] = {3, 1, 4, 0, 5, 7, 2, 6};
__device__ int calls;

// Local arrays, 64-bit division, constants, variables.
extern "C" __global__ void odds(int64_t *y, const int64_t *x, int n) {
    const int i = threadIdx.x;
    int64_t own[8];
    for (int j = 0; j < 8; j++) {
        own[order[j]] = x[i] * (j + 1);
    }
    atomicAdd(&calls, 1);
    const int j = (int)(x[i] & 7);
    const int all = __syncthreads_count(own[j] % 3 == 0);
    y[i] = own[j] / 7 + (own[7 - j] % 1000) * 3 + all + (int64_t)(calls == n) * 1000000;
}

// bf16 and f16 pairs.
extern "C" __global__ void pairs(__nv_bfloat162 *y, const __nv_bfloat162 *x, __half2 *z, int n) {
    const int i = threadIdx.x;
    if (i < n) {
        const __nv_bfloat162 a = x[i];
        const __nv_bfloat162 b = x[(i + 1) % n];
        y[i] = __hmax2(__hfma2(a, b, __hsub2(a, b)), __hmul2(b, b));
        const float2 f = __bfloat1622float2(a);
        z[i] = __hadd2(__floats2half2_rn(f.x, f.y), __float2half2_rn(0.5f));
    }
}

// One warp's prefix sum, its maximum by redux, and a vote.
extern "C" __global__ void warp_scan(int *y, const int *x) {
    const int lane = threadIdx.x % 32;
    int s = x[threadIdx.x];
    for (int d = 1; d < 32; d *= 2) {
        const int up = __shfl_up_sync(0xffffffff, s, d);
        s += lane >= d ? up : 0;
    }
    const int most = __reduce_max_sync(0xffffffff, x[threadIdx.x]);
    const unsigned even = __ballot_sync(0xffffffff, x[threadIdx.x] % 2 == 0);
    y[threadIdx.x] = s + most * 1000 + __popc(even) * 1000000;
}

// Two bugs of the usual kind.
extern "C" __global__ void off_by_one(float *y, const float *x, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= n) {
        y[i] = x[i];
    }
}

extern "C" __global__ void early_return(float *y, const float *x, int n) {
    __shared__ float s[64];
    if ((int)threadIdx.x >= n) {
        return;
    }
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = s[n - 1 - threadIdx.x];
}
