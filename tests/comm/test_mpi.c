/* The MPI communicator's collectives, against what one rank computes alone. */
#include "mpi_test.h"

#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/leaf_tree.h"

enum { MAX_LEAF = 70 };

static struct comm *comm;

/* Element i of leaf l: of any sign and of magnitudes 2^-8 ... 2^8, so that order matters. */
static float leaf_value(int l, size_t i) {
    uint64_t h = ((uint64_t)l * 1000003 + i) * 0x9e3779b97f4a7c15u;
    h ^= h >> 29;
    float mantissa = (float)((int)(h & 0xffffff) - 0x800000) / 0x800000;
    return mantissa * (float)(1 << ((h >> 40) & 15)) / 256;
}

static float small_integer(int l, size_t i) {
    return (float)((int)((i * 7 + (size_t)l * 13) % 201) - 100);
}

/* The definition: left half plus right half. */
static float tree_value(float (*leaf)(int, size_t), int first, int count, size_t i) {
    if (count == 1) {
        return leaf(first, i);
    }
    int left = count - count / 2;
    return tree_value(leaf, first, left, i) + tree_value(leaf, first + left, count - left, i);
}

static uint32_t bits(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof(u));
    return u;
}

/* Fills this rank's pieces of the tree over n_leaf leaves. */
static int fill_pieces(float (*leaf)(int, size_t), float *pieces, size_t n, int n_leaf) {
    struct leaf_run runs[LEAF_TREE_MAX_PIECES];
    struct leaf_run mine = leaf_run_of_rank(n_leaf, comm->world, comm->rank);
    int n_piece = leaf_tree_pieces(n_leaf, mine, runs);
    for (int k = 0; k < n_piece; k++) {
        for (size_t i = 0; i < n; i++) {
            pieces[(size_t)k * n + i] = tree_value(leaf, runs[k].first, runs[k].count, i);
        }
    }
    return n_piece;
}

static void check_tree(float (*leaf)(int, size_t), size_t n, int n_leaf, bool in_place) {
    struct error err;
    float *pieces = malloc(LEAF_TREE_MAX_PIECES * n * sizeof(float));
    float *other = malloc(n * sizeof(float));
    float *out = in_place ? pieces : other;
    fill_pieces(leaf, pieces, n, n_leaf);
    assert_ok(comm->ops->all_reduce_tree(comm, out, pieces, n, n_leaf, &err), &err);
    for (size_t i = 0; i < n; i++) {
        float want = tree_value(leaf, 0, n_leaf, i);
        if (bits(out[i]) != bits(want)) {
            fail_msg("n %zu, %d leaves, element %zu: %a, not %a", n, n_leaf, i, (double)out[i],
                     (double)want);
        }
    }
    free(other);
    free(pieces);
}

static void tree_sum_has_the_bits_of_one_rank(void **state) {
    (void)state;
    for (int n_leaf = comm->world; n_leaf <= MAX_LEAF; n_leaf++) {
        check_tree(leaf_value, 1, n_leaf, false);
        check_tree(leaf_value, 7, n_leaf, true);
        check_tree(leaf_value, 1000, n_leaf, n_leaf % 2);
    }
}

/* 5000 floats go by slices from three ranks on, 100000 with two as well. */
static void long_vectors_too(void **state) {
    (void)state;
    int some[] = {comm->world, comm->world + 1, 9, 16, 33, MAX_LEAF};
    for (size_t k = 0; k < sizeof(some) / sizeof(*some); k++) {
        check_tree(leaf_value, 5000, some[k], k % 2);
        check_tree(leaf_value, 4099, some[k], (k + 1) % 2);
    }
    check_tree(leaf_value, 100000, 9, false);
    check_tree(leaf_value, 100003, comm->world, true);
}

static void integers_sum_exactly(void **state) {
    (void)state;
    struct error err;
    enum { N = 3000 };
    static float pieces[LEAF_TREE_MAX_PIECES * N];
    for (int n_leaf = comm->world; n_leaf < 40; n_leaf += 3) {
        fill_pieces(small_integer, pieces, N, n_leaf);
        assert_ok(comm->ops->all_reduce_tree(comm, pieces, pieces, N, n_leaf, &err), &err);
        for (size_t i = 0; i < N; i++) {
            int want = 0;
            for (int l = 0; l < n_leaf; l++) {
                want += (int)small_integer(l, i);
            }
            assert_int_equal(bits(pieces[i]), bits((float)want));
        }
    }
}

