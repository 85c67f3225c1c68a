/* Who is behind. */
#include "test.h"

#include <stdio.h>
#include <string.h>

#include "rpc/blame.h"

enum { MAX = 8 };

static struct blame_rank ranks[MAX];
static struct error err;

static void at(int rank, uint64_t number, bool inside, char state) {
    ranks[rank] = (struct blame_rank){
        .known = true,
        .state = state,
        .collective = {.kind = FLIGHT_COLLECTIVE,
                       .number = number,
                       .op = "all-reduce",
                       .layer = 17,
                       .part = FLIGHT_MLP,
                       .leave_ns = inside ? 0 : 1},
        .collective_s = 8.2,
    };
}

static void all_at(int world, uint64_t number) {
    memset(ranks, 0, sizeof ranks);
    memset(&err, 0, sizeof err);
    for (int r = 0; r < world; r++) {
        at(r, number, true, 'S');
    }
}

static void expect(int world, int suspect, int rank, enum error_kind kind, const char *message) {
    error_set(&err, ERROR_DEADLINE, "as it was");
    error_at_rank(&err, 0);
    assert_true(blame_find(ranks, world, suspect, &err));
    assert_string_equal(err.message, message);
    assert_int_equal(err.kind, kind);
    assert_int_equal(err.rank, rank);
    assert_true(err.has_rank);
}

static void expect_nobody(int world, int suspect) {
    error_set(&err, ERROR_DEADLINE, "as it was");
    assert_false(blame_find(ranks, world, suspect, &err));
    assert_string_equal(err.message, "as it was");
}

static void one_is_behind(void **state) {
    (void)state;
    all_at(8, 91235);
    at(3, 91234, false, 'R');
    expect(8, 1, 3, ERROR_DEADLINE,
           "hang: last entered layer 17 mlp all-reduce #91234 8.2 s ago; the other 7 ranks are at "
           "#91235");
    at(3, 91234, false, 'T');
    expect(8, -1, 3, ERROR_DEADLINE,
           "hang: is stopped (SIGSTOP), last entered layer 17 mlp all-reduce #91234 8.2 s ago; the "
           "other 7 ranks are at #91235");
    ranks[5].known = false;
    at(3, 91234, false, 'D');
    expect(8, 5, 3, ERROR_DEADLINE,
           "hang: waits in the kernel, as for a disk, last entered layer 17 mlp all-reduce #91234 "
           "8.2 s ago; 6 of the other 7 ranks are at #91235");
    all_at(2, 1);
    at(1, 0, false, 'S');
    expect(2, -1, 1, ERROR_DEADLINE, "hang: entered no collective yet; the other rank is at #1");
}

/* It is to blame wherever the others wait for it, and they are not: they come round. */
static void one_stands_still(void **state) {
    (void)state;
    for (int stuck = 0; stuck < 3; stuck++) {
        for (int inside = 0; inside < 2; inside++) {
            char words[200];
            all_at(3, 12); /* the others are on the way to the next, or wait in it */
            at((stuck + 1) % 3, 13, true, 'S');
            at((stuck + 2) % 3, 12, false, 'S');
            at(stuck, 12, inside, 'S');
            ranks[(stuck + 2) % 3].still_s = 0.9; /* a crowded host */
            ranks[stuck].still_s = 4.2;
            snprintf(words, sizeof words,
                     "hang: its main thread has been stuck for 4.2 s, last entered layer 17 mlp "
                     "all-reduce #12 8.2 s ago; 1 of the other 2 ranks is at #13");
            expect(3, (stuck + 1) % 3, stuck, ERROR_DEADLINE, words);
        }
    }
    all_at(2, 7);
    ranks[0].still_s = 4.2;
    ranks[0].rpc = (struct flight_entry){.kind = FLIGHT_RPC, .number = 9, .op = "unload"};
    expect(2, 1, 0, ERROR_DEADLINE,
           "hang: its main thread has been stuck for 4.2 s in unload #9, last entered layer 17 mlp "
           "all-reduce #7 8.2 s ago; the other rank is at #7");
    ranks[1].still_s = 4.3; /* both are: the first one to blame is the first to have been */
    ranks[1].state = 'D';
    expect(
        2, -1, 1, ERROR_DEADLINE,
        "hang: waits in the kernel, as for a disk, last entered layer 17 mlp all-reduce #7 8.2 s "
        "ago; the other rank is at #7");
    ranks[0].state = 'X';
    expect(2, -1, 0, ERROR_RANK_LOST,
           "its process has ended: last entered layer 17 mlp all-reduce #7 8.2 s ago; the other "
           "rank is at #7");
    all_at(1, 7);
    ranks[0].still_s = 60.4;
    expect(1, 0, 0, ERROR_DEADLINE,
           "hang: its main thread has been stuck for 60.4 s, last entered layer 17 mlp all-reduce "
           "#7 8.2 s ago");
    ranks[0].still_s = 0.9;
    expect_nobody(1, 0);
    all_at(2, 7);
    ranks[0].known = false; /* of another host */
    ranks[1].still_s = 4.2;
    expect(
        2, 1, 1, ERROR_DEADLINE,
        "hang: its main thread has been stuck for 4.2 s, last entered layer 17 mlp all-reduce #7 "
        "8.2 s ago");
}

