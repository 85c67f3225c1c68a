#include "test.h"

#include <string.h>

static void names_are_unique_and_round_trip(void **state) {
    (void)state;
    for (int i = 0; i < ERROR_KIND_COUNT; i++) {
        assert_int_equal(error_kind_from_name(error_kind_name((enum error_kind)i)), i);
    }
    assert_int_equal(error_kind_from_name("never heard of"), ERROR_INTERNAL);
}

static void wrap_puts_context_in_front(void **state) {
    (void)state;
    struct error err;
    assert_false(error_set(&err, ERROR_IO, "no such %s", "file"));
    assert_false(error_wrap(&err, "layer %d", 7));
    assert_string_equal(err.message, "layer 7: no such file");
    assert_int_equal(err.kind, ERROR_IO);
    assert_false(error_at_rank(&err, 3));
    assert_false(error_at_rank(&err, 4));
    assert_int_equal(err.rank, 3);
}

static void long_messages_are_cut_not_overrun(void **state) {
    (void)state;
    struct error err;
    char big[2000];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    error_set(&err, ERROR_IO, "%s", big);
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
    error_wrap(&err, "%s", big);
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_unique_and_round_trip),
        cmocka_unit_test(wrap_puts_context_in_front),
        cmocka_unit_test(long_messages_are_cut_not_overrun),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