/* The data can tell trees apart: else the two tests above prove nothing. */
static void the_order_of_addition_shows(void **state) {
    (void)state;
    int n_different = 0;
    for (size_t i = 0; i < 1000; i++) {
        float in_a_row = 0;
        for (int l = 0; l < 9; l++) {
            in_a_row += leaf_value(l, i);
        }
        n_different += bits(in_a_row) != bits(tree_value(leaf_value, 0, 9, i));
    }
    assert_true(n_different > 100);
}

/* Two NaNs of different payload, infinities: every rank sees the same bits. */
static void special_values_agree_on_all_ranks(void **state) {
    (void)state;
    struct error err;
    static const size_t sizes[] = {5, 37, 6000};
    for (size_t s = 0; s < 3; s++) {
        size_t n = sizes[s];
        float *x = malloc(LEAF_TREE_MAX_PIECES * n * sizeof(float));
        uint64_t hash[64];
        for (size_t i = 0; i < n * LEAF_TREE_MAX_PIECES; i++) {
            uint32_t u = (i + (size_t)comm->rank) % 3 == 0 ? 0x7fc00000u + (uint32_t)comm->rank
                         : i % 3 == 1                      ? 0x7f800000u
                                                           : 0xff800000u;
            memcpy(&x[i], &u, sizeof(u));
        }
        assert_ok(comm->ops->all_reduce_tree(comm, x, x, n, 8 + comm->world, &err), &err);
        uint64_t mine = hash_bytes(HASH_START, x, n * sizeof(float));
        assert_ok(comm->ops->all_gather(comm, hash, &mine, sizeof(mine), &err), &err);
        for (int r = 0; r < comm->world; r++) {
            assert_true(hash[r] == mine);
        }
        free(x);
    }
}

static void nothing_to_reduce(void **state) {
    (void)state;
    struct error err;
    assert_ok(comm->ops->all_reduce_tree(comm, NULL, NULL, 0, comm->world, &err), &err);
    assert_ok(comm->ops->all_reduce_u32(comm, NULL, 0, &err), &err);
    assert_ok(comm->ops->all_gather(comm, NULL, NULL, 0, &err), &err);
    float x = 1;
    assert_false(comm->ops->all_reduce_tree(comm, &x, &x, 1, 0, &err));
    assert_int_equal(err.kind, ERROR_SHAPE);
    assert_false(comm->ops->all_reduce_tree(comm, &x, &x, 1, LEAF_TREE_MAX_LEAVES + 1, &err));
    assert_int_equal(err.kind, ERROR_SHAPE);
}

static void unsigned_sum_and_max(void **state) {
    (void)state;
    struct error err;
    uint32_t world = (uint32_t)comm->world;
    uint32_t rank = (uint32_t)comm->rank;
    uint32_t sum[3] = {1, 0x80000000u + rank, rank};
    uint32_t max[3] = {rank, 0x80000000u - rank, 5};
    assert_ok(comm->ops->all_reduce_u32(comm, sum, 3, &err), &err);
    assert_int_equal(sum[0], world);
    assert_int_equal(sum[1], 0x80000000u * world + world * (world - 1) / 2);
    assert_int_equal(sum[2], world * (world - 1) / 2);
    assert_ok(comm->ops->all_reduce_max_u32(comm, max, 3, &err), &err);
    assert_int_equal(max[0], world - 1);
    assert_int_equal(max[1], 0x80000000u);
    assert_int_equal(max[2], 5);
}

static unsigned char pattern(int rank, size_t i) {
    return (unsigned char)(i * 31 + (i >> 8) + (size_t)rank * 57 + 1);
}

