/* Device memory, and copies by way of two pinned buffers: one is filled while the other travels. */
#include <stdio.h>
#include <string.h>

#include "device/cuda/cuda_device.h"

enum { MOST_RESERVE = 512 << 20 };

bool cuda_alloc(struct device *d, size_t bytes, void **out, struct error *err) {
    struct cuda_device *c = cuda_of(d);
    void *p = NULL;
    char what[64];
    snprintf(what, sizeof what, "cudaMalloc of %zu bytes", bytes);
    CUDA_TRY(cudaMalloc(&p, bytes), what);
    cudaError_t e = cudaMemsetAsync(p, 0, bytes, c->stream);
    if (e != cudaSuccess) {
        cudaFree(p);
        return cuda_error(err, e, "cudaMemsetAsync");
    }
    *out = p;
    return true;
}

void cuda_free(struct device *d, void *p, size_t bytes) {
    (void)bytes;
    cuda_give_back(cuda_of(d), p);
}

void cuda_give_back(const struct cuda_device *c, void *p) {
    if (!c->base.broken) {
        cudaFree(p);
    }
}

bool cuda_staging_init(struct cuda_staging *s, size_t bytes, struct error *err) {
    CUDA_TRY(cudaMallocHost(&s->data, bytes), "cudaMallocHost");
    CUDA_TRY(cudaEventCreateWithFlags(&s->used, cudaEventDisableTiming), "cudaEventCreate");
    return true;
}

void cuda_staging_finish(const struct cuda_device *c, struct cuda_staging *s) {
    if (c->base.broken) {
        return;
    }
    if (s->used) {
        cudaEventDestroy(s->used);
    }
    cudaFreeHost(s->data);
    *s = (struct cuda_staging){0};
}

bool cuda_staging_next(struct cuda_device *c, struct cuda_staging **out, struct error *err) {
    struct cuda_staging *s = &c->staging[c->staging_turn];
    c->staging_turn = (c->staging_turn + 1) % CUDA_STAGING;
    *out = s;
    return cuda_wait(c, s->used, "copying to the GPU", err);
}

bool cuda_staging_used(struct cuda_device *c, struct cuda_staging *s, struct error *err) {
    CUDA_STREAM_TRY(c, cudaEventRecord(s->used, c->stream), "cudaEventRecord");
    return true;
}

bool cuda_upload(struct device *d, void *dst, const void *src, size_t bytes, struct error *err) {
    struct cuda_device *c = cuda_of(d);
    for (size_t at = 0; at < bytes; at += CUDA_STAGING_BYTES) {
        size_t n = bytes - at < CUDA_STAGING_BYTES ? bytes - at : CUDA_STAGING_BYTES;
        struct cuda_staging *s;
        if (!cuda_staging_next(c, &s, err)) {
            return false;
        }
        memcpy(s->data, (const char *)src + at, n);
        CUDA_STREAM_TRY(
            c, cudaMemcpyAsync((char *)dst + at, s->data, n, cudaMemcpyHostToDevice, c->stream),
            "cudaMemcpyAsync to the GPU");
        if (!cuda_staging_used(c, s, err)) {
            return false;
        }
    }
    return true;
}

bool cuda_download(struct device *d, void *dst, const void *src, size_t bytes, struct error *err) {
    struct cuda_device *c = cuda_of(d);
    for (size_t at = 0; at < bytes; at += CUDA_STAGING_BYTES) {
        size_t n = bytes - at < CUDA_STAGING_BYTES ? bytes - at : CUDA_STAGING_BYTES;
        struct cuda_staging *s;
        if (!cuda_staging_next(c, &s, err)) {
            return false;
        }
        CUDA_STREAM_TRY(
            c,
            cudaMemcpyAsync(s->data, (const char *)src + at, n, cudaMemcpyDeviceToHost, c->stream),
            "cudaMemcpyAsync from the GPU");
        if (!cuda_staging_used(c, s, err) || !cuda_wait(c, s->used, "reading from the GPU", err)) {
            return false;
        }
        memcpy((char *)dst + at, s->data, n);
    }
    return true;
}

bool cuda_sync(struct device *d, struct error *err) {
    return cuda_wait(cuda_of(d), NULL, "waiting for the GPU", err);
}

size_t cuda_memory_free(struct device *d) {
    size_t available = 0, total = 0;
    if (cudaMemGetInfo(&available, &total) != cudaSuccess) {
        (void)cudaGetLastError();
        return 0;
    }
    /* What every rank on this GPU takes later on: modules of cuBLAS and NCCL at their first use,
     * graphs, the rounding of allocations to pages of 2 MiB, scratch memory and batches. */
    size_t reserve = total / 32 < MOST_RESERVE ? total / 32 : MOST_RESERVE;
    reserve *= (size_t)cuda_of(d)->n_sharer;
    return available > reserve ? available - reserve : 0;
}

bool cuda_scratch(struct cuda_device *c, size_t bytes, void **out, struct error *err) {
    if (bytes > c->scratch_bytes) {
        if (c->recording) {
            return error_set(err, ERROR_DEVICE, "a recorded step wants more scratch memory");
        }
        /* Graphs hold the address of the old one. */
        if (!cuda_wait(c, NULL, "growing scratch memory", err)) {
            return false;
        }
        cuda_graphs_drop(c);
        cuda_scratch_drop(c);
        CUDA_STREAM_TRY(c, cudaMalloc(&c->scratch, bytes), "cudaMalloc of scratch memory");
        c->scratch_bytes = bytes;
    }
    *out = c->scratch;
    return true;
}

void cuda_scratch_drop(struct cuda_device *c) {
    cuda_give_back(c, c->scratch);
    c->scratch = NULL;
    c->scratch_bytes = 0;
}
