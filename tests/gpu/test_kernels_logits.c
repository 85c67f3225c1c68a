/* The kernels of logits: top-k and log-sum-exp. */
#include "gpu/kernel_test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- top-k ---- */

static float comparable(float x) {
    return isnan(x) ? -INFINITY : x;
}

static void top_k_case(int n, int dim, int k, const float *x) {
    void *dx = upload(KERNEL_F32, x, (size_t)n * dim);
    void *dv = device_bytes(NULL, (size_t)n * k * 4), *di = device_bytes(NULL, (size_t)n * k * 4);
    ok(kernel_top_k(dv, di, dx, n, dim, k, 1000, stream));
    float *v = download(KERNEL_F32, dv, (size_t)n * k);
    int32_t *ids = (int32_t *)(void *)download(KERNEL_F32, di, (size_t)n * k);
    bool *taken = malloc((size_t)dim * sizeof *taken);
    for (int m = 0; m < n; m++) {
        const float *row = x + (size_t)m * dim;
        memset(taken, 0, (size_t)dim * sizeof *taken);
        for (int i = 0; i < k; i++) {
            int best = -1;
            for (int j = 0; j < dim; j++) {
                if (!taken[j] && (best < 0 || comparable(row[j]) > comparable(row[best]))) {
                    best = j;
                }
            }
            taken[best] = true;
            assert_int_equal(ids[m * k + i], best + 1000);
            assert_true(v[m * k + i] == comparable(row[best]));
        }
    }
    ok(cudaFree(dx)), ok(cudaFree(dv)), ok(cudaFree(di));
    free(v), free(ids), free(taken);
}

static void top_k(void **state) {
    static const int sizes[][3] = {{1, 1, 1},  {3, 700, 1},   {2, 5, 5},       {2, 1000, 2},
                                   {1, 37, 3}, {2, 1500, 40}, {1, 2000, 1024}, {1, 600, 5}};
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        int n = sizes[i][0], dim = sizes[i][1];
        float *x = values(KERNEL_F32, (size_t)n * dim); /* of 2000 values: there are ties */
        for (int j = 0; j < n * dim && i % 2; j += 7) {
            static const float odd[] = {NAN, -INFINITY, -0.0f, 0.0f, INFINITY, 2.0f, 1e-40f};
            x[j] = odd[j / 7 % 7];
        }
        top_k_case(n, dim, sizes[i][2], x);
        free(x);
    }
}

/* ---- log-sum-exp ---- */

/* In double; NaN and +inf as the kernel promises. */
static void log_sum_exp_want(const float *row, int dim, double *max, double *sum) {
    *max = -HUGE_VAL;
    *sum = 0;
    for (int j = 0; j < dim; j++) {
        *max = (double)row[j] > *max ? (double)row[j] : *max;
    }
    for (int j = 0; j < dim; j++) {
        *sum += (double)row[j] == -HUGE_VAL ? 0 : exp((double)row[j] - *max);
    }
}

/* Relative to the sum 1e-5: an argument of expf is off by at most 2^-24 of it, and what adds
 * anything lies within 20 of the maximum. */
static void log_sum_exp_case(int n, int dim, int shift, const float *x, const int32_t *targets) {
    enum { FIRST = 3, INDEX_FIRST = 1000 };
    float *moved = calloc((size_t)n * dim + shift + 1, sizeof *moved);
    memcpy(moved + shift, x, (size_t)n * dim * sizeof *x);
    float *dx = upload(KERNEL_F32, moved, (size_t)n * dim + shift);
    float *out = device_bytes(NULL, (size_t)n * 3 * 4);
    int32_t *dt = device_bytes(NULL, (size_t)(n + FIRST) * 4);
    ok(cudaMemcpyAsync(dt + FIRST, targets, (size_t)n * 4, cudaMemcpyHostToDevice, stream));
    struct kernel_batch batch = {.targets = dt, .n_row = n + FIRST};
    ok(kernel_log_sum_exp(out, dx + shift, FIRST, n, dim, INDEX_FIRST, &batch, stream));
    float *got = download(KERNEL_F32, out, (size_t)n * 3);
    for (int m = 0; m < n; m++) {
        const float *row = x + (size_t)m * dim, *g = got + (size_t)m * 3;
        int at = targets[m] - INDEX_FIRST;
        float target = at >= 0 && at < dim ? row[at] : 0.0f;
        double max, sum;
        log_sum_exp_want(row, dim, &max, &sum);
        bool good = (double)g[0] == max && (g[2] == target || (isnan(target) && isnan(g[2]))) &&
                    (isnan(sum) ? isnan(g[1]) : fabs((double)g[1] - sum) <= 1e-5 * sum);
        if (!good) {
            fail_msg("row %d of %d, %d columns: %g %g %g, not %g %g %g", m, n, dim, (double)g[0],
                     (double)g[1], (double)g[2], max, sum, (double)target);
        }
    }
    ok(cudaFree(dx)), ok(cudaFree(out)), ok(cudaFree(dt));
    free(moved), free(got);
}

/* Row m of a case: as it is, or with something odd in it. */
static void log_sum_exp_row(float *row, int dim, int m) {
    static const float odd[] = {NAN, INFINITY, -INFINITY, 2.0f, 3e38f, -3e38f};
    int at = random_int(&rng, 0, dim - 1);
    if (m % 9 == 1) { /* ties of the maximum only */
        for (int j = 0; j < dim; j++) {
            row[j] = -7.25f;
        }
    } else if (m % 9 == 2) { /* nothing at all */
        for (int j = 0; j < dim; j++) {
            row[j] = -INFINITY;
        }
    } else if (m % 9 == 3) { /* large magnitudes */
        for (int j = 0; j < dim; j++) {
            row[j] *= 5000.0f;
        }
    } else if (m % 9 > 3) { /* one, or every seventh, is odd */
        for (int j = at; j < dim; j += m % 2 ? dim : 7) {
            row[j] = odd[m % 9 - 4];
        }
    }
}

static void log_sum_exp(void **state) {
    static const int dims[] = {1, 5, 37, 64, 700, 2000, 4100};
    int32_t targets[9];
    (void)state;
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++) {
        for (int n = i < 4 ? 1 : 9; n <= 9; n++) {
            int dim = dims[i];
            float *x = values(KERNEL_F32, (size_t)n * dim);
            for (int m = 0; m < n; m++) {
                static const int beyond[] = {-1, 999, 0};
                log_sum_exp_row(x + (size_t)m * dim, dim, n == 1 ? (int)i : m);
                targets[m] = m % 3 ? 1000 + random_int(&rng, 0, dim - 1) : beyond[m / 3];
                targets[m] = m == 8 ? 1000 + dim : targets[m];
            }
            log_sum_exp_case(n, dim, n % 4 == 3 || i == 5 ? 1 : 0, x, targets); /* 1: not aligned */
            free(x);
        }
    }
    int32_t none = 1000; /* a rank may have no part of a small vocabulary */
    log_sum_exp_case(1, 0, 0, &(float){0}, &none);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(top_k),
        cmocka_unit_test(log_sum_exp),
    };
    return cmocka_run_group_tests(tests, kernel_test_start, kernel_test_end);
}
