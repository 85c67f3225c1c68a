#include "test.h"

#include <stdlib.h>
#include <string.h>

#include "cli/options.h"

struct values {
    bool flag;
    const char *device, *prompt;
    int tokens;
    double temperature;
    uint64_t seed, bytes;
    struct option_strings stop;
    bool seen;
};

enum { N_OPTION = 9 };

static void make_table(struct option *table, struct values *v) {
    *v = (struct values){.device = "auto", .tokens = 5};
    const struct option options[N_OPTION] = {
        {.type = OPTION_SECTION, .name = "Things"},
        {.type = OPTION_FLAG, .name = "json", .value = &v->flag},
        {.type = OPTION_STRING, .name = "device", .value = &v->device, .choices = "auto|host|cuda"},
        {.type = OPTION_STRING, .name = "prompt", .short_name = 'p', .value = &v->prompt},
        {.type = OPTION_INT,
         .name = "max-tokens",
         .short_name = 'n',
         .value = &v->tokens,
         .seen = &v->seen,
         .min = 1,
         .max = 100},
        {.type = OPTION_DOUBLE,
         .name = "temperature",
         .value = &v->temperature,
         .min = 0,
         .max = 2},
        {.type = OPTION_UINT64, .name = "seed", .value = &v->seed},
        {.type = OPTION_BYTES, .name = "memory", .value = &v->bytes},
        {.type = OPTION_STRINGS, .name = "stop", .value = &v->stop},
    };
    memcpy(table, options, sizeof options);
}

/* Parses a NULL-terminated list of words after the command's name. */
static bool parse(struct values *v, const char **words, struct error *err) {
    struct option table[N_OPTION];
    make_table(table, v);
    char *argv[32] = {"command"};
    int argc = 1;
    for (; words[argc - 1]; argc++) {
        argv[argc] = (char *)(uintptr_t)words[argc - 1];
    }
    const char *args[2];
    int n_arg = 0;
    return options_parse(table, N_OPTION, argc, argv, args, 2, &n_arg, err);
}

#define WORDS(...) ((const char *[]){__VA_ARGS__, NULL})

static void every_form_is_understood(void **state) {
    (void)state;
    struct values v;
    struct error err;
    assert_ok(parse(&v,
                    WORDS("--json", "--device=host", "-p", "hello", "-n", "7", "--temperature",
                          "0.5", "--seed", "18446744073709551615", "--memory", "1.5G", "--stop",
                          "a", "--stop=--json", "word"),
                    &err),
              &err);
    assert_true(v.flag);
    assert_true(v.seen);
    assert_string_equal(v.device, "host");
    assert_string_equal(v.prompt, "hello");
    assert_int_equal(v.tokens, 7);
    assert_true(v.temperature == 0.5);
    assert_true(v.seed == UINT64_MAX);
    assert_true(v.bytes == UINT64_C(3) << 29);
    assert_int_equal(v.stop.n, 2);
    assert_string_equal(v.stop.item[1], "--json");
}

static void absent_options_keep_their_values(void **state) {
    (void)state;
    struct values v;
    struct error err;
    assert_ok(parse(&v, WORDS("-"), &err), &err);
    assert_string_equal(v.device, "auto");
    assert_int_equal(v.tokens, 5);
    assert_false(v.seen);
}

static void sizes_take_suffixes(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } cases[] = {{"0", 0},          {"8", 8},         {"4K", 4096}, {"4k", 4096},
                 {"2MiB", 2 << 20}, {"3MB", 3 << 20}, {"10B", 10},  {"1T", UINT64_C(1) << 40}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct values v;
        struct error err;
        assert_ok(parse(&v, WORDS("--memory", cases[i].text), &err), &err);
        assert_true(v.bytes == cases[i].bytes);
    }
}

