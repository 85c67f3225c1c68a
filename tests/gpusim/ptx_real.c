/* f32 and f64. Operations that PTX calls approximate are computed as exactly as C's library does.
 */
#include "ptx_compile.h"
#include "ptx_float.h"
#include "ptx_warp.h"

#define DIRECTED (PTX_RZ | PTX_RM | PTX_RP)

static double canonical_f64(double x) {
    static const uint64_t nan = 0x7fffffffffffffff;
    double r = x;

    if (x != x) {
        memcpy(&r, &nan, 8);
    }
    return r;
}

/* One function for the plain case, which is nearly all, and the same with every modifier. */
#define F32(name, kind, operands, op, expr)                                                        \
    static void name(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {                  \
        const uint32_t flags = o->flags;                                                           \
        float r[PTX_LANES];                                                                        \
        operands(ptx_f32);                                                                         \
        if ((flags & (DIRECTED | PTX_FTZ | PTX_SAT)) == 0) {                                       \
            for (int l = 0; l < PTX_LANES; l++) {                                                  \
                operands##_lane(float);                                                            \
                r[l] = ptx_canonical(expr);                                                        \
            }                                                                                      \
            ptx_put(w, o->d, r, sizeof(r[0]), mask);                                               \
            return;                                                                                \
        }                                                                                          \
        for (int l = 0; l < PTX_LANES; l++) {                                                      \
            kind##_operands(flags);                                                                \
            r[l] = (flags & DIRECTED) != 0 && (flags & PTX_APPROX) == 0                            \
                       ? ptx_directed_f32(op, kind##_list, flags)                                  \
                       : (expr);                                                                   \
            r[l] = ptx_canonical((flags & PTX_FTZ) != 0 ? ptx_flush(r[l]) : r[l]);                 \
            r[l] = (flags & PTX_SAT) != 0 ? ptx_saturate(r[l]) : r[l];                             \
        }                                                                                          \
        ptx_put(w, o->d, r, sizeof(r[0]), mask);                                                   \
    }
static float flushed(float x, uint32_t flags) {
    return (flags & PTX_FTZ) != 0 ? ptx_flush(x) : x;
}
#define one_operands(flags) const float a = flushed(pa[l], flags)
#define one_list            a, 0, 0
#define two_operands(flags)                                                                        \
    const float a = flushed(pa[l], flags);                                                         \
    const float b = flushed(pb[l], flags)
#define two_list a, b, 0
#define three_operands(flags)                                                                      \
    const float a = flushed(pa[l], flags);                                                         \
    const float b = flushed(pb[l], flags);                                                         \
    const float c = flushed(pc[l], flags)
#define three_list              a, b, c
#define inverse_operands(flags) const float a = flushed(pa[l], flags)
#define inverse_list            1, a, 0

F32(add_f32, two, PTX_AB, '+', a + b)
F32(sub_f32, two, PTX_AB, '-', a - b)
F32(mul_f32, two, PTX_AB, '*', a *b)
F32(div_f32, two, PTX_AB, '/', a / b)
F32(fma_f32, three, PTX_ABC, 'f', fmaf(a, b, c))
F32(rcp_f32, inverse, PTX_A, '/', 1.0f / a)
F32(sqrt_f32, one, PTX_A, 'r', sqrtf(a))
F32(rsqrt_f32, one, PTX_A, ' ', (float)(1.0 / sqrt((double)a)))
F32(sin_f32, one, PTX_A, ' ', sinf(a))
F32(cos_f32, one, PTX_A, ' ', cosf(a))
F32(ex2_f32, one, PTX_A, ' ', exp2f(a))
F32(lg2_f32, one, PTX_A, ' ', log2f(a))
F32(tanh_f32, one, PTX_A, ' ', tanhf(a))

/* Signs are bits: of NaN, too. */
static void abs_f32(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    float r[PTX_LANES];
    PTX_A(ptx_f32);

    for (int l = 0; l < PTX_LANES; l++) {
        r[l] = fabsf(flushed(pa[l], o->flags));
    }
    ptx_put(w, o->d, r, sizeof(r[0]), mask);
}

static void neg_f32(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    float r[PTX_LANES];
    PTX_A(ptx_f32);

    for (int l = 0; l < PTX_LANES; l++) {
        r[l] = -flushed(pa[l], o->flags);
    }
    ptx_put(w, o->d, r, sizeof(r[0]), mask);
}

static float least(float a, float b) {
    if (a == b) { /* -0 is less than +0 */
        return signbit(a) ? a : b;
    }
    return a < b || b != b ? a : b;
}

static float extreme(float a, float b, uint32_t flags, bool max) {
    const uint32_t sign = (ptx_float_bits(a) ^ ptx_float_bits(b)) & 0x80000000;
    float r;

    a = flushed(a, flags);
    b = flushed(b, flags);
    if ((flags & PTX_NAN) != 0 && (a != a || b != b)) {
        return ptx_canonical(NAN);
    }
    if ((flags & PTX_XORSIGN) != 0) {
        a = fabsf(a);
        b = fabsf(b);
    }
    r = ptx_canonical(max ? -least(-a, -b) : least(a, b));
    return (flags & PTX_XORSIGN) != 0 ? ptx_bits_float(ptx_float_bits(r) | sign) : r;
}
PTX_LANEWISE(min_f32, float, ptx_f32, PTX_AB, extreme(a, b, o->flags, false))
PTX_LANEWISE(max_f32, float, ptx_f32, PTX_AB, extreme(a, b, o->flags, true))
PTX_LANEWISE(copysign_f32, float, ptx_f32, PTX_AB, copysignf(b, a))

#define F64(name, operands, list, expr)                                                            \
    static void name(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {                  \
        const uint32_t flags = o->flags;                                                           \
        double r[PTX_LANES];                                                                       \
        operands(ptx_f64);                                                                         \
        for (int l = 0; l < PTX_LANES; l++) {                                                      \
            operands##_lane(double);                                                               \
            r[l] = (flags & DIRECTED) != 0 ? ptx_directed_f64 list : (expr);                       \
            r[l] = canonical_f64(r[l]);                                                            \
        }                                                                                          \
        ptx_put(w, o->d, r, sizeof(r[0]), mask);                                                   \
    }
F64(add_f64, PTX_AB, ('+', a, b, 0, flags), a + b)
F64(sub_f64, PTX_AB, ('-', a, b, 0, flags), a - b)
F64(mul_f64, PTX_AB, ('*', a, b, 0, flags), a *b)
F64(div_f64, PTX_AB, ('/', a, b, 0, flags), a / b)
F64(fma_f64, PTX_ABC, ('f', a, b, c, flags), fma(a, b, c))
F64(rcp_f64, PTX_A, ('/', 1, a, 0, flags), 1 / a)
F64(sqrt_f64, PTX_A, ('r', a, 0, 0, flags), sqrt(a))
F64(rsqrt_f64, PTX_A, ('/', 1, sqrt(a), 0, 0), 1 / sqrt(a))

static double least_f64(double a, double b) {
    if (a == b) {
        return signbit(a) ? a : b;
    }
    return a < b || b != b ? a : b;
}
PTX_LANEWISE(min_f64, double, ptx_f64, PTX_AB, canonical_f64(least_f64(a, b)))
PTX_LANEWISE(max_f64, double, ptx_f64, PTX_AB, canonical_f64(-least_f64(-a, -b)))
PTX_LANEWISE(abs_f64, double, ptx_f64, PTX_A, fabs(a))
PTX_LANEWISE(neg_f64, double, ptx_f64, PTX_A, -a)
PTX_LANEWISE(copysign_f64, double, ptx_f64, PTX_AB, copysign(b, a))

/* testp: the class of a number. */
#define TESTP(name, T, expr)                                                                       \
    static void name(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {                  \
        uint32_t bits = 0;                                                                         \
        PTX_A(T);                                                                                  \
        for (int l = 0; l < PTX_LANES; l++) {                                                      \
            PTX_A_lane(T);                                                                         \
            bits |= (uint32_t)((expr) != 0) << l;                                                  \
        }                                                                                          \
        ptx_set_pred(w, o->d, bits, mask);                                                         \
    }
#define TESTPS(T, suffix)                                                                          \
    TESTP(testp_finite_##suffix, T, isfinite(a))                                                   \
    TESTP(testp_infinite_##suffix, T, isinf(a))                                                    \
    TESTP(testp_number_##suffix, T, !isnan(a))                                                     \
    TESTP(testp_nan_##suffix, T, isnan(a))                                                         \
    TESTP(testp_normal_##suffix, T, isnormal(a))                                                   \
    TESTP(testp_subnormal_##suffix, T, fpclassify(a) == FP_SUBNORMAL)
TESTPS(ptx_f32, f32)
TESTPS(ptx_f64, f64)

#define TESTP_ROWS(suffix, n)                                                                      \
    {"testp.finite." #suffix, testp_finite_##suffix, n, 0},                                        \
        {"testp.infinite." #suffix, testp_infinite_##suffix, n, 0},                                \
        {"testp.number." #suffix, testp_number_##suffix, n, 0},                                    \
        {"testp.notanumber." #suffix, testp_nan_##suffix, n, 0},                                   \
        {"testp.normal." #suffix, testp_normal_##suffix, n, 0}, {                                  \
        "testp.subnormal." #suffix, testp_subnormal_##suffix, n, 0                                 \
    }
#define ROUND_FTZ (PTX_ROUND | PTX_FTZ)

const struct ptx_row ptx_rows_real[] = {
    {"add.f32", add_f32, "f=ff", ROUND_FTZ | PTX_SAT},
    {"sub.f32", sub_f32, "f=ff", ROUND_FTZ | PTX_SAT},
    {"mul.f32", mul_f32, "f=ff", ROUND_FTZ | PTX_SAT},
    {"fma.f32", fma_f32, "f=fff", ROUND_FTZ | PTX_SAT},
    {"mad.f32", fma_f32, "f=fff", ROUND_FTZ | PTX_SAT},
    {"div.f32", div_f32, "f=ff", ROUND_FTZ | PTX_APPROX | PTX_FULL},
    {"rcp.f32", rcp_f32, "f=f", ROUND_FTZ | PTX_APPROX},
    {"sqrt.f32", sqrt_f32, "f=f", ROUND_FTZ | PTX_APPROX},
    {"rsqrt.f32", rsqrt_f32, "f=f", PTX_FTZ | PTX_APPROX},
    {"sin.f32", sin_f32, "f=f", PTX_FTZ | PTX_APPROX},
    {"cos.f32", cos_f32, "f=f", PTX_FTZ | PTX_APPROX},
    {"ex2.f32", ex2_f32, "f=f", PTX_FTZ | PTX_APPROX},
    {"lg2.f32", lg2_f32, "f=f", PTX_FTZ | PTX_APPROX},
    {"tanh.f32", tanh_f32, "f=f", PTX_APPROX},
    {"abs.f32", abs_f32, "f=f", PTX_FTZ},
    {"neg.f32", neg_f32, "f=f", PTX_FTZ},
    {"min.f32", min_f32, "f=ff", PTX_FTZ | PTX_NAN | PTX_XORSIGN | PTX_ABS},
    {"max.f32", max_f32, "f=ff", PTX_FTZ | PTX_NAN | PTX_XORSIGN | PTX_ABS},
    {"copysign.f32", copysign_f32, "f=ff", 0},
    {"add.f64", add_f64, "d=dd", PTX_ROUND},
    {"sub.f64", sub_f64, "d=dd", PTX_ROUND},
    {"mul.f64", mul_f64, "d=dd", PTX_ROUND},
    {"div.f64", div_f64, "d=dd", PTX_ROUND},
    {"fma.f64", fma_f64, "d=ddd", PTX_ROUND},
    {"mad.f64", fma_f64, "d=ddd", PTX_ROUND},
    {"rcp.f64", rcp_f64, "d=d", PTX_ROUND | PTX_APPROX | PTX_FTZ},
    {"sqrt.f64", sqrt_f64, "d=d", PTX_ROUND},
    {"rsqrt.f64", rsqrt_f64, "d=d", PTX_APPROX | PTX_FTZ},
    {"min.f64", min_f64, "d=dd", 0},
    {"max.f64", max_f64, "d=dd", 0},
    {"abs.f64", abs_f64, "d=d", 0},
    {"neg.f64", neg_f64, "d=d", 0},
    {"copysign.f64", copysign_f64, "d=dd", 0},
    TESTP_ROWS(f32, "p=f"),
    TESTP_ROWS(f64, "p=d"),
    {NULL, NULL, NULL, 0},
};
