#include "test.h"

#include <string.h>

#include "format/show.h"

static void text_is_one_short_printable_line(void **state) {
    (void)state;
    char longer[1000];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;

    assert_string_equal(show_text("plain").text, "plain");
    assert_string_equal(show_text(NULL).text, "");
    assert_string_equal(show_text("a\nb\x1b[1m\x7f").text, "a?b?[1m?");
    assert_string_equal(show_text("\xc2\x9b"
                                  "1m\xc2\xa0\xc2")
                            .text,
                        "?1m\xc2\xa0\xc2");
    struct shown cut = show_text(longer);
    assert_int_equal(strlen(cut.text), 93);
    assert_string_equal(cut.text + 90, "...");
}

static void text_in_place(void **state) {
    (void)state;
    char text[] = "a\x1b[2\xc2\x9b\n\xc3\xa9\x7f", nothing[] = "";
    show_in_place(text);
    show_in_place(nothing);
    assert_string_equal(text, "a?[2??\xc3\xa9?");
    assert_string_equal(nothing, "");
}

static void text_is_cut_between_characters(void **state) {
    (void)state;
    char accents[201];
    for (int i = 0; i < 100; i++) {
        memcpy(accents + 2 * i, "\xc3\xa9", 2);
    }
    accents[200] = 0;
    assert_int_equal(strlen(show_text(accents).text), 93);
    assert_int_equal(strlen(show_text(accents + 1).text), 92);
}

static void a_path_keeps_its_end(void **state) {
    (void)state;
    char path[1000];
    memset(path, 'd', sizeof path);
    strcpy(path + 900, "/config.json");
    const char *shown = show_path(path).text;
    assert_memory_equal(shown, "...", 3);
    assert_string_equal(shown + strlen(shown) - 12, "/config.json");
    assert_string_equal(show_path("a/b").text, "a/b");
}

static void sizes_read_well(void **state) {
    (void)state;
    assert_string_equal(show_bytes(0).text, "0 B");
    assert_string_equal(show_bytes(1023).text, "1023 B");
    assert_string_equal(show_bytes(1536).text, "1.5 KiB");
    assert_string_equal(show_bytes(15ull << 30).text, "15.0 GiB");
    assert_string_equal(show_bytes(UINT64_MAX).text, "16.0 EiB");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_is_one_short_printable_line),
        cmocka_unit_test(text_in_place),
        cmocka_unit_test(text_is_cut_between_characters),
        cmocka_unit_test(a_path_keeps_its_end),
        cmocka_unit_test(sizes_read_well),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
