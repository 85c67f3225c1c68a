#include "tempdir.h"

#include <sys/stat.h>

#include "format/json.h"

static json_t *parse(const char *text) {
    json_t *value = NULL;
    struct error err = {0};
    assert_ok(json_parse(&value, "x.json", text, strlen(text), 0, &err), &err);
    return value;
}

static void refuse(const char *text, const char *expected, const char *expected2) {
    json_t *value = NULL;
    struct error err = {0};
    bool ok = json_parse(&value, "dir/x.json", text, strlen(text), 0, &err);
    assert_error(ok, &err, ERROR_JSON, expected, expected2);
    assert_non_null(strstr(err.message, "dir/x.json"));
    assert_null(value);
}

static void errors_say_where(void **state) {
    (void)state;
    refuse("{\n  \"a\": 1,\n  \"b\": nope}", "line 3", "at b");
    refuse("{\"layers\" : 1e999}", "overflow", "at layers");
    refuse("{\"a\": 99999999999999999999, \"b\": nope}", "invalid", "at b");
    refuse("{\"a\": 1, \"a\": 2}", "at a: ", "duplicate");
    refuse("{\"a_rather_long_name\": 1, \"a_rather_long_name\": 2}", "at a_rather_long_name: ", "");
    refuse("", "line 1", "");
    refuse("{\"a\": 1} trailing", "end of file", "");
    refuse("{\"a\": \"\xff\"}", "decode byte 0xff", "at a");
    refuse("{\"a\": \"\\ud800\"}", "Unicode", "");
    refuse("{\"a\nb\": 1}", "line 1", "");
}

/* transformers' VERY_LARGE_INTEGER, 10^30, is in many a tokenizer_config.json. */
static void huge_integers_are_reals(void **state) {
    (void)state;
    json_t *value =
        parse("{\"huge\": 1000000000000000019884624838656, \"list\": [-12345678901234567890,"
              "9223372036854775807], \"text\": \"\\\"99999999999999999999\", \"n\": 7,"
              "\"x\": 1.25e1}");
    assert_true(json_real_value(json_object_get(value, "huge")) == 1e30);
    const json_t *list = json_object_get(value, "list");
    assert_true(json_real_value(json_array_get(list, 0)) == -12345678901234567890.0);
    assert_string_equal(json_string_value(json_object_get(value, "text")),
                        "\"99999999999999999999");
    assert_int_equal(json_integer_value(json_object_get(value, "n")), 7);
    assert_true(json_real_value(json_object_get(value, "x")) == 12.5);
    struct json_fields f = {.object = value, .file = "x.json", .prefix = "", .kind = ERROR_CONFIG};
    int64_t n = 3;
    struct error err = {0};
    bool ok = json_get_int(&f, "huge", 1, 100, &n, &err);
    assert_error(ok, &err, ERROR_CONFIG, "huge: expected an integer from 1 to 100", "1e+30");
    json_decref(value);
}

static void nesting_bombs_are_errors(void **state) {
    (void)state;
    enum { DEPTH = 1000000 };
    char *bomb = malloc(DEPTH + 1);
    bomb[DEPTH] = 0;
    memset(bomb, '[', DEPTH);
    refuse(bomb, "depth", "");
    for (int i = 0; i + 5 <= DEPTH; i += 5) {
        memcpy(bomb + i, "{\"a\":", 5);
    }
    refuse(bomb, "depth", "");
    free(bomb);
}

static void files_are_checked_before_they_are_read(void **state) {
    (void)state;
    struct tempdir dir;
    struct error err = {0};
    json_t *value = NULL;
    tempdir_make(&dir);

    bool ok = json_read_file(&value, tempdir_join(&dir, "none.json"), 100, 0, &err);
    assert_error(ok, &err, ERROR_IO, "none.json", "No such file");
    tempdir_text(&dir, "long.json", "[1, 2, 3, 4, 5, 6, 7]");
    ok = json_read_file(&value, tempdir_join(&dir, "long.json"), 10, 0, &err);
    assert_error(ok, &err, ERROR_IO, "long.json", "more than the 10");
    assert_int_equal(mkfifo(tempdir_join(&dir, "fifo.json"), 0600), 0);
    ok = json_read_file(&value, tempdir_join(&dir, "fifo.json"), 100, 0, &err);
    assert_error(ok, &err, ERROR_IO, "fifo.json", "not a regular file");
    ok = json_read_file(&value, dir.path, 100, 0, &err);
    assert_error(ok, &err, ERROR_IO, dir.path, "not a regular file");

    assert_ok(json_read_file(&value, tempdir_join(&dir, "long.json"), 100, 0, &err), &err);
    assert_int_equal(json_array_size(value), 7);
    json_decref(value);
    tempdir_remove(&dir);
}

static void fields_are_typed(void **state) {
    (void)state;
    json_t *root =
        parse("{\"i\": 7, \"r\": 0.5, \"w\": 7.0, \"s\": \"text\\n\", \"t\": true, \"n\": null, "
              "\"l\": [1]}");
    struct json_fields f;
    struct error err = {0};
    int64_t i = -1;
    double d = -1;
    bool b = false;
    const char *s = NULL;
    assert_ok(json_fields_init(&f, root, "c.json", "", "in.", ERROR_CONFIG, &err), &err);

    assert_ok(json_get_int(&f, "i", 0, 7, &i, &err), &err);
    assert_int_equal(i, 7);
    assert_ok(json_get_number(&f, "i", 0, 7, &d, &err), &err);
    assert_true(d == 7);
    assert_ok(json_get_number_or(&f, "r", 0, 1, &d, &err), &err);
    assert_true(d == 0.5);
    assert_ok(json_get_bool_or(&f, "t", &b, &err), &err);
    assert_true(b);
    assert_ok(json_get_string(&f, "s", &s, &err), &err);
    assert_string_equal(s, "text\n");
    assert_int_equal(i, 7);
    assert_false(json_has(&f, "n"));

    assert_error(json_get_int(&f, "i", 8, 9, &i, &err), &err, ERROR_CONFIG,
                 "c.json: in.i: expected an integer from 8 to 9", "got 7");
    assert_error(json_get_int(&f, "s", 0, 9, &i, &err), &err, ERROR_CONFIG, "in.s",
                 "got \"text?\"");
    assert_error(json_get_int(&f, "r", 0, 9, &i, &err), &err, ERROR_CONFIG, "in.r", "got 0.5");
    assert_error(json_get_int(&f, "w", 0, 9, &i, &err), &err, ERROR_CONFIG, "in.w", "got 7.0");
    assert_error(json_get_int(&f, "absent", 0, 9, &i, &err), &err, ERROR_CONFIG, "in.absent",
                 "missing");
    assert_error(json_get_number(&f, "t", 0, 9, &d, &err), &err, ERROR_CONFIG, "in.t", "got true");
    assert_error(json_get_bool_or(&f, "i", &b, &err), &err, ERROR_CONFIG, "in.i", "got 7");
    assert_error(json_get_string(&f, "l", &s, &err), &err, ERROR_CONFIG, "in.l", "got a list");
    assert_error(
        json_fields_init(&f, json_object_get(root, "l"), "c.json", "l", "l.", ERROR_CONFIG, &err),
        &err, ERROR_CONFIG, "c.json: l: expected an object", "got a list");
    json_decref(root);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_say_where),
        cmocka_unit_test(huge_integers_are_reals),
        cmocka_unit_test(nesting_bombs_are_errors),
        cmocka_unit_test(files_are_checked_before_they_are_read),
        cmocka_unit_test(fields_are_typed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
