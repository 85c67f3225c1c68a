/* A row of numbers in host memory: the logits that rank 0 samples from, whatever device they come
 * from, and the weights made of them. The best instruction set does it, and the bits do not depend
 * on which one that is. Sums are those of kernels.h within blocks of ROW_BLOCK, and the blocks' are
 * added up in f64, in order. */
#pragma once

#include <stdint.h>

enum { ROW_BLOCK = 256 };

static inline int row_blocks(int n) {
    return (n + ROW_BLOCK - 1) / ROW_BLOCK;
}

/* The largest, NaN left out; -inf where there is none. */
float row_max(const float *x, int n);
/* The lowest index of it; 0 where all are NaN or -inf. n >= 1. */
int row_first_max(const float *x, int n);

/* y[i] = exp((x[i] - max) * scale); y may be x, or NULL. Returns the sum; blocks [row_blocks(n)]
 * gets each block's, or is NULL. */
double row_exp_sum(float *y, float *blocks, const float *x, int n, float max, float scale);
/* The same sums of the x[i] that are above limit, or equal to it with i < end. */
double row_sum_above(float *blocks, const float *x, int n, float limit, int end);

/* How many are above limit. */
int row_count_above(const float *x, int n, float limit);
/* The k <= n largest, largest first, ties by lower index, NaN as -inf. values, ids [k]. */
void row_top_k(float *values, int32_t *ids, const float *x, int n, int k);
