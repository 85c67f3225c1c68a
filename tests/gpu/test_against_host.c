/* Every operation that both device tables have, with the same inputs: the plug-in's in f32 against
 * the host's in generic C. test_kernels_*.c have the kernels by themselves, bf16 among them, at
 * many more sizes against double precision; this holds the two tables to one meaning.
 *
 * Tolerance: 1e-5 of the largest value of a row (of a head, where there are heads). Both add up in
 * f32, in different orders: a sum here has up to 600 terms, and was seen to differ by 2e-6. A GPU's
 * __expf is off by some 2^-21 where it counts. What only moves or adds two numbers is the same to
 * the bit. */
#include "test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/plugin.h"
#include "device/reference.h"

#define CLOSE 1e-5
#define EXACT 0.0

enum { MAX_MEMORY = 16, MAX_RESULTS = 1 << 20, MAX_SEQ = 9, MAX_TOK = 512, MAX_CTX = 640 };

static struct device *host, *gpu;

/* One device's run of a case. */
struct run {
    struct device *d;
    struct random r; /* in the same state on both */
    void *memory[MAX_MEMORY];
    size_t bytes[MAX_MEMORY];
    int n_memory;
    float *results; /* [MAX_RESULTS] */
    size_t n_result;
};

/* Device memory until the run's end, with the bytes of x in it, or zeros. */
static void *put(struct run *run, const void *x, size_t bytes) {
    struct error err;
    void *p = NULL;
    assert_true(run->n_memory < MAX_MEMORY);
    assert_ok(run->d->ops->alloc(run->d, bytes, &p, &err), &err);
    run->bytes[run->n_memory] = bytes;
    run->memory[run->n_memory++] = p;
    if (x) {
        assert_ok(run->d->ops->upload(run->d, p, x, bytes, &err), &err);
    }
    return p;
}

static float *random_floats(struct run *run, size_t n) {
    float *x = malloc(n * sizeof *x), *p;
    fill_floats(&run->r, x, n, 0);
    p = put(run, x, n * sizeof *x);
    free(x);
    return p;
}

/* n floats of device memory are a result. */
static void keep(struct run *run, const float *x, size_t n) {
    struct error err;
    assert_true(n <= MAX_RESULTS - run->n_result);
    assert_ok(run->d->ops->download(run->d, run->results + run->n_result, x, n * sizeof *x, &err),
              &err);
    run->n_result += n;
}

static void start(struct run *run, struct device *d) {
    *run = (struct run){.d = d, .results = malloc(MAX_RESULTS * sizeof(float))};
    assert_non_null(run->results);
    random_init(&run->r, 11);
}

static void finish(struct run *run) {
    for (int i = 0; i < run->n_memory; i++) {
        run->d->ops->free(run->d, run->memory[i], run->bytes[i]);
    }
    free(run->results);
}

static bool near(float a, float b, double most) {
    return a == b || (isnan(a) && isnan(b)) || fabs((double)a - (double)b) <= most;
}

/* Runs the case on both, and compares the results as rows of dim numbers. */
static void on_both(const char *what, void (*operation)(struct run *, const void *), const void *c,
                    size_t dim, double unit) {
    struct run want, got;
    start(&want, host);
    start(&got, gpu);
    operation(&want, c);
    operation(&got, c);
    assert_true(want.n_result > 0);
    assert_int_equal(want.n_result, got.n_result);
    assert_int_equal(want.n_result % dim, 0);
    for (size_t first = 0; first < want.n_result; first += dim) {
        double scale = 0;
        for (size_t i = first; i < first + dim; i++) {
            scale = fmax(scale, fabs((double)want.results[i]));
        }
        for (size_t i = first; i < first + dim; i++) {
            if (!near(got.results[i], want.results[i], unit * scale)) {
                fail_msg("%s: row %zu of %zu numbers, number %zu: %.9g is not %.9g", what,
                         first / dim, dim, i - first, (double)got.results[i],
                         (double)want.results[i]);
            }
        }
    }
    finish(&want);
    finish(&got);
}

