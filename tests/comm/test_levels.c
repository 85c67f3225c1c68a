/* The claim that mpi_tree.c's exchange by levels rests on, for every tree and world it may meet:
 * where leaf_tree_is_balanced says so, partners at distance 1, 2, 4, ... group the ranks as the
 * tree does. */
#include "test.h"

#include "base/leaf_tree.h"

static uint64_t join(uint64_t left, uint64_t right) {
    return left * 31 + (right ^ 0x5555) * 17;
}

static void levels_follow_the_tree(void **state) {
    (void)state;
    int n_balanced = 0;
    for (int n_leaf = 1; n_leaf <= LEAF_TREE_MAX_LEAVES; n_leaf++) {
        for (int world = 2; world <= 64; world *= 2) {
            struct leaf_run pieces[64 * LEAF_TREE_MAX_PIECES];
            struct leaf_tree_add adds[64];
            uint64_t tree[64];
            uint64_t levels[64];
            if (!leaf_tree_is_balanced(n_leaf, world)) {
                continue;
            }
            n_balanced++;
            for (int r = 0; r < world; r++) {
                leaf_tree_pieces(n_leaf, leaf_run_of_rank(n_leaf, world, r), &pieces[r]);
                tree[r] = levels[r] = (uint64_t)r * 0x9e3779b97f4a7c15u + 1;
            }
            int n_add = leaf_tree_adds(n_leaf, pieces, world, adds);
            for (int i = 0; i < n_add; i++) {
                tree[adds[i].left] = join(tree[adds[i].left], tree[adds[i].right]);
            }
            for (int distance = 1; distance < world; distance *= 2) {
                for (int r = 0; r < world; r += 2 * distance) {
                    levels[r] = join(levels[r], levels[r + distance]);
                }
            }
            assert_int_equal(tree[0], levels[0]);
        }
    }
    assert_true(n_balanced > 2000);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(levels_follow_the_tree)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
