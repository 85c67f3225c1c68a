/* A main for cmocka programs that run on several ranks. Every rank runs every test, in order; an
 * assertion that fails on one rank leaves the others to their deadline. */
#pragma once

#include "test.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

#include "comm/mpi.h"

/* A communicator over a fresh duplicate of the world. */
static inline struct comm *mpi_test_comm(double timeout_s) {
    struct error err;
    uint8_t id[COMM_ID_BYTES];
    struct comm *c = NULL;
    MPI_Comm mpi;
    MPI_Comm_dup(MPI_COMM_WORLD, &mpi);
    assert_ok(comm_mpi_share_id(MPI_COMM_WORLD, true, NULL, NULL, 60, id, &err), &err);
    assert_ok(comm_mpi_create(mpi, id, timeout_s, &c, &err), &err);
    return c;
}

/* Checks the number of ranks against argv[1], so that a launcher that starts worlds of one cannot
 * pass. */
#define mpi_test_main(tests, setup, teardown, argc, argv)                                          \
    mpi_test_run(tests, sizeof(tests) / sizeof(*(tests)), setup, teardown, argc, argv)

static inline int mpi_test_run(const struct CMUnitTest *tests, size_t n, CMFixtureFunction setup,
                               CMFixtureFunction teardown, int argc, char **argv) {
    int world;
    MPI_Init(&argc, &argv);
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    if (argc != 2 || atoi(argv[1]) != world) {
        fprintf(stderr, "argv[1] must be the number of ranks; there are %d\n", world);
        return 1;
    }
    int n_failed = _cmocka_run_group_tests("mpi", tests, n, setup, teardown);
    MPI_Finalize();
    return n_failed;
}
