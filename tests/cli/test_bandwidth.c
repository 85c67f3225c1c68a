/* The sweep's table, on made-up times. */
#include "test.h"

#include <stdlib.h>
#include <string.h>

#include "cli/bandwidth.h"

/* 1 ms for everything; one all-gather is wrong. */
static bool fake(void *user, enum sweep_collective which, uint64_t bytes, int iters, int warmup,
                 struct sweep_sample *out, struct error *err) {
    (void)iters, (void)err;
    ++*(int *)user;
    assert_int_equal(warmup, 5);
    *out = (struct sweep_sample){.seconds = 1e-3, .median_seconds = 9e-4};
    out->wrong = which == SWEEP_ALL_GATHER && bytes == 4000000 ? 7 : 0;
    return true;
}

static struct bandwidth_result run(struct bandwidth_options *o, int world) {
    struct error err;
    struct bandwidth_result r;
    int n = 0;
    struct bandwidth_measurer m = {fake, &n};
    assert_ok(bandwidth_run(o, world, "mpi", &m, &r, &err), &err);
    assert_int_equal(n, r.n_row);
    return r;
}

static char *printed(const struct bandwidth_result *r) {
    char *text;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    bandwidth_print(r, f);
    fclose(f);
    return text;
}

static void sizes_and_definitions(void **state) {
    (void)state;
    struct bandwidth_options o = bandwidth_defaults();
    o.min_bytes = 1000000;
    o.max_bytes = 4000000;
    o.factor = 2;
    struct bandwidth_result r = run(&o, 4);
    assert_int_equal(r.n_row, 12);
    assert_int_equal(r.row[0].bytes, 1000000);
    assert_int_equal(r.row[2].bytes, 4000000);
    assert_int_equal(r.row[2].count, 1000000);
    assert_float_equal(r.row[2].algbw, 4.0, 1e-6);
    assert_float_equal(r.row[2].busbw, 6.0, 1e-6); /* 2 * 3/4 */
    assert_int_equal(r.row[5].which, SWEEP_ALL_GATHER);
    assert_int_equal(r.row[5].count, 250000);
    assert_float_equal(r.row[5].busbw, 3.0, 1e-6); /* 3/4 */
    assert_float_equal(r.row[8].busbw, 4.0, 1e-6);
    assert_int_equal(r.row[11].count, 250000);
    assert_float_equal(r.row[11].busbw, 3.0, 1e-6);
    struct error err;
    assert_false(bandwidth_verdict(&r, &err));
    assert_int_equal(err.kind, ERROR_WRONG_RESULT);
    assert_string_equal(err.message, "all_gather of 4000000 bytes: 7 wrong elements");
    bandwidth_result_finish(&r);
}

static void table_looks_like_nccl_tests(void **state) {
    (void)state;
    struct bandwidth_options o = bandwidth_defaults();
    o.min_bytes = o.max_bytes = 4000000;
    struct bandwidth_result r = run(&o, 2);
    char *text = printed(&r);
    static const char want[] =
        "# all_reduce: 2 ranks, mpi\n"
        "#       size        count     type  redop      time   algbw   busbw #wrong\n"
        "#        (B)   (elements)                      (us)  (GB/s)  (GB/s)       \n"
        "     4000000      1000000    float    sum   1000.00    4.00    4.00      0\n"
        "# Out of bounds values : 0 OK\n"
        "# Avg bus bandwidth    : 4\n"
        "#\n";
    assert_memory_equal(text, want, strlen(want));
    assert_non_null(strstr(text, "\n     4000000       500000    float   none   1000.00    4.00"
                                 "    2.00      7\n# Out of bounds values : 1 FAILED\n"));
    free(text);
    bandwidth_result_finish(&r);
}

