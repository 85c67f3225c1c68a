/* Integer arithmetic. */
#include "ptx_compile.h"
#include "ptx_float.h"
#include "ptx_warp.h"

#define OP2(name, T, expr) PTX_LANEWISE(name, T, T, PTX_AB, expr)
#define OP3(name, T, expr) PTX_LANEWISE(name, T, T, PTX_ABC, expr)
#define OP1(name, T, expr) PTX_LANEWISE(name, T, T, PTX_A, expr)

/* Without signs: overflow wraps. Narrow ones are computed in 32 bits. */
OP2(add_16, ptx_u16, (uint32_t)a + b)
OP2(add_32, ptx_u32, a + b)
OP2(add_64, ptx_u64, a + b)
OP2(sub_16, ptx_u16, (uint32_t)a - b)
OP2(sub_32, ptx_u32, a - b)
OP2(sub_64, ptx_u64, a - b)
OP2(mul_lo_16, ptx_u16, (uint32_t)a *b)
OP2(mul_lo_32, ptx_u32, a *b)
OP2(mul_lo_64, ptx_u64, a *b)
OP3(mad_lo_16, ptx_u16, (uint32_t)a *b + c)
OP3(mad_lo_32, ptx_u32, a *b + c)
OP3(mad_lo_64, ptx_u64, a *b + c)

static int32_t saturate(int64_t x) {
    return x > INT32_MAX ? INT32_MAX : x < INT32_MIN ? INT32_MIN : (int32_t)x;
}
OP2(add_sat_s32, ptx_s32, saturate((int64_t)a + b))
OP2(sub_sat_s32, ptx_s32, saturate((int64_t)a - b))
static void add_s32(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    ((o->flags & PTX_SAT) != 0 ? add_sat_s32 : add_32)(w, o, mask);
}
static void sub_s32(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    ((o->flags & PTX_SAT) != 0 ? sub_sat_s32 : sub_32)(w, o, mask);
}

__extension__ typedef unsigned __int128 wide_unsigned;
__extension__ typedef __int128 wide_signed;

static uint64_t high_u64(uint64_t a, uint64_t b) {
    return (uint64_t)((wide_unsigned)a * b >> 64);
}
static int64_t high_s64(int64_t a, int64_t b) {
    return (int64_t)((wide_signed)a * b >> 64);
}
OP2(mul_hi_u16, ptx_u16, (uint32_t)a *b >> 16)
OP2(mul_hi_s16, ptx_s16, (int32_t)a *b >> 16)
OP2(mul_hi_u32, ptx_u32, (uint64_t)a *b >> 32)
OP2(mul_hi_s32, ptx_s32, (int64_t)a *b >> 32)
OP2(mul_hi_u64, ptx_u64, high_u64(a, b))
OP2(mul_hi_s64, ptx_s64, high_s64(a, b))
OP3(mad_hi_u16, ptx_u16, ((uint32_t)a * b >> 16) + c)
OP3(mad_hi_s16, ptx_s16, ((int32_t)a * b >> 16) + c)
OP3(mad_hi_u32, ptx_u32, (uint32_t)((uint64_t)a *b >> 32) + c)
OP3(mad_hi_s32, ptx_s32, (uint32_t)((int64_t)a *b >> 32) + (uint32_t)c)
OP3(mad_hi_u64, ptx_u64, high_u64(a, b) + c)
OP3(mad_hi_s64, ptx_s64, (uint64_t)high_s64(a, b) + (uint64_t)c)
PTX_LANEWISE(mul_wide_u16, ptx_u32, ptx_u16, PTX_AB, (uint32_t)a *b)
PTX_LANEWISE(mul_wide_s16, ptx_s32, ptx_s16, PTX_AB, (int32_t)a *b)
PTX_LANEWISE(mul_wide_u32, ptx_u64, ptx_u32, PTX_AB, (uint64_t)a *b)
PTX_LANEWISE(mul_wide_s32, ptx_s64, ptx_s32, PTX_AB, (int64_t)a *b)

