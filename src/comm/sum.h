/* The additions of the reduction tree. Compiled with -O3, apart from the rest. */
#pragma once

#include <stddef.h>

#include "base/leaf_tree.h"

/* out[i] = left[i] + right[i]. out may be left or right itself, but not overlap them otherwise. */
void sum_pair(float *out, const float *left, const float *right, size_t n);

/* Carries out `adds` on pieces of n floats each, which are only read, and leaves the root in out,
 * which may be one of them. n_add = 0: out = piece[0]. */
void sum_tree(float *out, const float *const *piece, const struct leaf_tree_add *adds, int n_add,
              size_t n);
