#include "nn/sharded_linear.h"

bool sharded_linear_init(struct sharded_linear *l, const struct nn_context *nn, enum dtype dtype,
                         int rows, int cols, bool bias, const struct leaf_plan *plan,
                         struct error *err) {
    struct device *d = nn->device;
    struct sharded_linear made = {.rows = rows, .cols = cols, .plan = plan};
    void *b = NULL;
    if (!d->ops->matrix_create(d, dtype, rows, cols, &made.w, err)) {
        return false;
    }
    if (bias && !d->ops->alloc(d, (size_t)rows * sizeof(float), &b, err)) {
        sharded_linear_finish(&made, d);
        return false;
    }
    made.bias = b;
    *l = made;
    return true;
}

static bool add_bias(const struct sharded_linear *l, struct device *d, float *y, int n_tok,
                     struct error *err) {
    return !l->bias || d->ops->add_bias(d, y, l->bias, n_tok, l->rows, err);
}

bool sharded_linear_column(const struct sharded_linear *l, const struct nn_context *nn, float *y,
                           const float *x, int n_tok, struct error *err) {
    struct device *d = nn->device;
    return d->ops->linear(d, y, x, (size_t)l->cols, l->w, n_tok, NULL, err) &&
           add_bias(l, d, y, n_tok, err);
}

bool sharded_linear_row(const struct sharded_linear *l, const struct nn_context *nn, float *y,
                        const float *x, int n_tok, float *pieces, struct error *err) {
    struct device *d = nn->device;
    struct comm *c = nn->comm;
    const struct leaf_plan *plan = c->ops->exact ? l->plan : NULL;
    size_t n = (size_t)n_tok * (size_t)l->rows;
    return d->ops->linear(d, pieces, x, (size_t)l->cols, l->w, n_tok, plan, err) &&
           c->ops->all_reduce_tree(c, y, pieces, n, nn->dims.n_head, err) &&
           add_bias(l, d, y, n_tok, err);
}

void sharded_linear_finish(struct sharded_linear *l, struct device *device) {
    if (l->w) {
        device->ops->matrix_destroy(device, l->w);
    }
    device->ops->free(device, l->bias, (size_t)l->rows * sizeof(float));
    *l = (struct sharded_linear){0};
}