static void mistakes_say_what_to_type(void **state) {
    (void)state;
    static const struct {
        const char *words[4];
        const char *expect; /* part of the message */
    } cases[] = {
        {{"--max-token", "3"}, "unknown option --max-token; did you mean --max-tokens?"},
        {{"--tempreature", "3"}, "did you mean --temperature?"},
        {{"--max-token=3"}, "unknown option --max-token; did you mean --max-tokens?"},
        {{"-json"}, "did you mean --json?"},
        {{"--completely-different"}, "unknown option --completely-different"},
        {{"--max-tokens"}, "--max-tokens needs a value"},
        {{"--prompt", "--json"}, "--prompt needs a value, but --json follows"},
        {{"--max-tokens", "x"}, "--max-tokens x: not a whole number"},
        {{"--max-tokens", "3x"}, "not a whole number"},
        {{"--max-tokens", ""}, "not a whole number"},
        {{"--max-tokens", "99999999999"}, "must be between"},
        {{"--max-tokens", "0"}, "must be between 1 and 100"},
        {{"--max-tokens", "101"}, "must be between 1 and 100"},
        {{"--temperature", "nan"}, "not a number"},
        {{"--temperature", "2.5"}, "must be between 0 and 2"},
        {{"--seed", "-1"}, "not a whole number"},
        {{"--seed", "18446744073709551616"}, "not a whole number"},
        {{"--memory", "4X"}, "not a size"},
        {{"--memory", "-4K"}, "not a size"},
        {{"--memory", "99999999T"}, "not a size"},
        {{"--device", "gpu"}, "--device gpu: must be one of auto|host|cuda"},
        {{"--device", "au"}, "must be one of"},
        {{"--json=yes"}, "--json takes no value"},
        {{"a", "b", "c"}, "unexpected word 'c'"},
        {{"--", "a", "b", "--json"}, "unexpected word '--json'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct values v;
        struct error err = {0};
        const char *words[5] = {0};
        memcpy(words, cases[i].words, sizeof cases[i].words);
        assert_false(parse(&v, words, &err));
        assert_int_equal(err.kind, ERROR_USAGE);
        if (!strstr(err.message, cases[i].expect)) {
            fail_msg("case %zu: '%s' lacks '%s'", i, err.message, cases[i].expect);
        }
    }
}

static void too_many_repetitions_are_refused(void **state) {
    (void)state;
    struct values v;
    struct error err;
    const char *words[OPTION_STRINGS_MAX + 2] = {0};
    for (int i = 0; i <= OPTION_STRINGS_MAX; i++) {
        words[i] = "--stop=x";
    }
    assert_false(parse(&v, words, &err));
    words[OPTION_STRINGS_MAX] = NULL;
    assert_ok(parse(&v, words, &err), &err);
    assert_int_equal(v.stop.n, OPTION_STRINGS_MAX);
}

static void lists_of_numbers(void **state) {
    (void)state;
    struct error err;
    int32_t *ids = NULL;
    int n = -1;
    assert_ok(options_parse_ints(" 1, 2 3,-4\n", "--ids", &ids, &n, &err), &err);
    assert_int_equal(n, 4);
    assert_int_equal(ids[2], 3);
    assert_int_equal(ids[3], -4);
    free(ids);
    assert_ok(options_parse_ints("", "--ids", &ids, &n, &err), &err);
    assert_int_equal(n, 0);
    free(ids);
    static const char *const bad[] = {"1,,2", "1,", ",1", "1;2", "x", "1 2x", "2147483648"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (options_parse_ints(bad[i], "--ids", &ids, &n, &err)) {
            fail_msg("'%s' was accepted", bad[i]);
        }
        assert_int_equal(err.kind, ERROR_USAGE);
        assert_non_null(strstr(err.message, "--ids"));
    }
}

static void a_flag_is_found_among_mistakes(void **state) {
    (void)state;
    struct values v;
    struct option table[N_OPTION];
    make_table(table, &v);
    char *found[] = {"command", "-n", "x", "--nothing", "--json"};
    char *ended[] = {"command", "--json=1", "json", "--", "--json"};
    assert_true(options_has_flag(table, N_OPTION, 5, found, &v.flag));
    assert_false(options_has_flag(table, N_OPTION, 4, found, &v.flag));
    assert_false(options_has_flag(table, N_OPTION, 5, ended, &v.flag));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form_is_understood),
        cmocka_unit_test(absent_options_keep_their_values),
        cmocka_unit_test(sizes_take_suffixes),
        cmocka_unit_test(mistakes_say_what_to_type),
        cmocka_unit_test(a_flag_is_found_among_mistakes),
        cmocka_unit_test(too_many_repetitions_are_refused),
        cmocka_unit_test(lists_of_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
