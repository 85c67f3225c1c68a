/* What ranks tell adds up, its rates are of the last seconds, and it is shown as JSON and for
 * Prometheus; and the last errors. */
#include "test.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "serve/last_errors.h"
#include "serve/rank_stats.h"

enum { WORLD = 2 };

static void know(struct rank_stats *s, bool timed) {
    struct error err;
    rank_stats_init(s);
    assert_ok(
        rank_stats_know(s,
                        json_pack("{s:i, s:[{s:s, s:s}, {s:s, s:s}]}", "world", WORLD, "ranks",
                                  "host", "a\"b", "device", "host", "host", "c", "device", "host"),
                        timed, &err),
        &err);
}

/* Rank r computes, waits and transfers so many seconds more than the rank before. */
static void add(struct rank_stats *s, double at, uint64_t tokens, double step_s, double wait_s,
                double transfer_s) {
    struct message_stats told[WORLD];
    double pings[WORLD];
    for (int r = 0; r < WORLD; r++) {
        told[r] = (struct message_stats){.n_step = 1,
                                         .step_s = (r + 1) * step_s,
                                         .wait_s = (r + 1) * wait_s,
                                         .transfer_s = (r + 1) * transfer_s,
                                         .n_collective = 10,
                                         .bytes_sent = 1000,
                                         .rss = 4096 + tokens};
        pings[r] = at / 1000;
    }
    rank_stats_add(s, at, tokens, told, pings);
}

static const json_t *field(const json_t *view, int rank, const char *name) {
    return json_object_get(json_array_get(json_object_get(view, "ranks"), (size_t)rank), name);
}

static void assert_real(const json_t *value, double expected) {
    double got = json_number_value(value);
    if (!(fabs(got - expected) < 1e-9)) {
        fail_msg("%.17g is not %.17g", got, expected);
    }
}

static void numbers_add_up(void **state) {
    (void)state;
    struct rank_stats s;
    know(&s, true);
    add(&s, 100, 5, 0.5, 0.25, 0.125);
    add(&s, 101, 25, 0.5, 0.125, 0.125);
    add(&s, 103, 65, 1, 0.5, 0);
    json_t *view = rank_stats_json(&s);
    assert_real(field(view, 0, "compute_seconds"), 0.125 + 0.25 + 0.5);
    assert_real(field(view, 1, "compute_seconds"), 2 * (0.125 + 0.25 + 0.5));
    assert_real(field(view, 1, "wait_seconds"), 2 * 0.875);
    assert_real(field(view, 0, "transfer_seconds"), 0.25);
    assert_int_equal(json_integer_value(field(view, 0, "collectives")), 30);
    assert_int_equal(json_integer_value(field(view, 1, "bytes_sent")), 3000);
    /* of the last sample alone */
    assert_real(field(view, 0, "ping_seconds"), 0.103);
    assert_int_equal(json_integer_value(field(view, 0, "resident_bytes")), 4096 + 65);
    /* the window of 3 s holds all three samples; the first is where it begins */
    assert_real(field(view, 0, "compute_share"), 0.75 / 3);
    assert_real(field(view, 1, "wait_share"), 2 * 0.625 / 3);
    assert_real(field(view, 0, "transfer_share"), 0.125 / 3);
    assert_real(field(view, 0, "collectives_per_second"), 20 / 3.);
    assert_real(field(view, 0, "bytes_per_second"), 2000 / 3.);
    assert_real(json_object_get(view, "tokens_per_second"), 20);
    json_decref(view);
    rank_stats_finish(&s);
}

/* Many samples: the sums keep all, the window only the last, and a gap is bridged. */
static void the_window_moves(void **state) {
    (void)state;
    struct rank_stats s;
    know(&s, true);
    for (int i = 0; i < 50; i++) {
        add(&s, i, (uint64_t)i * 10, 0.5, 0, 0);
    }
    for (int i = 50; i < 54; i++) {
        add(&s, i, 1000 + (uint64_t)(i - 50) * 2, 0.25, 0, 0);
    }
    json_t *view = rank_stats_json(&s);
    assert_real(field(view, 0, "compute_seconds"), 50 * 0.5 + 4 * 0.25);
    assert_real(field(view, 0, "compute_share"), 0.25);
    assert_real(json_object_get(view, "tokens_per_second"), 2);
    json_decref(view);
    add(&s, 153, 1106, 1, 0, 0); /* nobody looked for 100 s */
    view = rank_stats_json(&s);
    assert_real(field(view, 0, "compute_share"), 0.01);
    assert_real(json_object_get(view, "tokens_per_second"), 1);
    json_decref(view);
    rank_stats_finish(&s);
}

