/* For how long a main thread stands still. */
#include "test.h"

#include <math.h>

#include "cli/stillness.h"

enum { LOOKS_S = 2 }; /* looks a second */

static struct stillness s;
static double now;

/* Looks for so many seconds at a pulse that does not move. */
static double look_for(double seconds, double pulse, char state) {
    double still_s = -1;
    for (int i = 0; i < (int)(LOOKS_S * seconds); i++) {
        now += 1.0 / LOOKS_S;
        still_s = stillness_look(&s, (uint64_t)(1e9 * pulse), state, now, 1.0 / LOOKS_S);
    }
    return still_s;
}

static int begin(void **state) {
    (void)state;
    s = (struct stillness){0};
    now = 1000;
    return 0;
}

static void one_that_moves_is_not_still(void **state) {
    (void)state;
    for (int i = 0; i < 100; i++) {
        assert_true(look_for(0.5, now, 'S') == 0);
    }
    assert_true(look_for(0.5, now - 300, 'R') == 0); /* a late one, and yet it has moved */
}

static void one_that_does_not_is(void **state) {
    (void)state;
    look_for(0.5, 1000, 'S');
    assert_true(look_for(4, 1000, 'S') == 4);
    assert_true(look_for(1, 1000, 0) == 5); /* nobody asked the kernel */
    assert_true(look_for(1, 1000, 'D') == 6);
    assert_true(look_for(0.5, now, 'S') == 0);
    assert_true(look_for(2, 1000, 't') == 0); /* somebody looks into it with a debugger */
    assert_true(look_for(2, 1000, 'Z') == 0); /* what has ended is another matter */
}

static void a_promise_is_kept(void **state) {
    (void)state;
    assert_true(look_for(5, 1005.25, 'S') == 0);
    assert_true(fabs(look_for(0.5, 1005.25, 'S') - 0.25) < 1e-9);
    assert_true(fabs(look_for(2, 1005.25, 'S') - 2.25) < 1e-9);
    look_for(0.5, 9e9, 'S');
    assert_true(look_for(3600, 9e9, 'S') == 0);
    assert_true(look_for(3, 9e9, 'T') == 3); /* which it did not mean */
}

/* This process itself was stopped for an hour: only the time in which it ran counts. */
static void stopped_together(void **state) {
    (void)state;
    look_for(0.5, 1000, 'S');
    look_for(1, 1000, 'S');
    now += 3600;
    assert_true(stillness_look(&s, 1000000000000, 'S', now, 1) == 2);
}

static void no_pulse_at_all(void **state) {
    (void)state;
    assert_true(look_for(10, 0, 'S') == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(one_that_moves_is_not_still, begin),
        cmocka_unit_test_setup(one_that_does_not_is, begin),
        cmocka_unit_test_setup(a_promise_is_kept, begin),
        cmocka_unit_test_setup(stopped_together, begin),
        cmocka_unit_test_setup(no_pulse_at_all, begin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
