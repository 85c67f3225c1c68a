#include "test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/widen.h"
#include "reference.h"

/* One random product: stored weights as a checkpoint has them, and widened. */
struct product {
    enum dtype dtype;
    int rows, cols, n_tok;
    size_t x_stride;
    unsigned char *stored; /* [rows][cols] of dtype, at an odd address */
    unsigned char *memory;
    float *w, *x;
    bool has_plan;
    struct leaf_plan plan;
};

static void store(enum dtype dtype, unsigned char *to, float value, uint64_t random) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint16_t half = (uint16_t)(bits >> 16); /* bf16 by truncation */
    if (dtype == DTYPE_F16) {
        half = (uint16_t)((random & 0x83ff) | 0x3800 | (random >> 20 & 0x0400));
        half = isfinite(value) ? half : isnan(value) ? 0x7e01 : 0xfc00;
        half = fabsf(value) < 0x1p-100f ? (uint16_t)(random & 0x803f) : half; /* zero, denormal */
    }
    memcpy(to, dtype == DTYPE_F32 ? (void *)&bits : (void *)&half, dtype_size(dtype));
}

/* Random leaves, some empty, then the maximal subtrees of a random run of a larger tree. */
static void random_plan(struct random *r, struct leaf_plan *plan, int cols) {
    int total = random_int(r, 1, 40);
    struct leaf_run run = {random_int(r, 0, total - 1), 0};
    run.count = random_int(r, 1, total - run.first);
    *plan = (struct leaf_plan){.n_leaf = run.count};
    plan->n_piece = leaf_tree_pieces(total, run, plan->pieces);
    for (int p = 0; p < plan->n_piece; p++) {
        plan->pieces[p].first -= run.first;
    }
    for (int l = 1; l < run.count; l++) {
        int rest = cols - plan->bounds[l - 1];
        int step = random_int(r, 0, 2 * rest / (run.count - l + 1));
        plan->bounds[l] = plan->bounds[l - 1] + (step < rest ? step : rest);
    }
    plan->bounds[run.count] = cols;
}

static struct product make_product(struct random *r, enum dtype dtype, int rows, int cols,
                                   int n_tok, bool has_plan, int odd) {
    struct product p = {
        dtype, rows, cols, n_tok, (size_t)cols + random_int(r, 0, 5), .has_plan = has_plan};
    size_t n = (size_t)rows * cols;
    p.memory = malloc(n * 4 + 1);
    p.stored = p.memory + 1;
    p.w = malloc(n * sizeof *p.w);
    p.x = malloc(n_tok * p.x_stride * sizeof *p.x);
    fill_floats(r, p.w, n, odd);
    fill_floats(r, p.x, n_tok * p.x_stride, odd);
    for (size_t i = 0; i < n; i++) {
        store(dtype, p.stored + i * dtype_size(dtype), p.w[i], random_u64(r));
        p.w[i] = widen_at(dtype, p.stored, i);
    }
    if (has_plan) {
        random_plan(r, &p.plan, cols);
    }
    return p;
}

static void drop_product(struct product *p) {
    free(p->memory);
    free(p->w);
    free(p->x);
}

static struct matrix *pack(struct device *d, const struct product *p) {
    struct error err;
    struct matrix *m;
    size_t nonfinite = 0;
    assert_ok(d->ops->matrix_create(d, p->dtype, p->rows, p->cols, 0, &m, &err), &err);
    assert_ok(d->ops->matrix_fill(d, m, 0, p->rows, 0, p->cols, p->dtype, p->stored,
                                  p->cols * dtype_size(p->dtype), &nonfinite, &err),
              &err);
    return m;
}

static void run_on(const struct product *p, const char *isa, int n_thread, const float *want) {
    struct device *d = make_device(isa, n_thread);
    if (!d) {
        return;
    }
    struct error err;
    struct matrix *m = pack(d, p);
    size_t n = (size_t)(p->has_plan ? p->plan.n_piece : 1) * p->n_tok * p->rows;
    float *y = malloc((n + 1) * sizeof *y);
    y[n] = 42;
    assert_ok(d->ops->linear(d, y, DTYPE_F32, p->x, p->x_stride, m, p->n_tok,
                             p->has_plan ? &p->plan : NULL, &err),
              &err);
    char what[128];
    snprintf(what, sizeof what, "%s %s %d x %d, %d tokens, %d leaves, %d threads", isa,
             dtype_name(p->dtype), p->rows, p->cols, p->n_tok, p->has_plan ? p->plan.n_leaf : 0,
             n_thread);
    assert_same_bits(y, want, n, what);
    assert_true(y[n] == 42);
    free(y);
    d->ops->matrix_destroy(d, m);
    device_destroy(d);
}

