#include "device/host/probe.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "device/host/host.h"

/* What is read side by side, and how far ahead of it is prefetched. */
static const struct pattern {
    const char *name;
    int n_stream;
    size_t ahead; /* bytes */
} patterns[] = {
    {"1 stream", 1, 0},
    {"1 stream, prefetched", 1, 2048},
    {"8 streams, prefetched", 8, 2048},
    {"16 streams, prefetched", 16, 2048},
};

enum { N_PATTERN = sizeof patterns / sizeof patterns[0], GRAIN = 16 * 4096 };

struct probe {
    struct host_device *device;
    unsigned char *data;
    size_t part; /* bytes of a thread */
    const struct pattern *pattern;
    long fma_rounds;
    int fma_per_round;
};

static void work_fill(void *ctx, int thread, void *scratch) {
    (void)scratch;
    struct probe *p = ctx;
    memset(p->data + (size_t)thread * p->part, 1, p->part);
}

static void work_read(void *ctx, int thread, void *scratch) {
    struct probe *p = ctx;
    const unsigned char *from = p->data + (size_t)thread * p->part;
    *(float *)scratch =
        p->device->kernels->stream(from, p->part, p->pattern->n_stream, p->pattern->ahead);
}

static void work_fma(void *ctx, int thread, void *scratch) {
    struct probe *p = ctx;
    int n = p->device->kernels->fma_peak(p->fma_rounds, scratch);
    if (thread == 0) {
        p->fma_per_round = n;
    }
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median time of a round on all threads; *err is set and the result negative on failure. */
static double median_seconds(struct probe *p, host_work *work, int n_round, struct error *err) {
    double seconds[64];
    n_round = n_round < 1 ? 1 : n_round < 64 ? n_round : 64;
    for (int i = 0; i < n_round; i++) {
        double start = clock_now();
        if (!host_team_run(p->device, p->device->n_thread, work, p, sizeof(float), err)) {
            return -1;
        }
        seconds[i] = clock_now() - start;
    }
    qsort(seconds, (size_t)n_round, sizeof *seconds, compare);
    return seconds[n_round / 2];
}

static bool measure(struct probe *p, int n_round, struct probe_result *out, struct error *err) {
    int n_thread = p->device->n_thread;
    struct probe_result best = {0};
    if (!host_team_run(p->device, n_thread, work_fill, p, sizeof(float), err)) {
        return false;
    }
    for (int i = 0; i < N_PATTERN; i++) {
        p->pattern = &patterns[i];
        double seconds = median_seconds(p, work_read, n_round, err);
        if (seconds < 0) {
            return false;
        }
        double rate = (double)p->part * n_thread / seconds;
        if (rate > best.read_bytes) {
            best.read_bytes = rate;
            best.read_pattern = patterns[i].name;
        }
    }
    p->fma_rounds = 200000;
    double seconds = median_seconds(p, work_fma, n_round, err);
    best.fma_flops = 2.0 * (double)p->fma_rounds * p->fma_per_round * n_thread / seconds;
    *out = best;
    return seconds >= 0;
}

bool probe_run(const struct probe_options *options, struct probe_result *out, struct error *err) {
    struct device *d = NULL;
    if (!host_device_create(
            &(struct host_options){.n_thread = options->n_thread, .isa = options->isa}, &d, err)) {
        return false;
    }
    bool ok = false;
    struct probe p = {.device = host_of(d)};
    p.part = round_up(options->bytes / options->n_thread, GRAIN);
    size_t bytes = p.part * options->n_thread;
    p.data = host_memory_alloc(bytes);
    if (!p.data) {
        error_set(err, ERROR_MEMORY, "cannot allocate %zu bytes to stream through", bytes);
        goto out;
    }
    ok = measure(&p, options->n_round, out, err);
out:
    host_memory_free(p.data, bytes);
    device_destroy(d);
    return ok;
}
