/* Attention of one query per sequence over its paged context ("split-K" or flash decoding: Dao et al.,
 * 2023). A block takes a part of the context and the query heads of one KV head, so that K and V are
 * read once for all of them; a second kernel merges the parts. Bound by the reads of K and V. */
#include "device/cuda/heads.cuh"

enum {
    DECODE_THREADS = 128,
    DECODE_MAX_GROUP = 8, /* query heads of a block */
    DECODE_DIMS = KERNEL_MAX_HEAD_DIM / DECODE_THREADS, /* of a thread */
    DECODE_PER_SM = 4, /* blocks; leaves 128 registers to a thread */
    DECODE_BLOCKS = 256,  /* in flight, so that a large GPU is full */
    DECODE_PAD = 16,      /* bytes between rows of K: no two rows in the same banks */
};

struct DecodeArgs {
    kernel_heads heads;
    kernel_batch batch;
    int n_split;
    int n_chunk; /* blocks that share the query heads of one KV head */
    float *scratch; /* [n_seq][n_head][n_split][head_dim + 2]: o, then max, then sum */
};

/* One block's work. */
struct DecodePart {
    int seq, kv, split;
    int head, n_head; /* query heads */
    int first, end;   /* positions */
};

template <int GROUP>
static __device__ __forceinline__ DecodePart part_of_block(const DecodeArgs &args) {
    DecodePart p;
    p.split = blockIdx.x;
    p.kv = blockIdx.y / args.n_chunk;
    p.seq = blockIdx.z;
    HeadRange range = heads_of_kv(args.heads, p.kv);
    int skip = (int)(blockIdx.y % args.n_chunk) * GROUP;
    p.head = range.first + skip;
    p.n_head = range.count - skip < GROUP ? range.count - skip : GROUP;
    int context = args.batch.seq_tok[p.seq] > 0 ? args.batch.seq_pos[p.seq] + 1 : 0;
    int blocks = (context + KERNEL_KV_BLOCK - 1) / KERNEL_KV_BLOCK;
    int per_split = (blocks + args.n_split - 1) / args.n_split;
    p.first = p.split * per_split * KERNEL_KV_BLOCK;
    p.end = p.first + per_split * KERNEL_KV_BLOCK;
    p.end = p.end < context ? p.end : context;
    return p;
}

/* dot of two rows of `dim` elements, a multiple of 8, q in f32. */
template <typename T>
static __device__ __forceinline__ float dot(const float *q, const T *k, int dim) {
    float sum = 0;
    for (int i = 0; i < dim; i += 8) {
        float v[8];
        load_f32<T, 8>(v, k + i);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            sum = fmaf(q[i + j], v[j], sum);
        }
    }
    return sum;
}

/* K of n positions to shared memory, rows `stride` elements apart. */
template <typename T>
static __device__ __forceinline__ void stage_keys(T *to, const T *from, int n, int dim, int stride) {
    constexpr int N = 16 / sizeof(T);
    int per_row = dim / N;
    for (int i = threadIdx.x; i < n * per_row; i += DECODE_THREADS) {
        int row = i / per_row, col = i % per_row * N;
        *reinterpret_cast<uint4 *>(to + (size_t)row * stride + col) =
            *reinterpret_cast<const uint4 *>(from + (size_t)row * dim + col);
    }
}

/* Where a head's part of the result goes: the scratch of its split. */
static __device__ __forceinline__ float *partial(const DecodeArgs &args, int seq, int head,
                                                 int split) {
    size_t at = ((size_t)seq * args.heads.n_head + head) * args.n_split + split;
    return args.scratch + at * (args.heads.head_dim + 2);
}

