/* Exact widening of one stored value to f32, and rounding to bf16 and f16. */
#pragma once

#include <stdint.h>
#include <string.h>

#include "base/dtype.h"

static inline float widen_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline float widen_bf16(uint16_t h) {
    return widen_bits((uint32_t)h << 16);
}

/* To nearest, ties to even; a NaN stays one, and becomes quiet. */
static inline uint16_t narrow_bf16(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    if (x != x) {
        return (uint16_t)(u >> 16 | 0x40);
    }
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* As VCVTPH2PS does it, a signalling NaN becoming quiet. */
static inline float widen_f16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t exponent = (h >> 10) & 0x1f;
    uint32_t mantissa = h & 0x3ff;
    if (exponent == 0) {
        float magnitude = (float)mantissa * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    if (exponent == 31) {
        return widen_bits(sign | 0x7f800000 | mantissa << 13 | (mantissa ? 0x400000 : 0));
    }
    return widen_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

/* To the nearest f16, halves to even, as VCVTPS2PH does it; any NaN becomes the quiet one. */
static inline uint16_t narrow_f16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) {
        return sign | 0x7e00;
    }
    if (bits >= 0x477ff000) { /* 65520 and more */
        return sign | 0x7c00;
    }
    if (bits < 0x38800000) { /* below 2^-14: units of 2^-24, which the addition rounds to */
        float units = widen_bits(bits) + 0.5f;
        memcpy(&bits, &units, sizeof bits);
        return (uint16_t)(sign | (bits - 0x3f000000));
    }
    bits += 0xfff + (bits >> 13 & 1) - (112u << 23);
    return (uint16_t)(sign | bits >> 13);
}

/* Element i of an array of dtype, which is not quantized, at any alignment. */
static inline float widen_at(enum dtype dtype, const void *base, size_t i) {
    const unsigned char *p = (const unsigned char *)base + i * dtype_size(dtype);
    if (dtype == DTYPE_F32) {
        float f;
        memcpy(&f, p, sizeof f);
        return f;
    }
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return dtype == DTYPE_BF16 ? widen_bf16(h) : widen_f16(h);
}