/* c is as wide as the result. */
#define MAD_WIDE(name, D, T, expr)                                                                 \
    static void name(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {                  \
        const D *pc = PTX_REG(w, D, o->c);                                                         \
        D r[PTX_LANES];                                                                            \
        PTX_AB(T);                                                                                 \
        for (int l = 0; l < PTX_LANES; l++) {                                                      \
            const D c = pc[l];                                                                     \
            PTX_AB_lane(T);                                                                        \
            r[l] = (D)(expr);                                                                      \
        }                                                                                          \
        ptx_put(w, o->d, r, sizeof(r[0]), mask);                                                   \
    }
MAD_WIDE(mad_wide_u16, ptx_u32, ptx_u16, (uint32_t)a *b + c)
MAD_WIDE(mad_wide_s16, ptx_u32, ptx_s16, (uint32_t)((int32_t)a *b) + c)
MAD_WIDE(mad_wide_u32, ptx_u64, ptx_u32, (uint64_t)a *b + c)
MAD_WIDE(mad_wide_s32, ptx_u64, ptx_s32, (uint64_t)((int64_t)a *b) + c)

/* 24 bits of each: the low 32 of 48, or the high ones. */
#define LOW24U(x) ((uint64_t)((x)&0xffffff))
#define LOW24S(x) ((int64_t)((int32_t)((uint32_t)(x) << 8) >> 8))
OP2(mul24_lo_u32, ptx_u32, LOW24U(a) * LOW24U(b))
OP2(mul24_lo_s32, ptx_s32, LOW24S(a) * LOW24S(b))
OP2(mul24_hi_u32, ptx_u32, LOW24U(a) * LOW24U(b) >> 16)
OP2(mul24_hi_s32, ptx_s32, LOW24S(a) * LOW24S(b) >> 16)
OP3(mad24_lo_u32, ptx_u32, LOW24U(a) * LOW24U(b) + c)
OP3(mad24_lo_s32, ptx_s32, LOW24S(a) * LOW24S(b) + c)

/* Division by zero has an unspecified result: all ones, as the hardware gives; % gives a. */
#define DIVIDE(T, suffix, least)                                                                   \
    OP2(div_##suffix, T, b == 0 ? (T)-1 : least(a, b) ? a : a / b)                                 \
    OP2(rem_##suffix, T, b == 0 ? a : least(a, b) ? 0 : a % b)
#define NEVER(a, b)   false
#define LEAST32(a, b) ((a) == INT32_MIN && (b) == -1)
#define LEAST64(a, b) ((a) == INT64_MIN && (b) == -1)
DIVIDE(ptx_u16, u16, NEVER)
DIVIDE(ptx_s16, s16, NEVER)
DIVIDE(ptx_u32, u32, NEVER)
DIVIDE(ptx_s32, s32, LEAST32)
DIVIDE(ptx_u64, u64, NEVER)
DIVIDE(ptx_s64, s64, LEAST64)

#define MINMAX(T, suffix)                                                                          \
    OP2(min_##suffix, T, a < b ? a : b)                                                            \
    OP2(max_##suffix, T, a > b ? a : b)
MINMAX(ptx_u16, u16)
MINMAX(ptx_s16, s16)
MINMAX(ptx_u32, u32)
MINMAX(ptx_s32, s32)
MINMAX(ptx_u64, u64)
MINMAX(ptx_s64, s64)

OP1(abs_s16, ptx_s16, a < 0 ? -(int32_t)a : a)
OP1(abs_s32, ptx_s32, a < 0 ? 0 - (uint32_t)a : (uint32_t)a)
OP1(abs_s64, ptx_s64, a < 0 ? 0 - (uint64_t)a : (uint64_t)a)
OP1(neg_16, ptx_u16, 0 - (uint32_t)a)
OP1(neg_32, ptx_u32, 0 - a)
OP1(neg_64, ptx_u64, 0 - a)
OP3(sad_u32, ptx_u32, c + (a > b ? a - b : b - a))
OP3(sad_s32, ptx_u32, c + ((int32_t)a > (int32_t)b ? a - b : b - a))

/* Two halves of 16 bits. */
#define HALVES(lo, hi) (((uint32_t)(lo)&0xffff) | (uint32_t)(hi) << 16)
#define LO(x)          ((x)&0xffff)
#define SLO(x)         ((int16_t)(x))
#define SHI(x)         ((int16_t)((x) >> 16))
OP2(add_x2, ptx_u32, HALVES(a + b, (a >> 16) + (b >> 16)))
OP2(min_u16x2, ptx_u32, HALVES(LO(a) < LO(b) ? a : b, (a >> 16 < b >> 16 ? a : b) >> 16))
OP2(max_u16x2, ptx_u32, HALVES(LO(a) > LO(b) ? a : b, (a >> 16 > b >> 16 ? a : b) >> 16))
OP2(min_s16x2, ptx_u32, HALVES(SLO(a) < SLO(b) ? a : b, (SHI(a) < SHI(b) ? a : b) >> 16))
OP2(max_s16x2, ptx_u32, HALVES(SLO(a) > SLO(b) ? a : b, (SHI(a) > SHI(b) ? a : b) >> 16))

/* ---- carries: a bit per lane in the warp ---- */

enum { CARRY_ADD, CARRY_SUB, CARRY_MAD_LO, CARRY_MAD_HI };

#define CARRY(name, T, high)                                                                       \
    static void name(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask, int kind, bool in, \
                     bool out) {                                                                   \
        const T *pc = PTX_REG(w, T, kind >= CARRY_MAD_LO ? o->c : o->b);                           \
        T r[PTX_LANES];                                                                            \
        uint32_t carry = 0;                                                                        \
        PTX_AB(T);                                                                                 \
        for (int l = 0; l < PTX_LANES; l++) {                                                      \
            const T extra = in ? (T)(w->carry >> l & 1) : 0;                                       \
            PTX_AB_lane(T);                                                                        \
            T x = kind == CARRY_MAD_LO ? a * b : kind == CARRY_MAD_HI ? (T)high(a, b) : a;         \
            T y = kind >= CARRY_MAD_LO ? pc[l] : b;                                                \
            const bool sub = kind == CARRY_SUB;                                                    \
            const T s = sub ? x - y : x + y;                                                       \
            const T t = sub ? s - extra : s + extra;                                               \
            const bool c = sub ? x < y || s < extra : s < x || t < s;                              \
            r[l] = t;                                                                              \
            carry |= (uint32_t)c << l;                                                             \
        }                                                                                          \
        w->carry = out ? (w->carry & ~mask) | (carry & mask) : w->carry;                           \
        ptx_put(w, o->d, r, sizeof(r[0]), mask);                                                   \
    }
#define HIGH32(a, b) ((uint64_t)(a) * (b) >> 32)
CARRY(carry_32, ptx_u32, HIGH32)
CARRY(carry_64, ptx_u64, high_u64)

#define CARRY_OP(name, width, kind, in, out)                                                       \
    static void name##_##width(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {        \
        carry_##width(w, o, mask, kind, in, out);                                                  \
    }
#define CARRY_OPS(width)                                                                           \
    CARRY_OP(add_cc, width, CARRY_ADD, false, true)                                                \
    CARRY_OP(addc, width, CARRY_ADD, true, false)                                                  \
    CARRY_OP(addc_cc, width, CARRY_ADD, true, true)                                                \
    CARRY_OP(sub_cc, width, CARRY_SUB, false, true)                                                \
    CARRY_OP(subc, width, CARRY_SUB, true, false)                                                  \
    CARRY_OP(subc_cc, width, CARRY_SUB, true, true)                                                \
    CARRY_OP(mad_lo_cc, width, CARRY_MAD_LO, false, true)                                          \
    CARRY_OP(madc_lo, width, CARRY_MAD_LO, true, false)                                            \
    CARRY_OP(madc_lo_cc, width, CARRY_MAD_LO, true, true)                                          \
    CARRY_OP(mad_hi_cc, width, CARRY_MAD_HI, false, true)                                          \
    CARRY_OP(madc_hi, width, CARRY_MAD_HI, true, false)                                            \
    CARRY_OP(madc_hi_cc, width, CARRY_MAD_HI, true, true)
CARRY_OPS(32)
CARRY_OPS(64)

/* ---- products of bytes ---- */

static uint32_t dot4(uint32_t a, uint32_t b, uint32_t c, bool sa, bool sb) {
    for (int i = 0; i < 32; i += 8) {
        const int32_t x = sa ? (int8_t)(a >> i) : (uint8_t)(a >> i);
        const int32_t y = sb ? (int8_t)(b >> i) : (uint8_t)(b >> i);

        c += (uint32_t)(x * y);
    }
    return c;
}
OP3(dp4a_uu, ptx_u32, dot4(a, b, c, false, false))
OP3(dp4a_us, ptx_u32, dot4(a, b, c, false, true))
OP3(dp4a_su, ptx_u32, dot4(a, b, c, true, false))
OP3(dp4a_ss, ptx_u32, dot4(a, b, c, true, true))

#define ROWS6(op, sig2, sig4, sig8)                                                                \
    {#op ".u16", op##_u16, sig2, 0}, {#op ".s16", op##_s16, sig2, 0},                              \
        {#op ".u32", op##_u32, sig4, 0}, {#op ".s32", op##_s32, sig4, 0},                          \
        {#op ".u64", op##_u64, sig8, 0}, {                                                         \
#op ".s64", op##_s64, sig8, 0                                                              \
    }
#define CARRY_ROWS(T, width, n)                                                                    \
    {"add.cc." #T, add_cc_##width, #n "=" #n #n, 0}, {"addc." #T, addc_##width, #n "=" #n #n, 0},  \
        {"addc.cc." #T, addc_cc_##width, #n "=" #n #n, 0},                                         \
        {"sub.cc." #T, sub_cc_##width, #n "=" #n #n, 0},                                           \
        {"subc." #T, subc_##width, #n "=" #n #n, 0},                                               \
        {"subc.cc." #T, subc_cc_##width, #n "=" #n #n, 0},                                         \
        {"mad.lo.cc." #T, mad_lo_cc_##width, #n "=" #n #n #n, 0},                                  \
        {"madc.lo." #T, madc_lo_##width, #n "=" #n #n #n, 0}, {                                    \
        "madc.lo.cc." #T, madc_lo_cc_##width, #n "=" #n #n #n, 0                                   \
    }
#define CARRY_HI_ROWS(T, width, n)                                                                 \
    {"mad.hi.cc." #T, mad_hi_cc_##width, #n "=" #n #n #n, 0},                                      \
        {"madc.hi." #T, madc_hi_##width, #n "=" #n #n #n, 0}, {                                    \
        "madc.hi.cc." #T, madc_hi_cc_##width, #n "=" #n #n #n, 0                                   \
    }

const struct ptx_row ptx_rows_integer[] = {
    {"add.u16", add_16, "2=22", 0},
    {"add.s16", add_16, "2=22", 0},
    {"add.u32", add_32, "4=44", 0},
    {"add.s32", add_s32, "4=44", PTX_SAT},
    {"add.u64", add_64, "8=88", 0},
    {"add.s64", add_64, "8=88", 0},
    {"add.u16x2", add_x2, "4=44", 0},
    {"add.s16x2", add_x2, "4=44", 0},
    {"sub.u16", sub_16, "2=22", 0},
    {"sub.s16", sub_16, "2=22", 0},
    {"sub.u32", sub_32, "4=44", 0},
    {"sub.s32", sub_s32, "4=44", PTX_SAT},
    {"sub.u64", sub_64, "8=88", 0},
    {"sub.s64", sub_64, "8=88", 0},
    {"mul.lo.u16", mul_lo_16, "2=22", 0},
    {"mul.lo.s16", mul_lo_16, "2=22", 0},
    {"mul.lo.u32", mul_lo_32, "4=44", 0},
    {"mul.lo.s32", mul_lo_32, "4=44", 0},
    {"mul.lo.u64", mul_lo_64, "8=88", 0},
    {"mul.lo.s64", mul_lo_64, "8=88", 0},
    {"mul.hi.u16", mul_hi_u16, "2=22", 0},
    {"mul.hi.s16", mul_hi_s16, "2=22", 0},
    {"mul.hi.u32", mul_hi_u32, "4=44", 0},
    {"mul.hi.s32", mul_hi_s32, "4=44", 0},
    {"mul.hi.u64", mul_hi_u64, "8=88", 0},
    {"mul.hi.s64", mul_hi_s64, "8=88", 0},
    {"mul.wide.u16", mul_wide_u16, "4=22", 0},
    {"mul.wide.s16", mul_wide_s16, "4=22", 0},
    {"mul.wide.u32", mul_wide_u32, "8=44", 0},
    {"mul.wide.s32", mul_wide_s32, "8=44", 0},
    {"mad.lo.u16", mad_lo_16, "2=222", 0},
    {"mad.lo.s16", mad_lo_16, "2=222", 0},
    {"mad.lo.u32", mad_lo_32, "4=444", 0},
    {"mad.lo.s32", mad_lo_32, "4=444", 0},
    {"mad.lo.u64", mad_lo_64, "8=888", 0},
    {"mad.lo.s64", mad_lo_64, "8=888", 0},
    {"mad.hi.u16", mad_hi_u16, "2=222", 0},
    {"mad.hi.s16", mad_hi_s16, "2=222", 0},
    {"mad.hi.u32", mad_hi_u32, "4=444", 0},
    {"mad.hi.s32", mad_hi_s32, "4=444", 0},
    {"mad.hi.u64", mad_hi_u64, "8=888", 0},
    {"mad.hi.s64", mad_hi_s64, "8=888", 0},
    {"mad.wide.u16", mad_wide_u16, "4=224", 0},
    {"mad.wide.s16", mad_wide_s16, "4=224", 0},
    {"mad.wide.u32", mad_wide_u32, "8=448", 0},
    {"mad.wide.s32", mad_wide_s32, "8=448", 0},
    {"mul24.lo.u32", mul24_lo_u32, "4=44", 0},
    {"mul24.lo.s32", mul24_lo_s32, "4=44", 0},
    {"mul24.hi.u32", mul24_hi_u32, "4=44", 0},
    {"mul24.hi.s32", mul24_hi_s32, "4=44", 0},
    {"mad24.lo.u32", mad24_lo_u32, "4=444", 0},
    {"mad24.lo.s32", mad24_lo_s32, "4=444", 0},
    ROWS6(div, "2=22", "4=44", "8=88"),
    ROWS6(rem, "2=22", "4=44", "8=88"),
    ROWS6(min, "2=22", "4=44", "8=88"),
    ROWS6(max, "2=22", "4=44", "8=88"),
    {"min.u16x2", min_u16x2, "4=44", 0},
    {"max.u16x2", max_u16x2, "4=44", 0},
    {"min.s16x2", min_s16x2, "4=44", 0},
    {"max.s16x2", max_s16x2, "4=44", 0},
    {"abs.s16", abs_s16, "2=2", 0},
    {"abs.s32", abs_s32, "4=4", 0},
    {"abs.s64", abs_s64, "8=8", 0},
    {"neg.s16", neg_16, "2=2", 0},
    {"neg.s32", neg_32, "4=4", 0},
    {"neg.s64", neg_64, "8=8", 0},
    {"sad.u32", sad_u32, "4=444", 0},
    {"sad.s32", sad_s32, "4=444", 0},
    CARRY_ROWS(u32, 32, 4),
    CARRY_ROWS(s32, 32, 4),
    CARRY_ROWS(u64, 64, 8),
    CARRY_ROWS(s64, 64, 8),
    CARRY_HI_ROWS(u32, 32, 4),
    CARRY_HI_ROWS(u64, 64, 8),
    {"dp4a.u32.u32", dp4a_uu, "4=444", 0},
    {"dp4a.u32.s32", dp4a_us, "4=444", 0},
    {"dp4a.s32.u32", dp4a_su, "4=444", 0},
    {"dp4a.s32.s32", dp4a_ss, "4=444", 0},
    {NULL, NULL, NULL, 0},
};
