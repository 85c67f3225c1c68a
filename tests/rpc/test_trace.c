/* Traces: what is written is read, whatever the file is; and requests with their replies. */
#include "test.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/random.h"
#include "rpc/exchange.h"
#include "rpc/message_compare.h"
#include "tempdir.h"

static struct tempdir dir;

static int make_dir(void **state) {
    (void)state;
    tempdir_make(&dir);
    return 0;
}

static int remove_dir(void **state) {
    (void)state;
    tempdir_remove(&dir);
    return 0;
}

static struct trace *begin(int world) {
    struct trace *t;
    struct error err;
    assert_ok(trace_open(&t, tempdir_join(&dir, "trace"), world, &err), &err);
    return t;
}

static void say(struct trace *t, enum trace_direction direction, int peer,
                const struct message *m) {
    struct buffer b = {0};
    struct error err;
    assert_ok(message_encode(&b, m, &err), &err);
    trace_frame(t, direction, peer, message_side(m->type), b.data, b.size);
    buffer_finish(&b);
}

static void ping(struct trace *t, int peer, uint64_t seq) {
    say(t, TRACE_SENT, peer, &(struct message){.type = MESSAGE_PING, .seq = seq});
}

static void pong(struct trace *t, int peer, uint64_t seq, int rank) {
    struct message m = {.type = MESSAGE_PONG, .seq = seq};
    m.pong.rank = rank;
    say(t, TRACE_RECEIVED, peer, &m);
}

static struct buffer read_whole(void) {
    struct buffer b = {0};
    struct error err;
    assert_ok(buffer_read_file(&b, tempdir_join(&dir, "trace"), 1 << 28, &err), &err);
    return b;
}

/* ---- frames ---- */

static void frames_come_back(void **state) {
    (void)state;
    static unsigned char large[200001];
    struct trace *t = begin(3);
    struct trace_reader *r;
    struct trace_entry e;
    struct error err;
    bool got;
    memset(large, 7, sizeof large);
    trace_frame(t, TRACE_SENT, 2, SIDE_REQUEST, "abc", 3);
    trace_frame(t, TRACE_RECEIVED, 1, SIDE_NOTICE, "", 0);
    trace_frame(t, TRACE_RECEIVED, 0, SIDE_REPLY, large, 300);
    trace_frame(t, TRACE_RECEIVED, 0, SIDE_REPLY, large, sizeof large);
    trace_close(t);
    assert_ok(trace_reader_open(&r, tempdir_join(&dir, "trace"), &err), &err);
    assert_int_equal(trace_reader_world(r), 3);
    static const struct trace_entry expected[] = {
        {0, TRACE_SENT, 2, SIDE_REQUEST, NULL, 3},
        {0, TRACE_RECEIVED, 1, SIDE_NOTICE, NULL, 0},
        {0, TRACE_RECEIVED, 0, SIDE_REPLY, NULL, 300},
        {0, TRACE_RECEIVED, 0, SIDE_REPLY, NULL, sizeof large},
    };
    uint64_t last = 0;
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        const struct trace_entry *x = &expected[i];
        assert_ok(trace_reader_next(r, &e, &got, &err), &err);
        assert_true(got && e.direction == x->direction && e.peer == x->peer && e.side == x->side &&
                    e.size == x->size && e.when_ns >= last);
        last = e.when_ns;
    }
    assert_memory_equal(e.frame, large, sizeof large);
    assert_ok(trace_reader_next(r, &e, &got, &err), &err);
    assert_false(got || trace_reader_is_cut(r));
    assert_true(trace_reader_share(r) == 1);
    trace_reader_close(r);
}

/* Reads all requests; how many there were, -1 for an error. */
static int read_all(const void *bytes, size_t n, bool *cut, struct error *err) {
    struct exchange_reader *r;
    struct exchange x;
    bool got = true;
    int count = 0;
    tempdir_write(&dir, "trace", bytes, n);
    *cut = false;
    if (!exchange_reader_open(&r, tempdir_join(&dir, "trace"), err)) {
        return -1;
    }
    bool ok = true;
    while (ok && got) {
        ok = exchange_reader_next(r, &x, &got, err);
        count += ok && got;
    }
    *cut = trace_reader_is_cut(exchange_reader_trace(r));
    exchange_reader_close(r);
    return ok ? count : -1;
}

static void write_two_pings(void) {
    struct trace *t = begin(1);
    for (uint64_t seq = 1; seq <= 2; seq++) {
        ping(t, 0, seq);
        pong(t, 0, seq, 0);
    }
    trace_close(t);
}

