#include "test.h"

#include "reference.h"

#include <math.h>
#include <string.h>

static float chain(const float *w, const float *x, int first, int end) {
    float acc = 0;
    for (int i = first; i < end; i++) {
        acc = fmaf(w[i], x[i], acc);
    }
    return acc;
}

/* To the nearest f16, halves to even. */
static float nearest_f16(float x) {
    int exponent;
    if (!isfinite(x)) {
        return x;
    }
    frexp((double)x, &exponent);
    double unit = ldexp(1, (exponent < -13 ? -13 : exponent) - 11);
    double value = nearbyint((double)x / unit) * unit;
    return fabs(value) > 65504 ? copysignf(INFINITY, x) : (float)value;
}

static bool all_finite(const float *x, int n) {
    for (int i = 0; i < n; i++) {
        if (!isfinite(x[i])) {
            return false;
        }
    }
    return true;
}

/* The first of largest magnitude. */
static float largest_of(const float *x, int n) {
    float largest = x[0];
    for (int i = 1; i < n; i++) {
        largest = fabsf(x[i]) > fabsf(largest) ? x[i] : largest;
    }
    return largest;
}

float ref_quantize(enum dtype dtype, int *q, const float *w, int n) {
    memset(q, 0, 32 * sizeof *q);
    if (!all_finite(w, n)) {
        return NAN;
    }
    float largest = largest_of(w, n);
    float d = dtype == DTYPE_Q8_0 ? fabsf(largest) / 127 : largest / -8;
    if (nearest_f16(d) == 0) {
        return 0;
    }
    float per = 1 / d;
    for (int i = 0; i < n; i++) {
        float level = floorf(w[i] * per + 8.5f) - 8;
        q[i] = (int)(dtype == DTYPE_Q8_0 ? roundf(w[i] * per) : fminf(level, 7));
    }
    return nearest_f16(d);
}

static float quantize_x(int *q, const float *x, int n) {
    memset(q, 0, 32 * sizeof *q);
    if (!all_finite(x, n)) {
        return NAN;
    }
    float a = fabsf(largest_of(x, n));
    for (int i = 0; i < n && a >= 0x1p-100f; i++) {
        q[i] = (int)nearbyintf(x[i] * (127 / a));
    }
    return a < 0x1p-100f ? 0 : a / 127;
}

/* How w is quantized; NULL: it is not. */
struct quantized {
    enum dtype dtype;
    int leaf_cols;
};

static float quantized_chain(const struct quantized *how, const float *w, const float *x, int first,
                             int end) {
    float acc = 0;
    int leaf = how->leaf_cols ? how->leaf_cols : end + 1;
    for (int i = first, n; i < end; i += n) {
        int qw[32], qx[32], sum = 0;
        n = leaf - i % leaf < 32 ? leaf - i % leaf : 32;
        n = end - i < n ? end - i : n;
        float dw = ref_quantize(how->dtype, qw, w + i, n), dx = quantize_x(qx, x + i, n);
        for (int k = 0; k < n; k++) {
            sum += qw[k] * qx[k];
        }
        acc = fmaf(dw * dx, (float)sum, acc);
    }
    return acc;
}

static float leaf_sum(const struct quantized *how, const float *w, const float *x,
                      const int *bounds, int first, int n) {
    if (n == 1) {
        int begin = bounds[first], end = bounds[first + 1];
        return how ? quantized_chain(how, w, x, begin, end) : chain(w, x, begin, end);
    }
    int left = (n + 1) / 2;
    return leaf_sum(how, w, x, bounds, first, left) +
           leaf_sum(how, w, x, bounds, first + left, n - left);
}

static void linear(const struct quantized *how, float *y, const float *x, size_t x_stride,
                   const float *w, int rows, int cols, int n_tok, const struct leaf_plan *plan) {
    const int whole[2] = {0, cols};
    int n_piece = plan ? plan->n_piece : 1;
    for (int p = 0; p < n_piece; p++) {
        for (int m = 0; m < n_tok; m++) {
            for (int o = 0; o < rows; o++) {
                const float *wo = w + (size_t)o * cols;
                const float *xm = x + m * x_stride;
                *y++ = plan ? leaf_sum(how, wo, xm, plan->bounds, plan->pieces[p].first,
                                       plan->pieces[p].count)
                            : leaf_sum(how, wo, xm, whole, 0, 1);
            }
        }
    }
}

void ref_linear(float *y, const float *x, size_t x_stride, const float *w, int rows, int cols,
                int n_tok, const struct leaf_plan *plan) {
    linear(NULL, y, x, x_stride, w, rows, cols, n_tok, plan);
}

void ref_linear_quantized(float *y, const float *x, size_t x_stride, enum dtype dtype,
                          const float *w, int rows, int cols, int leaf_cols, int n_tok,
                          const struct leaf_plan *plan) {
    linear(&(struct quantized){dtype, leaf_cols}, y, x, x_stride, w, rows, cols, n_tok, plan);
}

float ref_exp(float x) {
    if (isnan(x)) {
        return x;
    }
    x = x < -105.0f ? -105.0f : x > 89.0f ? 89.0f : x;
    float k = fmaf(x, 0x1.715476p+0f, 0x1.8p23f) - 0x1.8p23f;
    float r = fmaf(k, -0x1.7f7d1cp-20f, fmaf(k, -0x1.62e4p-1f, x));
    const float c[] = {
        0x1.6a242cp-10f, 0x1.1239e8p-7f, 0x1.5558f2p-5f, 0x1.555492p-3f, 0x1.fffffcp-2f, 1, 1};
    float p = c[0];
    for (int i = 1; i < 7; i++) {
        p = fmaf(p, r, c[i]);
    }
    return ldexpf(p, (int)k);
}

