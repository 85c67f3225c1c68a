#include "test.h"

#include "base/leaf_tree.h"

/* The tree written as its definition: the expression it computes, as nested sums of primes' powers
 * would be; here a hash that tells any two groupings apart. */
static uint64_t grouping(int first, int n) {
    if (n == 1) {
        return (uint64_t)first * 0x9e3779b97f4a7c15u + 1;
    }
    int left = (n + 1) / 2;
    return grouping(first, left) * 31 + (grouping(first + left, n - left) ^ 0x5555) * 17;
}

static void every_world_size_gives_the_same_grouping(void **state) {
    (void)state;
    for (int n_leaf = 1; n_leaf <= 70; n_leaf++) {
        for (int world = 1; world <= n_leaf; world++) {
            struct leaf_run pieces[LEAF_TREE_MAX_PIECES * 70];
            struct leaf_tree_add adds[LEAF_TREE_MAX_PIECES * 70];
            uint64_t value[LEAF_TREE_MAX_PIECES * 70];
            int n = 0;
            int next_leaf = 0;
            for (int r = 0; r < world; r++) {
                struct leaf_run run = leaf_run_of_rank(n_leaf, world, r);
                assert_int_equal(run.first, next_leaf);
                assert_true(run.count >= 1);
                next_leaf += run.count;
                n += leaf_tree_pieces(n_leaf, run, pieces + n);
            }
            assert_int_equal(next_leaf, n_leaf);
            for (int i = 0; i < n; i++) {
                value[i] = grouping(pieces[i].first, pieces[i].count);
            }
            int n_add = leaf_tree_adds(n_leaf, pieces, n, adds);
            for (int i = 0; i < n_add; i++) {
                value[adds[i].left] =
                    value[adds[i].left] * 31 + (value[adds[i].right] ^ 0x5555) * 17;
            }
            assert_int_equal(value[0], grouping(0, n_leaf));
        }
    }
}

/* Two and four ranks always are; eight and more where the leaves divide, and often elsewhere. */
static void powers_of_two_are_balanced(void **state) {
    (void)state;
    for (int n_leaf = 1; n_leaf <= 300; n_leaf++) {
        for (int world = 1; world <= n_leaf; world *= 2) {
            if (world <= 4 || n_leaf % world == 0) {
                assert_true(leaf_tree_is_balanced(n_leaf, world));
            }
        }
    }
    assert_false(leaf_tree_is_balanced(11, 8));
    assert_false(leaf_tree_is_balanced(8, 3));
    assert_false(leaf_tree_is_balanced(4, 8));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_world_size_gives_the_same_grouping),
        cmocka_unit_test(powers_of_two_are_balanced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
