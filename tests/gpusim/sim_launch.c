/* Kernels: what nvcc's start-up code registers, the PTX in it, and launches as operations of a
 * stream. The layout of the container is what nvcc 13 writes with --no-compress. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"

static const uint32_t FATBIN_MAGIC = 0xba55ed50;

enum {
    FATBIN_PTX = 1,
    SHARED_WITHOUT_ASKING = 48 << 10,
    MAX_PARAMS = 4096, /* bytes */
    MAX_THREADS = 1024,
};

struct fatbin_wrapper {
    int32_t magic, version;
    const void *data;
    const void *more;
};

struct fatbin_header {
    uint32_t magic;
    uint16_t version, header_bytes;
    uint64_t bytes; /* of what follows the header */
};

struct fatbin_entry {
    uint16_t kind, flags;
    uint32_t header_bytes;
    uint64_t bytes; /* of the payload, padded */
    uint32_t compressed_bytes, reserved;
    uint16_t minor, major;
    uint32_t arch;
};

struct binary {
    const struct fatbin_wrapper *wrapper;
    struct ptx_module *module; /* owns; parsed at the first use of a kernel */
    bool tried;
    struct binary *next;
};

struct function {
    const void *stub; /* address of the host's stand-in */
    const char *name;
    struct binary *binary;
    const struct ptx_kernel *kernel;
    int max_dynamic_shared;
    struct function *next;
};

static struct binary *binaries;
static struct function *functions;

/* ---- registration ---- */

API void **__cudaRegisterFatBinary(void *wrapper);
API void __cudaRegisterFatBinaryEnd(void **handle);
API void __cudaUnregisterFatBinary(void **handle);
API void __cudaRegisterFunction(void **handle, const char *stub, char *device_name,
                                const char *name, int thread_limit, void *tid, void *bid,
                                void *b_dim, void *g_dim, int *w_size);
API void __cudaRegisterVar(void **handle, char *host, char *address, const char *name, int ext,
                           size_t size, int constant, int global);
API cudaError_t __cudaGetKernel(cudaKernel_t *out, const void *stub);
API cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **args,
                                   size_t shared, cudaStream_t stream);
API unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void *stream);
API cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream);

API void **__cudaRegisterFatBinary(void *wrapper) {
    sim_lock();
    struct binary *b = calloc(1, sizeof *b);
    *b = (struct binary){.wrapper = wrapper, .next = binaries};
    binaries = b;
    sim_unlock();
    return (void **)b;
}

API void __cudaRegisterFatBinaryEnd(void **handle) {
    (void)handle;
}

API void __cudaUnregisterFatBinary(void **handle) {
    (void)handle; /* sim_launch_finish frees it: operations may still use its kernels */
}

API void __cudaRegisterFunction(void **handle, const char *stub, char *device_name,
                                const char *name, int thread_limit, void *tid, void *bid,
                                void *b_dim, void *g_dim, int *w_size) {
    (void)device_name, (void)thread_limit, (void)tid, (void)bid, (void)b_dim, (void)g_dim,
        (void)w_size;
    sim_lock();
    struct function *f = calloc(1, sizeof *f);
    *f = (struct function){
        .stub = stub, .name = name, .binary = (struct binary *)handle, .next = functions};
    functions = f;
    sim_unlock();
}

API void __cudaRegisterVar(void **handle, char *host, char *address, const char *name, int ext,
                           size_t size, int constant, int global) {
    (void)handle, (void)host, (void)address, (void)ext, (void)size, (void)constant, (void)global;
    gpusim_finding("the device variable %s: the simulator has none", name);
}

void sim_launch_finish(void) {
    while (binaries) {
        struct binary *b = binaries;
        binaries = b->next;
        ptx_module_destroy(b->module);
        free(b);
    }
    while (functions) {
        struct function *f = functions;
        functions = f->next;
        free(f);
    }
}

/* ---- the PTX in a container ---- */

static bool parse(struct binary *b, const char *text, size_t n) {
    char error[512];
    while (n > 0 && text[n - 1] == 0) {
        n--;
    }
    if (!ptx_module_create(&b->module, text, n, error, sizeof error)) {
        gpusim_finding("%s", error);
        return false;
    }
    return true;
}

