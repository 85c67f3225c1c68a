#include "test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/widen.h"
#include "reference.h"

static const enum dtype formats[] = {DTYPE_Q8_0, DTYPE_Q4_0};

/* ---- f16 ---- */

static uint16_t next_f16(uint16_t h) {
    return (uint16_t)(h + 1);
}

static void rounding_to_f16(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x7c00; h++) {
        float low = widen_f16((uint16_t)h);
        /* What would come after 65504 is 65536, which counts for the middle. */
        float high = h == 0x7bff ? 65536.0f : widen_f16(next_f16((uint16_t)h));
        float middle = low + (high - low) / 2;
        uint16_t even = (uint16_t)(h % 2 ? h + 1 : h);
        assert_int_equal(narrow_f16(low), h);
        assert_int_equal(narrow_f16(-low), h | 0x8000);
        assert_int_equal(narrow_f16(middle), even);
        assert_int_equal(narrow_f16(nextafterf(middle, 0)), h);
        assert_int_equal(narrow_f16(nextafterf(middle, INFINITY)), h + 1);
    }
    assert_int_equal(narrow_f16(INFINITY), 0x7c00);
    assert_int_equal(narrow_f16(-1e30f), 0xfc00);
    assert_int_equal(narrow_f16(NAN) & 0x7fff, 0x7e00);
}

/* ---- matrices ---- */

static struct matrix *make(struct device *d, enum dtype dtype, int rows, int cols, int leaf_cols) {
    struct error err;
    struct matrix *m;
    assert_ok(d->ops->matrix_create(d, dtype, rows, cols, leaf_cols, &m, &err), &err);
    return m;
}

static size_t fill(struct device *d, struct matrix *m, int row, int n_rows, int col, int n_cols,
                   const float *src, int stride) {
    struct error err;
    size_t nonfinite = 0;
    assert_ok(d->ops->matrix_fill(d, m, row, n_rows, col, n_cols, DTYPE_F32, src,
                                  (size_t)stride * sizeof *src, &nonfinite, &err),
              &err);
    return nonfinite;
}

/* Row `row` of m as the embedding gives it. */
static void read_row(struct device *d, const struct matrix *m, int row, float *y) {
    struct error err;
    int32_t id = row;
    const struct device_batch batch = {.n_tok = 1, .ids = &id};
    struct batch_size size;
    assert_ok(d->ops->batch_begin(d, &batch, &size, &err), &err);
    assert_ok(d->ops->embed(d, y, m, 0, &err), &err);
}

/* The formats' rules, by hand: scales are powers of two here, so that nothing else rounds. */
static void values_by_hand(void **state) {
    (void)state;
    const struct {
        enum dtype dtype;
        float w[8], want[8];
    } cases[] = {
        /* d = 1: to the nearest, halves away from zero */
        {DTYPE_Q8_0,
         {127, 0.5f, -0.5f, 0.49f, -1.5f, 126.49f, -126.5f, 0},
         {127, 1, -1, 0, -2, 126, -127, 0}},
        {DTYPE_Q8_0,
         {-31.75f, 0.25f, 0.12f, 0.125f, 31.7f, 0, 0, 0}, /* d = 1/4 */
         {-31.75f, 0.25f, 0, 0.25f, 31.75f, 0, 0, 0}},
        /* d = 1: from -8 to 7, halves up */
        {DTYPE_Q4_0, {-8, 8, 7.5f, 6.49f, -0.5f, 0.5f, -7.5f, 0.49f}, {-8, 7, 7, 6, 0, 1, -7, 0}},
        {DTYPE_Q4_0,
         {4, -4, 3.9f, -3.3f, 0.25f, -0.25f, 0.2f, 0}, /* d = -1/2 */
         {4, -3.5f, 4, -3.5f, 0, -0.5f, 0, 0}},
        {DTYPE_Q4_0, {0}, {0}},
        {DTYPE_Q8_0, {0}, {0}},
        {DTYPE_Q8_0, {1e-9f, -1e-9f}, {0}}, /* f16 has no such scale */
        {DTYPE_Q4_0, {-1e-9f, 1e-40f}, {0}},
    };
    for (int i = 0; i < N_ISA_NAME; i++) {
        struct device *d = make_device(isa_names[i], 1);
        for (size_t c = 0; d && c < sizeof cases / sizeof cases[0]; c++) {
            float y[8];
            struct matrix *m = make(d, cases[c].dtype, 1, 8, 0);
            assert_int_equal(fill(d, m, 0, 1, 0, 8, cases[c].w, 8), 0);
            read_row(d, m, 0, y);
            assert_same_bits(y, cases[c].want, 8, isa_names[i]);
            d->ops->matrix_destroy(d, m);
        }
        device_destroy(d);
    }
}

