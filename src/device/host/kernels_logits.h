/* What is asked of a row of logits, or of the weights made of it. */
#pragma once

static int kernel_skip_until_above(const float *x, int first, int n, float limit) {
    const struct vec bound = vec_set1(limit);
    int i = first;
    for (; i + VEC_WIDTH <= n; i += VEC_WIDTH) {
        if (vec_count_gt(vec_load(x + i), bound) > 0) {
            return i;
        }
    }
    return i < n && vec_count_gt(vec_load_n(x + i, n - i), bound) > 0 ? i : n;
}

static float kernel_max(const float *x, int n) {
    const struct vec least = vec_set1(-INFINITY);
    struct vec top = least;
    int i = 0;
    for (; i + VEC_WIDTH <= n; i += VEC_WIDTH) {
        top = vec_max(vec_load(x + i), top);
    }
    if (i < n) {
        top = vec_max(vec_first(vec_load_n(x + i, n - i), n - i, least), top);
    }
    return vec_max_lane(top);
}

static float kernel_exp_sum(float *y, const float *x, int n, float max, float scale) {
    const struct vec top = vec_set1(max), by = vec_set1(scale), zero = vec_zero();
    struct vec sum = zero;
    int i = 0;
    for (; i + VEC_WIDTH <= n; i += VEC_WIDTH) {
        struct vec e = vec_exp(vec_mul(vec_sub(vec_load(x + i), top), by));
        sum = vec_add(sum, e);
        if (y) {
            vec_store(y + i, e);
        }
    }
    if (i < n) {
        struct vec e = vec_exp(vec_mul(vec_sub(vec_load_n(x + i, n - i), top), by));
        sum = vec_add(sum, vec_first(e, n - i, zero));
        if (y) {
            vec_store_n(y + i, e, n - i);
        }
    }
    return vec_sum(sum);
}

static float kernel_sum_above(const float *x, int n, float limit) {
    const struct vec bound = vec_set1(limit);
    struct vec sum = vec_zero();
    int i = 0;
    for (; i + VEC_WIDTH <= n; i += VEC_WIDTH) {
        sum = vec_add(sum, vec_keep_gt(vec_load(x + i), bound));
    }
    if (i < n) {
        sum = vec_add(sum, vec_keep_gt(vec_load_n(x + i, n - i), bound));
    }
    return vec_sum(sum);
}

static int kernel_count_above(const float *x, int n, float limit) {
    const struct vec bound = vec_set1(limit);
    int i = 0, count = 0;
    for (; i + VEC_WIDTH <= n; i += VEC_WIDTH) {
        count += vec_count_gt(vec_load(x + i), bound);
    }
    if (i < n) {
        count += vec_count_gt(vec_first(vec_load_n(x + i, n - i), n - i, bound), bound);
    }
    return count;
}
