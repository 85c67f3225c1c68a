/* The usual mistakes, as the ranks would report them. */
#include "test.h"

#include <string.h>

#include "cli/check_advice.h"

enum { WORLD = 2 };

/* Two ranks on a host of eight cores, four for each; nothing is wrong. */
static void set_up(struct check_rank *ranks) {
    memset(ranks, 0, WORLD * sizeof *ranks);
    for (int r = 0; r < WORLD; r++) {
        ranks[r].hello = (struct message_hello_ok){.rank = r,
                                                   .mpi = "Open MPI v4.1.4",
                                                   .host = "node1",
                                                   .local_rank = r,
                                                   .local_size = WORLD,
                                                   .cores = 8,
                                                   .cores_host = 8,
                                                   .sharers = WORLD,
                                                   .threads = 4};
    }
}

/* The only piece of advice; "" for none. */
static const char *advice(struct check_rank *ranks, int world) {
    static char notes[CHECK_ADVICE_MAX][CHECK_ADVICE_LENGTH];
    const struct check_report report = {.world = world, .ranks = ranks};
    int n = check_advice(&report, notes);
    assert_in_range(n, 0, 1);
    return n ? notes[0] : "";
}

static void assert_says(const char *text, const char *what) {
    if (!strstr(text, what)) {
        fail_msg("'%s' lacks '%s'", text, what);
    }
}

static void nothing_wrong_nothing_said(void **state) {
    (void)state;
    struct check_rank ranks[WORLD];
    set_up(ranks);
    assert_string_equal(advice(ranks, WORLD), "");
    for (int r = 0; r < WORLD; r++) { /* bound to its own half */
        ranks[r].hello.cores = 4;
        ranks[r].hello.sharers = 1;
    }
    assert_string_equal(advice(ranks, WORLD), "");
}

static void a_world_of_one(void **state) {
    (void)state;
    struct check_rank ranks[WORLD];
    set_up(ranks);
    ranks[0].hello.local_size = ranks[0].hello.sharers = 1;
    assert_says(advice(ranks, 1), "world of one rank; for more: mpirun -np N lockstep check");
}

static void more_ranks_than_cores(void **state) {
    (void)state;
    struct check_rank ranks[WORLD];
    set_up(ranks);
    for (int r = 0; r < WORLD; r++) {
        ranks[r].hello.cores = ranks[r].hello.cores_host = ranks[r].hello.threads = 1;
    }
    assert_says(advice(ranks, WORLD), "node1 runs 2 ranks on 1 core; ");
    assert_says(advice(ranks, WORLD), "start at most 1 there");
}

static void every_rank_pinned_to_one_core(void **state) {
    (void)state;
    struct check_rank ranks[WORLD];
    set_up(ranks);
    for (int r = 0; r < WORLD; r++) {
        ranks[r].hello.cores = ranks[r].hello.sharers = ranks[r].hello.threads = 1;
    }
    assert_says(advice(ranks, WORLD), "rank 0 is pinned to one core of the 8 of node1");
    assert_says(advice(ranks, WORLD), "mpirun --bind-to none (or --map-by slot:PE=4), or srun "
                                      "--cpus-per-task=4");
}

static void ranks_pinned_to_the_same_cores(void **state) {
    (void)state;
    struct check_rank ranks[WORLD];
    set_up(ranks);
    for (int r = 0; r < WORLD; r++) {
        ranks[r].hello.cores = ranks[r].hello.threads = 1;
        ranks[r].hello.cores_host = 3; /* too few to call it pinned */
    }
    assert_says(advice(ranks, WORLD), "2 ranks of node1 are pinned to the same 1 core, while the "
                                      "host has 3");
}

static void more_threads_than_a_share(void **state) {
    (void)state;
    struct check_rank ranks[WORLD];
    set_up(ranks);
    ranks[1].hello.threads = 5;
    assert_says(advice(ranks, WORLD),
                "rank 1 uses 5 threads, but its share of node1 is 4 cores: use --threads 4");
}

static void a_rank_on_two_numa_nodes(void **state) {
    (void)state;
    struct check_rank ranks[WORLD];
    set_up(ranks);
    ranks[1].hello.numa_nodes = ranks[1].hello.numa_host = 2;
    strcpy(ranks[1].hello.numa, "0-1");
    strcpy(ranks[1].hello.device, "host");
    assert_string_equal(advice(ranks, WORLD),
                        "the cores of rank 1 lie on NUMA nodes 0-1 of the 2 of node1; one rank for "
                        "each is faster: mpirun --map-by ppr:1:numa --bind-to numa, or srun "
                        "--cpu-bind=ldoms");
    strcpy(ranks[1].hello.device, "cuda:1");
    assert_string_equal(advice(ranks, WORLD), "");
}

static void two_ranks_on_one_numa_node(void **state) {
    (void)state;
    struct check_rank ranks[WORLD];
    set_up(ranks);
    for (int r = 0; r < WORLD; r++) {
        ranks[r].hello.numa_nodes = 1;
        ranks[r].hello.numa_host = 2;
        strcpy(ranks[r].hello.numa, "1");
        strcpy(ranks[r].hello.device, "host");
    }
    assert_says(advice(ranks, WORLD), "ranks 0 and 1 share NUMA node 1, and node1 has 2; one rank");
    strcpy(ranks[1].hello.numa, "0");
    assert_string_equal(advice(ranks, WORLD), "");
    strcpy(ranks[1].hello.numa, "1");
    for (int r = 0; r < WORLD; r++) { /* more ranks than nodes: some must share */
        ranks[r].hello.local_size = 3;
    }
    assert_string_equal(advice(ranks, WORLD), "");
}

static void different_mpis(void **state) {
    (void)state;
    struct check_rank ranks[WORLD];
    set_up(ranks);
    strcpy(ranks[1].hello.host, "node2");
    strcpy(ranks[1].hello.mpi, "Open MPI v5.0.0");
    assert_says(advice(ranks, WORLD), "node1 uses Open MPI v4.1.4, node2 uses Open MPI v5.0.0");
}

static void files_of_killed_runs(void **state) {
    (void)state;
    struct check_rank ranks[WORLD];
    set_up(ranks);
    ranks[0].hello.leftovers = 12;
    ranks[0].hello.leftover_bytes = 48 << 20;
    ranks[0].hello.leftover_runs = ranks[0].hello.leftover_named = 2;
    strcpy(ranks[0].hello.leftover_pattern, "/dev/shm/vader_segment.node1.0.{a1,b2}.*");
    assert_string_equal(advice(ranks, WORLD),
                        "node1: killed runs have left 12 files in memory, 48.0 MiB: rm "
                        "/dev/shm/vader_segment.node1.0.{a1,b2}.*");
    ranks[0].hello.leftover_runs = 3;
    assert_says(advice(ranks, WORLD), "{a1,b2}.* (and more)");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_wrong_nothing_said),
        cmocka_unit_test(a_world_of_one),
        cmocka_unit_test(more_ranks_than_cores),
        cmocka_unit_test(every_rank_pinned_to_one_core),
        cmocka_unit_test(ranks_pinned_to_the_same_cores),
        cmocka_unit_test(more_threads_than_a_share),
        cmocka_unit_test(a_rank_on_two_numa_nodes),
        cmocka_unit_test(two_ranks_on_one_numa_node),
        cmocka_unit_test(different_mpis),
        cmocka_unit_test(files_of_killed_runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