static bool load(struct binary *b) {
    const struct fatbin_header *h = b->wrapper->data;
    if (b->module || b->tried) {
        return b->module;
    }
    b->tried = true;
    if (h->magic != FATBIN_MAGIC) {
        gpusim_finding("a container of kernels has the magic number %#x", h->magic);
        return false;
    }
    const char *at = (const char *)h + h->header_bytes, *end = at + h->bytes;
    while (at < end) {
        const struct fatbin_entry *e = (const struct fatbin_entry *)at;
        if (e->kind == FATBIN_PTX && e->compressed_bytes == 0) {
            return parse(b, at + e->header_bytes, e->bytes);
        }
        at += e->header_bytes + e->bytes;
    }
    gpusim_finding("a container of kernels has no uncompressed PTX (nvcc --no-compress)");
    return false;
}

static struct function *function_of(const void *stub) {
    for (struct function *f = functions; f; f = f->next) {
        if (f->stub == stub) {
            if (!f->kernel && load(f->binary)) {
                f->kernel = ptx_module_find(f->binary->module, f->name);
            }
            return f->kernel ? f : NULL;
        }
    }
    return NULL;
}

/* ---- launches ---- */

struct launch {
    const struct ptx_kernel *kernel;
    const char *fault; /* of this execution */
    struct ptx_launch call;
    unsigned char params[];
};

static const struct ptx_block *find(void *user, uint64_t address) {
    (void)user;
    return sim_find(address);
}

static void finding(void *user, const char *line) {
    (void)user;
    gpusim_finding("%s", line);
}

static enum gpusim_status run_kernel(void *arg, bool start, cudaError_t *error) {
    struct launch *l = arg;
    const struct ptx_host host = {.find = find, .finding = finding};
    if (start) {
        l->fault = sim_fault("kernel");
    }
    if (l->fault && strcmp(l->fault, "hang") == 0) {
        return GPUSIM_BUSY;
    }
    if (l->fault) {
        *error = sim_fault_error(l->fault);
        return GPUSIM_FAILED;
    }
    switch (ptx_run(l->kernel, &l->call, &host)) {
    case PTX_OK:
        return GPUSIM_DONE;
    case PTX_ILLEGAL_ADDRESS:
        *error = cudaErrorIllegalAddress;
        break;
    case PTX_MISALIGNED:
        *error = cudaErrorMisalignedAddress;
        break;
    case PTX_FAILED:
        *error = cudaErrorLaunchFailure;
        break;
    }
    return GPUSIM_FAILED;
}

static enum gpusim_status run_fault(void *arg, bool start, cudaError_t *error) {
    (void)start;
    *error = *(cudaError_t *)arg;
    return GPUSIM_FAILED;
}

static enum gpusim_status run_hang(void *arg, bool start, cudaError_t *error) {
    (void)arg, (void)start, (void)error;
    return GPUSIM_BUSY;
}

/* A launch that a fault is due for: it fails, or never ends, when its turn comes. */
static cudaError_t enqueue_fault(const char *kind, cudaStream_t stream) {
    struct gpusim_op op = {.name = "launch", .run = run_hang};
    if (strcmp(kind, "hang") != 0) {
        cudaError_t *e = malloc(sizeof *e);
        *e = sim_fault_error(kind);
        op = (struct gpusim_op){.name = "launch", .run = run_fault, .destroy = free, .arg = e};
    }
    return sim_enqueue(stream, &op);
}

static bool fits(const struct function *f, dim3 grid, dim3 block, size_t shared) {
    size_t threads = (size_t)block.x * block.y * block.z;
    size_t total = shared + ptx_kernel_shared_bytes(f->kernel);
    return grid.x && grid.y && grid.z && grid.x <= 0x7fffffff && grid.y <= 65535 &&
           grid.z <= 65535 && threads && threads <= MAX_THREADS && block.z <= 64 &&
           threads <= (size_t)ptx_kernel_max_threads(f->kernel) &&
           (total <= SHARED_WITHOUT_ASKING || shared <= (size_t)f->max_dynamic_shared);
}

