#include "test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "reference.h"

enum { MAX_DIM = 300, MAX_TOK = 5 };

/* Runs `check` on every usable instruction set, with several numbers of threads. */
static void on_every_device(void (*check)(struct device *, struct random *)) {
    struct random r;
    for (int i = 0; i < N_ISA_NAME; i++) {
        for (int n_thread = 1; n_thread <= 3; n_thread++) {
            struct device *d = make_device(isa_names[i], n_thread);
            if (d) {
                random_init(&r, 7);
                check(d, &r);
                device_destroy(d);
            }
        }
    }
}

/* The delta is added first, as `add` adds it, and the sum stays in x. */
static void check_rmsnorm_delta(struct device *d, struct random *r, const float *w, int n_tok,
                                int dim) {
    struct error err;
    static float x[MAX_TOK * MAX_DIM], delta[MAX_TOK * MAX_DIM], sum[MAX_TOK * MAX_DIM];
    static float y[MAX_TOK * MAX_DIM], want[MAX_DIM];
    size_t n = (size_t)n_tok * dim;
    fill_floats(r, x, n, 0);
    fill_floats(r, delta, n, 0);
    for (size_t k = 0; k < n; k++) {
        sum[k] = x[k] + delta[k];
    }
    assert_ok(d->ops->rmsnorm(d, y, x, delta, w, n_tok, dim, 1e-6f, &err), &err);
    assert_same_bits(x, sum, n, "rmsnorm's sum");
    for (int m = 0; m < n_tok; m++) {
        ref_rmsnorm(want, sum + m * dim, w, dim, 1e-6f);
        assert_same_bits(y + m * dim, want, dim, "rmsnorm of the sum");
    }
}

static void check_rmsnorm(struct device *d, struct random *r) {
    struct error err;
    static float x[MAX_TOK * MAX_DIM], y[MAX_TOK * MAX_DIM], w[MAX_DIM], want[MAX_TOK * MAX_DIM];
    for (int i = 0; i < 60; i++) {
        int dim = random_int(r, 1, MAX_DIM);
        int n_tok = random_int(r, 1, MAX_TOK);
        fill_floats(r, x, (size_t)n_tok * dim, i % 3 ? 0 : 400);
        fill_floats(r, w, dim, 0);
        for (int m = 0; m < n_tok; m++) {
            ref_rmsnorm(want + m * dim, x + m * dim, w, dim, 1e-6f);
        }
        assert_ok(d->ops->rmsnorm(d, y, x, NULL, w, n_tok, dim, 1e-6f, &err), &err);
        assert_same_bits(y, want, (size_t)n_tok * dim, "rmsnorm");
        assert_ok(d->ops->rmsnorm(d, x, x, NULL, w, n_tok, dim, 1e-6f, &err), &err);
        assert_same_bits(x, want, (size_t)n_tok * dim, "rmsnorm in place");
        check_rmsnorm_delta(d, r, w, n_tok, dim);
    }
}

static void rmsnorm_equals_the_reference(void **state) {
    (void)state;
    on_every_device(check_rmsnorm);
}

static void check_silu_mul(struct device *d, struct random *r) {
    struct error err;
    static float gu[MAX_TOK * 2 * MAX_DIM], y[MAX_TOK * MAX_DIM], want[MAX_TOK * MAX_DIM];
    for (int i = 0; i < 60; i++) {
        int dim = random_int(r, 1, MAX_DIM);
        int n_tok = random_int(r, 1, MAX_TOK);
        fill_floats(r, gu, (size_t)n_tok * 2 * dim, 20);
        for (int k = 0; k < n_tok * 2 * dim; k++) {
            gu[k] *= i % 2 ? 1 : 70; /* over the whole range of exp */
        }
        for (int k = 0; k < n_tok * dim; k++) {
            const float *gate = gu + k / dim * 2 * dim + k % dim;
            want[k] = ref_silu_mul(gate[0], gate[dim]);
        }
        assert_ok(d->ops->silu_mul(d, y, gu, n_tok, dim, &err), &err);
        assert_same_bits(y, want, (size_t)n_tok * dim, "silu_mul");
    }
}

static void silu_equals_the_reference(void **state) {
    (void)state;
    on_every_device(check_silu_mul);
}