static void a_pulse_is_a_promise(void **state) {
    (void)state;
    struct blame_rank self = {.known = true}, other = {.known = true};
    assert_true(blame_still_seconds(4000000000, 6.5) == 2.5);
    assert_true(blame_still_seconds(8000000000, 6.5) == 0); /* its word is good until then */
    assert_true(blame_still_seconds(0, 6.5) == 0);
    assert_false(blame_is_odd(&other, &self));
    other.still_s = 1.1;
    assert_true(blame_is_odd(&other, &self));
}

static void one_has_run_ahead(void **state) {
    (void)state;
    all_at(3, 100); /* a gather is left by whom it does not make wait */
    at(1, 103, false, 'S');
    at(2, 99, false, 'S');
    expect(3, -1, 2, ERROR_DEADLINE,
           "hang: last entered layer 17 mlp all-reduce #99 8.2 s ago; 1 of the other 2 ranks is "
           "at #103");
}

static void one_has_ended(void **state) {
    (void)state;
    all_at(3, 12);
    at(2, 12, true, 'Z');
    at(1, 11, false, 'T');
    expect(3, 1, 2, ERROR_RANK_LOST,
           "its process has ended: last entered layer 17 mlp all-reduce #12 8.2 s ago; 1 of the "
           "other 2 ranks is at #12");
}

static void one_cannot_be_read(void **state) {
    (void)state;
    all_at(8, 91235);
    ranks[3].known = false;
    expect(8, 1, 3, ERROR_DEADLINE,
           "hang: last heard at #91234, 8.2 s ago; the others wait in #91235");
    ranks[6].known = false;
    expect(8, 6, 6, ERROR_DEADLINE,
           "hang: last heard at #91234, 8.2 s ago; the others wait in #91235");
}

static void one_is_in_a_request(void **state) {
    (void)state;
    for (int r = 0; r < 3; r++) {
        at(r, 5, false, 'S');
    }
    expect_nobody(3, 2);
    ranks[2].rpc = (struct flight_entry){.kind = FLIGHT_RPC, .number = 9, .op = "load"};
    ranks[2].rpc_s = 3.14;
    expect(3, 2, 2, ERROR_DEADLINE, "hang: in load #9 for 3.1 s, outside of collectives");
    expect_nobody(3, -1);
    ranks[2].state = 'T';
    expect(3, 2, 2, ERROR_DEADLINE,
           "hang: is stopped (SIGSTOP), last entered layer 17 mlp all-reduce #5 8.2 s ago; the "
           "other 2 ranks are at #5");
}

static void nobody_stands_out(void **state) {
    (void)state;
    all_at(4, 5);
    expect_nobody(4, 2);
    expect_nobody(1, 0);
}

static void one_called_something_else(void **state) {
    (void)state;
    static struct flight_entry entries[3][2];
    all_at(3, 8);
    for (int r = 0; r < 3; r++) {
        for (int i = 0; i < 2; i++) {
            entries[r][i] = ranks[r].collective;
            entries[r][i].number = 7 + (uint64_t)i;
            entries[r][i].bytes = 4096;
            entries[r][i].type = FLIGHT_F32;
        }
        ranks[r].entries = entries[r];
        ranks[r].n_entry = 2;
    }
    expect_nobody(3, -1);
    entries[0][0].bytes = 64;
    at(1, 7, false, 'S'); /* behind, too: but that follows from the other */
    ranks[1].entries = entries[1];
    ranks[1].n_entry = 1;
    expect(3, -1, 0, ERROR_RANK_MISMATCH,
           "called layer 17 mlp all-reduce #7 of 64 bytes (f32) where the other 2 ranks called "
           "all-reduce of 4096 bytes (f32)");
}

static void places_travel(void **state) {
    (void)state;
    struct message_place m;
    struct blame_rank back;
    all_at(1, 91234);
    ranks[0].collective.bytes = 4096;
    ranks[0].collective.type = FLIGHT_F32;
    ranks[0].rpc = (struct flight_entry){.kind = FLIGHT_RPC, .number = 9, .op = "step"};
    ranks[0].rpc_s = 8.5;
    ranks[0].still_s = 8.25;
    blame_to_message(&ranks[0], 3, &m);
    assert_int_equal(m.rank, 3);
    blame_from_message(&back, &m);
    assert_true(back.known);
    assert_int_equal(back.state, 'S');
    assert_int_equal(back.collective.number, 91234);
    assert_string_equal(back.collective.op, "all-reduce");
    assert_int_equal(back.collective.layer, 17);
    assert_int_equal(back.collective.part, FLIGHT_MLP);
    assert_int_equal(back.collective.leave_ns, 0);
    assert_int_equal(back.rpc.number, 9);
    assert_true(back.still_s == 8.25);
    m.part = 77; /* from whom it may be */
    m.type = -1;
    m.state = 300;
    blame_from_message(&back, &m);
    assert_int_equal(back.collective.part, FLIGHT_NOWHERE);
    assert_int_equal(back.collective.type, FLIGHT_BYTES);
    assert_int_equal(back.state, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_is_behind),
        cmocka_unit_test(one_stands_still),
        cmocka_unit_test(a_pulse_is_a_promise),
        cmocka_unit_test(one_has_run_ahead),
        cmocka_unit_test(one_has_ended),
        cmocka_unit_test(one_cannot_be_read),
        cmocka_unit_test(one_is_in_a_request),
        cmocka_unit_test(nobody_stands_out),
        cmocka_unit_test(one_called_something_else),
        cmocka_unit_test(places_travel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
