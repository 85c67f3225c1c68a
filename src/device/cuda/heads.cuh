/* Where a head's queries, keys and values lie. */
#pragma once

#include "device/cuda/kernel_util.cuh"

/* The query heads of this rank that use its local KV head kv: [first, first + count). */
struct HeadRange {
    int first, count;
};

static __host__ __device__ __forceinline__ HeadRange heads_of_kv(const kernel_heads &h, int kv) {
    int begin = (h.kv_first + kv) * h.group - h.head_first;
    int end = begin + h.group;
    begin = begin > 0 ? begin : 0;
    end = end < h.n_head ? end : h.n_head;
    return HeadRange{begin, end > begin ? end - begin : 0};
}

static __host__ __device__ __forceinline__ int kv_of_head(const kernel_heads &h, int head) {
    return (h.head_first + head) / h.group - h.kv_first;
}

/* Elements from one row of qkv to the next. */
static __host__ __device__ __forceinline__ int qkv_stride(const kernel_heads &h) {
    return (h.n_head + 2 * h.n_kv_head) * h.head_dim;
}

/* Element offset of position 0 of a (block, KV head) in the pool. */
static __device__ __forceinline__ size_t kv_offset(const kernel_heads &h, int32_t block, int kv) {
    return ((size_t)block * h.n_kv_head + kv) * KERNEL_KV_BLOCK * h.head_dim;
}