static void bytes_are_those_of_llama_cpp(void **state) {
    (void)state;
    struct device *d = make_device("generic", 1);
    assert_int_equal(d->ops->matrix_bytes(d, DTYPE_Q8_0, 32, 1024, 0), 32 * 1024 / 32 * 34);
    assert_int_equal(d->ops->matrix_bytes(d, DTYPE_Q4_0, 32, 1024, 128), 32 * 1024 / 32 * 18);
    /* rows in sixteens, and a group of each leaf of 16 columns */
    assert_int_equal(d->ops->matrix_bytes(d, DTYPE_Q8_0, 17, 64, 16), 32 * 4 * 34);
    assert_int_equal(d->ops->matrix_bytes(d, DTYPE_Q4_0, 16, 70, 0), 16 * 3 * 18);
    device_destroy(d);
}

/* What is stored is what the reference makes of it, and no further from it than half a step; a
 * step of Q4_0's for what lies beyond 7. */
static void check_rows(struct device *d, struct random *r, enum dtype dtype, int leaf_cols) {
    enum { ROWS = 21, COLS = 128 };
    float w[ROWS * COLS], y[COLS];
    fill_floats(r, w, ROWS * COLS, 0);
    struct matrix *m = make(d, dtype, ROWS, COLS, leaf_cols);
    fill(d, m, 0, ROWS, 0, COLS, w, COLS);
    int leaf = leaf_cols ? leaf_cols : COLS;
    for (int row = 0; row < ROWS; row++) {
        read_row(d, m, row, y);
        for (int i = 0, n; i < COLS; i += n) {
            int q[32];
            n = leaf - i % leaf < 32 ? leaf - i % leaf : 32;
            n = COLS - i < n ? COLS - i : n;
            const float *from = w + row * COLS + i;
            float scale = ref_quantize(dtype, q, from, n);
            for (int k = 0; k < n; k++) {
                float error = fabsf(from[k] - y[i + k]) / fabsf(scale);
                assert_true(y[i + k] == scale * (float)q[k]);
                /* 2^-11 of up to 127 steps is the scale's rounding */
                assert_true(error <= (q[k] == 7 && dtype == DTYPE_Q4_0 ? 1.01f : 0.57f));
            }
        }
    }
    d->ops->matrix_destroy(d, m);
}

static void rows_equal_the_reference(void **state) {
    (void)state;
    struct random r;
    random_init(&r, 21);
    for (int i = 0; i < N_ISA_NAME; i++) {
        struct device *d = make_device(isa_names[i], 1);
        for (int k = 0; d && k < 8; k++) {
            const int leaf_cols[] = {0, 16, 64, 40};
            check_rows(d, &r, formats[k % 2], leaf_cols[k / 2]);
        }
        device_destroy(d);
    }
}

/* Whatever the order of the parts, on which threads and of whichever rows. */
static void filled_in_parts(void **state) {
    (void)state;
    enum { ROWS = 45, COLS = 150 };
    static float w[ROWS * COLS], whole[COLS], parts[COLS];
    struct random r;
    random_init(&r, 22);
    fill_floats(&r, w, ROWS * COLS, 0);
    struct device *d = make_device(host_isa_best(), 1);
    for (int f = 0; f < 2; f++) {
        struct matrix *a = make(d, formats[f], ROWS, COLS, 50);
        struct matrix *b = make(d, formats[f], ROWS, COLS, 50);
        fill(d, a, 0, ROWS, 0, COLS, w, COLS);
        const int row_cuts[] = {0, 3, 20, 21, 40, ROWS}, col_cuts[] = {0, 32, 50, 132, COLS};
        for (int i = 4; i >= 0; i--) {
            for (int k = 3; k >= 0; k--) {
                int row = row_cuts[i], col = col_cuts[k];
                fill(d, b, row, row_cuts[i + 1] - row, col, col_cuts[k + 1] - col,
                     w + row * COLS + col, COLS);
            }
        }
        for (int row = 0; row < ROWS; row++) {
            read_row(d, a, row, whole);
            read_row(d, b, row, parts);
            assert_same_bits(parts, whole, COLS, "filled in parts");
        }
        d->ops->matrix_destroy(d, a);
        d->ops->matrix_destroy(d, b);
    }
    device_destroy(d);
}