/* Grid: (splits, KV heads x chunks, sequences). */
template <typename T, int GROUP>
static __global__ void __launch_bounds__(DECODE_THREADS, DECODE_PER_SM)
    decode(const T *qkv, const T *k_pool, const T *v_pool, DecodeArgs args) {
    extern __shared__ __align__(16) unsigned char memory[];
    __shared__ float p[GROUP][KERNEL_KV_BLOCK]; /* scores, then their exponentials */
    __shared__ float q[GROUP][KERNEL_MAX_HEAD_DIM];
    __shared__ float rescale[GROUP];
    T *keys = reinterpret_cast<T *>(memory);
    const kernel_heads &h = args.heads;
    DecodePart part = part_of_block<GROUP>(args);
    int dim = h.head_dim, stride = dim + DECODE_PAD / (int)sizeof(T);
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (part.n_head <= 0) {
        return;
    }
    const T *row = qkv + (size_t)args.batch.seq_row[part.seq] * qkv_stride(h) + part.head * dim;
    for (int i = threadIdx.x; i < part.n_head * dim; i += DECODE_THREADS) {
        q[i / dim][i % dim] = to_f32(row[i]) * h.scale;
    }
    if (threadIdx.x < GROUP) {
        rescale[threadIdx.x] = 0;
    }
    float acc[GROUP][DECODE_DIMS];
    constexpr int WARPS = DECODE_THREADS / WARP, MINE = (GROUP + WARPS - 1) / WARPS;
    float max[MINE], sum[MINE]; /* of this warp's heads, every WARPS-th; the same in all lanes */
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
#pragma unroll
        for (int j = 0; j < DECODE_DIMS; j++) {
            acc[g][j] = 0;
        }
    }
#pragma unroll
    for (int k = 0; k < MINE; k++) {
        max[k] = -INFINITY;
        sum[k] = 0;
    }
    const int32_t *table = args.batch.tables + (size_t)part.seq * args.batch.table_stride;
    for (int at = part.first; at < part.end; at += KERNEL_KV_BLOCK) {
        int n = part.end - at < KERNEL_KV_BLOCK ? part.end - at : KERNEL_KV_BLOCK;
        size_t offset = kv_offset(h, table[at / KERNEL_KV_BLOCK], part.kv);
        __syncthreads(); /* q is there; the last round's keys and p are done with */
        stage_keys<T>(keys, k_pool + offset, n, dim, stride);
        __syncthreads();
        int t = threadIdx.x % KERNEL_KV_BLOCK;
        for (int g = threadIdx.x / KERNEL_KV_BLOCK; g < part.n_head;
             g += DECODE_THREADS / KERNEL_KV_BLOCK) {
            p[g][t] = t < n ? dot<T>(q[g], keys + (size_t)t * stride, dim) : -INFINITY;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < MINE; k++) {
            int g = k * WARPS + warp;
            if (g < part.n_head) {
                float a = p[g][lane], b = p[g][lane + WARP];
                float top = fmaxf(max[k], warp_max(fmaxf(a, b)));
                float scale = __expf(max[k] - top);
                a = __expf(a - top);
                b = __expf(b - top);
                sum[k] = fmaf(sum[k], scale, warp_sum(a + b));
                max[k] = top;
                p[g][lane] = a;
                p[g][lane + WARP] = b;
                if (lane == 0) {
                    rescale[g] = scale;
                }
            }
        }
        __syncthreads();
#pragma unroll
        for (int j = 0; j < DECODE_DIMS; j++) {
            int d = threadIdx.x + j * DECODE_THREADS;
            if (d < dim) {
                const T *v = v_pool + offset + d;
#pragma unroll
                for (int g = 0; g < GROUP; g++) {
                    acc[g][j] *= rescale[g];
                }
#pragma unroll 4
                for (int i = 0; i < n; i++) {
                    float x = to_f32(v[(size_t)i * dim]);
#pragma unroll
                    for (int g = 0; g < GROUP; g++) {
                        if (g < part.n_head) {
                            acc[g][j] = fmaf(p[g][i], x, acc[g][j]);
                        }
                    }
                }
            }
        }
    }
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
        if (g < part.n_head) {
            float *out = partial(args, part.seq, part.head + g, part.split);
#pragma unroll
            for (int j = 0; j < DECODE_DIMS; j++) {
                int d = threadIdx.x + j * DECODE_THREADS;
                if (d < dim) {
                    out[d] = acc[g][j];
                }
            }
        }
    }
#pragma unroll
    for (int k = 0; k < MINE; k++) {
        int g = k * WARPS + warp;
        if (g < part.n_head && lane == 0) {
            float *out = partial(args, part.seq, part.head + g, part.split) + dim;
            out[0] = max[k];
            out[1] = sum[k];
        }
    }
}

/* Grid: (heads, sequences). A part without positions has max = -inf and sum = 0. (NaN is not 0: it
 * must come through.) */