/* A run that is killed leaves such. */
static void every_truncation_is_read_or_refused(void **state) {
    (void)state;
    struct error err;
    bool cut;
    int n_cut = 0, n_refused = 0;
    write_two_pings();
    struct buffer whole = read_whole();
    for (size_t n = 0; n < whole.size; n++) {
        int count = read_all(whole.data, n, &cut, &err);
        if (count < 0) {
            assert_error(false, &err, ERROR_INPUT, "trace: byte 0: cut off", "");
            n_refused++;
        } else {
            assert_in_range(count, 0, 2);
            n_cut += cut;
        }
    }
    assert_int_equal(read_all(whole.data, whole.size, &cut, &err), 2);
    assert_false(cut);
    assert_true(n_refused > 20 && n_cut > 80);
    buffer_finish(&whole);
}

static const char good_header[] = "\x94\xaelockstep-trace\x01\x02\xa1"
                                  "b";

struct hostile {
    const char *bytes;
    size_t n;
    const char *words; /* NULL: taken for one that is cut off */
};

#define HOSTILE(text, words)                                                                       \
    { text, sizeof text - 1, words }

static void headers_are_held_to_the_format(void **state) {
    (void)state;
    static const struct hostile cases[] = {
        HOSTILE("{\"a\": 1}", "not a trace"),
        HOSTILE("\x95\xaelockstep-trace\x01\x02\xa1"
                "b",
                "not a trace"),
        HOSTILE("\x94\xaelockstep-flute\x01\x02\xa1"
                "b",
                "not a trace"),
        HOSTILE("\x94\xd9\xff"
                "aaaa",
                "too long"),
        HOSTILE("\x94\x07", "not a text"),
        HOSTILE("\x94\xaelockstep-trace\x02\x02\xa1"
                "b",
                "another version"),
        HOSTILE("\x94\xaelockstep-trace\xff\x02\xa1"
                "b",
                "no version"),
        HOSTILE("\x94\xaelockstep-trace\x01\x00\xa1"
                "b",
                "number of ranks"),
        HOSTILE("\x94\xaelockstep-trace\x01\xcd\x10\x01\xa1"
                "b",
                "number of ranks"),
        HOSTILE("\x94\xaelockstep-trace\x01\xcf\xff\xff\xff\xff\xff\xff\xff\xff\xa1"
                "b",
                "number of ranks"),
        HOSTILE("\x94\xaelockstep-trace\x01\xd0\xff\xa1"
                "b",
                "number of ranks"),
        HOSTILE("\x94\xaelockstep-trace\x01\x02\xd9\x20"
                "0123456789abcdef0123456789abcdef",
                "too long"),
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error err;
        bool cut;
        bool ok = read_all(cases[i].bytes, cases[i].n, &cut, &err) >= 0;
        assert_error(ok, &err, ERROR_INPUT, cases[i].words, "trace: byte 0: ");
    }
}

static void entries_are_held_to_the_format(void **state) {
    (void)state;
    static const struct hostile cases[] = {
        HOSTILE("\x94\x00\x00\x00\x00\xc4\x00", "not an entry"),
        HOSTILE("\x95\xff", "no time"),
        HOSTILE("\x95\x00\x02\x00\x00\xc4\x00", "no direction"),
        HOSTILE("\x95\x00\x00\x02\x00\xc4\x00", "no rank of this trace"),
        HOSTILE("\x95\x00\x00\xce\xff\xff\xff\xff\x00\xc4\x00", "no rank of this trace"),
        HOSTILE("\x95\x00\x00\x00\x03\xc4\x00", "no side"),
        HOSTILE("\x95\x00\x00\x00\x00\xa1t", "not a bin"),
        HOSTILE("\x95\x00\x00\x00\x00\xc6\xff\xff\xff\xff", "more than 64 MiB"),
        HOSTILE("\x95\x00\x00\x00\x00\xc6\x04\x00\x00\x01", "more than 64 MiB"),
        HOSTILE("\x95\x00\x00\x00\x00\xc6\x04\x00\x00\x00"
                "abc",
                NULL),
        HOSTILE("\x95\x00\x00\x00\x00\xc4\x01\xc0", "not a map"),
        HOSTILE("\x95\x00\x00\x00\x00\xc4\x01\xdf", "cut off"),
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct buffer b = {0};
        struct error err;
        bool cut;
        assert_ok(buffer_append(&b, good_header, sizeof good_header - 1, &err) &&
                      buffer_append(&b, cases[i].bytes, cases[i].n, &err),
                  &err);
        int count = read_all(b.data, b.size, &cut, &err);
        if (cases[i].words) {
            assert_error(count >= 0, &err, ERROR_INPUT, cases[i].words, "trace: byte 20: ");
        } else {
            assert_true(count == 0 && cut);
        }
        buffer_finish(&b);
    }
}

