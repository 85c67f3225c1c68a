/* q/k norm, rotary positions and the paged KV append: one warp takes one head of one token. */
#include "device/cuda/heads.cuh"

enum {
    ROPE_WARPS = 4,
    ROPE_PAIRS = KERNEL_MAX_HEAD_DIM / 2 / WARP, /* of a lane */
};

struct RopeArgs {
    kernel_heads heads;
    const float *q_norm, *k_norm;
    float eps;
    const float *rope;
    kernel_batch batch;
};

/* Element i of the head in the first half belongs to element i + half; a lane holds both. */
template <typename T> struct HeadPairs {
    float a[ROPE_PAIRS], b[ROPE_PAIRS];

    __device__ __forceinline__ void load(const T *p, int half) {
#pragma unroll
        for (int k = 0; k < ROPE_PAIRS; k++) {
            int i = threadIdx.x % WARP + k * WARP;
            a[k] = i < half ? to_f32(p[i]) : 0.0f;
            b[k] = i < half ? to_f32(p[i + half]) : 0.0f;
        }
    }

    __device__ __forceinline__ void norm(const float *w, int half, float eps) {
        float sum = 0;
#pragma unroll
        for (int k = 0; k < ROPE_PAIRS; k++) {
            sum = fmaf(a[k], a[k], fmaf(b[k], b[k], sum));
        }
        float r = 1.0f / sqrtf(warp_sum(sum) / (2 * half) + eps);
#pragma unroll
        for (int k = 0; k < ROPE_PAIRS; k++) {
            int i = threadIdx.x % WARP + k * WARP;
            if (i < half) {
                a[k] = a[k] * r * w[i];
                b[k] = b[k] * r * w[i + half];
            }
        }
    }

    /* table: cos in [0, half), sin in [half, 2 half). */
    __device__ __forceinline__ void rotate(const float *table, int half) {
#pragma unroll
        for (int k = 0; k < ROPE_PAIRS; k++) {
            int i = threadIdx.x % WARP + k * WARP;
            if (i < half) {
                float c = table[i], s = table[i + half], x = a[k], y = b[k];
                a[k] = fmaf(x, c, -(y * s));
                b[k] = fmaf(y, c, x * s);
            }
        }
    }

    __device__ __forceinline__ void store(T *p, int half) const {
#pragma unroll
        for (int k = 0; k < ROPE_PAIRS; k++) {
            int i = threadIdx.x % WARP + k * WARP;
            if (i < half) {
                p[i] = from_f32<T>(a[k]);
                p[i + half] = from_f32<T>(b[k]);
            }
        }
    }
};

/* Grid: (tokens, heads of q, k and v in fours). */
template <typename T>
static __global__ void __launch_bounds__(ROPE_WARPS *WARP)
    rope_append(T *qkv, T *k_pool, T *v_pool, RopeArgs args) {
    const kernel_heads &h = args.heads;
    int m = blockIdx.x;
    int head = blockIdx.y * ROPE_WARPS + threadIdx.x / WARP; /* over q, k, v */
    int seq = args.batch.sequence[m];
    if (head >= h.n_head + 2 * h.n_kv_head || seq < 0) {
        return;
    }
    int half = h.head_dim / 2;
    int position = args.batch.position[m];
    T *p = qkv + (size_t)m * qkv_stride(h) + (size_t)head * h.head_dim;
    HeadPairs<T> x;
    x.load(p, half);
    bool is_q = head < h.n_head, is_v = head >= h.n_head + h.n_kv_head;
    if (!is_v) {
        const float *w = is_q ? args.q_norm : args.k_norm;
        if (w) {
            x.norm(w, half, args.eps);
        }
        x.rotate(args.rope + (size_t)position * h.head_dim, half);
    }
    if (is_q) {
        x.store(p, half);
        return;
    }
    int kv = is_v ? head - h.n_head - h.n_kv_head : head - h.n_head;
    int32_t block = args.batch.tables[(size_t)seq * args.batch.table_stride +
                                      position / KERNEL_KV_BLOCK];
    size_t at = kv_offset(h, block, kv) + (size_t)(position % KERNEL_KV_BLOCK) * h.head_dim;
    x.store((is_v ? v_pool : k_pool) + at, half);
}

template <typename T>
static void launch(void *qkv, const RopeArgs &args, kernel_kv kv, cudaStream_t stream) {
    const kernel_heads &h = args.heads;
    dim3 grid((unsigned)args.batch.n_tok,
              blocks_for((size_t)(h.n_head + 2 * h.n_kv_head), ROPE_WARPS));
    rope_append<T><<<grid, ROPE_WARPS * WARP, 0, stream>>>((T *)qkv, (T *)kv.k, (T *)kv.v, args);
}

cudaError_t kernel_rope_append(void *qkv, enum kernel_type type, const struct kernel_heads *heads,
                               const float *q_norm, const float *k_norm, float eps,
                               const float *rope, const struct kernel_batch *batch,
                               struct kernel_kv kv, cudaStream_t stream) {
    RopeArgs args = {*heads, q_norm, k_norm, eps, rope, *batch};
    if (heads->head_dim < 2 || heads->head_dim % 2 || heads->head_dim > KERNEL_MAX_HEAD_DIM) {
        return cudaErrorInvalidValue;
    }
    if (type == KERNEL_F32) {
        launch<float>(qkv, args, kv, stream);
    } else {
        launch<__nv_bfloat16>(qkv, args, kv, stream);
    }
    return cudaGetLastError();
}
