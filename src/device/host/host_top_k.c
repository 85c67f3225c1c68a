#include "device/host/host.h"

#include <math.h>

/* The k best so far, a heap over two arrays with the worst on top. */
struct heap {
    float *values; /* never NaN */
    int32_t *ids;
    int n;
};

/* Without branches: which child is the worse one cannot be foretold. */
static bool worse(const struct heap *h, int a, float value, int32_t id) {
    return (h->values[a] < value) | ((h->values[a] == value) & (h->ids[a] > id));
}

/* Puts a candidate in the place of h[at], and then where it belongs below. */
static void sift_down(const struct heap *h, int at, float value, int32_t id) {
    for (int child; (child = 2 * at + 1) < h->n; at = child) {
        int other = child + 1 < h->n ? child + 1 : child;
        child += worse(h, other, h->values[child], h->ids[child]);
        if (!worse(h, child, value, id)) {
            break;
        }
        h->values[at] = h->values[child];
        h->ids[at] = h->ids[child];
    }
    h->values[at] = value;
    h->ids[at] = id;
}

static float comparable(float x) {
    return isnan(x) ? -INFINITY : x;
}

static void select_best(const struct host_kernels *kernels, const struct heap *h, const float *x,
                        int n) {
    for (int i = 0; i < h->n; i++) {
        h->values[i] = comparable(x[i]);
        h->ids[i] = i;
    }
    for (int i = h->n / 2 - 1; i >= 0; i--) {
        sift_down(h, i, h->values[i], h->ids[i]);
    }
    /* Equal to the worst is not better: an earlier index wins. So whole vectors can be skipped. */
    for (int i = h->n; (i = kernels->skip_until_above(x, i, n, h->values[0])) < n; i += VEC_WIDTH) {
        for (int j = i; j < n && j < i + VEC_WIDTH; j++) {
            if (x[j] > h->values[0]) {
                sift_down(h, 0, x[j], j);
            }
        }
    }
}

void host_select(const struct host_kernels *kernels, float *values, int32_t *ids, const float *x,
                 int n, int k) {
    struct heap h = {values, ids, k};
    select_best(kernels, &h, x, n);
    /* The worst leaves first and takes the last place. */
    while (h.n > 1) {
        float value = values[0];
        int32_t id = ids[0];
        h.n--;
        sift_down(&h, 0, values[h.n], ids[h.n]);
        values[h.n] = value;
        ids[h.n] = id;
    }
}

bool host_top_k(struct device *d, float *values, int32_t *ids, const float *x, int n, int dim,
                int k, int index_first, struct error *err) {
    if (k < 1 || k > dim) {
        return error_set(err, ERROR_SHAPE, "the %d largest of %d values", k, dim);
    }
    for (int m = 0; m < n; m++) {
        int32_t *row_ids = ids + (size_t)m * k;
        host_select(host_of(d)->kernels, values + (size_t)m * k, row_ids, x + (size_t)m * dim, dim,
                    k);
        for (int i = 0; i < k; i++) {
            row_ids[i] += index_first;
        }
    }
    return true;
}