/* What rounds to less than nothing adds nothing; before the second sample there are no rates, and
 * before the first no numbers. */
static void little_is_known(void **state) {
    (void)state;
    struct rank_stats s;
    rank_stats_init(&s);
    json_t *view = rank_stats_json(&s);
    assert_int_equal(json_object_size(view), 0);
    json_decref(view);
    rank_stats_finish(&s);
    know(&s, true);
    view = rank_stats_json(&s);
    assert_null(field(view, 0, "compute_seconds"));
    json_decref(view);
    add(&s, 1, 1, 0.5, 0.3, 0.2000001);
    view = rank_stats_json(&s);
    assert_true(json_number_value(field(view, 0, "compute_seconds")) == 0);
    assert_null(field(view, 0, "compute_share"));
    assert_null(json_object_get(view, "tokens_per_second"));
    json_decref(view);
    rank_stats_finish(&s);
}

static void assert_has(const struct buffer *text, const char *line, bool has) {
    if (!memmem(text->data, text->size, line, strlen(line)) == has) {
        fail_msg("%s\nis %sin\n%.*s", line, has ? "not " : "", (int)text->size, (char *)text->data);
    }
}

static void prometheus(void **state) {
    (void)state;
    for (int timed = 0; timed < 2; timed++) {
        struct rank_stats s;
        struct buffer out = {0};
        struct error err;
        know(&s, timed);
        add(&s, 1, 7, 1, 0.25, 0.25);
        assert_ok(rank_stats_text(&s, &out, &err), &err);
#define LABELS "{rank=\"0\",host=\"a\\\"b\",device=\"host\"}"
        assert_has(&out, "\n# TYPE lockstep_rank_sent_bytes_total counter\n", true);
        assert_has(&out, "\nlockstep_rank_compute_seconds_total" LABELS " 0.5\n", true);
        assert_has(&out, "\nlockstep_rank_sent_bytes_total" LABELS " 1000\n", true);
        assert_has(&out, "\nlockstep_rank_resident_memory_bytes" LABELS " 4103\n", true);
        assert_has(&out, "\nlockstep_rank_wait_seconds_total" LABELS " 0.25\n", timed);
        assert_has(&out, "lockstep_rank_transfer", timed);
        buffer_finish(&out);
        json_t *view = rank_stats_json(&s);
        assert_true(json_is_null(field(view, 1, "wait_seconds")) == !timed);
        json_decref(view);
        rank_stats_finish(&s);
    }
}

/* Who asks wakes the main thread where the numbers are old, and not while they are fresh. */
static void who_asks(void **state) {
    (void)state;
    struct rank_stats s;
    know(&s, true);
    assert_true(rank_stats_want(&s));
    add(&s, clock_now(), 0, 1, 0, 0);
    assert_false(rank_stats_want(&s));
    add(&s, clock_now() - 2, 0, 1, 0, 0);
    assert_true(rank_stats_want(&s));
    rank_stats_finish(&s);
}

static void errors(void **state) {
    (void)state;
    struct last_errors e = {0};
    char text[500];
    last_errors_note(&e, 1, "first");
    last_errors_note(&e, 2, "first");
    json_t *list = last_errors_json(&e);
    assert_int_equal(json_array_size(list), 1);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(list, 0), "time")), 2);
    json_decref(list);
    for (int i = 0; i < 20; i++) {
        snprintf(text, sizeof text, "number %d", i);
        last_errors_note(&e, i, text);
    }
    memset(text, 'x', sizeof text);
    text[0] = (char)0xff;
    text[sizeof text - 1] = 0;
    last_errors_note(&e, 99, text);
    list = last_errors_json(&e);
    assert_int_equal(json_array_size(list), LAST_ERRORS_KEPT);
    assert_string_equal(
        json_string_value(json_object_get(json_array_get(list, LAST_ERRORS_KEPT - 2), "message")),
        "number 19");
    assert_int_equal(json_string_value(
                         json_object_get(json_array_get(list, LAST_ERRORS_KEPT - 1), "message"))[0],
                     '?');
    json_decref(list);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_add_up),  cmocka_unit_test(the_window_moves),
        cmocka_unit_test(little_is_known), cmocka_unit_test(prometheus),
        cmocka_unit_test(who_asks),        cmocka_unit_test(errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