static void check_product(struct random *r, enum dtype dtype, int rows, int cols, int n_tok,
                          bool has_plan, int odd) {
    struct product p = make_product(r, dtype, rows, cols, n_tok, has_plan, odd);
    size_t n = (size_t)(has_plan ? p.plan.n_piece : 1) * n_tok * rows;
    float *want = malloc(n * sizeof *want);
    ref_linear(want, p.x, p.x_stride, p.w, rows, cols, n_tok, has_plan ? &p.plan : NULL);
    for (int i = 0; i < N_ISA_NAME; i++) {
        run_on(&p, isa_names[i], random_int(r, 1, 3), want);
    }
    free(want);
    drop_product(&p);
}

static void every_isa_equals_the_reference(void **state) {
    (void)state;
    struct random r;
    random_init(&r, 1);
    const int rows[] = {1, 15, 16, 17, 33, 64, 130, 250};
    for (int i = 0; i < 240; i++) {
        int n_tok = random_int(&r, 1, i % 4 ? 9 : 40);
        check_product(&r, (enum dtype)(i % 3), rows[random_int(&r, 0, 7)], random_int(&r, 1, 300),
                      n_tok, i % 2, i % 5 == 0 ? 60 : 0);
    }
}

/* Deep enough for the accumulators to pass through memory, wide enough for several chunks. */
static void large_ones_equal_the_reference(void **state) {
    (void)state;
    struct random r;
    random_init(&r, 2);
    for (int i = 0; i < 3; i++) {
        check_product(&r, (enum dtype)i, 37, 1300, 13, false, 0);
        check_product(&r, (enum dtype)i, 70, 1300, 1, true, 0);
        check_product(&r, (enum dtype)i, 20, 90, 230, true, 0);
    }
}

static void threads_and_batch_do_not_matter(void **state) {
    (void)state;
    struct random r;
    struct error err;
    random_init(&r, 3);
    struct product p = make_product(&r, DTYPE_BF16, 200, 333, 50, true, 0);
    size_t n = (size_t)p.plan.n_piece * p.n_tok * p.rows;
    float *want = malloc(n * sizeof *want);
    float *alone = malloc((size_t)p.plan.n_piece * p.rows * sizeof *alone);
    ref_linear(want, p.x, p.x_stride, p.w, p.rows, p.cols, p.n_tok, &p.plan);
    for (int n_thread = 1; n_thread <= 3; n_thread++) {
        run_on(&p, host_isa_best(), n_thread, want);
    }
    struct device *d = make_device(host_isa_best(), 2);
    struct matrix *m = pack(d, &p);
    for (int t = 0; t < p.n_tok; t++) {
        assert_ok(d->ops->linear(d, alone, DTYPE_F32, p.x + t * p.x_stride, p.x_stride, m, 1,
                                 &p.plan, &err),
                  &err);
        for (int q = 0; q < p.plan.n_piece; q++) {
            assert_same_bits(alone + (size_t)q * p.rows, want + ((size_t)q * p.n_tok + t) * p.rows,
                             p.rows, "one token alone");
        }
    }
    d->ops->matrix_destroy(d, m);
    device_destroy(d);
    free(want);
    free(alone);
    drop_product(&p);
}

static void close_to_double(void **state) {
    (void)state;
    struct random r;
    struct error err;
    random_init(&r, 4);
    struct product p = make_product(&r, DTYPE_BF16, 50, 1024, 3, false, 0);
    struct device *d = make_device(host_isa_best(), 1);
    struct matrix *m = pack(d, &p);
    float y[3 * 50];
    assert_ok(d->ops->linear(d, y, DTYPE_F32, p.x, p.x_stride, m, 3, NULL, &err), &err);
    for (int t = 0; t < 3; t++) {
        for (int o = 0; o < 50; o++) {
            double sum = 0, size = 0;
            for (int i = 0; i < p.cols; i++) {
                double term = (double)p.w[(size_t)o * p.cols + i] * (double)p.x[t * p.x_stride + i];
                sum += term;
                size += fabs(term);
            }
            assert_true(fabs(sum - (double)y[t * 50 + o]) < 3e-7 * size);
        }
    }
    d->ops->matrix_destroy(d, m);
    device_destroy(d);
    drop_product(&p);
}