static void refuse_fill(struct device *d, struct matrix *m, int col, int n_cols, enum dtype dtype,
                        enum error_kind kind) {
    static const float w[256];
    struct error err;
    size_t nonfinite = 0;
    assert_false(
        d->ops->matrix_fill(d, m, 0, 1, col, n_cols, dtype, w, sizeof w, &nonfinite, &err));
    assert_int_equal(err.kind, kind);
}

static void what_cuts_a_group_is_refused(void **state) {
    (void)state;
    static float x[100], y[4];
    struct error err;
    struct device *d = make_device(host_isa_best(), 1);
    struct matrix *m = make(d, DTYPE_Q8_0, 1, 100, 50);
    refuse_fill(d, m, 10, 40, DTYPE_F32, ERROR_SHAPE);
    refuse_fill(d, m, 0, 64, DTYPE_F32, ERROR_SHAPE); /* 64 is the 14th of the second leaf */
    refuse_fill(d, m, 0, 100, DTYPE_Q8_0, ERROR_UNSUPPORTED);
    struct leaf_plan plan = {.n_leaf = 2, .bounds = {0, 64, 100}, .n_piece = 1, .pieces = {{0, 2}}};
    assert_false(d->ops->linear(d, y, DTYPE_F32, x, 100, m, 1, &plan, &err));
    assert_int_equal(err.kind, ERROR_SHAPE);
    d->ops->matrix_destroy(d, m);
    device_destroy(d);
}

/* ---- products ---- */

struct product {
    enum dtype dtype, from;
    int rows, cols, leaf_cols, n_tok;
    size_t x_stride;
    unsigned char *memory; /* [rows][cols] of `from`, behind a byte */
    float *w, *x;          /* w widened */
    bool has_plan;
    struct leaf_plan plan;
    const float *want;
};

static void store(enum dtype dtype, unsigned char *to, float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint16_t half = dtype == DTYPE_F16 ? narrow_f16(value) : (uint16_t)(bits >> 16);
    memcpy(to, dtype == DTYPE_F32 ? (void *)&bits : (void *)&half, dtype_size(dtype));
}

/* Leaves of leaf_cols, the last cut short, and the subtrees of a run of a larger tree. */
static void make_plan(struct random *r, struct product *p) {
    int n = (p->cols + p->leaf_cols - 1) / p->leaf_cols;
    int before = random_int(r, 0, 5), after = random_int(r, 0, 5);
    p->plan = (struct leaf_plan){.n_leaf = n, .leaf_cols = p->leaf_cols};
    p->plan.n_piece =
        leaf_tree_pieces(before + n + after, (struct leaf_run){before, n}, p->plan.pieces);
    for (int i = 0; i < p->plan.n_piece; i++) {
        p->plan.pieces[i].first -= before;
    }
    for (int l = 0; l <= n; l++) {
        p->plan.bounds[l] = l < n ? l * p->leaf_cols : p->cols;
    }
}

/* Magnitudes from group to group as different as f16 scales and f32 activations allow. */
static void spread(struct random *r, float *x, size_t n, int most) {
    for (size_t i = 0; i < n; i += 16) {
        int exponent = random_int(r, -most, most);
        for (size_t k = i; k < i + 16 && k < n; k++) {
            x[k] = ldexpf(x[k], exponent);
        }
    }
}

