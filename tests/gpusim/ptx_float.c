#include "ptx_float.h"

#include <fenv.h>

enum ptx_format ptx_format_of(const struct ptx_type *type) {
    static const struct {
        const char *name;
        enum ptx_format format;
    } formats[] = {{"f16", PTX_F16},  {"bf16", PTX_BF16},   {"f32", PTX_F32},
                   {"f64", PTX_F64},  {"f16x2", PTX_F16X2}, {"bf16x2", PTX_BF16X2},
                   {"tf32", PTX_TF32}};

    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        if (strcmp(type->name, formats[i].name) == 0) {
            return formats[i].format;
        }
    }
    return PTX_NO_FLOAT;
}

double ptx_to_integral(double x, uint32_t rounding) {
    switch (rounding & PTX_ROUND) {
    case PTX_RZ:
        return trunc(x);
    case PTX_RM:
        return floor(x);
    case PTX_RP:
        return ceil(x);
    default:
        return nearbyint(x);
    }
}

uint16_t ptx_to_half(double x, enum ptx_format format, uint32_t rounding) {
    const int n = format == PTX_F16 || format == PTX_F16X2 ? 10 : 7; /* bits of the mantissa */
    const int least = n == 10 ? -14 : -126;
    const int most = n == 10 ? 15 : 127;
    const uint16_t sign = signbit(x) ? 0x8000 : 0;
    int exponent;
    uint32_t digits;

    if (x != x) {
        return 0x7fff;
    }
    if (isinf(x)) {
        return (uint16_t)(sign | (uint32_t)(most - least + 2) << n);
    }
    (void)frexp(x, &exponent);
    exponent = x == 0 || exponent - 1 < least ? least : exponent - 1;
    digits = (uint32_t)fabs(ptx_to_integral(ldexp(x, n - exponent), rounding));
    if (digits == (uint32_t)2 << n) {
        digits >>= 1;
        exponent++;
    }
    if (exponent > most) { /* infinity, or the largest number where that is the direction */
        const bool away = (rounding & PTX_ROUND) == (sign != 0 ? PTX_RM : PTX_RP) ||
                          (rounding & (PTX_RZ | PTX_RM | PTX_RP)) == 0;

        return (uint16_t)(sign | (((uint32_t)(most - least + 2) << n) - (away ? 0 : 1)));
    }
    if (digits >> n == 0) {
        return (uint16_t)(sign | digits);
    }
    return (uint16_t)(sign | (((uint32_t)(exponent - least) << n) + digits));
}

double ptx_fma_odd(double a, double b, double c) {
    const double p = a * b;
    double s = p + c;
    const double v = s - p;
    const double rest = (p - (s - v)) + (c - v); /* what s lacks (Knuth, TAOCP 4.2.2) */
    uint64_t u;

    memcpy(&u, &s, 8);
    if (!isfinite(s) || rest == 0 || (u & 1) != 0) {
        return s;
    }
    u += (rest > 0) == (s > 0) ? 1 : (uint64_t)-1;
    memcpy(&s, &u, 8);
    return s;
}

float ptx_to_f32(double x, uint32_t rounding) {
    const float nearest = (float)x;

    if (x != x) {
        return ptx_bits_float(0x7fffffff);
    }
    switch (rounding & PTX_ROUND) {
    case PTX_RZ:
        return fabs((double)nearest) > fabs(x) ? nextafterf(nearest, 0.0f) : nearest;
    case PTX_RM:
        return (double)nearest > x ? nextafterf(nearest, -INFINITY) : nearest;
    case PTX_RP:
        return (double)nearest < x ? nextafterf(nearest, INFINITY) : nearest;
    default:
        return nearest;
    }
}

static int direction(uint32_t rounding) {
    switch (rounding & PTX_ROUND) {
    case PTX_RZ:
        return FE_TOWARDZERO;
    case PTX_RM:
        return FE_DOWNWARD;
    case PTX_RP:
        return FE_UPWARD;
    default:
        return FE_TONEAREST;
    }
}

/* volatile: computed here, between the two changes of the direction, and not before. */
#define DIRECTED(name, T, square_root, multiply_add)                                               \
    T name(char op, T a, T b, T c, uint32_t rounding) {                                            \
        volatile T va = a;                                                                         \
        volatile T vb = b;                                                                         \
        volatile T vc = c;                                                                         \
        volatile T r;                                                                              \
        fesetround(direction(rounding));                                                           \
        switch (op) {                                                                              \
        case '+':                                                                                  \
            r = va + vb;                                                                           \
            break;                                                                                 \
        case '-':                                                                                  \
            r = va - vb;                                                                           \
            break;                                                                                 \
        case '*':                                                                                  \
            r = va * vb;                                                                           \
            break;                                                                                 \
        case '/':                                                                                  \
            r = va / vb;                                                                           \
            break;                                                                                 \
        case 'r':                                                                                  \
            r = square_root(va);                                                                   \
            break;                                                                                 \
        default:                                                                                   \
            r = multiply_add(va, vb, vc);                                                          \
            break;                                                                                 \
        }                                                                                          \
        fesetround(FE_TONEAREST);                                                                  \
        return r;                                                                                  \
    }
DIRECTED(ptx_directed_f32, float, sqrtf, fmaf)
DIRECTED(ptx_directed_f64, double, sqrt, fma)