/* A matrix filled in parts, in any order, is the matrix filled at once; F32 takes all dtypes. */
static void filled_in_parts(void **state) {
    (void)state;
    enum { ROWS = 45, COLS = 67 };
    struct random r;
    struct error err;
    random_init(&r, 5);
    for (int i = 0; i < 3; i++) {
        struct product p = make_product(&r, (enum dtype)i, ROWS, COLS, 1, false, 50);
        struct device *d = make_device(host_isa_best(), 1);
        struct matrix *m;
        size_t nonfinite = 0, expected = 0;
        size_t size = dtype_size(p.dtype);
        assert_ok(d->ops->matrix_create(d, DTYPE_F32, ROWS, COLS, 0, &m, &err), &err);
        const int row_cuts[] = {0, 3, 20, 21, 40, ROWS};
        const int col_cuts[] = {0, 1, 30, COLS};
        for (int a = 4; a >= 0; a--) {
            for (int b = 2; b >= 0; b--) {
                int row = row_cuts[a], col = col_cuts[b];
                assert_ok(d->ops->matrix_fill(d, m, row, row_cuts[a + 1] - row, col,
                                              col_cuts[b + 1] - col, p.dtype,
                                              p.stored + ((size_t)row * COLS + col) * size,
                                              COLS * size, &nonfinite, &err),
                          &err);
            }
        }
        for (int k = 0; k < ROWS * COLS; k++) {
            expected += !isfinite(p.w[k]);
        }
        assert_int_equal(nonfinite, expected);
        assert_true(expected > 0);
        float want[ROWS], y[ROWS];
        ref_linear(want, p.x, p.x_stride, p.w, ROWS, COLS, 1, NULL);
        assert_ok(d->ops->linear(d, y, DTYPE_F32, p.x, p.x_stride, m, 1, NULL, &err), &err);
        assert_same_bits(y, want, ROWS, "filled in parts");
        d->ops->matrix_destroy(d, m);
        device_destroy(d);
        drop_product(&p);
    }
}

static void wrong_fills_are_refused(void **state) {
    (void)state;
    struct error err;
    struct matrix *m;
    uint16_t data[4] = {0};
    size_t n = 0;
    struct device *d = make_device(host_isa_best(), 1);
    assert_ok(d->ops->matrix_create(d, DTYPE_BF16, 2, 2, 0, &m, &err), &err);
    assert_false(d->ops->matrix_fill(d, m, 0, 3, 0, 2, DTYPE_BF16, data, 4, &n, &err));
    assert_int_equal(err.kind, ERROR_SHAPE);
    assert_false(d->ops->matrix_fill(d, m, 0, 2, 1, 2, DTYPE_BF16, data, 4, &n, &err));
    assert_int_equal(err.kind, ERROR_SHAPE);
    assert_false(d->ops->matrix_fill(d, m, 0, 2, 0, 2, DTYPE_F16, data, 4, &n, &err));
    assert_int_equal(err.kind, ERROR_UNSUPPORTED);
    struct leaf_plan plan = {.n_leaf = 1, .bounds = {0, 3}, .n_piece = 1, .pieces = {{0, 1}}};
    float x[3] = {0}, y[3];
    assert_false(d->ops->linear(d, y, DTYPE_F32, x, 2, m, 1, &plan, &err));
    assert_int_equal(err.kind, ERROR_SHAPE);
    d->ops->matrix_destroy(d, m);
    device_destroy(d);
}

/* A rank may hold no part of a matrix at all. */
static void empty_matrices_work(void **state) {
    (void)state;
    struct error err;
    struct matrix *m;
    float x[4] = {1, 2, 3, 4}, y[20] = {7, 7, 7};
    struct device *d = make_device(host_isa_best(), 2);
    assert_ok(d->ops->matrix_create(d, DTYPE_BF16, 0, 4, 0, &m, &err), &err);
    assert_ok(d->ops->linear(d, y, DTYPE_F32, x, 4, m, 1, NULL, &err), &err);
    assert_true(y[0] == 7);
    d->ops->matrix_destroy(d, m);
    assert_ok(d->ops->matrix_create(d, DTYPE_BF16, 3, 0, 0, &m, &err), &err);
    for (int n_tok = 1; n_tok <= 4; n_tok += 3) {
        memset(y, 0xff, sizeof y);
        assert_ok(d->ops->linear(d, y, DTYPE_F32, x, 0, m, n_tok, NULL, &err), &err);
        assert_same_bits(y, (float[12]){0}, 3 * n_tok, "no columns");
    }
    d->ops->matrix_destroy(d, m);
    device_destroy(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_isa_equals_the_reference),
        cmocka_unit_test(large_ones_equal_the_reference),
        cmocka_unit_test(threads_and_batch_do_not_matter),
        cmocka_unit_test(close_to_double),
        cmocka_unit_test(filled_in_parts),
        cmocka_unit_test(wrong_fills_are_refused),
        cmocka_unit_test(empty_matrices_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