/* ---- matrices ---- */

struct linear_case {
    int rows, cols, n_tok, stride;
    enum dtype dtype; /* of the weights */
};

/* A matrix of random numbers; the same ones whatever the device makes of them. */
static struct matrix *random_matrix(struct run *run, enum dtype dtype, int rows, int cols) {
    struct matrix *m = NULL;
    struct error err;
    size_t n = (size_t)rows * (size_t)cols, n_nonfinite = 0;
    float *x = malloc(n * sizeof *x);
    uint16_t *half = malloc(n * sizeof *half);
    fill_floats(&run->r, x, n, 0);
    x[0] = -0.0f;
    for (size_t i = 0; i < n; i++) { /* any bf16 will do */
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        half[i] = (uint16_t)(bits >> 16);
    }
    bool wide = dtype == DTYPE_F32;
    assert_ok(run->d->ops->matrix_create(run->d, dtype, rows, cols, 0, &m, &err), &err);
    assert_ok(run->d->ops->matrix_fill(run->d, m, 0, rows, 0, cols, dtype,
                                       wide ? (const void *)x : half,
                                       (size_t)cols * dtype_size(dtype), &n_nonfinite, &err),
              &err);
    assert_int_equal(n_nonfinite, 0);
    free(x);
    free(half);
    return m;
}

static void run_linear(struct run *run, const void *user) {
    const struct linear_case *c = user;
    struct error err;
    struct matrix *w = random_matrix(run, c->dtype, c->rows, c->cols);
    float *x = random_floats(run, (size_t)c->n_tok * (size_t)c->stride);
    size_t n = (size_t)c->n_tok * (size_t)c->rows;
    float *y = put(run, NULL, n * sizeof *y);
    assert_ok(
        run->d->ops->linear(run->d, y, DTYPE_F32, x, (size_t)c->stride, w, c->n_tok, NULL, &err),
        &err);
    keep(run, y, n);
    run->d->ops->matrix_destroy(run->d, w);
}

static void linear(void **state) {
    static const struct linear_case cases[] = {
        {1, 1, 1, 1, DTYPE_F32},     {17, 33, 1, 33, DTYPE_F32},   {64, 600, 3, 600, DTYPE_BF16},
        {40, 96, 9, 100, DTYPE_F32}, {130, 48, 2, 51, DTYPE_BF16}, {5, 257, 33, 257, DTYPE_F32}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        on_both("linear", run_linear, &cases[i], (size_t)cases[i].rows, CLOSE);
    }
}

/* ---- rows ---- */

struct rows_case {
    int n_tok, dim;
};

static const struct rows_case rows_cases[] = {{1, 1}, {2, 3}, {5, 64}, {9, 130}, {3, 516}};

enum { N_ROWS_CASE = sizeof rows_cases / sizeof rows_cases[0] };

static void run_rmsnorm(struct run *run, const void *user) {
    const struct rows_case *c = user;
    const struct device_ops *ops = run->d->ops;
    struct error err;
    size_t n = (size_t)c->n_tok * (size_t)c->dim;
    float *x = random_floats(run, n), *delta = random_floats(run, n);
    float *w = random_floats(run, (size_t)c->dim), *y = put(run, NULL, n * sizeof *y);
    for (int with_delta = 0; with_delta < 2; with_delta++) {
        assert_ok(
            ops->rmsnorm(run->d, y, x, with_delta ? delta : NULL, w, c->n_tok, c->dim, 1e-6f, &err),
            &err);
        keep(run, y, n);
        keep(run, x, n);
    }
    assert_ok(ops->rmsnorm(run->d, x, x, NULL, w, c->n_tok, c->dim, 1e-6f, &err), &err);
    keep(run, x, n); /* in place */
}