static cudaError_t launch(const struct function *f, dim3 grid, dim3 block, void **args,
                          size_t shared, cudaStream_t stream) {
    int n = ptx_kernel_n_param(f->kernel);
    size_t bytes = 0;
    if (!fits(f, grid, block, shared)) {
        return cudaErrorInvalidConfiguration;
    }
    for (int i = 0; i < n; i++) {
        bytes = ptx_kernel_param_offset(f->kernel, i) + ptx_kernel_param_bytes(f->kernel, i);
    }
    if (bytes > MAX_PARAMS) {
        return cudaErrorInvalidValue;
    }
    struct launch *l = calloc(1, sizeof *l + bytes);
    for (int i = 0; i < n; i++) {
        memcpy(l->params + ptx_kernel_param_offset(f->kernel, i), args[i],
               ptx_kernel_param_bytes(f->kernel, i));
    }
    l->kernel = f->kernel;
    l->call = (struct ptx_launch){.grid = {grid.x, grid.y, grid.z},
                                  .block = {block.x, block.y, block.z},
                                  .dynamic_shared = shared,
                                  .params = l->params,
                                  .check = sim_settings()->check};
    return sim_enqueue(stream, &(struct gpusim_op){.name = ptx_kernel_name(f->kernel),
                                                   .run = run_kernel,
                                                   .destroy = free,
                                                   .arg = l});
}

API cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **args,
                                   size_t shared, cudaStream_t stream) {
    cudaError_t e = sim_enter("cudaLaunchKernel");
    if (e == cudaSuccess && !kernel) {
        e = cudaErrorInvalidDeviceFunction;
    } else if (e == cudaSuccess) {
        const char *kind = sim_fault("launch");
        e = kind ? enqueue_fault(kind, stream)
                 : launch((const struct function *)(const void *)kernel, grid, block, args, shared,
                          stream);
    }
    return sim_leave(e);
}

API cudaError_t __cudaGetKernel(cudaKernel_t *out, const void *stub) {
    sim_lock();
    struct function *f = function_of(stub);
    *out = (cudaKernel_t)(void *)f;
    return sim_leave(f ? cudaSuccess : cudaErrorInvalidDeviceFunction);
}

API cudaError_t cudaLaunchKernel(const void *stub, dim3 grid, dim3 block, void **args,
                                 size_t shared, cudaStream_t stream) {
    cudaKernel_t kernel;
    cudaError_t e = __cudaGetKernel(&kernel, stub);
    return e == cudaSuccess ? __cudaLaunchKernel(kernel, grid, block, args, shared, stream) : e;
}

/* kernel<<<...>>>(...) is compiled to a push, and a pop in the stub that it calls. */
static _Thread_local struct {
    dim3 grid, block;
    size_t shared;
    cudaStream_t stream;
} pushed;

API unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void *stream) {
    pushed.grid = grid;
    pushed.block = block;
    pushed.shared = shared;
    pushed.stream = stream;
    return 0;
}

API cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
    *grid = pushed.grid;
    *block = pushed.block;
    *shared = pushed.shared;
    *(cudaStream_t *)stream = pushed.stream;
    return cudaSuccess;
}

/* Shared memory that one block may ask for ("CUDA C++ Programming Guide", compute capabilities). */
static int most_shared(void) {
    const struct settings *s = sim_settings();
    return s->cc_major == 8    ? s->cc_minor == 0 || s->cc_minor == 7 ? 163 << 10 : 99 << 10
           : s->cc_major == 12 ? 99 << 10
                               : 227 << 10;
}

API cudaError_t cudaFuncSetAttribute(const void *stub, enum cudaFuncAttribute attribute,
                                     int value) {
    cudaError_t e = sim_enter("cudaFuncSetAttribute");
    struct function *f = e == cudaSuccess ? function_of(stub) : NULL;
    if (e == cudaSuccess && !f) {
        e = cudaErrorInvalidDeviceFunction;
    }
    if (f && attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
        if (value < 0 ||
            (size_t)value + ptx_kernel_shared_bytes(f->kernel) > (size_t)most_shared()) {
            e = cudaErrorInvalidValue;
        } else {
            f->max_dynamic_shared = value;
        }
    }
    return sim_leave(e);
}

API cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *out, const void *stub) {
    cudaError_t e = sim_enter("cudaFuncGetAttributes");
    struct function *f = e == cudaSuccess ? function_of(stub) : NULL;
    if (f) {
        *out = (struct cudaFuncAttributes){.sharedSizeBytes = ptx_kernel_shared_bytes(f->kernel),
                                           .maxThreadsPerBlock = ptx_kernel_max_threads(f->kernel),
                                           .maxDynamicSharedSizeBytes = f->max_dynamic_shared};
    }
    return sim_leave(e == cudaSuccess && !f ? cudaErrorInvalidDeviceFunction : e);
}