static void one_rank_is_labelled(void **state) {
    (void)state;
    struct bandwidth_options o = bandwidth_defaults();
    o.want[SWEEP_ALL_GATHER] = false;
    struct bandwidth_result r = run(&o, 1);
    char *text = printed(&r);
    assert_non_null(strstr(text, "# all_reduce: 1 rank, mpi\n# one rank has no bus: busbw is 0\n"));
    assert_non_null(strstr(text, "# Avg bus bandwidth    : 0\n"));
    assert_null(strstr(text, "all_gather"));
    struct error err;
    assert_true(bandwidth_verdict(&r, &err));
    free(text);
    bandwidth_result_finish(&r);
}

static void json_says_the_same(void **state) {
    (void)state;
    struct bandwidth_options o = bandwidth_defaults();
    o.min_bytes = o.max_bytes = 4000000;
    struct bandwidth_result r = run(&o, 2);
    json_t *j = bandwidth_json(&r);
    const char *collective, *type, *redop;
    json_int_t bytes, count, wrong, all_wrong;
    int world, iters;
    double time, median, algbw, busbw, average;
    assert_int_equal(json_unpack(j,
                                 "{s:i, s:I, s:{s:f}, s:[{s:s, s:s, s:s, s:I, s:I, s:i, s:f, s:f,"
                                 "s:f, s:f, s:I}]}",
                                 "world", &world, "wrong", &all_wrong, "avg_busbw_gbs",
                                 "all_gather", &average, "rows", "collective", &collective, "type",
                                 &type, "redop", &redop, "bytes", &bytes, "count", &count, "iters",
                                 &iters, "time_us", &time, "median_us", &median, "algbw_gbs",
                                 &algbw, "busbw_gbs", &busbw, "wrong", &wrong),
                     0);
    assert_string_equal(collective, "all_reduce");
    assert_string_equal(redop, "sum");
    assert_int_equal(bytes, 4000000);
    assert_int_equal(count, 1000000);
    assert_int_equal(wrong, 0);
    assert_int_equal(all_wrong, 7);
    assert_float_equal(time, 1000, 1e-6);
    assert_float_equal(average, 2, 1e-6);
    assert_int_equal(json_array_size(json_object_get(j, "rows")), 4);
    json_decref(j);
    bandwidth_result_finish(&r);
}

/* Three ranks: whole floats per rank, each size once. */
static void odd_worlds_and_tiny_sizes(void **state) {
    (void)state;
    struct bandwidth_options o = bandwidth_defaults();
    o.min_bytes = 1;
    o.max_bytes = 64;
    o.factor = 2;
    struct bandwidth_result r = run(&o, 3);
    for (int i = 0; i < r.n_row; i++) {
        assert_true(r.row[i].bytes > 0);
        bool parts = r.row[i].which == SWEEP_ALL_GATHER || r.row[i].which == SWEEP_GATHER;
        assert_int_equal(r.row[i].bytes % (parts ? 12 : 4), 0);
        assert_true(i == 0 || r.row[i].which != r.row[i - 1].which ||
                    r.row[i].bytes > r.row[i - 1].bytes);
    }
    bandwidth_result_finish(&r);
    o.max_bytes = UINT64_MAX; /* ends */
    r = run(&o, 3);
    bandwidth_result_finish(&r);
}

static void bad_options_are_named(void **state) {
    (void)state;
    struct bandwidth_options good = bandwidth_defaults();
    struct bandwidth_options bad[5] = {good, good, good, good, good};
    static const char *const name[] = {"-b", "-e", "-f", "-n", "-w"};
    bad[0].min_bytes = 0;
    bad[1].max_bytes = 1;
    bad[2].factor = 1;
    bad[3].iters = -1;
    bad[4].warmup = -1;
    for (int i = 0; i < 5; i++) {
        struct error err;
        assert_false(bandwidth_check_options(&bad[i], &err));
        assert_int_equal(err.kind, ERROR_USAGE);
        assert_memory_equal(err.message, name[i], 2);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_and_definitions),     cmocka_unit_test(table_looks_like_nccl_tests),
        cmocka_unit_test(one_rank_is_labelled),      cmocka_unit_test(json_says_the_same),
        cmocka_unit_test(odd_worlds_and_tiny_sizes), cmocka_unit_test(bad_options_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