static void check_product(struct random *r, struct product p, int odd) {
    size_t n = (size_t)p.rows * p.cols;
    p.x_stride = (size_t)p.cols + random_int(r, 0, 5);
    p.memory = malloc(n * 4 + 1);
    p.w = malloc(n * sizeof *p.w);
    p.x = malloc(p.n_tok * p.x_stride * sizeof *p.x);
    fill_floats(r, p.w, n, odd);
    fill_floats(r, p.x, p.n_tok * p.x_stride, odd);
    spread(r, p.w, n, odd ? 20 : 4);
    spread(r, p.x, p.n_tok * p.x_stride, odd ? 110 : 4);
    for (size_t i = 0; i < n; i++) {
        store(p.from, p.memory + 1 + i * dtype_size(p.from), p.w[i]);
        p.w[i] = widen_at(p.from, p.memory + 1, i);
    }
    if (p.has_plan) {
        make_plan(r, &p);
    }
    size_t n_y = (size_t)(p.has_plan ? p.plan.n_piece : 1) * p.n_tok * p.rows;
    float *want = malloc(n_y * sizeof *want), *y = malloc((n_y + 1) * sizeof *y);
    const struct leaf_plan *plan = p.has_plan ? &p.plan : NULL;
    ref_linear_quantized(want, p.x, p.x_stride, p.dtype, p.w, p.rows, p.cols, p.leaf_cols, p.n_tok,
                         plan);
    for (int i = 0; i < N_ISA_NAME; i++) {
        struct error err;
        size_t nonfinite = 0;
        char what[128];
        int n_thread = random_int(r, 1, 3);
        struct device *d = make_device(isa_names[i], n_thread);
        if (!d) {
            continue;
        }
        struct matrix *m = make(d, p.dtype, p.rows, p.cols, p.leaf_cols);
        assert_ok(d->ops->matrix_fill(d, m, 0, p.rows, 0, p.cols, p.from, p.memory + 1,
                                      p.cols * dtype_size(p.from), &nonfinite, &err),
                  &err);
        y[n_y] = 42;
        assert_ok(d->ops->linear(d, y, DTYPE_F32, p.x, p.x_stride, m, p.n_tok, plan, &err), &err);
        snprintf(what, sizeof what, "%s %s from %s %d x %d (%d), %d tokens, %d threads",
                 isa_names[i], dtype_name(p.dtype), dtype_name(p.from), p.rows, p.cols, p.leaf_cols,
                 p.n_tok, n_thread);
        assert_same_bits(y, want, n_y, what);
        assert_true(y[n_y] == 42);
        d->ops->matrix_destroy(d, m);
        device_destroy(d);
    }
    free(want);
    free(y);
    free(p.memory);
    free(p.w);
    free(p.x);
}

static void every_isa_equals_the_reference(void **state) {
    (void)state;
    struct random r;
    random_init(&r, 23);
    const int rows[] = {1, 15, 16, 17, 33, 64, 130, 250}, leaf_cols[] = {0, 32, 64, 16, 40, 8};
    for (int i = 0; i < 240; i++) {
        struct product p = {.dtype = formats[i % 2],
                            .from = (enum dtype)(i % 3),
                            .rows = rows[random_int(&r, 0, 7)],
                            .cols = random_int(&r, 1, 300),
                            .leaf_cols = leaf_cols[random_int(&r, 0, 5)],
                            .n_tok = random_int(&r, 1, i % 4 ? 9 : 40)};
        p.has_plan = p.leaf_cols && i % 5;
        check_product(&r, p, i % 7 == 0 ? 90 : 0);
    }
}

/* Deep enough for the accumulators to pass through memory, wide enough for several chunks. */
static void large_ones_equal_the_reference(void **state) {
    (void)state;
    struct random r;
    random_init(&r, 24);
    for (int f = 0; f < 2; f++) {
        struct product p = {.dtype = formats[f], .from = DTYPE_BF16, .rows = 37, .cols = 1300};
        p.n_tok = 21;
        check_product(&r, p, 0);
        p.rows = 140, p.leaf_cols = 64, p.n_tok = 1, p.has_plan = true;
        check_product(&r, p, 0);
        p.rows = 20, p.cols = 190, p.n_tok = 230;
        check_product(&r, p, 0);
    }
}

/* The most that sums of two and of four products can be, with either sign. */
static void extremes_do_not_saturate(void **state) {
    (void)state;
    enum { ROWS = 16, COLS = 64 };
    float w[ROWS * COLS], x[COLS], want[ROWS], y[ROWS];
    struct error err;
    for (int i = 0; i < 8 * N_ISA_NAME; i++) {
        struct device *d = make_device(isa_names[i / 8], 1);
        for (int k = 0; k < ROWS * COLS; k++) {
            w[k] = (k & (i >> 1 & 3)) ? 1 : -1;
        }
        for (int k = 0; k < COLS; k++) {
            x[k] = k & (i & 1) ? 2 : -2;
        }
        for (int f = 0; d && f < 2; f++) {
            struct matrix *m = make(d, formats[f], ROWS, COLS, 0);
            fill(d, m, 0, ROWS, 0, COLS, w, COLS);
            ref_linear_quantized(want, x, COLS, formats[f], w, ROWS, COLS, 0, 1, NULL);
            assert_ok(d->ops->linear(d, y, DTYPE_F32, x, COLS, m, 1, NULL, &err), &err);
            assert_same_bits(y, want, ROWS, isa_names[i / 8]);
            d->ops->matrix_destroy(d, m);
        }
        device_destroy(d);
    }
}

/* What is no number must be seen by who looks at the logits: NaN in its row or token, and nowhere
 * else. */