static void all_gather_sizes(void **state) {
    (void)state;
    struct error err;
    static const size_t sizes[] = {1, 13, 5000, 100000}; /* direct and ring */
    for (size_t s = 0; s < 4; s++) {
        size_t n = sizes[s];
        unsigned char *all = malloc(n * (size_t)comm->world);
        unsigned char *mine = malloc(n);
        for (size_t i = 0; i < n; i++) {
            mine[i] = pattern(comm->rank, i);
        }
        assert_ok(comm->ops->all_gather(comm, all, mine, n, &err), &err);
        for (size_t i = 0; i < n * (size_t)comm->world; i++) {
            assert_int_equal(all[i], pattern((int)(i / n), i % n));
        }
        free(mine);
        free(all);
    }
}

static void broadcast_from_every_root(void **state) {
    (void)state;
    struct error err;
    static const size_t sizes[] = {0, 1, 5000, 300000};
    unsigned char *buf = malloc(300000);
    for (int root = 0; root < comm->world; root++) {
        for (size_t s = 0; s < 4; s++) {
            for (size_t i = 0; i < sizes[s]; i++) {
                buf[i] = comm->rank == root ? pattern(root, i) : 0;
            }
            assert_ok(comm->ops->broadcast(comm, buf, sizes[s], root, &err), &err);
            for (size_t i = 0; i < sizes[s]; i++) {
                assert_int_equal(buf[i], pattern(root, i));
            }
        }
    }
    assert_false(comm->ops->broadcast(comm, buf, 1, comm->world, &err));
    assert_int_equal(err.kind, ERROR_SHAPE);
    free(buf);
}

static void gather_uneven(void **state) {
    (void)state;
    struct error err;
    size_t bytes[64];
    for (int shift = 0; shift < 4; shift++) {
        size_t total = 0;
        for (int r = 0; r < comm->world; r++) {
            static const size_t sizes[] = {3, 0, 70000, 1};
            bytes[r] = sizes[(r + shift) % 4];
            total += bytes[r];
        }
        unsigned char *mine = malloc(bytes[comm->rank] + 1);
        unsigned char *all = comm->rank == 0 ? malloc(total + 1) : NULL;
        for (size_t i = 0; i < bytes[comm->rank]; i++) {
            mine[i] = pattern(comm->rank, i);
        }
        assert_ok(comm->ops->gather(comm, all, mine, bytes, &err), &err);
        if (comm->rank == 0) {
            size_t at = 0;
            for (int r = 0; r < comm->world; r++) {
                for (size_t i = 0; i < bytes[r]; i++) {
                    assert_int_equal(all[at++], pattern(r, i));
                }
            }
        }
        free(all);
        free(mine);
    }
}

static void agreement_names_the_lowest_rank_that_failed(void **state) {
    (void)state;
    struct error err;
    assert_true(comm_agree(comm, true, &err));
    for (int bad = 0; bad < comm->world; bad++) {
        bool ok = comm->rank != bad && comm->rank != comm->world - 1;
        error_set(&err, ERROR_MEMORY, "mine");
        err.has_rank = false;
        assert_false(comm_agree(comm, ok, &err));
        if (ok) {
            assert_int_equal(err.kind, ERROR_COMM);
            assert_true(err.has_rank);
            assert_int_equal(err.rank, bad);
        } else {
            assert_string_equal(err.message, "mine");
        }
    }
}

/* Ranks that run ahead of each other, over more collectives than there are tags. */
static void collectives_in_a_row_do_not_mix(void **state) {
    (void)state;
    struct error err;
    int n = comm->world <= 2 ? 40000 : 500;
    for (int i = 0; i < n; i++) {
        int root = i / 97 % comm->world;
        uint32_t x[2] = {(uint32_t)i, (uint32_t)root};
        if (comm->rank != root) {
            x[0] = x[1] = 0xdead;
        }
        assert_ok(comm->ops->broadcast(comm, x, i % 2 ? 4 : 8, root, &err), &err);
        assert_int_equal(x[0], i);
        if (i % 250 == 0) {
            float v = (float)comm->rank;
            assert_ok(comm->ops->all_reduce_tree(comm, &v, &v, 1, comm->world, &err), &err);
            assert_int_equal((int)v, comm->world * (comm->world - 1) / 2);
        }
    }
}

