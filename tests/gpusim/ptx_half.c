/* f16, bf16 and pairs of them: computed in wider floats and rounded once. */
#include "ptx_compile.h"
#include "ptx_float.h"
#include "ptx_warp.h"

enum { ADD, SUB, MUL, FMA, NEG, ABS, MIN, MAX, TANH, EX2 };

/* The subnormal ones of this format become zeros. */
static uint16_t flush(uint16_t h, bool wide) {
    return (h & (wide ? 0x7c00 : 0x7f80)) == 0 ? h & 0x8000 : h;
}

static double least(double a, double b) {
    if (a == b) {
        return signbit(a) ? a : b;
    }
    return a < b || b != b ? a : b;
}

static double extreme(double a, double b, uint32_t flags, bool max) {
    const bool negative = signbit(a) != signbit(b);

    if ((flags & PTX_NAN) != 0 && (a != a || b != b)) {
        return (double)NAN;
    }
    if ((flags & PTX_XORSIGN) != 0) {
        a = fabs(a);
        b = fabs(b);
    }
    a = max ? -least(-a, -b) : least(a, b);
    return (flags & PTX_XORSIGN) != 0 && negative ? -a : a;
}

static double compute(int kind, double a, double b, double c, uint32_t flags) {
    switch (kind) {
    case ADD:
        return a + b; /* in f64 these sums and products are exact enough to be rounded once more */
    case SUB:
        return a - b;
    case MUL:
        return a * b;
    case FMA:
        return ptx_fma_odd(a, b, c);
    case MIN:
        return extreme(a, b, flags, false);
    case MAX:
        return extreme(a, b, flags, true);
    case TANH:
        return tanh(a);
    default:
        return exp2(a);
    }
}

static uint16_t half(int kind, uint16_t a, uint16_t b, uint16_t c, enum ptx_format format,
                     uint32_t flags) {
    const bool wide = format == PTX_F16 || format == PTX_F16X2; /* in the exponent, that is */
    uint16_t r;
    double x;

    if ((flags & PTX_FTZ) != 0) {
        a = flush(a, wide);
        b = flush(b, wide);
        c = flush(c, wide);
    }
    if (kind == NEG) {
        return a ^ 0x8000;
    }
    if (kind == ABS) {
        return a & 0x7fff;
    }
    x = compute(kind, (double)ptx_from_half(a, format), (double)ptx_from_half(b, format),
                (double)ptx_from_half(c, format), flags);
    if ((flags & PTX_SAT) != 0) {
        x = x > 0 ? (x < 1 ? x : 1) : 0;
    }
    if ((flags & PTX_RELU) != 0) {
        x = x > 0 || x != x ? x : 0;
    }
    r = ptx_to_half(x, format, PTX_RN);
    return (flags & PTX_FTZ) != 0 ? flush(r, wide) : r;
}

static void singles(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask, int kind,
                    enum ptx_format format) {
    uint16_t r[PTX_LANES] = {0};
    PTX_ABC(ptx_u16);

    PTX_FOR_LANES(l, mask) {
        r[l] = half(kind, pa[l], pb[l], pc[l], format, o->flags);
    }
    ptx_put(w, o->d, r, sizeof(r[0]), mask);
}

static void pairs(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask, int kind,
                  enum ptx_format format) {
    uint32_t r[PTX_LANES] = {0};
    PTX_ABC(ptx_u32);

    PTX_FOR_LANES(l, mask) {
        const uint16_t low =
            half(kind, (uint16_t)pa[l], (uint16_t)pb[l], (uint16_t)pc[l], format, o->flags);
        const uint16_t high = half(kind, (uint16_t)(pa[l] >> 16), (uint16_t)(pb[l] >> 16),
                                   (uint16_t)(pc[l] >> 16), format, o->flags);

        r[l] = low | (uint32_t)high << 16;
    }
    ptx_put(w, o->d, r, sizeof(r[0]), mask);
}

#define WRAP(name, many, kind, format)                                                             \
    static void name(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {                  \
        many(w, o, mask, kind, format);                                                            \
    }
#define OP(name, kind)                                                                             \
    WRAP(name##_f16, singles, kind, PTX_F16)                                                       \
    WRAP(name##_bf16, singles, kind, PTX_BF16)                                                     \
    WRAP(name##_f16x2, pairs, kind, PTX_F16X2)                                                     \
    WRAP(name##_bf16x2, pairs, kind, PTX_BF16X2)
OP(add, ADD)
OP(sub, SUB)
OP(mul, MUL)
OP(fma, FMA)
OP(neg, NEG)
OP(abs, ABS)
OP(min, MIN)
OP(max, MAX)
OP(tanh, TANH)
OP(ex2, EX2)

#define ARITHMETIC (PTX_RN | PTX_FTZ | PTX_SAT)
#define CHOICE     (PTX_FTZ | PTX_NAN | PTX_XORSIGN | PTX_ABS)
#define ROWS(name, sig2, sig4, allowed)                                                            \
    {#name ".f16", name##_f16, sig2, allowed}, {#name ".bf16", name##_bf16, sig2, allowed},        \
        {#name ".f16x2", name##_f16x2, sig4, allowed}, {                                           \
#name ".bf16x2", name##_bf16x2, sig4, allowed                                              \
    }

const struct ptx_row ptx_rows_half[] = {
    ROWS(add, "2=22", "4=44", ARITHMETIC),
    ROWS(sub, "2=22", "4=44", ARITHMETIC),
    ROWS(mul, "2=22", "4=44", ARITHMETIC),
    ROWS(fma, "2=222", "4=444", ARITHMETIC | PTX_RELU),
    ROWS(neg, "2=2", "4=4", PTX_FTZ),
    ROWS(abs, "2=2", "4=4", PTX_FTZ),
    ROWS(min, "2=22", "4=44", CHOICE),
    ROWS(max, "2=22", "4=44", CHOICE),
    ROWS(tanh, "2=2", "4=4", PTX_APPROX),
    ROWS(ex2, "2=2", "4=4", PTX_APPROX | PTX_FTZ),
    {NULL, NULL, NULL, 0},
};
