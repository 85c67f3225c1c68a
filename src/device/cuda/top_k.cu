/* The k largest of a row of logits, one block a row: radix selection of the k-th largest value, a pass
 * that collects what is not below it in the order of the row, and a sort of the few that are left.
 * Greedy decoding (k = 1) is one pass. A row is read from memory once and then from the L2 cache. */
#include "device/cuda/kernel_util.cuh"

enum {
    TOP_THREADS = 512,
    TOP_WARPS = TOP_THREADS / WARP,
    TOP_BITS = 8,
    TOP_BINS = 1 << TOP_BITS,
};

/* Floats in an order that unsigned numbers have, too; NaN counts as -inf, and -0 as +0. */
static __device__ __forceinline__ uint32_t sort_key(float x) {
    uint32_t u = __float_as_uint(x != x ? -INFINITY : x + 0.0f);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

static __device__ __forceinline__ float key_value(uint32_t key) {
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

/* A candidate as one number: larger is better, lower index first among equals. */
static __device__ __forceinline__ uint64_t candidate(uint32_t key, uint32_t index) {
    return (uint64_t)key << 32 | (0xffffffffu - index);
}

static __device__ __forceinline__ void write(float *values, int32_t *ids, int at, uint64_t best,
                                             int index_first) {
    values[at] = key_value((uint32_t)(best >> 32));
    ids[at] = (int32_t)(0xffffffffu - (uint32_t)best) + index_first;
}

static __device__ __forceinline__ uint64_t warp_best(uint64_t x) {
#pragma unroll
    for (int d = WARP / 2; d > 0; d /= 2) {
        uint64_t other = __shfl_xor_sync(0xffffffffu, x, d);
        x = other > x ? other : x;
    }
    return x;
}

/* Grid: one block a row. */
static __global__ void __launch_bounds__(TOP_THREADS)
    top_1(float *values, int32_t *ids, const float *x, int dim, int index_first) {
    __shared__ uint64_t shared[TOP_WARPS];
    const float *row = x + (size_t)blockIdx.x * dim;
    uint64_t best = 0;
    for (int i = threadIdx.x; i < dim; i += TOP_THREADS) {
        uint64_t c = candidate(sort_key(row[i]), (uint32_t)i);
        best = c > best ? c : best;
    }
    best = warp_best(best);
    if (threadIdx.x % WARP == 0) {
        shared[threadIdx.x / WARP] = best;
    }
    __syncthreads();
    if (threadIdx.x < WARP) {
        best = warp_best(threadIdx.x < TOP_WARPS ? shared[threadIdx.x] : 0);
        if (threadIdx.x == 0) {
            write(values, ids, (int)blockIdx.x, best, index_first);
        }
    }
}

/* The key of the k-th largest; *above: how many are larger. */
static __device__ uint32_t kth_key(const float *row, int dim, int k, int *above,
                                   uint32_t (&bins)[TOP_BINS], uint32_t (&found)[2]) {
    uint32_t prefix = 0;
    int wanted = k; /* among those that share the prefix */
    for (int shift = 32 - TOP_BITS; shift >= 0; shift -= TOP_BITS) {
        for (int i = threadIdx.x; i < TOP_BINS; i += TOP_THREADS) {
            bins[i] = 0;
        }
        __syncthreads();
        uint32_t mask = shift == 32 - TOP_BITS ? 0 : 0xffffffffu << (shift + TOP_BITS);
        for (int i = threadIdx.x; i < dim; i += TOP_THREADS) {
            uint32_t key = sort_key(row[i]);
            if ((key & mask) == prefix) {
                atomicAdd(&bins[key >> shift & (TOP_BINS - 1)], 1u);
            }
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            int bin = TOP_BINS - 1;
            uint32_t left = (uint32_t)wanted;
            while (bins[bin] < left) {
                left -= bins[bin--];
            }
            found[0] = (uint32_t)bin;
            found[1] = left;
        }
        __syncthreads();
        prefix |= found[0] << shift;
        wanted = (int)found[1];
        __syncthreads(); /* found and bins are used again */
    }
    *above = k - wanted;
    return prefix;
}

/* How many threads before this one have their flag set; *total: in the whole block. */
static __device__ __forceinline__ int count_before(bool flag, int *total,
                                                   uint32_t (&counts)[TOP_WARPS]) {
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    uint32_t votes = __ballot_sync(0xffffffffu, flag);
    if (lane == 0) {
        counts[warp] = (uint32_t)__popc(votes);
    }
    __syncthreads();
    int before = __popc(votes & ((1u << lane) - 1)), all = 0;
    for (int w = 0; w < TOP_WARPS; w++) {
        before += w < warp ? (int)counts[w] : 0;
        all += (int)counts[w];
    }
    __syncthreads();
    *total = all;
    return before;
}

/* Sorts n candidates, a power of two, largest first (Batcher's bitonic network). */
static __device__ __forceinline__ void sort(uint64_t *list, int n) {
    for (int size = 2; size <= n; size *= 2) {
        for (int step = size / 2; step > 0; step /= 2) {
            for (int i = threadIdx.x; i < n / 2; i += TOP_THREADS) {
                int a = 2 * i - (i & (step - 1)), b = a + step;
                bool falling = (a & size) == 0;
                uint64_t x = list[a], y = list[b];
                if (x < y == falling) {
                    list[a] = y;
                    list[b] = x;
                }
            }
            __syncthreads();
        }
    }
}

/* Grid: one block a row. */
static __global__ void __launch_bounds__(TOP_THREADS)
    top_k(float *values, int32_t *ids, const float *x, int dim, int k, int index_first) {
    __shared__ uint64_t list[KERNEL_MAX_CANDIDATES];
    __shared__ uint32_t bins[TOP_BINS], found[2], counts[TOP_WARPS];
    const float *row = x + (size_t)blockIdx.x * dim;
    int above, n_above = 0, n_equal = 0, padded = 2;
    uint32_t key = kth_key(row, dim, k, &above, bins, found);
    while (padded < k) {
        padded *= 2;
    }
    for (int i = k + (int)threadIdx.x; i < padded; i += TOP_THREADS) {
        list[i] = 0;
    }
    for (int first = 0; first < dim; first += TOP_THREADS) {
        int i = first + (int)threadIdx.x, total;
        uint32_t mine = i < dim ? sort_key(row[i]) : 0;
        bool is_above = i < dim && mine > key, is_equal = i < dim && mine == key;
        int at = n_above + count_before(is_above, &total, counts);
        n_above += total;
        int at_equal = above + n_equal + count_before(is_equal, &total, counts);
        n_equal += total;
        if (is_above || (is_equal && at_equal < k)) {
            list[is_above ? at : at_equal] = candidate(mine, (uint32_t)i);
        }
    }
    __syncthreads();
    sort(list, padded);
    for (int i = threadIdx.x; i < k; i += TOP_THREADS) {
        write(values, ids, (int)blockIdx.x * k + i, list[i], index_first);
    }
}

cudaError_t kernel_top_k(float *values, int32_t *ids, const float *x, int n, int dim, int k,
                         int index_first, cudaStream_t stream) {
    if (n < 1 || k < 1 || k > dim || k > KERNEL_MAX_CANDIDATES) {
        return cudaErrorInvalidValue;
    }
    if (k == 1) {
        top_1<<<n, TOP_THREADS, 0, stream>>>(values, ids, x, dim, index_first);
    } else {
        top_k<<<n, TOP_THREADS, 0, stream>>>(values, ids, x, dim, k, index_first);
    }
    return cudaGetLastError();
}
