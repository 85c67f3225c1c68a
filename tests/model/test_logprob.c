#include "test.h"

#include <math.h>
#include <string.h>

#include "base/random.h"
#include "model/logprob.h"

enum { VOCAB = 1000 };

static void a_small_row(void **state) {
    (void)state;
    const float row[] = {0.0f, logf(2.0f), -INFINITY, logf(5.0f)};
    assert_true(fabs(logprob_of_row(row, 4, 0) - log(1.0 / 8)) < 1e-6);
    assert_true(fabs(logprob_of_row(row, 4, 3) - log(5.0 / 8)) < 1e-6);
    assert_true(logprob_of_row(row, 4, 2) == -HUGE_VAL);
    assert_true(logprob_of_row(row, 1, 0) == 0);
}

static struct exp_sum part_of(const float *row, int n, int target) {
    struct exp_sum s = {.max = -INFINITY};
    double sum = 0;
    for (int i = 0; i < n; i++) {
        s.max = fmaxf(s.max, row[i]);
    }
    for (int i = 0; i < n; i++) {
        sum += row[i] == -INFINITY ? 0 : exp((double)row[i] - (double)s.max);
    }
    s.sum = (float)sum;
    s.target = target >= 0 && target < n ? row[target] : 0.0f;
    return s;
}

/* Cut at the given places, with something else between the parts. */
static double in_parts(const float *row, const int *cuts, int n_part, int target) {
    struct exp_sum parts[8][3];
    memset(parts, 0xff, sizeof parts);
    for (int i = 0; i < n_part; i++) {
        parts[i][0] = part_of(row + cuts[i], cuts[i + 1] - cuts[i], target - cuts[i]);
    }
    return logprob_of_parts(parts[0], n_part, 3);
}

static void assert_agree(const float *row, int target) {
    static const int cuts[][5] = {{0, VOCAB}, {0, 500, VOCAB}, {0, 0, 1, 999, VOCAB}};
    double want = logprob_of_row(row, VOCAB, target);
    for (int i = 0; i < 3; i++) {
        double got = in_parts(row, cuts[i], i == 2 ? 4 : i + 1, target);
        if (!(got == want || (isnan(got) && isnan(want)) || fabs(got - want) <= 1e-6)) {
            fail_msg("cut %d, target %d: %g is not %g", i, target, got, want);
        }
    }
}

static void parts_are_the_whole(void **state) {
    (void)state;
    float row[VOCAB];
    struct random r;
    random_init(&r, 3);
    for (int i = 0; i < VOCAB; i++) {
        row[i] = (float)(40 * random_unit(&r) - 20);
    }
    for (int target = 0; target < VOCAB; target += 37) {
        assert_agree(row, target);
    }
    for (int i = 0; i < 500; i++) { /* a part with nothing in it, and a target without a chance */
        row[i] = -INFINITY;
    }
    assert_agree(row, 499);
    assert_agree(row, 500);
    row[999] = 1e30f; /* so far ahead that nothing else counts */
    assert_agree(row, 999);
    assert_agree(row, 700);
}

static void what_is_no_distribution_is_nan(void **state) {
    (void)state;
    float row[VOCAB] = {0};
    for (int at = 0; at < VOCAB; at += 333) {
        row[at] = NAN;
        assert_true(isnan(logprob_of_row(row, VOCAB, 5)));
        assert_agree(row, 5);
        row[at] = INFINITY;
        assert_true(isnan(logprob_of_row(row, VOCAB, at)));
        assert_agree(row, at);
        assert_agree(row, 5);
        row[at] = 0;
    }
    for (int i = 0; i < VOCAB; i++) {
        row[i] = -INFINITY;
    }
    assert_true(isnan(logprob_of_row(row, VOCAB, 5)));
    assert_agree(row, 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_small_row),
        cmocka_unit_test(parts_are_the_whole),
        cmocka_unit_test(what_is_no_distribution_is_nan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
