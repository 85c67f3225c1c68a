/* Causal attention of many queries per sequence over the paged context, with online softmax (Dao,
 * "FlashAttention-2", 2023). A block takes 64 queries of one head in bf16, on tensor cores, or 16 in
 * f32, and walks over the KV blocks that they may see. Positions past a query's own never count, and
 * what their memory holds is never read. */
#include "device/cuda/heads.cuh"

struct PrefillArgs {
    kernel_heads heads;
    kernel_batch batch;
};

/* One block's work: queries [first, first + n_query) of a sequence, for one head. */
struct PrefillTile {
    int seq, head, kv;
    int first, n_query;
    int position; /* of the first query */
    int context;  /* positions that the last query sees */
    const int32_t *table;
};

/* Grid: (tiles, heads, sequences). */
template <int QUERIES>
static __device__ __forceinline__ PrefillTile tile_of_block(const PrefillArgs &args) {
    PrefillTile t;
    const kernel_batch &b = args.batch;
    t.seq = blockIdx.z;
    t.head = blockIdx.y;
    t.kv = kv_of_head(args.heads, t.head);
    t.first = blockIdx.x * QUERIES;
    int left = b.seq_tok[t.seq] - t.first;
    t.n_query = left < QUERIES ? left : QUERIES;
    t.position = b.seq_pos[t.seq] + t.first;
    t.context = t.position + t.n_query;
    t.table = b.tables + (size_t)t.seq * b.table_stride;
    return t;
}

/* ---- bf16: mma.sync m16n8k16 ---- */

typedef __nv_bfloat16 bf16;

enum {
    MMA_QUERIES = 64, /* of a block; 16 of each warp */
    MMA_THREADS = 128,
    MMA_PAD = 8, /* elements between rows in shared memory: ldmatrix then meets no bank twice */
    MMA_N_TILES = KERNEL_KV_BLOCK / 8,
};

static __device__ __forceinline__ uint32_t shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* 16 bytes from global to shared memory, in the background; zeros where not `valid`. */
static __device__ __forceinline__ void copy_async(void *to, const void *from, bool valid) {
    int n = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(to)),
                 "l"(from), "r"(n)
                 : "memory");
}

static __device__ __forceinline__ void copy_commit() {
    asm volatile("cp.async.commit_group;\n" ::: "memory");
}

/* Until at most `pending` groups are on their way. */
template <int pending> static __device__ __forceinline__ void copy_wait() {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(pending) : "memory");
}

/* Four 8x8 matrices, row addresses from lanes 0-7, 8-15, 16-23 and 24-31. */
static __device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const bf16 *p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(p))
                 : "memory");
}

static __device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], const bf16 *p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(p))
                 : "memory");
}

/* c += a b: a 16x16 row-major, b 16x8, c 16x8 f32. In c, lane l holds rows l / 4 and l / 4 + 8,
 * columns 2 (l % 4) and the next. (PTX ISA, matrix fragments for mma.m16n8k16.) */
static __device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                           uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

static __device__ __forceinline__ uint32_t pack(float low, float high) {
    __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&v);
}

/* Rows of `dim` elements, `from_stride` apart, to shared memory, padded with zeros to DIM elements
 * and 64 rows. */
template <int DIM>
static __device__ __forceinline__ void stage(bf16 *to, const bf16 *from, size_t from_stride,
                                             int n_row, int dim) {
    constexpr int PIECES = DIM / 8;
    for (int i = threadIdx.x; i < KERNEL_KV_BLOCK * PIECES; i += MMA_THREADS) {
        int row = i / PIECES, col = i % PIECES * 8;
        bool valid = row < n_row && col < dim;
        copy_async(to + row * (DIM + MMA_PAD) + col, valid ? from + row * from_stride + col : from,
                   valid);
    }
    copy_commit();
}

/* s = q k^T for this warp's 16 queries and the block's 64 positions. */
template <int DIM>
static __device__ __forceinline__ void scores(float (&s)[MMA_N_TILES][4], const bf16 *q,
                                              const bf16 *k) {
    constexpr int STRIDE = DIM + MMA_PAD;
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int n = 0; n < MMA_N_TILES; n++) {
        s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
    }
#pragma unroll
    for (int d = 0; d < DIM; d += 16) {
        uint32_t a[4];
        load_matrices(a, q + (lane % 16) * STRIDE + d + lane / 16 * 8);
#pragma unroll
        for (int n = 0; n < MMA_N_TILES; n += 2) {
            uint32_t b[4]; /* two tiles of 8 positions, each in two halves of 8 dimensions */
            load_matrices(b, k + (n * 8 + lane / 16 * 8 + lane % 8) * STRIDE + d + lane / 8 % 2 * 8);
            mma(s[n], a, b[0], b[1]);
            mma(s[n + 1], a, b[2], b[3]);
        }
    }
}