static void run_add(struct run *run, const void *user) {
    const struct rows_case *c = user;
    struct error err;
    size_t n = (size_t)c->n_tok * (size_t)c->dim;
    float *x = random_floats(run, n), *y = random_floats(run, n);
    float *b = random_floats(run, (size_t)c->dim);
    assert_ok(run->d->ops->add(run->d, x, y, n, &err), &err);
    keep(run, x, n);
    assert_ok(run->d->ops->add_bias(run->d, x, DTYPE_F32, b, c->n_tok, c->dim, &err), &err);
    keep(run, x, n);
}

static void run_silu_mul(struct run *run, const void *user) {
    const struct rows_case *c = user;
    struct error err;
    size_t n = (size_t)c->n_tok * (size_t)c->dim;
    float *gu = random_floats(run, 2 * n), *y = put(run, NULL, n * sizeof *y);
    assert_ok(run->d->ops->silu_mul(run->d, y, gu, c->n_tok, c->dim, &err), &err);
    keep(run, y, n);
}

static void rows(void **state) {
    (void)state;
    for (int i = 0; i < N_ROWS_CASE; i++) {
        const struct rows_case *c = &rows_cases[i];
        on_both("rmsnorm", run_rmsnorm, c, (size_t)c->dim, CLOSE);
        on_both("add, add_bias", run_add, c, (size_t)c->dim, EXACT);
        on_both("silu_mul", run_silu_mul, c, (size_t)c->dim, CLOSE);
    }
}

/* ---- what reads the batch ---- */

static void begin(struct run *run, const struct device_batch *batch) {
    struct batch_size size;
    struct error err;
    assert_ok(run->d->ops->batch_begin(run->d, batch, &size, &err), &err);
    assert_int_equal(size.n_tok, batch->n_tok); /* no graphs, no padding */
}

static void run_embed_and_gather(struct run *run, const void *user) {
    enum { N = 6, ROWS = 7, FIRST = 20, WANTED = 3 };
    static const int32_t ids[N] = {20, 26, 27, 19, 23, 22}, wanted[WANTED] = {0, 2, 5};
    static const int32_t block = 0;
    const int dim = ((const struct rows_case *)user)->dim;
    const struct seq_run seq = {.row = 0, .n_tok = N, .pos = 0, .n_block = 1, .blocks = &block};
    const struct device_batch batch = {
        .n_tok = N, .ids = ids, .n_seq = 1, .seqs = &seq, .n_row = WANTED, .rows = wanted};
    struct error err;
    struct matrix *table = random_matrix(run, DTYPE_BF16, ROWS, dim);
    float *y = put(run, NULL, (size_t)N * (size_t)dim * sizeof *y);
    float *some = put(run, NULL, (size_t)WANTED * (size_t)dim * sizeof *some);
    begin(run, &batch);
    assert_ok(run->d->ops->embed(run->d, y, table, FIRST, &err), &err);
    keep(run, y, (size_t)N * (size_t)dim);
    assert_false(signbit(run->results[0])); /* -0 in the table */
    assert_ok(run->d->ops->gather_rows(run->d, some, y, 0, WANTED, dim, &err), &err);
    keep(run, some, (size_t)WANTED * (size_t)dim);
    assert_ok(run->d->ops->gather_rows(run->d, some, y, 1, 2, dim, &err), &err);
    keep(run, some, 2 * (size_t)dim);
    run->d->ops->matrix_destroy(run->d, table);
}

static void embed_and_gather_rows(void **state) {
    (void)state;
    for (int i = 0; i < N_ROWS_CASE; i++) {
        on_both("embed, gather_rows", run_embed_and_gather, &rows_cases[i],
                (size_t)rows_cases[i].dim, EXACT);
    }
}

enum { MAX_STEP = 3, SEQ_BLOCKS = MAX_CTX / KV_BLOCK, N_BLOCK = MAX_SEQ * SEQ_BLOCKS };

/* Sequences that grow step by step; a step of one token each is decode, any other prefill. */
struct attention_case {
    int head_dim, group, n_head, head_first;
    bool norms;
    int n_seq;
    int tok[MAX_STEP][MAX_SEQ]; /* 0: the sequence is not in this step */
};

