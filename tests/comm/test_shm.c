/* Tree sums through shared memory: the bits of those by messages, and what happens where memory
 * cannot be shared, or ranks do not call the same. */
#include "mpi_test.h"

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/random.h"
#include "comm/shm.h"

enum { SLOT = SHM_SLOT_BYTES / sizeof(float) };

static int world, rank;
static struct comm *shared, *messages;

static bool is_last(void) {
    return rank == world - 1;
}

static struct comm *by_messages(void) {
    setenv("LOCKSTEP_SHM_DISABLE", "1", 1);
    struct comm *c = mpi_test_comm(20);
    unsetenv("LOCKSTEP_SHM_DISABLE");
    return c;
}

/* Of any sign, magnitudes 2^-16 ... 2^16, so that order matters; never the same again. */
static void fill(float *x, size_t n) {
    static uint64_t seed = 1;
    for (size_t i = 0; i < n; i++) {
        uint64_t h = random_at(seed++ * 64 + (uint64_t)rank);
        float mantissa = (float)((int)(h >> 8 & 0xffffff) - 0x800000) / 0x800000;
        x[i] = ldexpf(mantissa, (int)(h >> 40 & 31) - 16);
    }
}

static int own_pieces(int n_leaf) {
    struct leaf_run pieces[LEAF_TREE_MAX_PIECES];
    return leaf_tree_pieces(n_leaf, leaf_run_of_rank(n_leaf, world, rank), pieces);
}

/* Returns whether they were the same. */
static bool both_ways(size_t n, int n_leaf, bool in_place) {
    struct error err;
    size_t size = (size_t)own_pieces(n_leaf) * n;
    size = size > n ? size : n;
    float *one = malloc(size * sizeof(float)), *other = malloc(size * sizeof(float));
    float *out = in_place ? one : malloc(n * sizeof(float));
    fill(one, size);
    memcpy(other, one, size * sizeof(float));
    assert_ok(shared->ops->all_reduce_tree(shared, out, one, n, n_leaf, &err), &err);
    assert_ok(messages->ops->all_reduce_tree(messages, other, other, n, n_leaf, &err), &err);
    bool same = memcmp(out, other, n * sizeof(float)) == 0;
    if (!in_place) {
        free(out);
    }
    free(one);
    free(other);
    return same;
}

static void memory_is_shared(void **state) {
    (void)state;
    assert_true(shared->shares_memory);
    assert_string_equal(shared->why_not_shared, "");
    assert_false(messages->shares_memory);
    assert_string_equal(messages->why_not_shared, "rank 0: LOCKSTEP_SHM_DISABLE is set");
}

static void short_vectors_have_the_same_bits(void **state) {
    (void)state;
    for (int n_leaf = 1; n_leaf <= 40; n_leaf++) {
        for (size_t n = 1; n < 3000; n = n * 2 + (size_t)n_leaf % 3) {
            if (!both_ways(n, n_leaf, (n + (size_t)n_leaf) % 2)) {
                fail_msg("%zu floats, %d leaves", n, n_leaf);
            }
        }
    }
}

/* Around the sizes at which a vector goes by slices, and in several parts: where a rank has one
 * piece, and where some have more. */
static void long_vectors_have_the_same_bits(void **state) {
    (void)state;
    const int leaves[] = {world, 9, 16, 40};
    const size_t limits[] = {8192, SLOT / 5, SLOT / 4, SLOT / 3, SLOT / 2, SLOT, 2 * SLOT};
    for (size_t l = 0; l < sizeof leaves / sizeof *leaves; l++) {
        for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
            for (size_t n = limits[i] - 1; n <= limits[i] + 17; n += n < limits[i] + 1 ? 1 : 16) {
                if (!both_ways(n, leaves[l], n % 2)) {
                    fail_msg("%zu floats, %d leaves", n, leaves[l]);
                }
            }
        }
    }
}