static void what_is_no_file_is_refused(void **state) {
    (void)state;
    struct exchange_reader *r;
    struct error err;
    assert_error(exchange_reader_open(&r, dir.path, &err), &err, ERROR_IO, "not a regular file",
                 "");
    assert_error(exchange_reader_open(&r, "/nonexistent", &err), &err, ERROR_IO, "No such file",
                 "");
    assert_int_equal(mkfifo(tempdir_join(&dir, "fifo"), 0600), 0);
    assert_error(exchange_reader_open(&r, tempdir_join(&dir, "fifo"), &err), &err, ERROR_IO,
                 "not a regular file", "");
}

/* Whatever comes, reading says yes or no; the sanitizers see the rest. */
static void random_damage_does_no_harm(void **state) {
    (void)state;
    struct random dice;
    int n_read = 0, n_refused = 0;
    write_two_pings();
    struct buffer whole = read_whole(), copy = {0};
    random_init(&dice, 7);
    for (int i = 0; i < 3000; i++) {
        struct error err = {0};
        bool cut;
        buffer_clear(&copy);
        assert_ok(buffer_append(&copy, whole.data, whole.size, &err), &err);
        for (uint64_t j = random_u64(&dice) % 3 + 1; j > 0; j--) {
            copy.data[random_u64(&dice) % copy.size] = (unsigned char)random_u64(&dice);
        }
        int count = read_all(copy.data, copy.size, &cut, &err);
        n_read += count >= 0;
        n_refused += count < 0;
        assert_true(count >= 0 || err.kind == ERROR_INPUT);
    }
    assert_true(n_read > 100 && n_refused > 100);
    buffer_finish(&whole);
    buffer_finish(&copy);
}

/* ---- requests ---- */

static struct exchange_reader *open_trace(void) {
    struct exchange_reader *r;
    struct error err;
    assert_ok(exchange_reader_open(&r, tempdir_join(&dir, "trace"), &err), &err);
    return r;
}

static void next(struct exchange_reader *r, struct exchange *x) {
    struct error err;
    bool got;
    assert_ok(exchange_reader_next(r, x, &got, &err), &err);
    assert_true(got);
}

static void replies_find_their_request(void **state) {
    (void)state;
    struct exchange x;
    struct trace *t = begin(2);
    pong(t, 1, 0, 1); /* to nothing */
    ping(t, 1, 4);
    ping(t, 0, 5); /* 4 was given up */
    ping(t, 1, 5);
    pong(t, 0, 5, 0);
    pong(t, 1, 4, 1); /* late */
    pong(t, 1, 5, 6);
    ping(t, 0, 6);
    trace_close(t);
    struct exchange_reader *r = open_trace();
    next(r, &x);
    assert_true(x.number == 1 && x.request.seq == 4 && x.rank == 1);
    assert_false(x.has_reply[0] || x.has_reply[1]);
    next(r, &x);
    assert_true(x.number == 2 && x.request.seq == 5 && x.rank == -1);
    assert_true(x.has_reply[0] && x.has_reply[1] && x.seconds >= 0);
    assert_true(x.replies[0].pong.rank == 0 && x.replies[1].pong.rank == 6);
    next(r, &x);
    assert_true(x.number == 3 && x.rank == 0 && !x.has_reply[0] && !x.has_reply[1]);
    exchange_reader_close(r);
}