static struct attention_shape shape_of(const struct attention_case *c) {
    int kv_first = c->head_first / c->group;
    return (struct attention_shape){.n_head = c->n_head,
                                    .n_kv_head =
                                        (c->head_first + c->n_head - 1) / c->group - kv_first + 1,
                                    .head_dim = c->head_dim,
                                    .head_first = c->head_first,
                                    .group = c->group,
                                    .kv_first = kv_first,
                                    .scale = 1 / sqrtf((float)c->head_dim)};
}

/* Makes step number `step` the current batch, moves pos on, and returns its number of tokens. */
static int begin_step(struct run *run, const struct attention_case *c, int step, int *pos) {
    static const int32_t ids[MAX_TOK];
    int32_t blocks[MAX_SEQ][SEQ_BLOCKS];
    struct seq_run seqs[MAX_SEQ];
    struct device_batch batch = {.ids = ids, .seqs = seqs};
    for (int s = 0; s < c->n_seq; s++) {
        int n = c->tok[step][s];
        for (int b = 0; b < SEQ_BLOCKS; b++) { /* scattered, and never two sequences' the same */
            blocks[s][b] = (s * SEQ_BLOCKS + b) * 7 % N_BLOCK;
        }
        if (n > 0) {
            seqs[batch.n_seq++] = (struct seq_run){.row = batch.n_tok,
                                                   .n_tok = n,
                                                   .pos = pos[s],
                                                   .n_block = SEQ_BLOCKS,
                                                   .blocks = blocks[s]};
            batch.n_tok += n;
            pos[s] += n;
        }
    }
    begin(run, &batch);
    return batch.n_tok;
}

/* cos and sin of the angles that models have. */
static float *rope_table(struct run *run, int head_dim) {
    int half = head_dim / 2;
    float *rope = malloc((size_t)MAX_CTX * (size_t)head_dim * sizeof *rope);
    for (int p = 0; p < MAX_CTX; p++) {
        for (int i = 0; i < half; i++) {
            double angle = p * pow(10000, -2.0 * i / head_dim);
            rope[p * head_dim + i] = (float)cos(angle);
            rope[p * head_dim + half + i] = (float)sin(angle);
        }
    }
    float *device = put(run, rope, (size_t)MAX_CTX * (size_t)head_dim * sizeof *rope);
    free(rope);
    return device;
}

/* K and V lie as each device likes; what they hold shows in the attention over them. */
static void run_attention(struct run *run, const void *user) {
    const struct attention_case *c = user;
    const struct device_ops *ops = run->d->ops;
    const struct attention_shape shape = shape_of(c);
    size_t pool = N_BLOCK * ops->kv_block_bytes(run->d, run->d->act, shape.n_kv_head, c->head_dim);
    size_t width = (size_t)c->n_head * (size_t)c->head_dim;
    size_t stride = width + 2 * (size_t)shape.n_kv_head * (size_t)c->head_dim;
    const struct kv_layer kv = {put(run, NULL, pool), put(run, NULL, pool), run->d->act};
    float *rope = rope_table(run, c->head_dim);
    float *q_norm = c->norms ? random_floats(run, (size_t)c->head_dim) : NULL;
    float *k_norm = c->norms ? random_floats(run, (size_t)c->head_dim) : NULL;
    struct error err;
    int pos[MAX_SEQ] = {0};
    for (int step = 0; step < MAX_STEP; step++) {
        int n_tok = begin_step(run, c, step, pos);
        if (n_tok == 0) {
            continue;
        }
        float *qkv = random_floats(run, (size_t)n_tok * stride);
        float *out = put(run, NULL, (size_t)n_tok * width * sizeof *out);
        assert_ok(ops->rope_append(run->d, qkv, &shape, q_norm, k_norm, 1e-6f, rope, kv, &err),
                  &err);
        for (int m = 0; m < n_tok; m++) {
            keep(run, qkv + (size_t)m * stride, width); /* q alone is specified */
        }
        assert_ok(ops->attention(run->d, out, qkv, &shape, kv, &err), &err);
        keep(run, out, (size_t)n_tok * width);
    }
}