/* Ranks that run ahead of each other by as much as they can, with other collectives between. */
static void rounds_in_a_row_do_not_mix(void **state) {
    (void)state;
    struct error err;
    static float x[3000];
    for (int i = 0; i < 2000; i++) {
        size_t n = i % 7 == 0 ? 3000 : 5;
        for (size_t k = 0; k < n; k++) {
            x[k] = (float)(i % 1000 + rank);
        }
        if (i % 50 == rank) {
            clock_sleep(1e-4);
        }
        assert_ok(shared->ops->all_reduce_tree(shared, x, x, n, world, &err), &err);
        for (size_t k = 0; k < n; k++) {
            assert_int_equal((int)x[k], world * (i % 1000) + world * (world - 1) / 2);
        }
        if (i % 11 == 0) {
            uint32_t v = (uint32_t)i;
            assert_ok(shared->ops->broadcast(shared, &v, sizeof v, i % world, &err), &err);
        }
    }
}

static int open_files(void) {
    int n = 0;
    DIR *dir = opendir("/proc/self/fd");
    assert_non_null(dir);
    while (readdir(dir)) {
        n++;
    }
    closedir(dir);
    return n;
}

static int maps_of_memory(void) {
    char line[4096 + 200];
    int n = 0;
    FILE *f = fopen("/proc/self/maps", "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        n += strstr(line, "lockstep-shm") != NULL;
    }
    fclose(f);
    return n;
}

static void nothing_stays_behind(void **state) {
    (void)state;
    int files = open_files(), maps = maps_of_memory();
    assert_int_equal(maps, world);
    struct comm *c = mpi_test_comm(20);
    assert_int_equal(maps_of_memory(), 2 * world);
    assert_int_equal(open_files(), files);
    comm_destroy(c);
    assert_int_equal(maps_of_memory(), maps);
}

/* ---- where memory cannot be shared ---- */

/* All ranks do without, know the same reason, and add up all the same. */
static void expect_messages(struct comm *c, const char *why) {
    struct error err;
    float x[3] = {1, (float)rank, -1};
    assert_false(c->shares_memory);
    assert_string_equal(c->why_not_shared, why);
    assert_ok(c->ops->all_reduce_tree(c, x, x, 3, world, &err), &err);
    assert_true(x[0] == (float)world && x[1] == (float)(world * (world - 1) / 2) && x[2] == -x[0]);
    assert_int_equal(maps_of_memory(), world); /* those of `shared` */
    comm_destroy(c);
}

/* The last rank has `spare` descriptors left. */
static struct comm *with_few_files(rlim_t spare) {
    struct rlimit before, few;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    int next = open("/dev/null", O_RDONLY);
    close(next);
    few = (struct rlimit){(rlim_t)next + spare, before.rlim_max};
    if (is_last()) {
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    }
    struct comm *c = mpi_test_comm(20);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    return c;
}

static void a_rank_that_has_none(void **state) {
    (void)state;
    char why[96];
    snprintf(why, sizeof why, "rank %d: no memory to share: Too many open files", world - 1);
    expect_messages(with_few_files(0), why);
}

static void a_rank_that_cannot_map_the_others(void **state) {
    (void)state;
    char why[96];
    snprintf(why, sizeof why, "rank %d: cannot map rank 0's memory: Too many open files",
             world - 1);
    expect_messages(with_few_files(1), why);
}

static void a_rank_that_shall_not(void **state) {
    (void)state;
    char why[96];
    snprintf(why, sizeof why, "rank %d: LOCKSTEP_SHM_DISABLE is set", world - 1);
    if (is_last()) {
        setenv("LOCKSTEP_SHM_DISABLE", "1", 1);
    }
    struct comm *c = mpi_test_comm(20);
    unsetenv("LOCKSTEP_SHM_DISABLE");
    expect_messages(c, why);
}

/* ---- what goes wrong on the way ---- */

