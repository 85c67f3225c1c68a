/* The limits of a machine: how fast it is nobody knows, but that it is, and by the same work. */
#include "test.h"

#include <math.h>
#include <string.h>

#include "device/host/host.h"
#include "device/host/probe.h"
#include "reference.h"

static void every_limit_has_a_name(void **state) {
    (void)state;
    enum probe_limit which;
    for (int i = 0; i < PROBE_LIMIT_COUNT; i++) {
        assert_true(probe_limit_from_name(probe_limit_name((enum probe_limit)i), &which));
        assert_int_equal(which, i);
    }
    assert_false(probe_limit_from_name("bf16", &which));
}

static void every_limit_is_measured(void **state) {
    (void)state;
    struct error err;
    struct probe *p;
    for (int isa = 0; isa < N_ISA_NAME; isa++) {
        struct device *d = make_device(isa_names[isa], 2);
        if (!d) {
            continue;
        }
        assert_ok(probe_create(d, 1, &p, &err), &err);
        int n_pattern = 0;
        while (probe_use_pattern(p, n_pattern)) {
            double rate = probe_measure(p, PROBE_MEMORY, 0);
            assert_true(isfinite(rate) && rate > 1e6);
            n_pattern++;
        }
        assert_true(n_pattern > 1);
        for (int i = 0; i < PROBE_LIMIT_COUNT; i++) {
            double rate = probe_measure(p, (enum probe_limit)i, 1e-3);
            assert_true(isfinite(rate) && rate > 1e6);
        }
        probe_destroy(p);
        device_destroy(d);
    }
}

/* Each round changes what is added up, so that a compiler cannot leave any out. */
static void peaks_are_worked_for(void **state) {
    (void)state;
    float sink;
    for (int isa = 0; isa < N_ISA_NAME; isa++) {
        struct device *d = make_device(isa_names[isa], 1);
        if (!d) {
            continue;
        }
        const struct host_kernels *k = host_of(d)->kernels;
        float first;
        assert_true(k->int8_peak(1, &first) > 0 && k->fma_peak(1, &sink) > 0);
        assert_true(k->int8_peak(2, &sink) > 0);
        assert_true(memcmp(&first, &sink, sizeof sink) != 0); /* each round changes the sums */
        device_destroy(d);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_limit_has_a_name),
        cmocka_unit_test(every_limit_is_measured),
        cmocka_unit_test(peaks_are_worked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
