#include "comm/sum.h"

#include <string.h>

/* Floats of each piece that are worked on at a time: a few pieces' worth stays in L1. */
enum { SUM_BLOCK = 1024 };

void sum_pair(float *out, const float *left, const float *right, size_t n) {
    /* Tells the compiler that exact aliasing is the only one; `restrict` would forbid even that. */
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        out[i] = left[i] + right[i];
    }
}

void sum_tree(float *out, float *const *piece, const struct leaf_tree_add *adds, int n_add,
              size_t n) {
    if (n_add == 0) {
        memmove(out, piece[0], n * sizeof(*out));
        return;
    }
    for (size_t at = 0; at < n; at += SUM_BLOCK) {
        size_t m = n - at < SUM_BLOCK ? n - at : SUM_BLOCK;
        for (int i = 0; i < n_add; i++) {
            float *to = i == n_add - 1 ? out : piece[adds[i].left];
            sum_pair(to + at, piece[adds[i].left] + at, piece[adds[i].right] + at, m);
        }
    }
}