static void what_is_not_finite_is_nan(void **state) {
    (void)state;
    enum { ROWS = 20, COLS = 70, TOK = 3 };
    const float bad[] = {NAN, INFINITY, -INFINITY};
    float w[ROWS * COLS], x[TOK * COLS], y[TOK * ROWS], row[COLS];
    struct random r;
    struct error err;
    random_init(&r, 25);
    for (int i = 0; i < 6 * N_ISA_NAME; i++) {
        struct device *d = make_device(isa_names[i / 6], 1);
        fill_floats(&r, w, ROWS * COLS, 0);
        fill_floats(&r, x, TOK * COLS, 0);
        w[17 * COLS + 65] = x[COLS + 3] = bad[i % 3];
        struct matrix *m = d ? make(d, formats[i % 2], ROWS, COLS, 0) : NULL;
        if (!m) {
            continue;
        }
        assert_int_equal(fill(d, m, 0, ROWS, 0, COLS, w, COLS), 1);
        assert_ok(d->ops->linear(d, y, DTYPE_F32, x, COLS, m, TOK, NULL, &err), &err);
        for (int k = 0; k < TOK * ROWS; k++) {
            assert_int_equal(isnan(y[k]) != 0, k / ROWS == 1 || k % ROWS == 17);
        }
        read_row(d, m, 17, row);
        assert_true(isfinite(row[0]) && isnan(row[65]) && isnan(row[69]));
        d->ops->matrix_destroy(d, m);
        device_destroy(d);
    }
}

/* The whole of it against the product of the numbers that were not quantized. */
static void close_to_double(void **state) {
    (void)state;
    enum { ROWS = 50, COLS = 1024 };
    static float w[ROWS * COLS], x[COLS];
    float y[ROWS];
    struct random r;
    struct error err;
    random_init(&r, 26);
    fill_floats(&r, w, ROWS * COLS, 0);
    fill_floats(&r, x, COLS, 0);
    struct device *d = make_device(host_isa_best(), 1);
    for (int f = 0; f < 2; f++) {
        double error = 0, size = 0;
        struct matrix *m = make(d, formats[f], ROWS, COLS, 0);
        fill(d, m, 0, ROWS, 0, COLS, w, COLS);
        assert_ok(d->ops->linear(d, y, DTYPE_F32, x, COLS, m, 1, NULL, &err), &err);
        for (int o = 0; o < ROWS; o++) {
            double sum = 0;
            for (int i = 0; i < COLS; i++) {
                sum += (double)w[o * COLS + i] * (double)x[i];
            }
            error += pow(sum - (double)y[o], 2);
            size += sum * sum;
        }
        /* Uniform numbers in steps of 1/127 and 1/8 of the largest: 0.3 % each of x and w, and 8 %;
         * twice that is not seen. */
        assert_true(sqrt(error / size) < (formats[f] == DTYPE_Q8_0 ? 0.01 : 0.16));
        d->ops->matrix_destroy(d, m);
    }
    device_destroy(d);
}

static void empty_matrices_work(void **state) {
    (void)state;
    struct error err;
    float x[4] = {1, 2, 3, 4}, y[20];
    struct device *d = make_device(host_isa_best(), 2);
    struct matrix *m = make(d, DTYPE_Q4_0, 3, 0, 32);
    for (int n_tok = 1; n_tok <= 4; n_tok += 3) {
        memset(y, 0xff, sizeof y);
        assert_ok(d->ops->linear(d, y, DTYPE_F32, x, 0, m, n_tok, NULL, &err), &err);
        assert_same_bits(y, (float[12]){0}, 3 * n_tok, "no columns");
    }
    d->ops->matrix_destroy(d, m);
    m = make(d, DTYPE_Q8_0, 0, 4, 0);
    assert_ok(d->ops->linear(d, y, DTYPE_F32, x, 4, m, 1, NULL, &err), &err);
    d->ops->matrix_destroy(d, m);
    device_destroy(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rounding_to_f16),
        cmocka_unit_test(values_by_hand),
        cmocka_unit_test(bytes_are_those_of_llama_cpp),
        cmocka_unit_test(rows_equal_the_reference),
        cmocka_unit_test(filled_in_parts),
        cmocka_unit_test(what_cuts_a_group_is_refused),
        cmocka_unit_test(every_isa_equals_the_reference),
        cmocka_unit_test(large_ones_equal_the_reference),
        cmocka_unit_test(extremes_do_not_saturate),
        cmocka_unit_test(what_is_not_finite_is_nan),
        cmocka_unit_test(close_to_double),
        cmocka_unit_test(empty_matrices_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
