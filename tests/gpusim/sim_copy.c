/* Copies and fills, as operations of a stream. Pageable host memory is copied from at the call, as
 * CUDA stages it, and a copy to it returns when it is done ("API synchronization behavior" in
 * CUDA's manual); pinned memory is read and written when the copy runs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"

/* Rows of `width` bytes. */
struct copy {
    const char *name;
    void *to;
    const void *from;
    void *staged; /* owns; read instead of `from` */
    size_t to_pitch, from_pitch, width, height;
};

static void copy_destroy(void *arg) {
    struct copy *c = arg;
    free(c->staged);
    free(c);
}

static enum gpusim_status run_copy(void *arg, bool start, cudaError_t *error) {
    const struct copy *c = arg;
    (void)start;
    for (size_t i = 0; i < c->height; i++) {
        const char *from = (const char *)(c->staged ? c->staged : c->from) + i * c->from_pitch;
        void *to =
            sim_memory((char *)c->to + i * c->to_pitch, c->width, GPUSIM_WRITE, true, c->name);
        from = c->staged ? from : sim_memory(from, c->width, GPUSIM_READ, true, c->name);
        if (!to || !from) {
            *error = cudaErrorIllegalAddress;
            return GPUSIM_FAILED;
        }
        memmove(to, from, c->width);
    }
    return GPUSIM_DONE;
}

/* The direction must be what the addresses are. */
static bool kind_fits(enum cudaMemcpyKind kind, const void *to, const void *from) {
    bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    return kind == cudaMemcpyDefault ||
           (sim_is_device(to) == to_device && sim_is_device(from) == from_device);
}

/* Names the pinned memory that the copy uses; not where it uses a part of every row. */
static void watch_host(struct gpusim_op *op, const struct copy *c) {
    bool to = sim_is_pinned(c->to), from = !c->staged && sim_is_pinned(c->from);
    if (to && c->to_pitch == c->width) {
        op->host = c->to;
    } else if (from && c->from_pitch == c->width) {
        op->host = c->from;
    }
    op->host_bytes = op->host ? c->width * c->height : 0;
    op->host_written = to;
}

static cudaError_t enqueue_copy(const struct copy *call, enum cudaMemcpyKind kind,
                                cudaStream_t stream) {
    if (!kind_fits(kind, call->to, call->from)) {
        gpusim_finding("%s: from %p to %p is not the direction it says", call->name, call->from,
                       call->to);
        return cudaErrorInvalidValue;
    }
    struct copy *c = malloc(sizeof *c);
    *c = *call;
    if (!sim_is_device(c->from) && !sim_is_pinned(c->from)) {
        size_t bytes = c->height ? (c->height - 1) * c->from_pitch + c->width : 0;
        c->staged = malloc(bytes + 1);
        memcpy(c->staged, c->from, bytes);
    }
    struct gpusim_op op = {.name = c->name, .run = run_copy, .destroy = copy_destroy, .arg = c};
    watch_host(&op, c);
    bool waits = sim_is_device(c->to) || sim_is_pinned(c->to) || sim_is_capturing(stream);
    cudaError_t e = sim_enqueue(stream, &op);
    while (e == cudaSuccess && !waits && (e = sim_run(stream)) == cudaErrorNotReady) {
        e = cudaSuccess;
    }
    return e;
}

API cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                                cudaStream_t stream) {
    cudaError_t e = sim_enter("cudaMemcpyAsync");
    if (e == cudaSuccess && bytes > 0) {
        const struct copy c = {"cudaMemcpyAsync", to, from, NULL, bytes, bytes, bytes, 1};
        e = enqueue_copy(&c, kind, stream);
    }
    return sim_leave(e);
}

API cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                                  size_t width, size_t height, enum cudaMemcpyKind kind,
                                  cudaStream_t stream) {
    cudaError_t e = sim_enter("cudaMemcpy2DAsync");
    if (e == cudaSuccess && (width > to_pitch || width > from_pitch)) {
        e = cudaErrorInvalidPitchValue;
    }
    if (e == cudaSuccess && width > 0 && height > 0) {
        const struct copy c = {"cudaMemcpy2DAsync", to,    from,  NULL, to_pitch,
                               from_pitch,          width, height};
        e = enqueue_copy(&c, kind, stream);
    }
    return sim_leave(e);
}

API cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
    cudaError_t e = sim_enter("cudaMemcpy");
    if (e == cudaSuccess && sim_breaks_capture()) {
        e = cudaErrorStreamCaptureUnsupported;
    }
    if (e == cudaSuccess && bytes > 0) {
        const struct copy c = {"cudaMemcpy", to, from, NULL, bytes, bytes, bytes, 1};
        e = enqueue_copy(&c, kind, NULL);
        while (e == cudaSuccess && (e = sim_run(NULL)) == cudaErrorNotReady) {
            e = cudaSuccess;
        }
    }
    return sim_leave(e);
}

struct fill {
    void *to;
    int value;
    size_t bytes;
};

static enum gpusim_status run_fill(void *arg, bool start, cudaError_t *error) {
    const struct fill *f = arg;
    (void)start;
    void *to = sim_memory(f->to, f->bytes, GPUSIM_WRITE, false, "cudaMemsetAsync");
    if (!to) {
        *error = cudaErrorIllegalAddress;
        return GPUSIM_FAILED;
    }
    memset(to, f->value, f->bytes);
    return GPUSIM_DONE;
}

API cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream) {
    cudaError_t e = sim_enter("cudaMemsetAsync");
    if (e == cudaSuccess && bytes > 0) {
        struct fill *f = malloc(sizeof *f);
        *f = (struct fill){to, value, bytes};
        e = sim_enqueue(stream,
                        &(struct gpusim_op){
                            .name = "cudaMemsetAsync", .run = run_fill, .destroy = free, .arg = f});
    }
    return sim_leave(e);
}