static void statistics_count(void **state) {
    (void)state;
    struct error err;
    uint32_t x = 1;
    comm->stats = (struct comm_stats){0};
    assert_ok(comm->ops->all_reduce_u32(comm, &x, 1, &err), &err);
    assert_int_equal(comm->stats.n_collective, 1);
    assert_int_equal(comm->stats.bytes, 4 * (comm->world - 1));
    assert_true(comm->stats.wait_s >= 0 && comm->stats.transfer_s > 0);
    assert_true(comm->stats.wait_s + comm->stats.transfer_s < 5);
}

/* One all-reduce of n zeros, to which the last rank comes late_s late: whether no rank's time is
 * counted under the wrong name. */
static bool time_is_told_apart(float *x, size_t n, double late_s) {
    struct error err;
    uint32_t together = 1;
    assert_ok(comm->ops->all_reduce_u32(comm, &together, 1, &err), &err);
    comm->stats = (struct comm_stats){0};
    bool late = comm->rank == comm->world - 1;
    if (late) {
        clock_sleep(late_s);
    }
    assert_ok(comm->ops->all_reduce_tree(comm, x, x, n, comm->world, &err), &err);
    bool waited = comm->stats.wait_s > late_s / 2;
    uint32_t n_wrong = comm->stats.transfer_s >= late_s / 2 || waited == late;
    assert_ok(comm->ops->all_reduce_u32(comm, &n_wrong, 1, &err), &err);
    return n_wrong == 0;
}

/* Who comes last does not wait, and the others wait for it and transfer no longer than it does:
 * for messages of one chunk, and for those with a handshake. A machine with more to do than this
 * may hold a rank up for a while: one round of several has to show it. */
static void waiting_is_not_transfer(void **state) {
    (void)state;
    static const size_t sizes[] = {1, 3000, 100000};
    if (comm->world == 1) {
        return;
    }
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        float *x = calloc(sizes[i], sizeof *x);
        int n_left = 10;
        while (!time_is_told_apart(x, sizes[i], 0.2)) {
            assert_true(--n_left > 0);
        }
        free(x);
    }
}

static void different_ids_are_refused(void **state) {
    (void)state;
    struct error err;
    struct comm *c = NULL;
    uint8_t id[COMM_ID_BYTES];
    uint8_t other[COMM_ID_BYTES];
    if (comm->world == 1) {
        return;
    }
    assert_ok(comm_mpi_share_id(MPI_COMM_WORLD, true, NULL, NULL, 60, id, &err), &err);
    assert_ok(comm_mpi_share_id(MPI_COMM_WORLD, true, NULL, NULL, 60, other, &err), &err);
    assert_memory_not_equal(id, other, sizeof(id));
    MPI_Comm mpi;
    MPI_Comm_dup(MPI_COMM_WORLD, &mpi);
    int odd = comm->world - 1;
    assert_false(comm_mpi_create(mpi, comm->rank == odd ? other : id, 10, &c, &err));
    assert_int_equal(err.kind, ERROR_COMM_INIT);
    char name[32];
    snprintf(name, sizeof(name), "rank %d", odd);
    assert_non_null(strstr(err.message, name));
    MPI_Comm_free(&mpi);
}

static int start(void **state) {
    (void)state;
    comm = mpi_test_comm(20);
    return 0;
}

static int stop(void **state) {
    (void)state;
    comm_destroy(comm);
    return 0;
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tree_sum_has_the_bits_of_one_rank),
        cmocka_unit_test(long_vectors_too),
        cmocka_unit_test(integers_sum_exactly),
        cmocka_unit_test(the_order_of_addition_shows),
        cmocka_unit_test(special_values_agree_on_all_ranks),
        cmocka_unit_test(nothing_to_reduce),
        cmocka_unit_test(unsigned_sum_and_max),
        cmocka_unit_test(all_gather_sizes),
        cmocka_unit_test(broadcast_from_every_root),
        cmocka_unit_test(gather_uneven),
        cmocka_unit_test(agreement_names_the_lowest_rank_that_failed),
        cmocka_unit_test(collectives_in_a_row_do_not_mix),
        cmocka_unit_test(statistics_count),
        cmocka_unit_test(waiting_is_not_transfer),
        cmocka_unit_test(different_ids_are_refused),
    };
    return mpi_test_main(tests, start, stop, argc, argv);
}
