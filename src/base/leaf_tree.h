/* The one binary tree in which a row-parallel linear's partial results are added.
 *
 * A tree over n leaves has ceil(n/2) of them on the left and the rest on the right, recursively.
 * It depends on the model alone, never on the number of ranks: a rank owns a run of consecutive
 * leaves, computes the maximal subtrees inside that run, and the ranks together add up the rest.
 * So the sum has the same bits for every world size. */
#pragma once

#include <stdbool.h>

enum {
    LEAF_TREE_MAX_LEAVES = 1024,
    LEAF_TREE_MAX_PIECES = 20, /* 2 * log2(LEAF_TREE_MAX_LEAVES) maximal subtrees in any run */
};

/* A run of leaves, [first, first + count). */
struct leaf_run {
    int first;
    int count;
};

/* Leaves on the left of a tree over n >= 2 leaves. */
static inline int leaf_tree_left(int n) {
    return n - n / 2;
}

/* Leaves (or units, or rows) of rank r when n are dealt out over `world` ranks:
 * ceil(r n / world) ... ceil((r + 1) n / world) - 1. */
struct leaf_run leaf_run_of_rank(int n, int world, int rank);

/* The maximal subtrees of the tree over n_leaf leaves that lie inside `run`, in leaf order.
 * Returns how many were written to pieces[LEAF_TREE_MAX_PIECES]. */
int leaf_tree_pieces(int n_leaf, struct leaf_run run, struct leaf_run *pieces);

/* One step of adding n_piece subtrees, numbered in leaf order, up to the root:
 * piece[left] += piece[right]. The result ends in piece 0. */
struct leaf_tree_add {
    int left;
    int right;
};

/* The additions, in an order that respects the tree, that turn the given pieces (which must cover
 * all n_leaf leaves, in order) into the sum. Returns their number, n_piece - 1. */
int leaf_tree_adds(int n_leaf, const struct leaf_run *pieces, int n_piece,
                   struct leaf_tree_add *adds);

/* True where world is a power of two and every rank's run is one subtree, so that ranks can
 * exchange one vector per level with partners at distance 1, 2, 4, ... */
bool leaf_tree_is_balanced(int n_leaf, int world);
