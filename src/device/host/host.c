#include "device/host/host.h"

#include <stdlib.h>
#include <string.h>

#include "config.h"

#if HAVE_AVX2
#include <cpuid.h>
#endif

#if HAVE_AVX2
static bool has_avx2(void) {
    unsigned a, b, c = 0, d;
    bool f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
    return f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#endif

#if HAVE_AVX512
static bool has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

#if HAVE_AVX512VNNI
static bool has_avx512vnni(void) {
    return has_avx512() && __builtin_cpu_supports("avx512vnni");
}
#endif

static bool always(void) {
    return true;
}

/* Slowest first. */
static const struct {
    const struct host_kernels *kernels;
    bool (*usable)(void);
} isas[] = {
    {&host_kernels_generic, always},
#if HAVE_AVX2
    {&host_kernels_avx2, has_avx2},
#endif
#if HAVE_AVX512
    {&host_kernels_avx512, has_avx512},
#endif
#if HAVE_AVX512VNNI
    {&host_kernels_avx512vnni, has_avx512vnni},
#endif
};

enum { N_ISA = sizeof isas / sizeof isas[0] };

const struct host_kernels *host_kernels_best(void) {
    static _Atomic(const struct host_kernels *) best; /* cpuid is slow on a virtual machine */
    if (!best) {
        int i = N_ISA - 1;
        while (!isas[i].usable()) {
            i--;
        }
        best = isas[i].kernels;
    }
    return best;
}

/* NULL when unknown or not usable here. */
static const struct host_kernels *kernels_named(const char *isa) {
    for (int i = 0; i < N_ISA; i++) {
        if (strcmp(isas[i].kernels->name, isa) == 0 && isas[i].usable()) {
            return isas[i].kernels;
        }
    }
    return NULL;
}

const char *host_isa_best(void) {
    return host_kernels_best()->name;
}

bool host_isa_usable(const char *isa) {
    return kernels_named(isa) != NULL;
}

const char *host_isa_name(const struct device *d) {
    return ((const struct host_device *)d)->kernels->name;
}

static bool unknown_isa(const char *isa, struct error *err) {
    char usable[64] = "";
    for (int i = 0; i < N_ISA; i++) {
        if (isas[i].usable()) {
            strcat(usable, i ? ", " : "");
            strcat(usable, isas[i].kernels->name);
        }
    }
    return error_set(err, ERROR_UNSUPPORTED,
                     "instruction set \"%s\" is not usable here; this build and CPU have: %s", isa,
                     usable);
}

static bool host_alloc(struct device *d, size_t bytes, void **out, struct error *err) {
    (void)d;
    void *p = host_memory_alloc(bytes);
    if (!p) {
        return error_set(err, ERROR_MEMORY, "cannot allocate %zu bytes", bytes);
    }
    *out = p;
    return true;
}

static void host_free(struct device *d, void *p, size_t bytes) {
    (void)d;
    host_memory_free(p, bytes);
}

static bool host_copy(struct device *d, void *dst, const void *src, size_t bytes,
                      struct error *err) {
    (void)d;
    (void)err;
    if (bytes > 0) {
        memcpy(dst, src, bytes);
    }
    return true;
}

static bool host_sync(struct device *d, struct error *err) {
    (void)d;
    (void)err;
    return true;
}

static bool host_batch_reserve(struct device *d, const struct batch_limits *limits,
                               struct error *err) {
    struct host_device *h = host_of(d); /* a batch itself is used where it lies */
    return host_linear_reserve(h, limits, err) && host_attention_reserve(h, limits, err);
}

static void drop_scratch(struct host_device *h) {
    for (int t = 0; h->scratch && t < h->n_thread; t++) {
        host_scratch_finish(&h->scratch[t]);
    }
    host_scratch_finish(&h->x);
    host_scratch_finish(&h->items);
    host_scratch_finish(&h->parts);
}

static void host_batch_release(struct device *d) {
    host_of(d)->batch = (struct device_batch){0};
    drop_scratch(host_of(d));
}

static bool host_batch_begin(struct device *d, const struct device_batch *batch,
                             struct batch_size *out, struct error *err) {
    (void)err;
    host_of(d)->batch = *batch;
    *out = (struct batch_size){.n_tok = batch->n_tok, .n_row = batch->n_row};
    return true;
}

static bool host_record_begin(struct device *d, int key, bool *replayed, struct error *err) {
    (void)d; /* never records */
    (void)key;
    (void)err;
    *replayed = false;
    return true;
}

static bool host_record_end(struct device *d, bool ok, bool *again, struct error *err) {
    (void)d;
    (void)err;
    *again = false;
    return ok;
}

static void host_destroy(struct device *d) {
    struct host_device *h = host_of(d);
    drop_scratch(h);
    free(h->scratch);
    free(h);
}

static const struct device_ops host_ops = {
    .name = "host",
    .destroy = host_destroy,
    .alloc = host_alloc,
    .free = host_free,
    .upload = host_copy,
    .download = host_copy,
    .sync = host_sync,
    .matrix_bytes = host_matrix_bytes,
    .matrix_create = host_matrix_create,
    .matrix_fill = host_matrix_fill,
    .matrix_destroy = host_matrix_destroy,
    .batch_reserve = host_batch_reserve,
    .batch_release = host_batch_release,
    .batch_begin = host_batch_begin,
    .record_begin = host_record_begin,
    .record_end = host_record_end,
    .linear = host_linear,
    .embed = host_embed,
    .rmsnorm = host_rmsnorm,
    .add = host_add,
    .add_bias = host_add_bias,
    .silu_mul = host_silu_mul,
    .rope_append = host_rope_append,
    .attention = host_attention,
    .kv_block_bytes = host_kv_block_bytes,
    .gather_rows = host_gather_rows,
    .top_k = host_top_k,
};

bool host_device_create(const struct host_options *options, struct device **out,
                        struct error *err) {
    const struct host_kernels *kernels =
        options->isa ? kernels_named(options->isa) : host_kernels_best();
    if (!kernels) {
        return unknown_isa(options->isa, err);
    }
    if (options->n_thread < 1) {
        return error_set(err, ERROR_USAGE, "threads must be at least 1, not %d", options->n_thread);
    }
    struct host_device *h = calloc(1, sizeof *h);
    if (!h) {
        return error_set(err, ERROR_MEMORY, "no memory for a device");
    }
    *h = (struct host_device){.base = {.ops = &host_ops,
                                       .act = DTYPE_F32,
                                       .kv_bf16 = true,
                                       .quantized = true,
                                       .n_thread = options->n_thread},
                              .kernels = kernels,
                              .n_thread = options->n_thread};
    h->scratch = calloc((size_t)h->n_thread, sizeof *h->scratch);
    if (!h->scratch) {
        host_destroy(&h->base);
        return error_set(err, ERROR_MEMORY, "no memory for a device");
    }
    *out = &h->base;
    return true;
}

void device_destroy(struct device *d) {
    if (d) {
        d->ops->destroy(d);
    }
}