/* o += p v; p as pairs of bf16, in the layout of `scores`, which is also that of mma's a. */
template <int DIM>
static __device__ __forceinline__ void add_values(float (&o)[DIM / 8][4],
                                                  const float (&p)[MMA_N_TILES][4], const bf16 *v) {
    constexpr int STRIDE = DIM + MMA_PAD;
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int n = 0; n < MMA_N_TILES; n += 2) { /* 16 positions */
        const uint32_t a[4] = {pack(p[n][0], p[n][1]), pack(p[n][2], p[n][3]),
                               pack(p[n + 1][0], p[n + 1][1]), pack(p[n + 1][2], p[n + 1][3])};
#pragma unroll
        for (int d = 0; d < DIM / 8; d += 2) { /* 16 dimensions */
            uint32_t b[4];
            load_matrices_transposed(b, v + (n * 8 + lane % 16) * STRIDE + d * 8 + lane / 16 * 8);
            mma(o[d], a, b[0], b[1]);
            mma(o[d + 1], a, b[2], b[3]);
        }
    }
}

/* What a lane knows of its two rows. */
struct OnlineSoftmax {
    float max[2], sum[2];
};

/* Scores of positions at .. at + 63 to exponentials; o is scaled to the new maximum. */
template <int DIM>
static __device__ __forceinline__ void softmax_step(OnlineSoftmax &state, float (&s)[MMA_N_TILES][4],
                                                    float (&o)[DIM / 8][4], int at,
                                                    const int (&last)[2], float scale) {
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float top = state.max[r];
#pragma unroll
        for (int n = 0; n < MMA_N_TILES; n++) {
#pragma unroll
            for (int k = 0; k < 2; k++) {
                int position = at + n * 8 + lane % 4 * 2 + k;
                float &x = s[n][2 * r + k];
                x = position <= last[r] ? x * scale : -INFINITY;
                top = fmaxf(top, x);
            }
        }
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        float rescale = __expf(state.max[r] - top); /* top is finite: position 0 always counts */
        float sum = 0;
#pragma unroll
        for (int n = 0; n < MMA_N_TILES; n++) {
#pragma unroll
            for (int k = 0; k < 2; k++) {
                float &x = s[n][2 * r + k];
                x = __expf(x - top);
                sum += x;
            }
        }
        state.sum[r] = fmaf(state.sum[r], rescale, sum); /* of this lane's columns */
        state.max[r] = top;
#pragma unroll
        for (int d = 0; d < DIM / 8; d++) {
            o[d][2 * r] *= rescale;
            o[d][2 * r + 1] *= rescale;
        }
    }
}

template <int DIM>
static __global__ void __launch_bounds__(MMA_THREADS)
    prefill_mma(bf16 *out, const bf16 *qkv, const bf16 *k_pool, const bf16 *v_pool,
                PrefillArgs args) {
    extern __shared__ __align__(16) unsigned char memory[];
    constexpr int STRIDE = DIM + MMA_PAD;
    bf16 *q = reinterpret_cast<bf16 *>(memory), *k = q + MMA_QUERIES * STRIDE,
         *v = k + KERNEL_KV_BLOCK * STRIDE;
    const kernel_heads &h = args.heads;
    PrefillTile t = tile_of_block<MMA_QUERIES>(args);
    if (t.n_query <= 0) {
        return;
    }
    int dim = h.head_dim, lane = threadIdx.x % WARP, row = threadIdx.x / WARP * 16;
    size_t stride = (size_t)qkv_stride(h);
    int first_row = args.batch.seq_row[t.seq] + t.first;
    float o[DIM / 8][4] = {};
    OnlineSoftmax state = {{-INFINITY, -INFINITY}, {0, 0}};
    /* The last position that each of the lane's rows sees; rows past the end see what the last does. */
    int last[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int query = row + lane / 4 + 8 * r;
        last[r] = t.position + (query < t.n_query ? query : t.n_query - 1);
    }
    stage<DIM>(q, qkv + first_row * stride + (size_t)t.head * dim, stride, t.n_query, dim);
    stage<DIM>(k, k_pool + kv_offset(h, t.table[0], t.kv), dim, t.context, dim);
    for (int at = 0; at < t.context; at += KERNEL_KV_BLOCK) {
        float s[MMA_N_TILES][4];
        stage<DIM>(v, v_pool + kv_offset(h, t.table[at / KERNEL_KV_BLOCK], t.kv), dim,
                   t.context - at, dim);
        copy_wait<1>(); /* q and k are there; v is on its way */
        __syncthreads();
        scores<DIM>(s, q + row * STRIDE, k);
        __syncthreads(); /* k is done with */
        int next = at + KERNEL_KV_BLOCK;
        if (next < t.context) {
            stage<DIM>(k, k_pool + kv_offset(h, t.table[next / KERNEL_KV_BLOCK], t.kv), dim,
                       t.context - next, dim);
        } else {
            copy_commit(); /* an empty group, so that the counts below hold */
        }
        softmax_step<DIM>(state, s, o, at, last, h.scale);
        copy_wait<1>(); /* v is there; the next k is on its way */
        __syncthreads();
        add_values<DIM>(o, s, v);
        __syncthreads(); /* v is done with */
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int query = row + lane / 4 + 8 * r;
        float sum = state.sum[r];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (query < t.n_query) {
            bf16 *to = out + ((size_t)(first_row + query) * h.n_head + t.head) * dim;
#pragma unroll
            for (int d = 0; d < DIM / 8; d++) {
                int col = d * 8 + lane % 4 * 2;
                if (col < dim) {
                    *reinterpret_cast<uint32_t *>(to + col) =
                        pack(o[d][2 * r] / sum, o[d][2 * r + 1] / sum);
                }
            }
        }
    }
}

