#include "test.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "device/host/host.h"
#include "device/host/row.h"
#include "reference.h"

enum { MAX_N = 3 * ROW_BLOCK, ROUNDS = 200 };

/* Of every length and alignment, some with infinities, NaN and ties. */
static int make_row(struct random *r, float *x, int round) {
    int n = random_int(r, round % 5 ? 1 : 0, round % 2 ? MAX_N : 40);
    fill_floats(r, x, (size_t)n, round % 3 ? 0 : 9);
    for (int i = 0; i < n && round % 4 == 0; i++) {
        x[i] = (float)random_int(r, -3, 3);
    }
    return n;
}

static float ref_max(const float *x, int n) {
    float most = -INFINITY;
    for (int i = 0; i < n; i++) {
        most = x[i] > most ? x[i] : most;
    }
    return most;
}

static float ref_sum_above(const float *x, int n, float limit) {
    float kept[MAX_N];
    for (int i = 0; i < n; i++) {
        kept[i] = x[i] > limit ? x[i] : 0;
    }
    return ref_sum(kept, n);
}

static void check_exp_sum(const struct host_kernels *k, const float *x, int n, float scale) {
    float y[MAX_N + 1], want[MAX_N], max = ref_max(x, n);
    for (int i = 0; i < n; i++) {
        want[i] = ref_exp((x[i] - max) * scale);
    }
    float sum = ref_sum(want, n);
    y[n] = 42;
    float with = k->exp_sum(y, x, n, max, scale), without = k->exp_sum(NULL, x, n, max, scale);
    assert_same_bits(y, want, (size_t)n, "exp");
    assert_same_bits(&with, &sum, 1, "exp_sum");
    assert_same_bits(&without, &sum, 1, "exp_sum alone");
    assert_true(y[n] == 42);
    memcpy(y, x, (size_t)n * sizeof *x);
    k->exp_sum(y, y, n, max, scale);
    assert_same_bits(y, want, (size_t)n, "exp in place");
}

static void check_kernels(const struct host_kernels *k) {
    const float scales[] = {1, 1 / 0.7f, 0.01f, 1e6f, FLT_MAX};
    float buffer[MAX_N + 16];
    struct random r;
    random_init(&r, 11);
    for (int round = 0; round < ROUNDS; round++) {
        float *x = buffer + round % 16;
        int n = make_row(&r, x, round), count = 0;
        assert_true(k->max(x, n) == ref_max(x, n));
        check_exp_sum(k, x, n, scales[round % 5]);
        float limit = n ? x[random_int(&r, 0, n - 1)] : 0;
        limit = round % 7 ? limit : -INFINITY;
        for (int i = 0; i < n; i++) {
            count += x[i] > limit;
        }
        assert_int_equal(k->count_above(x, n, limit), count);
        float sum = k->sum_above(x, n, limit), want = ref_sum_above(x, n, limit);
        assert_same_bits(&sum, &want, 1, "sum_above");
    }
}

static void every_instruction_set_equals_the_reference(void **state) {
    (void)state;
    for (int i = 0; i < N_ISA_NAME; i++) {
        struct device *d = make_device(isa_names[i], 1);
        if (d) {
            check_kernels(host_of(d)->kernels);
            device_destroy(d);
        }
    }
}

static void check_sums(const float *x, int n) {
    float y[MAX_N], blocks[MAX_N / ROW_BLOCK], max = ref_max(x, n);
    double sum = row_exp_sum(y, blocks, x, n, max, 0.5f), want = 0;
    for (int i = 0, b = 0; i < n; i += ROW_BLOCK, b++) {
        float block = ref_sum(y + i, n - i < ROW_BLOCK ? n - i : ROW_BLOCK);
        assert_same_bits(&blocks[b], &block, 1, "a block");
        want += (double)block;
    }
    assert_true(sum == want || (isnan(sum) && isnan(want)));
    assert_true(row_exp_sum(NULL, NULL, x, n, max, 0.5f) == sum || isnan(sum));
}

/* Of weights: not below 0, and not large. */
static void check_sums_above(struct random *r, const float *x, int n) {
    float w[MAX_N], blocks[MAX_N / ROW_BLOCK];
    for (int i = 0; i < n; i++) {
        w[i] = isnan(x[i]) ? 0 : fminf(fabsf(x[i]), 2);
    }
    int at = random_int(r, 0, n - 1), end = random_int(r, 0, n);
    double got = row_sum_above(blocks, w, n, w[at], end), total = 0;
    for (int b = 0; b < row_blocks(n); b++) {
        double part = 0;
        for (int i = b * ROW_BLOCK; i < n && i < (b + 1) * ROW_BLOCK; i++) {
            part += w[i] > w[at] || (w[i] == w[at] && i < end) ? (double)w[i] : 0;
        }
        total += part;
        assert_true(fabs((double)blocks[b] - part) <= 1e-6 * part);
    }
    assert_true(fabs(got - total) <= 1e-6 * total);
}

static void rows_are_summed_in_blocks(void **state) {
    (void)state;
    float x[MAX_N];
    struct random r;
    random_init(&r, 12);
    for (int round = 0; round < ROUNDS; round++) {
        int n = make_row(&r, x, round);
        if (n > 0) {
            check_sums(x, n);
            check_sums_above(&r, x, n);
        }
    }
}

static void the_largest_is_found(void **state) {
    (void)state;
    float x[MAX_N], values[MAX_N];
    int32_t ids[MAX_N];
    struct random r;
    random_init(&r, 13);
    for (int round = 0; round < ROUNDS; round++) {
        int n = make_row(&r, x, round), first = 0;
        if (n == 0) {
            continue;
        }
        while (first < n && x[first] != ref_max(x, n)) {
            first++;
        }
        assert_int_equal(row_first_max(x, n), first < n ? first : 0);
        row_top_k(values, ids, x, n, n); /* a sort */
        for (int i = 1; i < n; i++) {
            assert_true(values[i - 1] > values[i] ||
                        (values[i - 1] == values[i] && ids[i - 1] < ids[i]));
        }
    }
    const float none[] = {NAN, -INFINITY, NAN}, zeros[] = {-1, -0.0f, 0.0f}, low[] = {-FLT_MAX, -9};
    assert_int_equal(row_first_max(none, 3), 0);
    assert_int_equal(row_first_max(zeros, 3), 1);
    assert_int_equal(row_first_max(low, 2), 1);
    assert_int_equal(row_count_above(low, 2, -10), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_instruction_set_equals_the_reference),
        cmocka_unit_test(rows_are_summed_in_blocks),
        cmocka_unit_test(the_largest_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
