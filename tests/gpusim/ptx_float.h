/* Formats of floats that C does not have, and the roundings that PTX names. */
#pragma once

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "ptx_impl.h"

enum ptx_format {
    PTX_NO_FLOAT,
    PTX_F16,
    PTX_BF16,
    PTX_F32,
    PTX_F64,
    PTX_F16X2,
    PTX_BF16X2,
    PTX_TF32,
};

static inline uint32_t ptx_float_bits(float x) {
    uint32_t u;

    memcpy(&u, &x, 4);
    return u;
}

static inline float ptx_bits_float(uint32_t u) {
    float x;

    memcpy(&x, &u, 4);
    return x;
}

/* Subnormal numbers become zeros of their sign. */
static inline float ptx_flush(float x) {
    return fabsf(x) < FLT_MIN ? copysignf(0.0f, x) : x;
}

static inline float ptx_saturate(float x) {
    return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; /* NaN: 0 */
}

/* A result that is NaN has these bits. */
static inline float ptx_canonical(float x) {
    return x != x ? ptx_bits_float(0x7fffffff) : x;
}

static inline float ptx_from_bf16(uint16_t h) {
    return ptx_bits_float((uint32_t)h << 16);
}

static inline float ptx_from_f16(uint16_t h) {
    const float magnitude = ptx_bits_float((uint32_t)(h & 0x7fff) << 13) * 0x1p112f;
    const uint32_t special = magnitude >= 65536.0f ? 0x7f800000 : 0;

    return ptx_bits_float(ptx_float_bits(magnitude) | special | (uint32_t)(h & 0x8000) << 16);
}

static inline float ptx_from_half(uint16_t h, enum ptx_format format) {
    return format == PTX_F16 || format == PTX_F16X2 ? ptx_from_f16(h) : ptx_from_bf16(h);
}

/* x to f16 or bf16; rounding: one of PTX_RN, PTX_RZ, PTX_RM, PTX_RP (0: PTX_RN). */
uint16_t ptx_to_half(double x, enum ptx_format format, uint32_t rounding);
/* a b + c with one rounding to odd, from which any narrower format rounds as from the exact sum;
 * a b must be exact in f64. */
double ptx_fma_odd(double a, double b, double c);

static inline uint16_t ptx_to_bf16(float x) {
    const uint32_t u = ptx_float_bits(x);

    if (x != x) {
        return 0x7fff;
    }
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

float ptx_to_f32(double x, uint32_t rounding);
/* To an integral number. */
double ptx_to_integral(double x, uint32_t rounding);
enum ptx_format ptx_format_of(const struct ptx_type *);
/* a op b (op: + - * /, r: sqrt(a), f: fma(a, b, c)) rounded in the direction. */
float ptx_directed_f32(char op, float a, float b, float c, uint32_t rounding);
double ptx_directed_f64(char op, double a, double b, double c, uint32_t rounding);