/* Both in units of the last place of the true value. */
static void exp_and_silu_are_accurate(void **state) {
    (void)state;
    for (float x = -87; x < 88; x += 0.00137f) {
        double want = exp((double)x);
        double ulp = ldexp(1, ilogb(want) - 23);
        assert_true(fabs((double)ref_exp(x) - want) < 1.1 * ulp);
    }
    for (float x = -103; x < -87; x += 0.0137f) { /* denormal */
        assert_true(fabs((double)ref_exp(x) - exp((double)x)) <= ldexp(1, -149));
    }
    assert_true(ref_exp(0) == 1 && ref_exp(-0.0f) == 1 && isnan(ref_exp(NAN)));
    assert_true(ref_exp(-INFINITY) == 0 && ref_exp(INFINITY) == INFINITY);
    for (float g = -80; g < 80; g += 0.0137f) {
        double want = (double)g / (1 + exp(-(double)g));
        assert_true(fabs((double)ref_silu_mul(g, 1) - want) <= 4e-7 * fabs(want) + 1e-44);
    }
}

static void check_elementwise(struct device *d, struct random *r) {
    struct error err;
    static float x[MAX_TOK * MAX_DIM + 1], y[MAX_TOK * MAX_DIM], want[MAX_TOK * MAX_DIM];
    for (int i = 0; i < 40; i++) {
        int dim = random_int(r, 1, MAX_DIM);
        int n_tok = random_int(r, 1, MAX_TOK);
        size_t n = (size_t)n_tok * dim;
        fill_floats(r, x, n, 30);
        fill_floats(r, y, n, 30);
        x[n] = 42;
        for (size_t k = 0; k < n; k++) {
            want[k] = x[k] + y[k];
        }
        assert_ok(d->ops->add(d, x, y, n, &err), &err);
        assert_same_bits(x, want, n, "add");
        for (size_t k = 0; k < n; k++) {
            want[k] = x[k] + y[k % dim];
        }
        assert_ok(d->ops->add_bias(d, x, DTYPE_F32, y, n_tok, dim, &err), &err);
        assert_same_bits(x, want, n, "add_bias");
        assert_true(x[n] == 42);
        const int32_t rows[] = {n_tok - 1, 0, n_tok - 1};
        const struct device_batch batch = {.n_row = 3, .rows = rows};
        struct batch_size size;
        assert_ok(d->ops->batch_begin(d, &batch, &size, &err), &err);
        assert_int_equal(size.n_row, 3);
        assert_ok(d->ops->gather_rows(d, y, x, 0, n_tok < 3 ? n_tok : 3, dim, &err), &err);
        for (int k = 0; k < (n_tok < 3 ? n_tok : 3); k++) {
            assert_same_bits(y + k * dim, x + rows[k] * dim, dim, "gather_rows");
        }
    }
}

static void elementwise_equal_the_reference(void **state) {
    (void)state;
    on_every_device(check_elementwise);
}

static void check_embed(struct device *d, struct random *r) {
    enum { ROWS = 37, COLS = 45, FIRST = 100 };
    struct error err;
    struct matrix *m;
    uint16_t table[ROWS * COLS];
    size_t nonfinite = 0;
    for (int i = 0; i < ROWS * COLS; i++) {
        table[i] = i % 7 == 0 ? 0x8000 : (uint16_t)(random_u64(r) & 0xbfff);
    }
    assert_ok(d->ops->matrix_create(d, DTYPE_BF16, ROWS, COLS, 0, &m, &err), &err);
    assert_ok(
        d->ops->matrix_fill(d, m, 0, ROWS, 0, COLS, DTYPE_BF16, table, 2 * COLS, &nonfinite, &err),
        &err);
    const int32_t ids[] = {100, 99, 136, 137, 0, 117, INT32_MAX, INT32_MIN};
    float y[8 * COLS], want[8 * COLS];
    const struct device_batch batch = {.n_tok = 8, .ids = ids};
    struct batch_size size;
    assert_ok(d->ops->batch_begin(d, &batch, &size, &err), &err);
    assert_ok(d->ops->embed(d, y, m, FIRST, &err), &err);
    for (int k = 0; k < 8 * COLS; k++) {
        int64_t row = (int64_t)ids[k / COLS] - FIRST;
        want[k] = 0;
        if (row >= 0 && row < ROWS) {
            uint32_t bits = (uint32_t)table[row * COLS + k % COLS] << 16;
            memcpy(&want[k], &bits, 4);
            want[k] += 0.0f; /* -0 to +0 */
        }
    }
    assert_same_bits(y, want, 8 * COLS, "embed");
    d->ops->matrix_destroy(d, m);
}

