/* Speed of the linear kernels against this machine's limits, on the shapes of a 0.6B model:
 * bench_linear [threads [isa [shape]]]. Not a test: numbers are for a person. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "device/device.h"
#include "device/host/probe.h"

struct shape {
    const char *name;
    int rows, cols, n_leaf;
    int copies; /* distinct matrices, so that none is left in the cache */
};

static const struct shape shapes[] = {
    {"qkv 4096x1024", 4096, 1024, 0, 24},     {"o 1024x2048, 16 leaves", 1024, 2048, 16, 48},
    {"gate+up 6144x1024", 6144, 1024, 0, 16}, {"down 1024x3072, 16 leaves", 1024, 3072, 16, 32},
    {"up 3072x1024", 3072, 1024, 0, 32},      {"half head 75968x1024", 75968, 1024, 0, 1},
    {"square 1024x1024", 1024, 1024, 0, 96},
};

enum { N_SHAPE = sizeof shapes / sizeof shapes[0], MAX_COPIES = 96, MAX_TOK = 256 };

static int compare(const void *a, const void *b) {
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

static struct matrix *make_matrix(struct device *d, int rows, int cols) {
    struct error err;
    struct matrix *m = NULL;
    size_t n = 0;
    uint16_t *data = malloc((size_t)rows * cols * 2);
    for (size_t i = 0; i < (size_t)rows * cols; i++) {
        data[i] = (uint16_t)(0x3c00 + i * 2654435761u % 0x300);
    }
    if (!d->ops->matrix_create(d, DTYPE_BF16, rows, cols, 0, &m, &err) ||
        !d->ops->matrix_fill(d, m, 0, rows, 0, cols, DTYPE_BF16, data, (size_t)cols * 2, &n,
                             &err)) {
        log_error("%s", err.message);
    }
    free(data);
    return m;
}

/* What is measured: the same matrices are multiplied and, in between, read by the probe. */
struct bench {
    struct device *device;
    const struct shape *shape;
    struct probe *probe;
    struct matrix *w[MAX_COPIES];
    struct leaf_plan plan;
    float *x, *y;
    int next; /* the matrix whose turn it is */
};

static double time_linear(struct bench *b, int n, int n_tok) {
    struct error err;
    double start = clock_now();
    for (int i = 0; i < n; i++) {
        struct matrix *w = b->w[b->next++ % b->shape->copies];
        if (!b->device->ops->linear(b->device, b->y, DTYPE_F32, b->x, (size_t)b->shape->cols, w,
                                    n_tok, b->shape->n_leaf ? &b->plan : NULL, &err)) {
            log_error("%s", err.message);
        }
    }
    return clock_now() - start;
}

static double median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, compare);
    return v[n / 2];
}

/* Speed of n_tok tokens: the median, and the median of its ratios to the limit measured right
 * before; on a shared machine the second says more. */
static void bench_tokens(struct bench *b, int n_tok) {
    double bytes = 2.0 * b->shape->rows * b->shape->cols;
    bool many = n_tok > 16;
    int n = many ? 1 : (int)(16e6 / bytes) + 1;
    double rate[101], ratio[101];
    int n_round = many ? 15 : 101;
    for (int i = 0; i < n_round; i++) {
        double limit = many ? probe_fma(b->probe) : probe_read(b->probe);
        double t = time_linear(b, n, n_tok);
        rate[i] = (many ? bytes * n_tok : bytes * n) / t;
        ratio[i] = rate[i] / limit;
    }
    printf(many ? " M=%d %5.1f GFLOP/s %3.0f%%" : " M=%d %5.1f GB/s %3.0f%%", n_tok,
           median(rate, n_round) / 1e9, 100 * median(ratio, n_round));
}

static void bench_shape(struct device *d, struct probe *probe, const struct shape *s) {
    struct bench b = {.device = d, .shape = s, .probe = probe};
    b.plan = (struct leaf_plan){.n_leaf = s->n_leaf, .n_piece = 1, .pieces = {{0, s->n_leaf}}};
    for (int l = 0; l <= s->n_leaf && s->n_leaf; l++) {
        b.plan.bounds[l] = l * (s->cols / s->n_leaf);
    }
    b.x = calloc((size_t)MAX_TOK * s->cols, sizeof *b.x);
    b.y = malloc((size_t)MAX_TOK * s->rows * sizeof *b.y);
    for (int i = 0; i < MAX_TOK * s->cols; i++) {
        b.x[i] = (float)(i % 17) - 8;
    }
    for (int i = 0; i < s->copies; i++) {
        b.w[i] = make_matrix(d, s->rows, s->cols);
    }
    printf("%-27s", s->name);
    const int counts[] = {1, 2, 4, 8, s->rows > 10000 ? 32 : MAX_TOK};
    for (int i = 0; i < 5; i++) {
        bench_tokens(&b, counts[i]);
    }
    printf("\n");
    for (int i = 0; i < s->copies; i++) {
        d->ops->matrix_destroy(d, b.w[i]);
    }
    free(b.x);
    free(b.y);
}

int main(int argc, char **argv) {
    struct error err;
    struct device *d = NULL;
    struct probe *probe = NULL;
    struct host_options options = {.n_thread = argc > 1 ? atoi(argv[1]) : 1,
                                   .isa = argc > 2 && argv[2][0] ? argv[2] : NULL};
    if (!host_device_create(&options, &d, &err) ||
        !probe_create(d, (size_t)256 << 20, &probe, &err)) {
        log_error("%s", err.message);
        return 1;
    }
    probe_choose_pattern(probe);
    printf("%s, %d threads: reads %.1f GB/s (%s), multiply-add %.0f GFLOP/s\n", host_isa_name(d),
           options.n_thread, probe_read_best(probe) / 1e9, probe_read_pattern(probe),
           probe_fma(probe) / 1e9);
    for (int i = 0; i < N_SHAPE; i++) {
        if (argc < 4 || atoi(argv[3]) == i) {
            bench_shape(d, probe, &shapes[i]);
            fflush(stdout);
        }
    }
    probe_destroy(probe);
    device_destroy(d);
    return 0;
}
