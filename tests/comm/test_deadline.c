/* What a collective does when the last rank does not come: nobody hangs. */
#include "mpi_test.h"

#include <string.h>

#include "base/clock.h"

static const double timeout_s = 0.4;

static int world, rank;

static bool is_absent(void) {
    return rank == world - 1;
}

/* Its own communicator each time: a failed one stays failed. */
static void absent_rank(size_t n) {
    struct error err;
    struct comm *c = mpi_test_comm(timeout_s);
    float *x = calloc(n, sizeof(float)); /* never freed: MPI may still use it */
    if (!is_absent()) {
        double start = clock_now();
        assert_false(c->ops->all_reduce_tree(c, x, x, n, world, &err));
        double took = clock_now() - start;
        assert_int_equal(err.kind, ERROR_DEADLINE);
        assert_true(took >= timeout_s);
        assert_true(took < timeout_s + 0.5);
        assert_non_null(strstr(err.message, "for rank "));
        if (rank == (world - 1) / 2 * 2 && rank == world - 2) { /* a partner of the absent one */
            char name[32];
            snprintf(name, sizeof(name), "for rank %d", world - 1);
            assert_non_null(strstr(err.message, name));
        }
        start = clock_now();
        uint32_t one = 1;
        assert_false(c->ops->all_reduce_u32(c, &one, 1, &err));
        assert_int_equal(err.kind, ERROR_COMM);
        assert_true(clock_now() - start < 0.1);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    comm_destroy(c);
}

static void short_vector(void **state) {
    (void)state;
    absent_rank(100);
}

static void long_vector(void **state) {
    (void)state;
    absent_rank(1 << 20);
}

static bool lost_after_some_polls(void *user, struct error *err) {
    int *n = user;
    if (++*n < 5) {
        return true;
    }
    error_set(err, ERROR_RANK_LOST, "as told");
    return false;
}

static void poll_ends_the_wait(void **state) {
    (void)state;
    struct error err;
    struct comm *c = mpi_test_comm(10);
    if (!is_absent()) {
        int n_poll = 0;
        uint32_t one = 1;
        c->poll = lost_after_some_polls;
        c->poll_user = &n_poll;
        double start = clock_now();
        assert_false(c->ops->all_reduce_u32(c, &one, 1, &err));
        assert_int_equal(err.kind, ERROR_RANK_LOST);
        assert_string_equal(err.message, "as told");
        assert_int_equal(n_poll, 5);
        assert_true(clock_now() - start < 2);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    comm_destroy(c);
}

static void set_up_has_a_deadline(void **state) {
    (void)state;
    struct error err;
    struct comm *c = NULL;
    uint8_t id[COMM_ID_BYTES] = {1};
    MPI_Comm mpi;
    MPI_Comm_dup(MPI_COMM_WORLD, &mpi);
    if (!is_absent()) {
        double start = clock_now();
        assert_false(comm_mpi_create(mpi, id, timeout_s, &c, &err));
        assert_int_equal(err.kind, ERROR_DEADLINE);
        assert_true(clock_now() - start < timeout_s + 0.5);
        char name[32];
        snprintf(name, sizeof(name), "for rank %d", world - 1);
        assert_non_null(strstr(err.message, name));
    }
    MPI_Barrier(MPI_COMM_WORLD);
}

static void the_id_has_a_deadline(void **state) {
    (void)state;
    struct error err;
    uint8_t id[COMM_ID_BYTES];
    MPI_Comm mpi;
    MPI_Comm_dup(MPI_COMM_WORLD, &mpi);
    if (rank > 0) {
        double start = clock_now();
        assert_false(comm_mpi_share_id(mpi, true, NULL, NULL, timeout_s, id, &err));
        assert_int_equal(err.kind, ERROR_DEADLINE);
        assert_true(clock_now() - start >= timeout_s);
        assert_true(clock_now() - start < timeout_s + 0.5);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    if (rank == 0) { /* late: what the others have begun is to end before MPI does */
        assert_ok(comm_mpi_share_id(mpi, true, NULL, NULL, timeout_s, id, &err), &err);
    }
    MPI_Barrier(MPI_COMM_WORLD);
}

static int start(void **state) {
    (void)state;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    return 0;
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(short_vector),          cmocka_unit_test(long_vector),
        cmocka_unit_test(poll_ends_the_wait),    cmocka_unit_test(set_up_has_a_deadline),
        cmocka_unit_test(the_id_has_a_deadline),
    };
    return mpi_test_main(tests, start, NULL, argc, argv);
}