static void a_failed_step_has_the_ranks_word(void **state) {
    (void)state;
    int32_t token = 5, block = 0;
    struct step_seq seq = {.n_tok = 1, .tokens = &token, .n_block = 1, .blocks = &block};
    struct message step = {.type = MESSAGE_STEP, .seq = 9}, m;
    struct error cause = {.kind = ERROR_MEMORY, .message = "step: none left"};
    struct exchange x;
    struct trace *t = begin(2);
    step.step = (struct step){.n_seq = 1, .seqs = &seq};
    say(t, TRACE_SENT, 0, &step);
    say(t, TRACE_SENT, 1, &step);
    message_from_error(&m, MESSAGE_TROUBLE, 9, &cause);
    say(t, TRACE_RECEIVED, 1, &m);
    m = (struct message){.type = MESSAGE_STEPPED, .seq = 9};
    m.stepped.digest = 77;
    say(t, TRACE_RECEIVED, 0, &m);
    ping(t, 0, 10);
    trace_close(t);
    struct exchange_reader *r = open_trace();
    next(r, &x);
    assert_true(x.request.type == MESSAGE_STEP && x.request.step.n_seq == 1);
    assert_int_equal(x.request.step.seqs[0].tokens[0], 5); /* after the others were decoded */
    assert_true(x.replies[0].type == MESSAGE_STEPPED && x.replies[0].stepped.digest == 77);
    assert_true(x.replies[1].type == MESSAGE_ERROR);
    assert_string_equal(x.replies[1].error.kind, "no_memory");
    exchange_reader_close(r);
}

static void another_protocol_is_refused(void **state) {
    (void)state;
    struct message m = {.type = MESSAGE_HELLO, .seq = 1};
    struct exchange_reader *r;
    struct exchange x;
    struct error err;
    bool got;
    struct trace *t = begin(1);
    m.hello.protocol = PROTOCOL_VERSION - 1;
    say(t, TRACE_SENT, 0, &m);
    trace_close(t);
    r = open_trace();
    assert_error(exchange_reader_next(r, &x, &got, &err), &err, ERROR_INPUT,
                 "recorded with protocol ", "byte 3");
    exchange_reader_close(r);
}

/* ---- comparing ---- */

static bool not_pid(void *user, enum message_type type, const char *field) {
    return *(const bool *)user || type != MESSAGE_HELLO_OK || strcmp(field, "pid") != 0;
}

static void the_first_difference_that_counts(void **state) {
    (void)state;
    struct message a = {.type = MESSAGE_HELLO_OK}, b;
    struct message_difference d;
    bool all = true, few = false;
    snprintf(a.hello_ok.host, sizeof a.hello_ok.host, "a\x1b[2J");
    a.hello_ok.pid = 5;
    b = a;
    memset(b.hello_ok.build + 1, 9, 3); /* beyond the text's end */
    assert_true(message_compare(&a, &b, not_pid, &all, &d));
    b.hello_ok.pid = -6;
    b.hello_ok.gpu_memory = UINT64_MAX;
    assert_false(message_compare(&a, &b, not_pid, &all, &d));
    assert_string_equal(d.field, "pid");
    assert_string_equal(d.recorded, "5");
    assert_string_equal(d.now, "-6");
    assert_false(message_compare(&a, &b, not_pid, &few, &d));
    assert_string_equal(d.field, "gpu_memory");
    assert_string_equal(d.now, "18446744073709551615");
    strcpy(b.hello_ok.host, "b");
    assert_false(message_compare(&a, &b, not_pid, &few, &d));
    assert_string_equal(d.field, "host");
    assert_string_equal(d.recorded, "a?[2J");
}

static void an_error_is_another_reply(void **state) {
    (void)state;
    struct message a = {.type = MESSAGE_LOADED}, b;
    struct error cause = {.kind = ERROR_IO, .message = "load: x: gone\n"};
    struct message_difference d;
    bool all = true;
    message_from_error(&b, MESSAGE_ERROR, 0, &cause);
    assert_false(message_compare(&a, &b, not_pid, &all, &d));
    assert_string_equal(d.field, "type");
    assert_string_equal(d.recorded, "loaded");
    assert_string_equal(d.now, "error io: load: x: gone?");
    assert_true(message_has_field("loaded.bytes") && message_has_field("stats.rss"));
    assert_false(message_has_field("loaded") || message_has_field("load.dir") ||
                 message_has_field("loaded.dir") || message_has_field("loaded.bytes "));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_come_back),
        cmocka_unit_test(every_truncation_is_read_or_refused),
        cmocka_unit_test(headers_are_held_to_the_format),
        cmocka_unit_test(entries_are_held_to_the_format),
        cmocka_unit_test(what_is_no_file_is_refused),
        cmocka_unit_test(random_damage_does_no_harm),
        cmocka_unit_test(replies_find_their_request),
        cmocka_unit_test(a_failed_step_has_the_ranks_word),
        cmocka_unit_test(another_protocol_is_refused),
        cmocka_unit_test(the_first_difference_that_counts),
        cmocka_unit_test(an_error_is_another_reply),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
