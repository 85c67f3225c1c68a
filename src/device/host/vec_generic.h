/* vec in plain C: the oracle for the other two. */
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/widen.h"

struct vec {
    float f[16];
};

#define VEC_LANES for (int lane_ = 0; lane_ < 16; lane_++)
#define LANE(v)   (v).f[lane_]

static inline struct vec vec_load(const float *p) {
    struct vec r;
    memcpy(r.f, p, sizeof r.f);
    return r;
}

static inline void vec_store(float *p, struct vec a) {
    memcpy(p, a.f, sizeof a.f);
}

static inline struct vec vec_set1(float x) {
    struct vec r;
    VEC_LANES LANE(r) = x;
    return r;
}

static inline struct vec vec_zero(void) {
    return vec_set1(0);
}

static inline struct vec vec_load_n(const float *p, int n) {
    struct vec r = vec_zero();
    memcpy(r.f, p, (size_t)n * sizeof *p);
    return r;
}

static inline void vec_store_n(float *p, struct vec a, int n) {
    memcpy(p, a.f, (size_t)n * sizeof *p);
}

static inline struct vec vec_load_bf16(const uint16_t *p) {
    struct vec r;
    VEC_LANES LANE(r) = widen_bf16(p[lane_]);
    return r;
}

static inline struct vec vec_low_bf16(const uint16_t *p) {
    struct vec r;
    VEC_LANES LANE(r) = widen_bf16(p[2 * lane_]);
    return r;
}

static inline struct vec vec_high_bf16(const uint16_t *p) {
    struct vec r;
    VEC_LANES LANE(r) = widen_bf16(p[2 * lane_ + 1]);
    return r;
}

static inline struct vec vec_load_f16(const uint16_t *p) {
    struct vec r;
    VEC_LANES LANE(r) = widen_f16(p[lane_]);
    return r;
}

static inline struct vec vec_add(struct vec a, struct vec b) {
    VEC_LANES LANE(a) += LANE(b);
    return a;
}

static inline struct vec vec_sub(struct vec a, struct vec b) {
    VEC_LANES LANE(a) -= LANE(b);
    return a;
}

static inline struct vec vec_mul(struct vec a, struct vec b) {
    VEC_LANES LANE(a) *= LANE(b);
    return a;
}

static inline struct vec vec_div(struct vec a, struct vec b) {
    VEC_LANES LANE(a) /= LANE(b);
    return a;
}

static inline struct vec vec_fma(struct vec a, struct vec b, struct vec c) {
    VEC_LANES LANE(c) = fmaf(LANE(a), LANE(b), LANE(c));
    return c;
}

static inline struct vec vec_max(struct vec a, struct vec b) {
    VEC_LANES LANE(a) = LANE(a) > LANE(b) ? LANE(a) : LANE(b);
    return a;
}

static inline struct vec vec_min(struct vec a, struct vec b) {
    VEC_LANES LANE(a) = LANE(a) < LANE(b) ? LANE(a) : LANE(b);
    return a;
}

static inline int vec_count_gt(struct vec a, struct vec b) {
    int n = 0;
    VEC_LANES n += LANE(a) > LANE(b);
    return n;
}

static inline struct vec vec_keep_gt(struct vec a, struct vec b) {
    VEC_LANES LANE(a) = LANE(a) > LANE(b) ? LANE(a) : 0;
    return a;
}

static inline struct vec vec_first(struct vec a, int n, struct vec b) {
    VEC_LANES LANE(a) = lane_ < n ? LANE(a) : LANE(b);
    return a;
}

static inline struct vec vec_ldexp(struct vec p, struct vec n) {
    VEC_LANES {
        uint32_t k;
        memcpy(&k, &LANE(n), sizeof k);
        k -= 0x4b400000; /* the bits of VEC_ROUND */
        uint32_t half = (uint32_t)((int32_t)k >> 1);
        LANE(p) *= widen_bits((half + 127) << 23);
        LANE(p) *= widen_bits((k - half + 127) << 23);
    }
    return p;
}

static inline float vec_sum(struct vec a) {
    for (int step = 8; step; step /= 2) {
        for (int i = 0; i < step; i++) {
            a.f[i] += a.f[i + step];
        }
    }
    return a.f[0];
}

static inline float vec_max_lane(struct vec a) {
    for (int step = 8; step; step /= 2) {
        for (int i = 0; i < step; i++) {
            a.f[i] = a.f[i] > a.f[i + step] ? a.f[i] : a.f[i + step];
        }
    }
    return a.f[0];
}

/* ---- quantized groups ---- */

struct ivec {
    int32_t i[16];
};

struct bytes {
    uint8_t b[64];
};

static inline struct bytes bytes_load(const unsigned char *p) {
    struct bytes r;
    memcpy(r.b, p, sizeof r.b);
    return r;
}

static inline struct bytes bytes_low(struct bytes b) {
    for (int i = 0; i < 64; i++) {
        b.b[i] &= 15;
    }
    return b;
}

static inline struct bytes bytes_high(struct bytes b) {
    for (int i = 0; i < 64; i++) {
        b.b[i] >>= 4;
    }
    return b;
}

static inline struct ivec ivec_set1(int32_t x) {
    struct ivec r;
    VEC_LANES r.i[lane_] = x;
    return r;
}

static inline struct ivec ivec_start8(int32_t start) {
    return ivec_set1(start);
}

/* Inlined into every place of every tile it takes gcc minutes. */
static __attribute__((noinline)) struct ivec ivec_dot4(struct ivec acc, struct bytes w,
                                                       const unsigned char *x) {
    int8_t four[4];
    memcpy(four, x, sizeof four);
    VEC_LANES {
        uint32_t sum = (uint32_t)acc.i[lane_]; /* wraps around, as the instructions do */
        for (int i = 0; i < 4; i++) {
            sum += (uint32_t)(w.b[4 * lane_ + i] * four[i]);
        }
        acc.i[lane_] = (int32_t)sum;
    }
    return acc;
}

static inline struct ivec ivec_dot8(struct ivec acc, struct bytes w, const unsigned char *x) {
    return ivec_dot4(acc, w, x);
}

static inline struct vec vec_from_ivec(struct ivec a) {
    struct vec r;
    VEC_LANES LANE(r) = (float)a.i[lane_];
    return r;
}

/* The bits of sums as bytes: what the int8 peak multiplies. */
static inline struct bytes bytes_of_ivec(struct ivec a) {
    struct bytes r;
    memcpy(r.b, a.i, sizeof r.b);
    return r;
}

#undef LANE
#undef VEC_LANES
