/* --check-collectives: the last rank calls something else than the others, in every way, and all
 * ranks hear of it at once, by the same words. */
#include "mpi_test.h"

#include <string.h>

#include "base/clock.h"
#include "comm/check.h"

static const double timeout_s = 10;

static int world, rank;

struct checked {
    struct comm *comm;
    struct comm_check *check;
};

/* A broken one stays broken: each test has its own. */
static struct checked new_comm(double timeout) {
    struct checked c;
    struct error err;
    MPI_Comm mpi;
    MPI_Comm_dup(MPI_COMM_WORLD, &mpi);
    c.comm = mpi_test_comm(timeout);
    assert_ok(comm_check_create(&c.check, mpi, timeout, &err), &err);
    comm_check_attach(c.check, c.comm);
    return c;
}

static void end(struct checked *c) {
    MPI_Barrier(MPI_COMM_WORLD);
    comm_destroy(c->comm);
    comm_check_destroy(c->check);
}

static void equal_calls_pass(void **state) {
    (void)state;
    struct error err;
    struct checked c = new_comm(timeout_s);
    float x[8] = {1, 2, 3};
    uint32_t n = 1;
    char all[64 * 8] = "";
    size_t bytes[64] = {0};
    for (int r = 0; r < world; r++) {
        bytes[r] = (size_t)r; /* a gather's shares differ by right */
    }
    uint64_t before = flight_collectives();
    for (int i = 0; i < 50; i++) {
        assert_ok(c.comm->ops->all_reduce_tree(c.comm, x, x, 8, world, &err), &err);
        assert_ok(c.comm->ops->all_reduce_u32(c.comm, &n, 1, &err), &err);
        assert_ok(c.comm->ops->all_gather(c.comm, all, "1234567", 8, &err), &err);
        assert_ok(c.comm->ops->broadcast(c.comm, x, sizeof x, 0, &err), &err);
        assert_ok(c.comm->ops->gather(c.comm, all, "1234567", bytes, &err), &err);
    }
    assert_int_equal(flight_collectives() - before, 250); /* the check's own are not among them */
    end(&c);
}

static void expect(struct checked *c, bool ok, double start, const struct error *err,
                   const char *theirs, const char *ours) {
    char who[40];
    assert_false(ok);
    assert_int_equal(err->kind, ERROR_RANK_MISMATCH);
    assert_true(err->has_rank);
    assert_int_equal(err->rank, world - 1);
    assert_non_null(strstr(err->message, "the ranks call different collectives: "));
    assert_non_null(strstr(err->message, theirs));
    assert_non_null(strstr(err->message, ours));
    snprintf(who, sizeof who, "by rank %d, but ", world - 1);
    assert_non_null(strstr(err->message, who));
    assert_non_null(strstr(err->message, world == 2 ? "by rank 0" : "by ranks 0, 1"));
    assert_true(clock_now() - start < timeout_s / 4);
    end(c);
}

static bool is_other(void) {
    return rank == world - 1;
}

static void another_operation(void **state) {
    (void)state;
    struct error err;
    struct checked c = new_comm(timeout_s);
    float x[64 * 4] = {0};
    double start = clock_now();
    bool ok = is_other() ? c.comm->ops->all_gather(c.comm, x, x, 16, &err)
                         : c.comm->ops->all_reduce_tree(c.comm, x, x, 4, world, &err);
    expect(&c, ok, start, &err, "all-gather #", "all-reduce #");
}

static void another_count(void **state) {
    (void)state;
    struct error err;
    struct checked c = new_comm(timeout_s);
    float x[64] = {0};
    double start = clock_now();
    bool ok = c.comm->ops->all_reduce_tree(c.comm, x, x, is_other() ? 63 : 64, world, &err);
    expect(&c, ok, start, &err, " of 252 bytes (f32)", " of 256 bytes (f32)");
}

static void another_type(void **state) {
    (void)state;
    struct error err;
    struct checked c = new_comm(timeout_s);
    float x[64] = {0};
    uint32_t n[64] = {0};
    double start = clock_now();
    bool ok = is_other() ? c.comm->ops->all_reduce_u32(c.comm, n, 64, &err)
                         : c.comm->ops->all_reduce_tree(c.comm, x, x, 64, world, &err);
    expect(&c, ok, start, &err, "(u32)", "(f32)");
}

/* One that never comes is a deadline, as ever. */
static void no_call(void **state) {
    (void)state;
    struct error err;
    struct checked c = new_comm(0.3);
    float x[64] = {0};
    if (!is_other()) {
        assert_false(c.comm->ops->all_reduce_tree(c.comm, x, x, 64, world, &err));
        assert_int_equal(err.kind, ERROR_DEADLINE);
        assert_false(c.comm->ops->all_reduce_tree(c.comm, x, x, 64, world, &err));
        assert_int_equal(err.kind, ERROR_COMM);
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
        cmocka_unit_test(equal_calls_pass), cmocka_unit_test(another_operation),
        cmocka_unit_test(another_count),    cmocka_unit_test(another_type),
        cmocka_unit_test(no_call),
    };
    return mpi_test_main(tests, start, NULL, argc, argv);
}