static void another_size_is_an_error(void **state) {
    (void)state;
    struct error err;
    struct comm *c = mpi_test_comm(20);
    float x[64] = {0};
    assert_false(c->ops->all_reduce_tree(c, x, x, is_last() ? 63 : 64, world, &err));
    assert_int_equal(err.kind, ERROR_COMM);
    assert_non_null(strstr(err.message, is_last() ? " of 63 floats: rank 0 is in #" : " is in #"));
    assert_non_null(strstr(err.message, is_last() ? " of 64" : " of 63"));
    assert_false(c->ops->all_reduce_tree(c, x, x, 64, world, &err));
    assert_non_null(strstr(err.message, "an earlier collective on this communicator failed"));
    comm_destroy(c);
}

/* The others have done one collective less. */
static void another_collective_is_an_error(void **state) {
    (void)state;
    struct error err;
    struct comm *c = mpi_test_comm(20);
    float x = 1;
    uint32_t none = 0;
    if (is_last()) {
        assert_ok(c->ops->all_reduce_u32(c, &none, 0, &err), &err); /* which moves nothing */
    }
    assert_false(c->ops->all_reduce_tree(c, &x, &x, 1, world, &err));
    assert_int_equal(err.kind, ERROR_COMM);
    comm_destroy(c);
}

struct watched {
    int polls;
    uint64_t pulse;
    bool moved;
};

static bool lost_after_some_polls(void *user, struct error *err) {
    struct watched *w = user;
    uint64_t pulse = flight_read_pulse(flight_own());
    w->moved = w->moved || (w->polls > 0 && pulse > w->pulse);
    w->pulse = pulse;
    return ++w->polls < 5 || error_set(err, ERROR_RANK_LOST, "as told");
}

static void the_wait_has_a_pulse_and_hears(void **state) {
    (void)state;
    struct error err;
    struct comm *c = mpi_test_comm(20);
    float x = 1;
    if (!is_last()) {
        struct watched w = {0};
        c->poll = lost_after_some_polls;
        c->poll_user = &w;
        assert_false(c->ops->all_reduce_tree(c, &x, &x, 1, world, &err));
        assert_int_equal(err.kind, ERROR_RANK_LOST);
        assert_string_equal(err.message, "as told");
        assert_int_equal(w.polls, 5);
        assert_true(w.moved);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    comm_destroy(c);
}

/* A message that needs both ends' work arrives while its sender waits in a round. */
static void the_wait_lets_mpi_get_on(void **state) {
    (void)state;
    enum { N = 4 << 20 };
    struct error err;
    float x = 1;
    char *text = calloc(1, N);
    MPI_Request request;
    if (rank == 0) {
        MPI_Isend(text, N, MPI_BYTE, world - 1, 0, MPI_COMM_WORLD, &request);
    } else if (is_last()) {
        MPI_Recv(text, N, MPI_BYTE, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    }
    assert_ok(shared->ops->all_reduce_tree(shared, &x, &x, 1, world, &err), &err);
    if (rank == 0) {
        MPI_Wait(&request, MPI_STATUS_IGNORE);
    }
    free(text);
}

static int start(void **state) {
    (void)state;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    unsetenv("LOCKSTEP_SHM_DISABLE");
    shared = mpi_test_comm(20);
    messages = by_messages();
    return 0;
}

static int stop(void **state) {
    (void)state;
    comm_destroy(shared);
    comm_destroy(messages);
    return 0;
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_shared),
        cmocka_unit_test(short_vectors_have_the_same_bits),
        cmocka_unit_test(long_vectors_have_the_same_bits),
        cmocka_unit_test(rounds_in_a_row_do_not_mix),
        cmocka_unit_test(nothing_stays_behind),
        cmocka_unit_test(a_rank_that_has_none),
        cmocka_unit_test(a_rank_that_cannot_map_the_others),
        cmocka_unit_test(a_rank_that_shall_not),
        cmocka_unit_test(another_size_is_an_error),
        cmocka_unit_test(another_collective_is_an_error),
        cmocka_unit_test(the_wait_has_a_pulse_and_hears),
        cmocka_unit_test(the_wait_lets_mpi_get_on),
    };
    return mpi_test_main(tests, start, stop, argc, argv);
}