/* 16 lanes to one: 0+8.., 0+4.., 0+2.., 0+1. */
static float lane_sum(float *lane) {
    for (int step = 8; step > 0; step /= 2) {
        for (int i = 0; i < step; i++) {
            lane[i] = lane[i] + lane[i + step];
        }
    }
    return lane[0];
}

void ref_rmsnorm(float *y, const float *x, const float *w, int dim, float eps) {
    float lane[16] = {0};
    for (int i = 0; i < dim; i++) {
        lane[i % 16] = fmaf(x[i], x[i], lane[i % 16]);
    }
    float r = 1 / sqrtf(lane_sum(lane) / (float)dim + eps);
    for (int i = 0; i < dim; i++) {
        y[i] = (x[i] * r) * w[i];
    }
}

float ref_sum(const float *x, int n) {
    float lane[16] = {0};
    for (int i = 0; i < n; i++) {
        lane[i % 16] += x[i];
    }
    return lane_sum(lane);
}

float ref_silu_mul(float gate, float up) {
    return gate / (1 + ref_exp(-gate)) * up;
}

void ref_rope(float *x, const float *rope, int head_dim) {
    int half = head_dim / 2;
    for (int i = 0; i < half; i++) {
        float a = x[i];
        float b = x[i + half];
        float c = rope[i];
        float s = rope[i + half];
        x[i] = fmaf(a, c, -(b * s));
        x[i + half] = fmaf(b, c, a * s);
    }
}

/* In double precision: to a whole number of units of the last of 8 bits, ties to even. */
float ref_bf16(float x) {
    int exponent;
    if (!isfinite(x)) {
        return x;
    }
    frexpf(x, &exponent);
    double unit = ldexp(1, exponent - 8 > -133 ? exponent - 8 : -133);
    double y = nearbyint((double)x / unit) * unit;
    return (float)(fabs(y) < 0x1p128 ? y : copysign((double)INFINITY, y));
}

/* Block of n positions: its maximum, sum and weighted sum. */
static void block(float *max, float *sum, float *o, const float *q, const float *k, const float *v,
                  int n, int head_dim, float scale) {
    float e[KV_BLOCK] = {0};
    *max = -INFINITY;
    for (int t = 0; t < n; t++) {
        e[t] = chain(q, k + (size_t)t * head_dim, 0, head_dim) * scale;
        *max = e[t] > *max ? e[t] : *max;
    }
    for (int t = 0; t < n; t++) {
        e[t] = ref_exp(e[t] - *max);
    }
    float lane[16];
    for (int i = 0; i < 16; i++) {
        lane[i] = ((e[i] + e[i + 16]) + e[i + 32]) + e[i + 48];
    }
    *sum = lane_sum(lane);
    for (int d = 0; d < head_dim; d++) {
        o[d] = 0;
        for (int t = 0; t < n; t++) {
            o[d] = fmaf(e[t], v[(size_t)t * head_dim + d], o[d]);
        }
    }
}

void ref_attention(float *out, const float *q, const float *k, const float *v, int n, int head_dim,
                   float scale) {
    float m, l, m_j, l_j;
    float o_j[DEVICE_MAX_HEAD_DIM];
    for (int first = 0; first < n; first += KV_BLOCK) {
        size_t at = (size_t)first * head_dim;
        int count = n - first < KV_BLOCK ? n - first : KV_BLOCK;
        if (first == 0) {
            block(&m, &l, out, q, k, v, count, head_dim, scale);
            continue;
        }
        block(&m_j, &l_j, o_j, q, k + at, v + at, count, head_dim, scale);
        float top = m > m_j ? m : m_j;
        float a = ref_exp(m - top);
        float b = ref_exp(m_j - top);
        l = fmaf(l_j, b, l * a);
        for (int d = 0; d < head_dim; d++) {
            out[d] = fmaf(o_j[d], b, out[d] * a);
        }
        m = top;
    }
    for (int d = 0; d < head_dim; d++) {
        out[d] = out[d] * (1 / l);
    }
}

const char *const isa_names[N_ISA_NAME] = {"generic", "avx2", "avx512", "avx512vnni"};

struct device *make_device(const char *isa, int n_thread) {
    struct error err;
    struct device *d = NULL;
    if (!host_isa_usable(isa)) {
        return NULL;
    }
    assert_ok(
        host_device_create(&(struct host_options){.n_thread = n_thread, .isa = isa}, &d, &err),
        &err);
    return d;
}

void assert_same_bits(const float *got, const float *want, size_t n, const char *what) {
    for (size_t i = 0; i < n; i++) {
        if (memcmp(&got[i], &want[i], sizeof *got) != 0 && !(isnan(got[i]) && isnan(want[i]))) {
            fail_msg("%s: value %zu of %zu is %a, not %a", what, i, n, (double)got[i],
                     (double)want[i]);
        }
    }
}

int random_int(struct random *r, int first, int last) {
    return first + (int)(random_u64(r) % (uint64_t)(last - first + 1));
}

void fill_floats(struct random *r, float *x, size_t n, int odd) {
    const float special[] = {0,        -0.0f,     0x1p-149f, -0x1p-140f, 0x1p-127f,
                             INFINITY, -INFINITY, NAN,       0x1p127f,   -0x1p-126f};
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)((random_unit(r) - 0.5) * 3);
        if (odd && random_int(r, 1, odd) == 1) {
            x[i] = special[random_int(r, 0, 9)];
        }
    }
}
