#include "base/dtype.h"

#include <stdint.h>
#include <string.h>

float dtype_f32_from_f16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exponent = (h >> 10) & 0x1fu;
    uint32_t mantissa = h & 0x3ffu;
    uint32_t bits;
    if (exponent == 31) {
        bits = sign | 0x7f800000u | (mantissa << 13);
    } else if (exponent != 0) {
        bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
    } else {
        float subnormal = (float)mantissa * 0x1p-24f;
        memcpy(&bits, &subnormal, sizeof bits);
        bits |= sign;
    }
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint16_t load_u16(const unsigned char *p) {
    return (uint16_t)(p[0] | p[1] << 8);
}

void dtype_widen(float *dst, const void *src, enum dtype t, size_t n) {
    const unsigned char *p = src;
    if (t == DTYPE_F32) {
        memcpy(dst, src, n * sizeof *dst);
    } else if (t == DTYPE_BF16) {
        for (size_t i = 0; i < n; i++) {
            uint32_t bits = (uint32_t)load_u16(p + 2 * i) << 16;
            memcpy(dst + i, &bits, sizeof bits);
        }
    } else {
        for (size_t i = 0; i < n; i++) {
            dst[i] = dtype_f32_from_f16(load_u16(p + 2 * i));
        }
    }
}
