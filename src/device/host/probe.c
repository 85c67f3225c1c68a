#include "device/host/probe.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/flight.h"
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

enum {
    N_PATTERN = sizeof patterns / sizeof patterns[0],
    WINDOW = 8 << 20,   /* bytes a thread reads at a time; a multiple of 16 streams' pages */
    PEAK_ROUNDS = 1000, /* at least */
};

static const double peak_s = 2e-3; /* a run is at least so long: threads start apart */

static const char *const limit_names[PROBE_LIMIT_COUNT] = {"memory", "f32", "int8"};

typedef int peak_kernel(long rounds, float *sink);

struct probe {
    struct host_device *device;
    unsigned char *data; /* owns; windows, those of one thread side by side */
    size_t bytes;
    int n_window; /* of each thread */
    int window;   /* the next */
    const struct pattern *pattern;
    double read_best;
    peak_kernel *peak; /* that runs */
    int per_round;     /* its multiply-adds */
    long rounds;
};

static unsigned char *window_of(const struct probe *p, int thread, int window) {
    return p->data + ((size_t)thread * p->n_window + window) * WINDOW;
}

static void work_fill(void *ctx, int thread, void *scratch) {
    (void)scratch;
    struct probe *p = ctx;
    memset(window_of(p, thread, 0), 1, (size_t)p->n_window * WINDOW);
}

static void work_read(void *ctx, int thread, void *scratch) {
    struct probe *p = ctx;
    *(float *)scratch = p->device->kernels->stream(window_of(p, thread, p->window), WINDOW,
                                                   p->pattern->n_stream, p->pattern->ahead);
}

static void work_peak(void *ctx, int thread, void *scratch) {
    struct probe *p = ctx;
    int n = p->peak(p->rounds, scratch);
    if (thread == 0) {
        p->per_round = n;
    }
}

static double run(struct probe *p, host_work *work) {
    double start = clock_now();
    host_team_run(p->device, p->device->n_thread, work, p, sizeof(float), NULL);
    return clock_now() - start;
}

double probe_read(struct probe *p) {
    double seconds = run(p, work_read);
    p->window = (p->window + 1) % p->n_window;
    return (double)WINDOW * p->device->n_thread / seconds;
}

double probe_read_best(const struct probe *p) {
    return p->read_best;
}

const char *probe_read_pattern(const struct probe *p) {
    return p->pattern->name;
}

bool probe_use_pattern(struct probe *p, int i) {
    if (i < 0 || i >= N_PATTERN) {
        return false;
    }
    p->pattern = &patterns[i];
    return true;
}

static double peak(struct probe *p, peak_kernel *kernel) {
    double seconds;
    p->rounds = p->peak == kernel ? p->rounds : PEAK_ROUNDS;
    p->peak = kernel;
    while ((seconds = run(p, work_peak)) < peak_s) {
        p->rounds *= 2;
    }
    return 2.0 * (double)p->rounds * p->per_round * p->device->n_thread / seconds;
}

double probe_fma(struct probe *p) {
    return peak(p, p->device->kernels->fma_peak);
}

double probe_int8(struct probe *p) {
    return peak(p, p->device->kernels->int8_peak);
}

const char *probe_limit_name(enum probe_limit which) {
    return limit_names[which];
}

bool probe_limit_from_name(const char *name, enum probe_limit *out) {
    for (int i = 0; i < PROBE_LIMIT_COUNT; i++) {
        if (strcmp(name, limit_names[i]) == 0) {
            *out = (enum probe_limit)i;
            return true;
        }
    }
    return false;
}

double probe_measure(struct probe *p, enum probe_limit which, double seconds) {
    static double (*const once[PROBE_LIMIT_COUNT])(struct probe *) = {
        [PROBE_MEMORY] = probe_read, [PROBE_F32] = probe_fma, [PROBE_INT8] = probe_int8};
    double per_unit = 0, now = clock_now(), end = now + seconds;
    int n = 0;
    do { /* equal parts of work: their mean is harmonic */
        per_unit += 1 / once[which](p);
        n++;
        now = clock_now();
        flight_pulse(now);
    } while (now < end);
    return n / per_unit;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Patterns take turns, so that a busy moment falls on all of them. */
void probe_choose_pattern(struct probe *p) {
    enum { ROUNDS = 31 };
    double rate[N_PATTERN][ROUNDS];
    for (int r = 0; r < ROUNDS; r++) {
        for (int i = 0; i < N_PATTERN; i++) {
            p->pattern = &patterns[i];
            rate[i][r] = probe_read(p);
        }
    }
    int best = 0;
    for (int i = 0; i < N_PATTERN; i++) {
        qsort(rate[i], ROUNDS, sizeof rate[i][0], compare);
        if (rate[i][ROUNDS / 2] > rate[best][ROUNDS / 2]) {
            best = i;
        }
    }
    p->pattern = &patterns[best];
    p->read_best = rate[best][ROUNDS / 2];
}

bool probe_create(struct device *d, size_t bytes, struct probe **out, struct error *err) {
    struct probe *p = calloc(1, sizeof *p);
    if (!p) {
        return error_set(err, ERROR_MEMORY, "no memory for a probe");
    }
    p->device = host_of(d);
    p->n_window = (int)(bytes / p->device->n_thread / WINDOW) + 1;
    p->bytes = (size_t)p->n_window * p->device->n_thread * WINDOW;
    p->data = host_memory_alloc(p->bytes);
    if (!p->data ||
        !host_team_run(p->device, p->device->n_thread, work_fill, p, sizeof(float), err)) {
        error_set(err, ERROR_MEMORY, "cannot allocate %zu bytes to stream through", p->bytes);
        probe_destroy(p);
        return false;
    }
    p->pattern = &patterns[N_PATTERN - 1];
    *out = p;
    return true;
}

void probe_destroy(struct probe *p) {
    if (p) {
        host_memory_free(p->data, p->bytes);
        free(p);
    }
}
