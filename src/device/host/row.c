#include "device/host/row.h"

#include <math.h>

#include "device/host/host.h"

float row_max(const float *x, int n) {
    return host_kernels_best()->max(x, n);
}

int row_first_max(const float *x, int n) {
    const struct host_kernels *k = host_kernels_best();
    float below = nextafterf(k->max(x, n), -INFINITY);
    for (int i = 0; (i = k->skip_until_above(x, i, n, below)) < n; i += VEC_WIDTH) {
        for (int j = i; j < n && j < i + VEC_WIDTH; j++) {
            if (x[j] > below) {
                return j;
            }
        }
    }
    return 0;
}

double row_exp_sum(float *y, float *blocks, const float *x, int n, float max, float scale) {
    const struct host_kernels *k = host_kernels_best();
    double total = 0;
    for (int i = 0, b = 0; i < n; i += ROW_BLOCK, b++) {
        int m = n - i < ROW_BLOCK ? n - i : ROW_BLOCK;
        float sum = k->exp_sum(y ? y + i : NULL, x + i, m, max, scale);
        total += (double)sum;
        if (blocks) {
            blocks[b] = sum;
        }
    }
    return total;
}

double row_sum_above(float *blocks, const float *x, int n, float limit, int end) {
    const struct host_kernels *k = host_kernels_best();
    float below = nextafterf(limit, -INFINITY);
    double total = 0;
    for (int i = 0, b = 0; i < n; i += ROW_BLOCK, b++) {
        int m = n - i < ROW_BLOCK ? n - i : ROW_BLOCK;
        int with = end <= i ? 0 : end - i < m ? end - i : m; /* so many may be equal to it */
        blocks[b] = k->sum_above(x + i, with, below) + k->sum_above(x + i + with, m - with, limit);
        total += (double)blocks[b];
    }
    return total;
}

int row_count_above(const float *x, int n, float limit) {
    return host_kernels_best()->count_above(x, n, limit);
}

void row_top_k(float *values, int32_t *ids, const float *x, int n, int k) {
    host_select(host_kernels_best(), values, ids, x, n, k);
}
