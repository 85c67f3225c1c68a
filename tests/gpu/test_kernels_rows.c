/* The kernels of rows: norm, embedding, what is done element by element, gather. */
#include "gpu/kernel_test.h"

#include <math.h>
#include <stdlib.h>

static void rmsnorm_case(enum kernel_type t, int n, int dim, bool with_delta) {
    size_t size = (size_t)n * dim;
    float *x = values(KERNEL_F32, size), *delta = values(KERNEL_F32, size);
    float *w = values(KERNEL_F32, dim);
    double *sum = malloc(size * sizeof *sum), *want = malloc(size * sizeof *want);
    for (int m = 0; m < n; m++) {
        double squares = 0;
        for (int i = 0; i < dim; i++) {
            size_t at = (size_t)m * dim + i;
            sum[at] = (double)x[at] + (with_delta ? (double)delta[at] : 0);
            squares += sum[at] * sum[at];
        }
        for (int i = 0; i < dim; i++) {
            want[(size_t)m * dim + i] =
                sum[(size_t)m * dim + i] / sqrt(squares / dim + 1e-6) * (double)w[i];
        }
    }
    void *dx = upload(KERNEL_F32, x, size), *dd = upload(KERNEL_F32, delta, size);
    void *dw = upload(KERNEL_F32, w, dim), *dy = device_bytes(NULL, size * 4);
    ok(kernel_rmsnorm(dy, t, dx, with_delta ? dd : NULL, dw, n, dim, 1e-6f, stream));
    check("rmsnorm", t, dy, want, n, dim);
    check("rmsnorm's sum", KERNEL_F32, dx, sum, n, dim);
    if (t == KERNEL_F32) {
        ok(kernel_rmsnorm(dx, t, dx, NULL, dw, n, dim, 1e-6f, stream));
        check("rmsnorm in place", t, dx, want, n, dim);
    }
    void *all[] = {dx, dd, dw, dy};
    for (int i = 0; i < 4; i++) {
        ok(cudaFree(all[i]));
    }
    free(x), free(delta), free(w), free(sum), free(want);
}

static void embed_case(enum kernel_type t, int dim) {
    enum { ROWS = 7, FIRST = 20, N = 6 };
    const int32_t ids[N] = {20, 26, 27, 19, 23, 22}, sequence[N] = {0, 0, 1, 1, 2, -1};
    float *table = values(t, (size_t)ROWS * dim);
    double *want = calloc((size_t)N * dim, sizeof *want);
    table[0] = -0.0f;
    for (int m = 0; m < N; m++) {
        int row = ids[m] - FIRST;
        for (int i = 0; i < dim && sequence[m] >= 0 && row >= 0 && row < ROWS; i++) {
            want[m * dim + i] = (double)table[row * dim + i];
        }
    }
    void *dt = upload(t, table, (size_t)ROWS * dim), *dy = device_bytes(NULL, (size_t)N * dim * 4);
    void *di = upload_ints(ids, N), *ds = upload_ints(sequence, N);
    struct kernel_batch batch = {.ids = di, .sequence = ds, .n_tok = N};
    ok(kernel_embed(dy, dt, t, ROWS, dim, FIRST, &batch, stream));
    check("embed", KERNEL_F32, dy, want, N, dim);
    float *got = download(KERNEL_F32, dy, 1);
    assert_false(signbit(got[0]));
    void *all[] = {dt, dy, di, ds};
    for (int i = 0; i < 4; i++) {
        ok(cudaFree(all[i]));
    }
    free(got), free(table), free(want);
}

static void elementwise_case(enum kernel_type t, int n, int dim) {
    size_t size = (size_t)n * dim;
    float *x = values(t, size), *b = values(KERNEL_F32, dim), *gu = values(t, 2 * size);
    float *y = values(KERNEL_F32, size);
    double *bias = malloc(size * sizeof *bias), *silu = malloc(size * sizeof *silu);
    double *sum = malloc(size * sizeof *sum);
    for (size_t k = 0; k < size; k++) {
        size_t m = k / dim, i = k % dim;
        double g = (double)gu[2 * m * dim + i], u = (double)gu[(2 * m + 1) * dim + i];
        bias[k] = (double)x[k] + (double)b[i];
        silu[k] = g / (1 + exp(-g)) * u;
        sum[k] = (double)y[k] + (double)y[k];
    }
    void *dx = upload(t, x, size), *db = upload(KERNEL_F32, b, dim), *dg = upload(t, gu, 2 * size);
    void *dy = device_bytes(NULL, size * 4), *ds = upload(KERNEL_F32, y, size);
    void *da = upload(KERNEL_F32, y, size);
    ok(kernel_add_bias(dx, t, db, n, dim, stream));
    check("add_bias", t, dx, bias, n, dim);
    ok(kernel_silu_mul(dy, dg, t, n, dim, stream));
    check("silu_mul", t, dy, silu, n, dim);
    ok(kernel_add(ds, da, size, stream));
    check("add", KERNEL_F32, ds, sum, n, dim);
    void *all[] = {dx, db, dg, dy, ds, da};
    for (int i = 0; i < 6; i++) {
        ok(cudaFree(all[i]));
    }
    free(x), free(b), free(gu), free(y), free(bias), free(silu), free(sum);
}

static void gather_case(int dim) {
    enum { ROWS = 5, N = 4 };
    const int32_t rows[N] = {3, 0, 4, -1};
    float *x = values(KERNEL_F32, (size_t)ROWS * dim);
    double *want = calloc((size_t)N * dim, sizeof *want);
    for (int m = 1; m < N; m++) {
        for (int i = 0; i < dim && rows[m] >= 0; i++) {
            want[(m - 1) * dim + i] = (double)x[rows[m] * dim + i];
        }
    }
    void *dx = upload(KERNEL_F32, x, (size_t)ROWS * dim), *dr = upload_ints(rows, N);
    void *dy = device_bytes(NULL, (size_t)N * dim * 4);
    struct kernel_batch batch = {.rows = dr, .n_row = N};
    ok(kernel_gather_rows(dy, dx, 1, N - 1, dim, &batch, stream));
    check("gather_rows", KERNEL_F32, dy, want, N - 1, dim);
    ok(cudaFree(dx)), ok(cudaFree(dr)), ok(cudaFree(dy));
    free(x), free(want);
}

static void rows(void **state) {
    static const int dims[] = {1, 3, 64, 130, 516};
    (void)state;
    for (size_t d = 0; d < sizeof dims / sizeof dims[0]; d++) {
        gather_case(dims[d]);
        for (int t = 0; t < 2; t++) {
            int n = random_int(&rng, 1, 9);
            embed_case((enum kernel_type)t, dims[d]);
            elementwise_case((enum kernel_type)t, n, dims[d]);
            rmsnorm_case((enum kernel_type)t, n, dims[d], false);
            rmsnorm_case((enum kernel_type)t, n, dims[d], true);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows),
    };
    return cmocka_run_group_tests(tests, kernel_test_start, kernel_test_end);
}
