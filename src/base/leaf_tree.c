#include "base/leaf_tree.h"

#include <assert.h>
#include <stdint.h>

static int ceil_div(int64_t a, int64_t b) {
    return (int)((a + b - 1) / b);
}

struct leaf_run leaf_run_of_rank(int n, int world, int rank) {
    int first = ceil_div((int64_t)rank * n, world);
    int end = ceil_div((int64_t)(rank + 1) * n, world);
    return (struct leaf_run){first, end - first};
}

static int collect(struct leaf_run node, struct leaf_run run, struct leaf_run *pieces, int n) {
    int node_end = node.first + node.count;
    int run_end = run.first + run.count;
    if (node_end <= run.first || node.first >= run_end || node.count == 0) {
        return n;
    }
    if (node.first >= run.first && node_end <= run_end) {
        assert(n < LEAF_TREE_MAX_PIECES);
        pieces[n] = node;
        return n + 1;
    }
    int left = leaf_tree_left(node.count);
    n = collect((struct leaf_run){node.first, left}, run, pieces, n);
    return collect((struct leaf_run){node.first + left, node.count - left}, run, pieces, n);
}

int leaf_tree_pieces(int n_leaf, struct leaf_run run, struct leaf_run *pieces) {
    return collect((struct leaf_run){0, n_leaf}, run, pieces, 0);
}

struct adder {
    const struct leaf_run *pieces;
    int next; /* the next piece to be consumed */
    struct leaf_tree_add *adds;
    int n_add;
};

/* Adds up the subtree `node`; returns the index of the piece that holds its sum. */
static int add_up(struct adder *a, struct leaf_run node) {
    const struct leaf_run *piece = &a->pieces[a->next];
    if (piece->first == node.first && piece->count == node.count) {
        return a->next++;
    }
    int n_left = leaf_tree_left(node.count);
    int left = add_up(a, (struct leaf_run){node.first, n_left});
    int right = add_up(a, (struct leaf_run){node.first + n_left, node.count - n_left});
    a->adds[a->n_add++] = (struct leaf_tree_add){left, right};
    return left;
}

int leaf_tree_adds(int n_leaf, const struct leaf_run *pieces, int n_piece,
                   struct leaf_tree_add *adds) {
    struct adder a = {.pieces = pieces, .adds = adds};
    add_up(&a, (struct leaf_run){0, n_leaf});
    assert(a.next == n_piece && a.n_add == n_piece - 1);
    (void)n_piece;
    return a.n_add;
}

bool leaf_tree_is_balanced(int n_leaf, int world) {
    if (world > n_leaf || (world & (world - 1)) != 0) {
        return false;
    }
    struct leaf_run pieces[LEAF_TREE_MAX_PIECES];
    for (int r = 0; r < world; r++) {
        if (leaf_tree_pieces(n_leaf, leaf_run_of_rank(n_leaf, world, r), pieces) != 1) {
            return false;
        }
    }
    return true;
}
