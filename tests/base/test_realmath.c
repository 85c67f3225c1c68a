#include "test.h"

#include <math.h>
#include <string.h>

#include "base/random.h"
#include "base/realmath.h"

/* Distance in units in the last place of the larger. */
static double ulps(double got, double want) {
    if (got == want || (isnan(got) && isnan(want))) {
        return 0;
    }
    if (isinf(got) || isinf(want) || isnan(got) || isnan(want)) {
        return (double)INFINITY;
    }
    double m = fmax(fabs(got), fabs(want));
    return fabs(got - want) / (nextafter(m, (double)INFINITY) - m);
}

static double uniform(struct random *r, double low, double high) {
    return low + (high - low) * random_unit(r);
}

static void exp_is_close_to_libm(void **state) {
    (void)state;
    struct random r;
    random_init(&r, 1);
    double worst = 0;
    for (int i = 0; i < 300000; i++) {
        double x = i % 3 == 0   ? uniform(&r, -745, 709.7)
                   : i % 3 == 1 ? uniform(&r, -1, 1)
                                : uniform(&r, -1e-6, 1e-6);
        worst = fmax(worst, ulps(realmath_exp(x), exp(x)));
    }
    print_message("exp: %.2f ulp\n", worst);
    assert_true(worst <= 4);
}

static void log_is_close_to_libm(void **state) {
    (void)state;
    struct random r;
    random_init(&r, 2);
    double worst = 0;
    for (int i = 0; i < 300000; i++) {
        double x = i % 3 == 0   ? exp(uniform(&r, -744, 709))
                   : i % 3 == 1 ? uniform(&r, 0.5, 2)
                                : 1 + uniform(&r, -1e-8, 1e-8);
        worst = fmax(worst, ulps(realmath_log(x), log(x)));
    }
    print_message("log: %.2f ulp\n", worst);
    assert_true(worst <= 4);
}

static void sincos_is_close_to_libm(void **state) {
    (void)state;
    struct random r;
    random_init(&r, 3);
    double worst = 0;
    double worst_ulp = 0;
    for (int i = 0; i < 400000; i++) {
        double x = i % 4 == 0   ? uniform(&r, -0x1p27, 0x1p27)
                   : i % 4 == 1 ? uniform(&r, -10, 10)
                   : i % 4 == 2 ? floor(uniform(&r, 0, 0x1p27))
                                : nearbyint(uniform(&r, 0, 8e7)) * 1.5707963267948966;
        double s, c;
        if (fabs(x) > 0x1p27) {
            continue;
        }
        realmath_sincos(x, &s, &c);
        worst = fmax(worst, fmax(fabs(s - sin(x)), fabs(c - cos(x))));
        if (i % 4 < 3) {
            worst_ulp = fmax(worst_ulp, fmax(ulps(s, sin(x)), ulps(c, cos(x))));
        }
    }
    print_message("sincos: %.2g absolute, %.2f ulp\n", worst, worst_ulp);
    assert_true(worst <= 1e-15);
}

static void edges(void **state) {
    (void)state;
    double s, c;
    assert_true(realmath_exp(0) == 1);
    assert_true(realmath_exp(-(double)INFINITY) == 0);
    assert_true(isinf(realmath_exp((double)INFINITY)));
    assert_true(isinf(realmath_exp(710)));
    assert_true(realmath_exp(-746) == 0);
    assert_true(realmath_exp(-745) == exp(-745));
    assert_true(isnan(realmath_exp((double)NAN)));
    assert_true(realmath_log(1) == 0);
    assert_true(ulps(realmath_log(0x1p-1074), log(0x1p-1074)) <= 1);
    assert_true(isinf(realmath_log(0)) && realmath_log(0) < 0);
    assert_true(isnan(realmath_log(-1)));
    assert_true(isinf(realmath_log((double)INFINITY)));
    realmath_sincos(0, &s, &c);
    assert_true(s == 0 && c == 1);
}

/* The promise is about bits, so some are written down here: they must hold for every compiler,
 * optimisation level and machine. */
static void bits_are_fixed(void **state) {
    (void)state;
    struct random r;
    random_init(&r, 4);
    uint64_t h = 0;
    for (int i = 0; i < 10000; i++) {
        double v[4];
        double x = uniform(&r, 0, 600);
        v[0] = realmath_exp(x);
        v[1] = realmath_log(x);
        realmath_sincos(x * 1000, &v[2], &v[3]);
        for (int j = 0; j < 4; j++) {
            uint64_t bits;
            memcpy(&bits, &v[j], sizeof bits);
            h = h * 1099511628211u + bits;
        }
    }
    print_message("hash: %016llx\n", (unsigned long long)h);
    assert_true(h == 0x15b490172629a7deu);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_is_close_to_libm),    cmocka_unit_test(log_is_close_to_libm),
        cmocka_unit_test(sincos_is_close_to_libm), cmocka_unit_test(edges),
        cmocka_unit_test(bits_are_fixed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
