#include "comm/sum.h"

#include <assert.h>
#include <string.h>

enum {
    SUM_BLOCK = 1024, /* floats that are worked on at a time: a few pieces' worth stays in L1 */
    SUM_DEPTH = 10    /* partial sums there can be at a time: one for each level below the root */
};

_Static_assert(1 << SUM_DEPTH >= LEAF_TREE_MAX_LEAVES, "levels of the largest tree");

void sum_pair(float *out, const float *left, const float *right, size_t n) {
    /* Tells the compiler that exact aliasing is the only one; `restrict` would forbid even that. */
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        out[i] = left[i] + right[i];
    }
}

/* Partial sums lie on a stack: each add comes right behind its operands. */
static void sum_block(float *out, const float *const *piece, const struct leaf_tree_add *adds,
                      int n_add, size_t at, size_t n) {
    float partial[SUM_DEPTH][SUM_BLOCK];
    int first_piece[SUM_DEPTH]; /* of each partial sum's subtree */
    int depth = 0;
    for (int i = 0; i < n_add; i++) {
        const float *left = piece[adds[i].left] + at;
        const float *right = piece[adds[i].right] + at;
        if (depth > 0 && first_piece[depth - 1] == adds[i].right) {
            right = partial[--depth];
        }
        if (depth > 0 && first_piece[depth - 1] == adds[i].left) {
            left = partial[--depth];
        }
        assert(depth < SUM_DEPTH);
        sum_pair(i == n_add - 1 ? out + at : partial[depth], left, right, n);
        first_piece[depth++] = adds[i].left;
    }
}

void sum_tree(float *out, const float *const *piece, const struct leaf_tree_add *adds, int n_add,
              size_t n) {
    if (n_add == 0) {
        memmove(out, piece[0], n * sizeof(*out));
        return;
    }
    for (size_t at = 0; at < n; at += SUM_BLOCK) {
        sum_block(out, piece, adds, n_add, at, n - at < SUM_BLOCK ? n - at : SUM_BLOCK);
    }
}