template <int DIM>
static cudaError_t launch_mma(void *out, const void *qkv, const PrefillArgs &args, kernel_kv kv,
                              cudaStream_t stream) {
    constexpr size_t BYTES = (MMA_QUERIES + 2 * KERNEL_KV_BLOCK) * (DIM + MMA_PAD) * sizeof(bf16);
    dim3 grid(blocks_for((size_t)args.batch.max_seq_tok, MMA_QUERIES), (unsigned)args.heads.n_head,
              (unsigned)args.batch.n_seq);
    cudaError_t e = cudaFuncSetAttribute(prefill_mma<DIM>,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize, (int)BYTES);
    if (e != cudaSuccess) {
        return e;
    }
    prefill_mma<DIM><<<grid, MMA_THREADS, BYTES, stream>>>(
        (bf16 *)out, (const bf16 *)qkv, (const bf16 *)kv.k, (const bf16 *)kv.v, args);
    return cudaGetLastError();
}

/* ---- f32 ---- */

enum {
    PLAIN_QUERIES = 16,
    PLAIN_THREADS = 128,
    PLAIN_DIMS = KERNEL_MAX_HEAD_DIM / PLAIN_THREADS, /* of a thread */
    PLAIN_PAD = 4,
};

static __global__ void __launch_bounds__(PLAIN_THREADS)
    prefill_plain(float *out, const float *qkv, const float *k_pool, const float *v_pool,
                  PrefillArgs args) {
    extern __shared__ __align__(16) unsigned char memory[];
    __shared__ float p[PLAIN_QUERIES][KERNEL_KV_BLOCK];
    __shared__ float max[PLAIN_QUERIES], sum[PLAIN_QUERIES], rescale[PLAIN_QUERIES];
    const kernel_heads &h = args.heads;
    int dim = h.head_dim, stride = dim + PLAIN_PAD, lane = threadIdx.x % WARP;
    float *q = reinterpret_cast<float *>(memory), *k = q + PLAIN_QUERIES * stride;
    PrefillTile t = tile_of_block<PLAIN_QUERIES>(args);
    if (t.n_query <= 0) {
        return;
    }
    int first_row = args.batch.seq_row[t.seq] + t.first;
    const float *from = qkv + (size_t)first_row * qkv_stride(h) + (size_t)t.head * dim;
    for (int i = threadIdx.x; i < t.n_query * dim; i += PLAIN_THREADS) {
        q[i / dim * stride + i % dim] = from[(size_t)(i / dim) * qkv_stride(h) + i % dim] * h.scale;
    }
    if (threadIdx.x < PLAIN_QUERIES) {
        max[threadIdx.x] = -INFINITY;
        sum[threadIdx.x] = rescale[threadIdx.x] = 0;
    }
    float o[PLAIN_QUERIES][PLAIN_DIMS] = {};
    for (int at = 0; at < t.context; at += KERNEL_KV_BLOCK) {
        int n = t.context - at < KERNEL_KV_BLOCK ? t.context - at : KERNEL_KV_BLOCK;
        size_t offset = kv_offset(h, t.table[at / KERNEL_KV_BLOCK], t.kv);
        __syncthreads();
        for (int i = threadIdx.x; i < n * dim; i += PLAIN_THREADS) {
            k[i / dim * stride + i % dim] = k_pool[offset + i];
        }
        __syncthreads();
        for (int i = threadIdx.x; i < t.n_query * KERNEL_KV_BLOCK; i += PLAIN_THREADS) {
            int query = i / KERNEL_KV_BLOCK, j = i % KERNEL_KV_BLOCK;
            float s = -INFINITY;
            if (j < n && at + j <= t.position + query) {
                s = 0;
                for (int d = 0; d < dim; d++) {
                    s = fmaf(q[query * stride + d], k[j * stride + d], s);
                }
            }
            p[query][j] = s;
        }
        __syncthreads();
        for (int query = threadIdx.x / WARP; query < t.n_query; query += PLAIN_THREADS / WARP) {
            float a = p[query][lane], b = p[query][lane + WARP];
            float old = max[query], top = fmaxf(old, warp_max(fmaxf(a, b)));
            a = __expf(a - top);
            b = __expf(b - top);
            float total = warp_sum(a + b);
            p[query][lane] = a;
            p[query][lane + WARP] = b;
            if (lane == 0) {
                float scale = __expf(old - top);
                sum[query] = fmaf(sum[query], scale, total);
                max[query] = top;
                rescale[query] = scale;
            }
            __syncwarp();
        }
        __syncthreads();
#pragma unroll
        for (int j = 0; j < PLAIN_DIMS; j++) {
            int d = threadIdx.x + j * PLAIN_THREADS;
            if (d < dim) {
#pragma unroll
                for (int query = 0; query < PLAIN_QUERIES; query++) {
                    o[query][j] *= rescale[query];
                }
                for (int i = 0; i < n; i++) {
                    float x = v_pool[offset + (size_t)i * dim + d];
#pragma unroll
                    for (int query = 0; query < PLAIN_QUERIES; query++) {
                        if (query < t.n_query) {
                            o[query][j] = fmaf(p[query][i], x, o[query][j]);
                        }
                    }
                }
            }
        }
    }
#pragma unroll
    for (int query = 0; query < PLAIN_QUERIES; query++) {
        if (query < t.n_query) {
            float *to = out + ((size_t)(first_row + query) * h.n_head + t.head) * dim;
#pragma unroll
            for (int j = 0; j < PLAIN_DIMS; j++) {
                int d = threadIdx.x + j * PLAIN_THREADS;
                if (d < dim) {
                    to[d] = o[query][j] / sum[query];
                }
            }
        }
    }
}

