/* The watchdog's last deeds when the main thread is stuck: a line, the flight record, the exit. */
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/flight_dump.h"
#include "base/flight_peers.h"
#include "rpc/watchdog.h"
#include "tempdir.h"

enum { RANK = 3 };

static struct tempdir temp;
static char dir[300], path[400];

/* The record of a rank that is inside a collective, in a place with an odd name. */
static void begin_record(void) {
    struct error err;
    struct flight_owner owner = {.rank = RANK, .world = 8, .pid = 77, .host = "a\"b\\c\nd\x7f"};
    const struct flight_call call = {"all-reduce", 4096, FLIGHT_F32};
    flight_share(RANK);
    flight_set_owner(&owner);
    flight_set_device("cuda:1");
    assert_ok(flight_dump_to(dir, RANK, &err), &err);
    flight_enter_rpc(9, "step", 64, clock_now());
    flight_place(17, FLIGHT_MLP);
    uint64_t first = flight_enter_collective(&call, clock_now());
    flight_leave(first, clock_now());
    flight_enter_collective(&call, clock_now());
}

/* Runs what ends the process in a child; returns its exit code, and what it said. */
static int run(void (*child)(void), char *said, size_t size) {
    int status, ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(ends[1], STDERR_FILENO);
        begin_record();
        child();
        _exit(99);
    }
    close(ends[1]);
    ssize_t n = read(ends[0], said, size - 1);
    said[n > 0 ? n : 0] = 0;
    close(ends[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* Every lock of the standard library that a main thread may hold when it is stuck. */
static void be_stuck(void) {
    struct error err;
    assert_ok(watchdog_start(&err), &err);
    watchdog_set_who("rank 3 (node7)");
    watchdog_phase("a test", 0.2);
    flockfile(stderr);
    flockfile(stdout);
    for (;;) {
        pause();
    }
}

static json_t *read_dump(void) {
    json_error_t why;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &why);
    if (!root) {
        fail_msg("%s: %s", path, why.text);
    }
    return root;
}

static const char *text_of(const json_t *o, const char *key) {
    const char *text = json_string_value(json_object_get(o, key));
    return text ? text : "(none)";
}

static json_int_t int_of(const json_t *o, const char *key) {
    assert_true(json_is_integer(json_object_get(o, key)));
    return json_integer_value(json_object_get(o, key));
}

static void the_record_is_written(void **state) {
    (void)state;
    char said[300];
    double start = clock_now();
    assert_int_equal(run(be_stuck, said, sizeof said), 4);
    assert_true(clock_now() - start < 3);
    assert_string_equal(said, "lockstep: rank 3 (node7): deadline: stuck in a test for 0.2 s\n");
    json_t *root = read_dump();
    assert_int_equal(int_of(root, "rank"), RANK);
    assert_int_equal(int_of(root, "world"), 8);
    assert_int_equal(int_of(root, "pid"), 77);
    assert_int_equal(int_of(root, "written_by"), RANK);
    assert_string_equal(text_of(root, "host"), "a\"b\\c?d?");
    assert_string_equal(text_of(root, "device"), "cuda:1");
    assert_string_equal(text_of(root, "phase"), "step");
    assert_string_equal(text_of(root, "reason"),
                        "lockstep: rank 3 (node7): deadline: stuck in a test for 0.2 s");
    assert_string_equal(text_of(json_object_get(root, "rpc"), "op"), "step");
    const json_t *entries = json_object_get(root, "entries");
    assert_int_equal(json_array_size(entries), 3);
    const json_t *left = json_array_get(entries, 1), *inside = json_array_get(entries, 2);
    assert_string_equal(text_of(inside, "kind"), "collective");
    assert_string_equal(text_of(inside, "op"), "all-reduce");
    assert_string_equal(text_of(inside, "part"), "mlp");
    assert_string_equal(text_of(inside, "dtype"), "f32");
    assert_int_equal(int_of(inside, "layer"), 17);
    assert_int_equal(int_of(inside, "number"), 2);
    assert_int_equal(int_of(inside, "bytes"), 4096);
    assert_int_equal(int_of(inside, "leave_ns"), 0);
    assert_true(int_of(left, "leave_ns") >= int_of(left, "enter_ns"));
    assert_true(int_of(root, "monotonic_ns") > int_of(inside, "enter_ns"));
    json_decref(root);
}

static void dump_twice(void) {
    flight_dump("the first");
    flight_dump("the second");
    _exit(5);
}

static void put_file(const char *text) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void one_of_an_earlier_run_goes(void **state) {
    (void)state;
    char said[100];
    put_file("old");
    assert_int_equal(run(dump_twice, said, sizeof said), 5);
    json_t *root = read_dump();
    assert_string_equal(text_of(root, "reason"), "the first");
    json_decref(root);
}

static void dump_onto_another(void) {
    put_file("a neighbour's");
    flight_dump("too late");
    _exit(6);
}

static void what_a_neighbour_wrote_stays(void **state) {
    (void)state;
    char said[100], text[40] = "";
    assert_int_equal(run(dump_onto_another, said, sizeof said), 6);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_non_null(fgets(text, sizeof text, f));
    fclose(f);
    assert_string_equal(text, "a neighbour's");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0); /* nothing else is left in it */
}

static void a_folder_that_cannot_be(void **state) {
    (void)state;
    struct error err;
    assert_false(flight_dump_to("/dev/null", RANK, &err));
    assert_int_equal(err.kind, ERROR_IO);
    assert_false(flight_dump_to("/nonexistent/dumps", RANK, &err));
    assert_non_null(strstr(err.message, "--dump-dir /nonexistent/dumps: No such"));
    flight_dump("nowhere"); /* is nothing */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_folder_that_cannot_be),
        cmocka_unit_test(the_record_is_written),
        cmocka_unit_test(one_of_an_earlier_run_goes),
        cmocka_unit_test(what_a_neighbour_wrote_stays),
    };
    tempdir_make(&temp);
    snprintf(dir, sizeof dir, "%s/dumps", temp.path); /* made by the first that needs it */
    snprintf(path, sizeof path, "%s/flight-rank%d.json", dir, (int)RANK);
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(temp.path);
    return n_failed;
}
