#include "nn/sharded_linear.h"

bool sharded_linear_init(struct sharded_linear *l, const struct nn_context *nn, enum dtype dtype,
                         int rows, int cols, bool bias, const struct leaf_plan *plan,
                         struct error *err) {
    struct device *d = nn->device;
    struct sharded_linear made = {.rows = rows, .cols = cols, .plan = plan};
    void *b = NULL;
    if (!d->ops->matrix_create(d, dtype, rows, cols, plan ? plan->leaf_cols : 0, &made.w, err)) {
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

static bool add_bias(const struct sharded_linear *l, struct device *d, void *y, enum dtype dtype,
                     int n_tok, struct error *err) {
    return !l->bias || d->ops->add_bias(d, y, dtype, l->bias, n_tok, l->rows, err);
}

bool sharded_linear_column(const struct sharded_linear *l, const struct nn_context *nn, void *y,
                           const void *x, int n_tok, struct error *err) {
    struct device *d = nn->device;
    return d->ops->linear(d, y, d->act, x, (size_t)l->cols, l->w, n_tok, NULL, err) &&
           add_bias(l, d, y, d->act, n_tok, err);
}

/* Where sums need not be exact, each rank's partial result is one leaf. */
static const struct leaf_plan *plan_used(const struct leaf_plan *plan,
                                         const struct nn_context *nn) {
    return nn->comm->ops->exact ? plan : NULL;
}

int sharded_linear_pieces(const struct leaf_plan *plan, const struct nn_context *nn) {
    plan = plan_used(plan, nn);
    return plan ? plan->n_piece : 1;
}

bool sharded_linear_row(const struct sharded_linear *l, const struct nn_context *nn, float *y,
                        const void *x, int n_tok, struct error *err) {
    struct device *d = nn->device;
    struct comm *c = nn->comm;
    size_t n = (size_t)n_tok * (size_t)l->rows;
    return d->ops->linear(d, y, DTYPE_F32, x, (size_t)l->cols, l->w, n_tok, plan_used(l->plan, nn),
                          err) &&
           c->ops->all_reduce_tree(c, y, y, n, nn->dims.n_head, err) &&
           add_bias(l, d, y, DTYPE_F32, n_tok, err);
}

void sharded_linear_finish(struct sharded_linear *l, struct device *device) {
    if (l->w) {
        device->ops->matrix_destroy(device, l->w);
    }
    device->ops->free(device, l->bias, (size_t)l->rows * sizeof(float));
    *l = (struct sharded_linear){0};
}