template <typename T>
static __global__ void __launch_bounds__(DECODE_THREADS) merge(T *out, DecodeArgs args) {
    int head = blockIdx.x, seq = blockIdx.y, dim = args.heads.head_dim;
    const float *part = partial(args, seq, head, 0);
    float max = -INFINITY, sum = 0;
    for (int s = 0; s < args.n_split; s++) {
        max = fmaxf(max, part[(size_t)s * (dim + 2) + dim]);
    }
    for (int s = 0; s < args.n_split; s++) {
        const float *from = part + (size_t)s * (dim + 2);
        sum += from[dim + 1] != 0 ? from[dim + 1] * __expf(from[dim] - max) : 0.0f;
    }
    T *to = out + ((size_t)args.batch.seq_row[seq] * args.heads.n_head + head) * dim;
    for (int d = threadIdx.x; d < dim; d += DECODE_THREADS) {
        float o = 0;
        for (int s = 0; s < args.n_split; s++) {
            const float *from = part + (size_t)s * (dim + 2);
            o += from[dim + 1] != 0 ? from[d] * __expf(from[dim] - max) : 0.0f;
        }
        to[d] = from_f32<T>(sum != 0 ? o / sum : 0.0f);
    }
}

/* Parts of the context: as many as fill the GPU, no more than there are KV blocks. */
static int splits(const kernel_heads *h, int n_seq, int blocks) {
    int busy = h->n_kv_head * n_seq;
    int n = (DECODE_BLOCKS + busy - 1) / busy;
    n = n < blocks ? n : blocks;
    n = n < KERNEL_MAX_SPLITS ? n : KERNEL_MAX_SPLITS;
    return n > 1 ? n : 1;
}

size_t kernel_decode_scratch(const struct kernel_heads *heads, int max_seq) {
    /* Parts of all sequences together: n_seq ceil(DECODE_BLOCKS / (n_kv_head n_seq)) at most. */
    int parts = DECODE_BLOCKS / heads->n_kv_head + max_seq;
    int most = KERNEL_MAX_SPLITS * max_seq;
    parts = parts < most ? parts : most;
    return (size_t)parts * heads->n_head * (heads->head_dim + 2) * sizeof(float);
}

template <typename T, int GROUP>
static cudaError_t launch_decode(const void *qkv, kernel_kv kv, DecodeArgs args,
                                 cudaStream_t stream) {
    size_t keys = KERNEL_KV_BLOCK * (args.heads.head_dim * sizeof(T) + DECODE_PAD);
    args.n_chunk = (args.heads.group + GROUP - 1) / GROUP;
    dim3 grid((unsigned)args.n_split, (unsigned)(args.heads.n_kv_head * args.n_chunk),
              (unsigned)args.batch.n_seq);
    cudaError_t e = cudaFuncSetAttribute(decode<T, GROUP>,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize, (int)keys);
    if (e != cudaSuccess) {
        return e;
    }
    decode<T, GROUP><<<grid, DECODE_THREADS, keys, stream>>>((const T *)qkv, (const T *)kv.k,
                                                             (const T *)kv.v, args);
    return cudaGetLastError();
}

template <typename T>
static cudaError_t launch(void *out, const void *qkv, kernel_kv kv, const DecodeArgs &args,
                          cudaStream_t stream) {
    int group = args.heads.group;
    cudaError_t e = group <= 1   ? launch_decode<T, 1>(qkv, kv, args, stream)
                    : group <= 2 ? launch_decode<T, 2>(qkv, kv, args, stream)
                    : group <= 4 ? launch_decode<T, 4>(qkv, kv, args, stream)
                                 : launch_decode<T, DECODE_MAX_GROUP>(qkv, kv, args, stream);
    if (e != cudaSuccess) {
        return e;
    }
    dim3 grid((unsigned)args.heads.n_head, (unsigned)args.batch.n_seq);
    merge<T><<<grid, DECODE_THREADS, 0, stream>>>((T *)out, args);
    return cudaGetLastError();
}

cudaError_t kernel_attention_decode(void *out, const void *qkv, enum kernel_type type,
                                    const struct kernel_heads *heads,
                                    const struct kernel_batch *batch, struct kernel_kv kv,
                                    void *scratch, cudaStream_t stream) {
    int blocks = (batch->max_context + KERNEL_KV_BLOCK - 1) / KERNEL_KV_BLOCK;
    DecodeArgs args = {*heads, *batch, splits(heads, batch->n_seq, blocks), 1, (float *)scratch};
    if (heads->head_dim % 8 || heads->head_dim > KERNEL_MAX_HEAD_DIM || batch->max_seq_tok > 1) {
        return cudaErrorInvalidValue;
    }
    return type == KERNEL_F32 ? launch<float>(out, qkv, kv, args, stream)
                              : launch<__nv_bfloat16>(out, qkv, kv, args, stream);
}
