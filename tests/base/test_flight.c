/* The flight record: the ring, and readers while it is written. */
#include "test.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/flight_peers.h"

static struct flight_entry entries[FLIGHT_ENTRIES];

static struct flight *before; /* the process' own, where no memory was given */

static struct flight *fresh(void) {
    struct flight *f = calloc(1, flight_size());
    assert_non_null(f);
    before = before ? before : flight_own();
    flight_place_in(f, 7);
    return f;
}

static void done(struct flight *f) {
    flight_use(before);
    free(f);
}

static uint64_t reduce(uint64_t bytes, double now) {
    const struct flight_call call = {"all-reduce", bytes, FLIGHT_F32};
    return flight_enter_collective(&call, now);
}

static void an_entry_says_all(void **state) {
    (void)state;
    struct flight *f = fresh();
    struct flight_entry e;
    assert_int_equal(flight_read(f, entries), 0);
    assert_false(flight_read_last(f, FLIGHT_RPC, &e));
    uint64_t step = flight_enter_rpc(41, "step", 99, 1.5);
    flight_place(17, FLIGHT_MLP);
    uint64_t sum = reduce(4096, 2);
    assert_int_equal(flight_read(f, entries), 2);
    assert_int_equal(entries[0].kind, FLIGHT_RPC);
    assert_int_equal(entries[0].number, 41);
    assert_string_equal(entries[0].op, "step");
    assert_int_equal(entries[0].bytes, 99);
    assert_int_equal(entries[0].layer, -1);
    assert_int_equal(entries[0].enter_ns, 1500000000);
    e = entries[1];
    assert_int_equal(e.kind, FLIGHT_COLLECTIVE);
    assert_int_equal(e.number, 1);
    assert_string_equal(e.op, "all-reduce");
    assert_int_equal(e.layer, 17);
    assert_int_equal(e.part, FLIGHT_MLP);
    assert_int_equal(e.type, FLIGHT_F32);
    assert_int_equal(e.bytes, 4096);
    assert_int_equal(e.leave_ns, 0);
    flight_place(3, FLIGHT_HEAD); /* which is in no layer */
    reduce(1, 2);
    assert_true(flight_read_last(f, FLIGHT_COLLECTIVE, &e));
    assert_int_equal(e.layer, -1);
    flight_leave(sum, 2.5);
    flight_leave(step, 3);
    assert_int_equal(flight_read(f, entries), 3);
    assert_int_equal(entries[0].leave_ns, 3000000000);
    assert_int_equal(entries[1].leave_ns, 2500000000);
    done(f);
}

static void the_ring_keeps_the_last(void **state) {
    (void)state;
    struct flight *f = fresh();
    struct flight_entry e;
    uint64_t step = flight_enter_rpc(5, "step", 0, 1);
    uint64_t first = reduce(1, 1);
    for (uint64_t i = 2; i <= 1000; i++) {
        flight_leave(reduce(i, (double)i), (double)i + 0.5);
    }
    flight_leave(first, 9); /* long overwritten: must not touch whoever is there now */
    assert_int_equal(flight_read(f, entries), FLIGHT_ENTRIES);
    for (int i = 0; i < FLIGHT_ENTRIES; i++) {
        uint64_t n = 1000 - FLIGHT_ENTRIES + 1 + (uint64_t)i;
        assert_int_equal(entries[i].number, n);
        assert_int_equal(entries[i].bytes, n);
        assert_int_equal(entries[i].leave_ns, n * 1000000000 + 500000000);
    }
    assert_true(flight_read_last(f, FLIGHT_RPC, &e)); /* out of the ring, and still known */
    assert_int_equal(e.number, 5);
    assert_int_equal(e.leave_ns, 0);
    flight_leave(step, 2000);
    assert_true(flight_read_last(f, FLIGHT_RPC, &e));
    assert_int_equal(e.leave_ns, 2000000000000);
    assert_true(flight_read_last(f, FLIGHT_COLLECTIVE, &e));
    assert_int_equal(e.number, 1000);
    done(f);
}

static void the_pulse(void **state) {
    (void)state;
    struct flight *f = fresh(), *g;
    flight_pulse(1.5);
    assert_int_equal(flight_read_pulse(f), 1500000000);
    uint64_t sum = reduce(1, 2);
    assert_int_equal(flight_read_pulse(f), 2000000000);
    flight_leave(sum, 2.5);
    assert_int_equal(flight_read_pulse(f), 2500000000);
    flight_tick();
    assert_int_equal(flight_read_pulse(f), 2500000001);
    flight_enter_wait("a GPU", 3);
    assert_int_equal(flight_read_pulse(f), 3000000000);
    g = fresh(); /* and goes on in the memory that others see */
    assert_int_equal(flight_read_pulse(g), 3000000000);
    flight_pulse((double)INFINITY);
    assert_true(flight_read_pulse(g) > 1000000000ull * 86400 * 365);
    assert_true(flight_read_pulse(g) <= INT64_MAX);
    done(g);
    done(f);
}

/* ---- a reader while it is written ---- */

static atomic_bool stop;