static cudaError_t launch_plain(void *out, const void *qkv, const PrefillArgs &args, kernel_kv kv,
                                cudaStream_t stream) {
    size_t bytes =
        (PLAIN_QUERIES + KERNEL_KV_BLOCK) * (args.heads.head_dim + PLAIN_PAD) * sizeof(float);
    dim3 grid(blocks_for((size_t)args.batch.max_seq_tok, PLAIN_QUERIES),
              (unsigned)args.heads.n_head, (unsigned)args.batch.n_seq);
    cudaError_t e = cudaFuncSetAttribute(
        prefill_plain, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (e != cudaSuccess) {
        return e;
    }
    prefill_plain<<<grid, PLAIN_THREADS, bytes, stream>>>(
        (float *)out, (const float *)qkv, (const float *)kv.k, (const float *)kv.v, args);
    return cudaGetLastError();
}

cudaError_t kernel_attention_prefill(void *out, const void *qkv, enum kernel_type type,
                                     const struct kernel_heads *heads,
                                     const struct kernel_batch *batch, struct kernel_kv kv,
                                     cudaStream_t stream) {
    PrefillArgs args = {*heads, *batch};
    int dim = heads->head_dim;
    if (dim < 8 || dim % 8 || dim > KERNEL_MAX_HEAD_DIM) {
        return cudaErrorInvalidValue;
    }
    return type == KERNEL_F32 ? launch_plain(out, qkv, args, kv, stream)
           : dim <= 32        ? launch_mma<32>(out, qkv, args, kv, stream)
           : dim <= 64        ? launch_mma<64>(out, qkv, args, kv, stream)
           : dim <= 80        ? launch_mma<80>(out, qkv, args, kv, stream)
           : dim <= 96        ? launch_mma<96>(out, qkv, args, kv, stream)
           : dim <= 128       ? launch_mma<128>(out, qkv, args, kv, stream)
                              : launch_mma<256>(out, qkv, args, kv, stream);
}