static void embed_equals_the_reference(void **state) {
    (void)state;
    on_every_device(check_embed);
}

static void check_top_k(struct device *d, struct random *r) {
    struct error err;
    enum { MAX_N = 2500, MAX_K = 1024 };
    static float x[2 * MAX_N], values[2 * MAX_K];
    static int32_t ids[2 * MAX_K];
    for (int i = 0; i < 40; i++) {
        int dim = random_int(r, 1, i % 2 ? 60 : MAX_N);
        int k = random_int(r, 1, dim < MAX_K ? dim : MAX_K);
        fill_floats(r, x, 2 * (size_t)dim, i % 3 ? 10 : 1);
        for (int e = 0; e < 2 * dim && i % 4 == 0; e++) {
            x[e] = (float)random_int(r, -3, 3); /* many ties */
        }
        assert_ok(d->ops->top_k(d, values, ids, x, 2, dim, k, 1000, &err), &err);
        for (int m = 0; m < 2; m++) {
            static bool taken[MAX_N];
            memset(taken, 0, sizeof taken);
            for (int p = 0; p < k; p++) {
                int best = -1;
                float top = 0;
                for (int e = 0; e < dim; e++) {
                    float v = isnan(x[m * dim + e]) ? -INFINITY : x[m * dim + e];
                    if (!taken[e] && (best < 0 || v > top)) {
                        best = e;
                        top = v;
                    }
                }
                taken[best] = true;
                assert_int_equal(ids[m * k + p], best + 1000);
                assert_true(values[m * k + p] == top);
            }
        }
    }
    assert_false(d->ops->top_k(d, values, ids, x, 1, 5, 6, 0, &err));
}

static void top_k_equals_the_reference(void **state) {
    (void)state;
    on_every_device(check_top_k);
}

static void memory_is_zeroed_and_aligned(void **state) {
    (void)state;
    struct error err;
    struct device *d = make_device(host_isa_best(), 1);
    const size_t sizes[] = {0, 1, 63, 64, 5000, (2 << 20) - 1, 2 << 20, (5 << 20) + 3};
    for (int i = 0; i < 8; i++) {
        unsigned char *p;
        assert_ok(d->ops->alloc(d, sizes[i], (void **)&p, &err), &err);
        assert_int_equal((uintptr_t)p % 64, 0);
        for (size_t k = 0; k < sizes[i]; k++) {
            assert_true(p[k] == 0);
        }
        if (sizes[i]) {
            memset(p, 1, sizes[i]);
        }
        d->ops->free(d, p, sizes[i]);
    }
    void *p;
    assert_false(d->ops->alloc(d, SIZE_MAX - 100, &p, &err));
    assert_int_equal(err.kind, ERROR_MEMORY);
    char from[3] = "ab", to[3];
    assert_ok(d->ops->upload(d, to, from, 3, &err) && d->ops->sync(d, &err), &err);
    assert_string_equal(to, "ab");
    device_destroy(d);
}

static void devices_are_chosen_by_name(void **state) {
    (void)state;
    struct error err;
    struct device *d;
    assert_false(
        host_device_create(&(struct host_options){.n_thread = 1, .isa = "sse9"}, &d, &err));
    assert_int_equal(err.kind, ERROR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "generic"));
    assert_ok(host_device_create(&(struct host_options){.n_thread = 1}, &d, &err), &err);
    assert_string_equal(host_isa_name(d), host_isa_best());
    device_destroy(d);
    device_destroy(NULL);
    assert_true(host_isa_usable("generic"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rmsnorm_equals_the_reference),
        cmocka_unit_test(silu_equals_the_reference),
        cmocka_unit_test(exp_and_silu_are_accurate),
        cmocka_unit_test(elementwise_equal_the_reference),
        cmocka_unit_test(embed_equals_the_reference),
        cmocka_unit_test(top_k_equals_the_reference),
        cmocka_unit_test(memory_is_zeroed_and_aligned),
        cmocka_unit_test(devices_are_chosen_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