/* Every field of an entry follows from one number. */
static void *write_entries(void *unused) {
    (void)unused;
    static const char *const ops[] = {"all-reduce", "gather", "broadcast"};
    for (uint64_t i = 1; !atomic_load(&stop); i++) {
        const struct flight_call call = {ops[i % 3], 7 * i, (enum flight_type)(i % 3)};
        flight_place((int)(i % 1000), (enum flight_part)(i % FLIGHT_PART_COUNT));
        flight_leave(flight_enter_collective(&call, (double)i), (double)i + 0.25);
    }
    return NULL;
}

static void check_entry(const struct flight_entry *e) {
    static const char *const ops[] = {"all-reduce", "gather", "broadcast"};
    uint64_t i = e->number;
    assert_int_equal(e->kind, FLIGHT_COLLECTIVE);
    assert_int_equal(e->bytes, 7 * i);
    assert_string_equal(e->op, ops[i % 3]);
    assert_int_equal(e->type, i % 3);
    assert_int_equal(e->part, i % FLIGHT_PART_COUNT);
    if (e->part == FLIGHT_MLP) {
        assert_int_equal(e->layer, i % 1000);
    }
    assert_int_equal(e->enter_ns, i * 1000000000);
    assert_true(e->leave_ns == 0 || e->leave_ns == i * 1000000000 + 250000000);
}

static void no_reader_sees_half_an_entry(void **state) {
    (void)state;
    struct flight *f = fresh();
    pthread_t writer;
    struct flight_entry e;
    long n = 0, rounds = 0;
    atomic_store(&stop, false);
    assert_int_equal(pthread_create(&writer, NULL, write_entries, NULL), 0);
    for (double end = clock_now() + 0.4; clock_now() < end; rounds++) {
        int got = flight_read(f, entries);
        for (int i = 0; i < got; i++) {
            check_entry(&entries[i]);
            assert_true(i == 0 || entries[i].number > entries[i - 1].number);
        }
        n += got;
        if (flight_read_last(f, FLIGHT_COLLECTIVE, &e)) {
            check_entry(&e);
        }
    }
    atomic_store(&stop, true);
    pthread_join(writer, NULL);
    assert_true(rounds > 10 && n > 1000); /* else it has tested nothing */
    done(f);
}

/* ---- another process's ---- */

/* A child with a record of its own; its address comes through the pipe. */
static pid_t start_neighbour(int rank, struct flight_address *out) {
    int to_parent[2];
    assert_int_equal(pipe(to_parent), 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct flight_address a = flight_share(rank);
        const struct flight_owner owner = {.rank = rank, .world = 3, .host = "here"};
        flight_set_owner(&owner);
        reduce(64, 3);
        if (rank == 2) {
            flight_note_said(0);
        }
        (void)!write(to_parent[1], &a, sizeof a);
        pause();
        _exit(0);
    }
    assert_int_equal(read(to_parent[0], out, sizeof *out), sizeof *out);
    close(to_parent[0]);
    close(to_parent[1]);
    return pid;
}

static struct flight_address ends_well;

static void wait_for_state(int rank, char state) {
    for (double end = clock_now() + 5; flight_process_state(rank) != state;) {
        assert_true(clock_now() < end);
        clock_sleep(1e-3);
    }
}

static void a_neighbour_is_read_and_outlived(void **state) {
    (void)state;
    struct flight_address a;
    struct flight_owner owner;
    struct flight_entry e;
    pid_t child = start_neighbour(1, &a);
    flight_share(0);
    struct flight_address wrong = a;
    wrong.token++;
    flight_map(&wrong);
    wrong = a;
    wrong.fd = 0; /* there is something, but no record */
    flight_map(&wrong);
    assert_null(flight_of_rank(1));
    flight_map(&a);
    const struct flight *f = flight_of_rank(1);
    assert_non_null(f);
    assert_ptr_equal(flight_of_rank(0), flight_own());
    assert_null(flight_of_rank(2));
    assert_true(flight_read_owner(f, &owner));
    assert_string_equal(owner.host, "here");
    assert_true(flight_read_last(f, FLIGHT_COLLECTIVE, &e));
    assert_int_equal(e.bytes, 64);
    wait_for_state(1, 'S');
    kill(child, SIGSTOP);
    wait_for_state(1, 'T');
    kill(child, SIGKILL);
    wait_for_state(1, 'Z');
    waitpid(child, NULL, 0);
    wait_for_state(1, 'X');
    assert_true(flight_read_last(f, FLIGHT_COLLECTIVE, &e)); /* its record is still there */
    assert_int_equal(e.bytes, 64);
    assert_false(flight_has_ended_well(1));
}

static void a_good_end_is_told_from_another(void **state) {
    (void)state;
    pid_t child = ends_well.pid;
    flight_share(0);
    flight_map(&ends_well);
    assert_false(flight_has_ended_well(2)); /* it is still there */
    kill(child, SIGKILL);
    wait_for_state(2, 'Z');
    assert_true(flight_has_ended_well(2));
    waitpid(child, NULL, 0);
    wait_for_state(2, 'X');
    assert_true(flight_has_ended_well(2));
    assert_false(flight_has_ended_well(0) || flight_has_ended_well(5));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_entry_says_all),
        cmocka_unit_test(the_ring_keeps_the_last),
        cmocka_unit_test(the_pulse),
        cmocka_unit_test(no_reader_sees_half_an_entry),
        cmocka_unit_test(a_neighbour_is_read_and_outlived),
        cmocka_unit_test(a_good_end_is_told_from_another),
    };
    start_neighbour(2, &ends_well); /* before this process shares its own */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
