/* Speed of decode's attention over a long KV cache against this machine's limit, heads of 128:
 * bench_attention [threads [isa [positions]]]. Each round reads memory as the probe does, then K
 * and V of one token's layer, all of them out of the cache. Not a test: numbers are for a person.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "device/device.h"
#include "device/host/probe.h"

enum { HEAD_DIM = 128, N_LAYER = 6, N_ROUND = 41 };

/* Heads of one rank. */
static const struct shape {
    const char *name;
    int n_head, n_kv_head;
} shapes[] = {
    {"16 heads on 8 KV heads", 16, 8},
    {"8 heads on 4 KV heads", 8, 4},
    {"8 heads on 1 KV head", 8, 1},
    {"4 heads on 4 KV heads", 4, 4},
};

enum { N_SHAPE = sizeof shapes / sizeof shapes[0] };

struct bench {
    struct device *device;
    struct probe *probe;
    struct attention_shape shape;
    int n_block;
    int32_t *blocks; /* owns */
    struct kv_layer layers[N_LAYER];
    size_t layer_bytes; /* of K, and of V */
    float *qkv, *out;   /* own */
    int next;           /* the layer whose turn it is */
};

static _Noreturn void die(const struct error *err) {
    log_error("%s", err->message);
    exit(1);
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, compare);
    return v[n / 2];
}

static void make(struct bench *b, const struct shape *s, int positions, enum dtype kv) {
    struct error err;
    struct device *d = b->device;
    b->shape = (struct attention_shape){.n_head = s->n_head,
                                        .n_kv_head = s->n_kv_head,
                                        .head_dim = HEAD_DIM,
                                        .group = s->n_head / s->n_kv_head,
                                        .scale = 1 / sqrtf(HEAD_DIM)};
    b->n_block = (positions + KV_BLOCK - 1) / KV_BLOCK;
    b->layer_bytes = b->n_block * d->ops->kv_block_bytes(d, kv, s->n_kv_head, HEAD_DIM);
    b->blocks = malloc(b->n_block * sizeof *b->blocks);
    b->qkv = calloc((s->n_head + 2 * (size_t)s->n_kv_head) * HEAD_DIM, sizeof *b->qkv);
    b->out = malloc((size_t)s->n_head * HEAD_DIM * sizeof *b->out);
    for (int i = 0; i < b->n_block; i++) {
        b->blocks[i] = i;
    }
    for (int i = 0; i < s->n_head * HEAD_DIM; i++) {
        b->qkv[i] = (float)(i % 17) - 8;
    }
    for (int l = 0; l < N_LAYER; l++) {
        b->layers[l].dtype = kv;
        if (!d->ops->alloc(d, b->layer_bytes, &b->layers[l].k, &err) ||
            !d->ops->alloc(d, b->layer_bytes, &b->layers[l].v, &err)) {
            die(&err);
        }
        /* Untouched memory would be one page of zeros. */
        memset(b->layers[l].k, 0x3c, b->layer_bytes);
        memset(b->layers[l].v, 0x3c, b->layer_bytes);
    }
}

static void drop(struct bench *b) {
    for (int l = 0; l < N_LAYER; l++) {
        b->device->ops->free(b->device, b->layers[l].k, b->layer_bytes);
        b->device->ops->free(b->device, b->layers[l].v, b->layer_bytes);
    }
    free(b->blocks);
    free(b->qkv);
    free(b->out);
}

static double time_attention(struct bench *b, int positions) {
    struct error err;
    struct device *d = b->device;
    const struct seq_run seq = {
        .n_tok = 1, .pos = positions - 1, .n_block = b->n_block, .blocks = b->blocks};
    const struct device_batch batch = {.n_tok = 1, .n_seq = 1, .seqs = &seq};
    struct batch_size size;
    double start = clock_now();
    if (!d->ops->batch_begin(d, &batch, &size, &err) ||
        !d->ops->attention(d, b->out, b->qkv, &b->shape, b->layers[b->next++ % N_LAYER], &err)) {
        die(&err);
    }
    return clock_now() - start;
}

/* The median, and the median of its ratios to the limit measured right before; on a shared machine
 * the second says more. */
static void bench_shape(struct device *d, struct probe *probe, const struct shape *s, int positions,
                        enum dtype kv) {
    struct bench b = {.device = d, .probe = probe};
    double rate[N_ROUND], ratio[N_ROUND];
    make(&b, s, positions, kv);
    for (int i = 0; i < N_ROUND; i++) {
        double limit = probe_read(probe);
        rate[i] = 2 * (double)b.layer_bytes / time_attention(&b, positions);
        ratio[i] = rate[i] / limit;
    }
    double r = median(ratio, N_ROUND);
    printf("%-24s %-4s %6.1f MB  %5.1f GB/s  %3.0f%% (%.0f .. %.0f)\n", s->name, dtype_name(kv),
           2e-6 * (double)b.layer_bytes, median(rate, N_ROUND) / 1e9, 100 * r,
           100 * ratio[N_ROUND / 4], 100 * ratio[N_ROUND * 3 / 4]);
    drop(&b);
}

int main(int argc, char **argv) {
    struct error err;
    struct device *d = NULL;
    struct probe *probe = NULL;
    struct host_options options = {.n_thread = argc > 1 ? atoi(argv[1]) : 1,
                                   .isa = argc > 2 && argv[2][0] ? argv[2] : NULL};
    int positions = argc > 3 ? atoi(argv[3]) : 8192;
    if (!host_device_create(&options, &d, &err) ||
        !probe_create(d, (size_t)256 << 20, &probe, &err)) {
        die(&err);
    }
    probe_choose_pattern(probe);
    printf("%s, %d threads, %d positions: memory reads %.1f GB/s (%s)\n", host_isa_name(d),
           options.n_thread, positions, probe_read_best(probe) / 1e9, probe_read_pattern(probe));
    for (int i = 0; i < N_SHAPE; i++) {
        bench_shape(d, probe, &shapes[i], positions, DTYPE_F32);
        bench_shape(d, probe, &shapes[i], positions, DTYPE_BF16);
        fflush(stdout);
    }
    probe_destroy(probe);
    device_destroy(d);
    return 0;
}
