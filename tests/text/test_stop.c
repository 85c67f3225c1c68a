#include "test.h"

#include <string.h>

#include "text/stop.h"

/* Pushes `text` in pieces of `step` bytes; returns what was shown. */
static const char *shown(const char *text, size_t step, int n, const char *const *stops,
                         bool *stopped) {
    static struct buffer out;
    struct stop_matcher m;
    struct error err;
    buffer_clear(&out);
    assert_ok(stop_matcher_init(&m, n, stops, &err), &err);
    for (size_t i = 0; i < strlen(text); i += step) {
        size_t left = strlen(text) - i;
        assert_ok(stop_matcher_push(&m, text + i, left < step ? left : step, &out, &err), &err);
    }
    assert_ok(stop_matcher_flush(&m, &out, &err), &err);
    assert_ok(buffer_append(&out, "", 1, &err), &err);
    *stopped = m.stopped;
    stop_matcher_finish(&m);
    return (const char *)out.data;
}

static void stops_across_pieces(void **state) {
    (void)state;
    const char *stops[] = {"END", "\n\n", "aab"};
    bool stopped;
    for (size_t step = 1; step < 12; step++) {
        assert_string_equal(shown("one two ENx E", step, 3, stops, &stopped), "one two ENx E");
        assert_false(stopped);
        assert_string_equal(shown("one ENDtwo", step, 3, stops, &stopped), "one ");
        assert_true(stopped);
        assert_string_equal(shown("x\ny\n\nz", step, 3, stops, &stopped), "x\ny");
        assert_true(stopped);
        assert_string_equal(shown("aaaab", step, 3, stops, &stopped), "aa");
        assert_true(stopped);
        assert_string_equal(shown("plain", step, 0, stops, &stopped), "plain");
        assert_false(stopped);
    }
}

static void text_that_cannot_match_is_shown_at_once(void **state) {
    (void)state;
    const char *stops[] = {"END"};
    struct stop_matcher m;
    struct buffer out = {0};
    struct error err;
    assert_ok(stop_matcher_init(&m, 1, stops, &err), &err);
    assert_ok(stop_matcher_push(&m, "fooE", 4, &out, &err), &err);
    assert_int_equal(out.size, 3);
    assert_ok(stop_matcher_push(&m, "x", 1, &out, &err), &err);
    assert_int_equal(out.size, 5);
    stop_matcher_finish(&m);
    buffer_finish(&out);
}

static void bad_stops_are_refused(void **state) {
    (void)state;
    const char *empty[] = {"ok", ""};
    struct stop_matcher m;
    struct error err;
    assert_false(stop_matcher_init(&m, 2, empty, &err));
    assert_non_null(strstr(err.message, "stop string 2"));
    assert_false(stop_matcher_init(&m, STOP_MAX + 1, empty, &err));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stops_across_pieces),
        cmocka_unit_test(text_that_cannot_match_is_shown_at_once),
        cmocka_unit_test(bad_stops_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
