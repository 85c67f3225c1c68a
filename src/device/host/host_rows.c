#include "device/host/host.h"

#include <string.h>

/* Below so many values a second thread costs more than it brings. */
enum { WORTH_A_TEAM = 32768 };

/* How many parts to cut n rows into. */
static int parts(const struct host_device *h, int n, int dim) {
    return (int64_t)n * dim < WORTH_A_TEAM || n < h->n_thread ? 1 : h->n_thread;
}

struct rows_call {
    const struct host_kernels *kernels;
    int n_part;
    int n_row;
    int dim;
    float *y;
    const float *x;
    float *sum;         /* rmsnorm: x, where delta is added to it */
    const float *delta; /* rmsnorm; NULL: none */
    const float *w;
    float eps;
};

static void work_rmsnorm(void *ctx, int part, void *scratch) {
    (void)scratch;
    const struct rows_call *c = ctx;
    struct range rows = host_team_part(c->n_row, c->n_part, part);
    for (int m = rows.first; m < rows.end; m++) {
        size_t at = (size_t)m * c->dim;
        if (c->delta) {
            c->kernels->add(c->sum + at, c->delta + at, (size_t)c->dim);
        }
        c->kernels->rmsnorm(c->y + at, c->x + at, c->w, c->dim, c->eps);
    }
}

bool host_rmsnorm(struct device *d, void *y, float *x, const float *delta, const float *w,
                  int n_tok, int dim, float eps, struct error *err) {
    struct host_device *h = host_of(d);
    struct rows_call c = {.kernels = h->kernels,
                          .n_part = parts(h, n_tok, dim),
                          .n_row = n_tok,
                          .dim = dim,
                          .y = y,
                          .x = x,
                          .sum = x,
                          .delta = delta,
                          .w = w,
                          .eps = eps};
    return host_team_run(h, c.n_part, work_rmsnorm, &c, 0, err);
}

static void work_silu_mul(void *ctx, int part, void *scratch) {
    (void)scratch;
    const struct rows_call *c = ctx;
    struct range rows = host_team_part(c->n_row, c->n_part, part);
    for (int m = rows.first; m < rows.end; m++) {
        const float *gate = c->x + (size_t)m * 2 * c->dim;
        c->kernels->silu_mul(c->y + (size_t)m * c->dim, gate, gate + c->dim, c->dim);
    }
}

bool host_silu_mul(struct device *d, void *y, const void *gu, int n_tok, int dim,
                   struct error *err) {
    struct host_device *h = host_of(d);
    struct rows_call c = {.kernels = h->kernels,
                          .n_part = parts(h, n_tok, dim),
                          .n_row = n_tok,
                          .dim = dim,
                          .y = y,
                          .x = gu};
    return host_team_run(h, c.n_part, work_silu_mul, &c, 0, err);
}

bool host_add(struct device *d, float *x, const float *y, size_t n, struct error *err) {
    (void)err;
    host_of(d)->kernels->add(x, y, n);
    return true;
}

bool host_add_bias(struct device *d, void *x, enum dtype x_dtype, const float *b, int n_tok,
                   int dim, struct error *err) {
    (void)x_dtype; /* F32 is all there is */
    (void)err;
    for (int m = 0; m < n_tok; m++) {
        host_of(d)->kernels->add((float *)x + (size_t)m * dim, b, (size_t)dim);
    }
    return true;
}

static void embed_row(float *y, const struct matrix *table, int row) {
    host_matrix_row(table, row, y);
    for (int i = 0; i < table->cols; i++) {
        y[i] = y[i] == 0 ? 0 : y[i];
    }
}

bool host_embed(struct device *d, float *y, const struct matrix *table, int row_first,
                struct error *err) {
    (void)err;
    const struct device_batch *batch = &host_of(d)->batch;
    for (int m = 0; m < batch->n_tok; m++) {
        int64_t row = (int64_t)batch->ids[m] - row_first;
        float *to = y + (size_t)m * table->cols;
        if (row >= 0 && row < table->rows) {
            embed_row(to, table, (int)row);
        } else {
            memset(to, 0, (size_t)table->cols * sizeof *to);
        }
    }
    return true;
}

bool host_gather_rows(struct device *d, float *y, const float *x, int first, int n, int dim,
                      struct error *err) {
    const struct device_batch *batch = &host_of(d)->batch;
    if (first < 0 || n < 0 || n > batch->n_row - first) {
        return error_set(err, ERROR_SHAPE, "rows %d + %d of %d", first, n, batch->n_row);
    }
    const int32_t *rows = batch->rows + first;
    for (int i = 0; i < n; i++) {
        memcpy(y + (size_t)i * dim, x + (size_t)rows[i] * dim, (size_t)dim * sizeof *y);
    }
    return true;
}