static void rope_and_attention(void **state) {
    static const struct attention_case cases[] = {
        {32, 1, 3, 0, false, 1, {{1}, {1}, {1}}},
        {64, 2, 4, 1, true, 2, {{65, 3}, {1, 1}, {1, 0}}},
        {80, 3, 5, 2, false, 3, {{5, 64, 1}, {60, 1, 2}, {1, 1, 1}}},
        {96, 8, 8, 4, true, 9, {{1, 2, 3, 4, 5, 6, 7, 8, 9}, {1, 1, 1, 1, 1, 1, 1, 1, 1}}},
        {128, 4, 4, 4, true, 1, {{130}, {1}, {7}}},
        {256, 5, 2, 3, false, 2, {{17, 30}, {1, 1}, {1, 1}}},
        {32, 7, 7, 0, false, 1, {{450}, {149}, {1}}}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        on_both("rope_append, attention", run_attention, &cases[i], (size_t)cases[i].head_dim,
                CLOSE);
    }
}

/* ---- top-k ---- */

struct top_k_case {
    int n, dim, k;
    bool odd;
};

static void run_top_k(struct run *run, const void *user) {
    enum { FIRST = 1000 };
    const struct top_k_case *c = user;
    struct error err;
    size_t n = (size_t)c->n * (size_t)c->dim, n_out = (size_t)c->n * (size_t)c->k;
    float *x = malloc(n * sizeof *x);
    int32_t *ids = malloc(n_out * sizeof *ids);
    fill_floats(&run->r, x, n, c->odd ? 5 : 0);
    for (size_t i = 0; i < n; i++) { /* ties */
        x[i] = fabsf(x[i]) < 2 ? roundf(x[i] * 64) / 64 : x[i];
    }
    float *values = put(run, NULL, n_out * sizeof *values);
    int32_t *device_ids = put(run, NULL, n_out * sizeof *ids);
    assert_ok(run->d->ops->top_k(run->d, values, device_ids, put(run, x, n * sizeof *x), c->n,
                                 c->dim, c->k, FIRST, &err),
              &err);
    keep(run, values, n_out);
    assert_ok(run->d->ops->download(run->d, ids, device_ids, n_out * sizeof *ids, &err), &err);
    for (size_t i = 0; i < n_out; i++) {
        run->results[run->n_result++] = (float)ids[i];
    }
    free(x);
    free(ids);
}

static void top_k(void **state) {
    static const struct top_k_case cases[] = {{1, 1, 1, false},      {3, 700, 1, true},
                                              {2, 37, 37, true},     {2, 1500, 40, false},
                                              {1, 2000, 1000, true}, {9, 600, 5, false}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        on_both("top_k", run_top_k, &cases[i], (size_t)cases[i].k, EXACT);
    }
}

/* ---- the two devices ---- */

static int open_devices(void **state) {
    const struct cuda_device_options options = {.f32 = true, .n_thread = 1, .timeout_s = 60};
    const struct batch_limits limits = {.max_tok = MAX_TOK, .max_seq = MAX_SEQ, .max_ctx = MAX_CTX};
    const struct cuda_plugin *plugin;
    struct error err;
    (void)state;
    host = make_device("generic", 1);
    if (!host || !plugin_open(&plugin, &err) || !plugin->device_create(&options, &gpu, &err) ||
        !host->ops->batch_reserve(host, &limits, &err) ||
        !gpu->ops->batch_reserve(gpu, &limits, &err)) {
        fprintf(stderr, "no devices: %s\n", host ? err.message : "generic");
        return -1;
    }
    return 0;
}

static int close_devices(void **state) {
    struct device *both[] = {host, gpu};
    (void)state;
    for (int i = 0; i < 2; i++) {
        if (both[i]) {
            both[i]->ops->batch_release(both[i]);
            device_destroy(both[i]);
        }
    }
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear),
        cmocka_unit_test(rows),
        cmocka_unit_test(embed_and_gather_rows),
        cmocka_unit_test(rope_and_attention),
        cmocka_unit_test(top_k),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
