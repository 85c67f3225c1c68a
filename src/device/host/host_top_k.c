#include "device/host/host.h"

#include <math.h>
#include <stdlib.h>

/* A candidate; the heap keeps the worst of the k best on top. */
struct candidate {
    float value; /* never NaN */
    int32_t index;
};

static bool worse(struct candidate a, struct candidate b) {
    return a.value < b.value || (a.value == b.value && a.index > b.index);
}

static void sift_down(struct candidate *heap, int n, int at) {
    struct candidate moved = heap[at];
    for (int child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && worse(heap[child + 1], heap[child])) {
            child++;
        }
        if (!worse(heap[child], moved)) {
            break;
        }
        heap[at] = heap[child];
    }
    heap[at] = moved;
}

static float comparable(float x) {
    return isnan(x) ? -INFINITY : x;
}

/* Leaves the k best of x[0..n) in heap, the worst first. */
static void select_best(const struct host_kernels *kernels, struct candidate *heap, int k,
                        const float *x, int n) {
    for (int i = 0; i < k; i++) {
        heap[i] = (struct candidate){comparable(x[i]), i};
    }
    for (int i = k / 2 - 1; i >= 0; i--) {
        sift_down(heap, k, i);
    }
    /* Equal to the worst is not better: an earlier index wins. So whole vectors can be skipped. */
    for (int i = k; (i = kernels->skip_until_above(x, i, n, heap[0].value)) < n; i += VEC_WIDTH) {
        for (int j = i; j < n && j < i + VEC_WIDTH; j++) {
            if (x[j] > heap[0].value) {
                heap[0] = (struct candidate){x[j], j};
                sift_down(heap, k, 0);
            }
        }
    }
}

bool host_top_k_reserve(struct host_device *h, int k, struct error *err) {
    return host_scratch_reserve(&h->items, (size_t)k * sizeof(struct candidate), err);
}

bool host_top_k(struct device *d, float *values, int32_t *ids, const float *x, int n, int dim,
                int k, int index_first, struct error *err) {
    struct host_device *h = host_of(d);
    if (k < 1 || k > dim) {
        return error_set(err, ERROR_SHAPE, "the %d largest of %d values", k, dim);
    }
    if (!host_top_k_reserve(h, k, err)) {
        return false;
    }
    struct candidate *heap = h->items.data;
    for (int m = 0; m < n; m++) {
        select_best(h->kernels, heap, k, x + (size_t)m * dim, dim);
        /* The worst leaves first and takes the last place. */
        for (int place = k - 1; place >= 0; place--) {
            values[(size_t)m * k + place] = heap[0].value;
            ids[(size_t)m * k + place] = heap[0].index + index_first;
            heap[0] = heap[place];
            sift_down(heap, place, 0);
        }
    }
    return true;
}
