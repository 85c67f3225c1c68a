/* Logic, shifts, bit fields. */
#include "ptx_compile.h"
#include "ptx_warp.h"

#define OP1(name, T, expr) PTX_LANEWISE(name, T, T, PTX_A, expr)
#define OP2(name, T, expr) PTX_LANEWISE(name, T, T, PTX_AB, expr)
#define OP3(name, T, expr) PTX_LANEWISE(name, T, T, PTX_ABC, expr)

#define LOGIC(T, suffix)                                                                           \
    OP2(and_##suffix, T, a &b)                                                                     \
    OP2(or_##suffix, T, a | b)                                                                     \
    OP2(xor_##suffix, T, a ^ b)                                                                    \
    OP1(not_##suffix, T, ~a)                                                                       \
    OP1(cnot_##suffix, T, a == 0)
LOGIC(ptx_u16, 16)
LOGIC(ptx_u32, 32)
LOGIC(ptx_u64, 64)

#define PRED_LOGIC(name, expr)                                                                     \
    static void name(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {                  \
        const uint32_t a = ptx_pred(w, o->a);                                                      \
        const uint32_t b = ptx_pred(w, o->b);                                                      \
        (void)b;                                                                                   \
        ptx_set_pred(w, o->d, expr, mask);                                                         \
    }
PRED_LOGIC(and_pred, a &b)
PRED_LOGIC(or_pred, a | b)
PRED_LOGIC(xor_pred, a ^ b)
PRED_LOGIC(not_pred, ~a)

/* Shifts by a 32-bit count; those by more than the width count as the width. */
#define SHIFT(name, T, expr)                                                                       \
    static void name(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {                  \
        const ptx_u32 *pn = PTX_REG(w, ptx_u32, o->b);                                             \
        T r[PTX_LANES];                                                                            \
        PTX_A(T);                                                                                  \
        for (int l = 0; l < PTX_LANES; l++) {                                                      \
            const uint32_t n = pn[l];                                                              \
            PTX_A_lane(T);                                                                         \
            r[l] = (T)(expr);                                                                      \
        }                                                                                          \
        ptx_put(w, o->d, r, sizeof(r[0]), mask);                                                   \
    }
SHIFT(shl_16, ptx_u16, n > 15 ? 0 : (uint32_t)a << n)
SHIFT(shl_32, ptx_u32, n > 31 ? 0 : a << n)
SHIFT(shl_64, ptx_u64, n > 63 ? 0 : a << n)
SHIFT(shr_u16, ptx_u16, n > 15 ? 0 : a >> n)
SHIFT(shr_u32, ptx_u32, n > 31 ? 0 : a >> n)
SHIFT(shr_u64, ptx_u64, n > 63 ? 0 : a >> n)
SHIFT(shr_s16, ptx_s16, a >> (n > 15 ? 15 : n))
SHIFT(shr_s32, ptx_s32, a >> (n > 31 ? 31 : n))
SHIFT(shr_s64, ptx_s64, a >> (n > 63 ? 63 : n))

/* {hi b, lo a} shifted by c. */
#define PAIR (((uint64_t)b << 32) | a)
OP3(shf_l_wrap, ptx_u32, PAIR << (c & 31) >> 32)
OP3(shf_r_wrap, ptx_u32, PAIR >> (c & 31))
OP3(shf_l_clamp, ptx_u32, c > 31 ? a : PAIR << c >> 32)
OP3(shf_r_clamp, ptx_u32, c > 31 ? b : PAIR >> c)

/* Results of 32 bits. */
#define COUNT(name, T, expr) PTX_LANEWISE(name, ptx_u32, T, PTX_A, expr)
COUNT(popc_32, ptx_u32, __builtin_popcount(a))
COUNT(popc_64, ptx_u64, __builtin_popcountll(a))
COUNT(clz_32, ptx_u32, a == 0 ? 32 : __builtin_clz(a))
COUNT(clz_64, ptx_u64, a == 0 ? 64 : __builtin_clzll(a))

/* The highest bit that differs from the sign; shiftamt: by how much to shift it to the top. */
static uint32_t bfind(uint64_t a, int width, bool amount) {
    const uint32_t bit = a == 0 ? ~(uint32_t)0 : 63 - (uint32_t)__builtin_clzll(a);

    return a == 0 || !amount ? bit : (uint32_t)width - 1 - bit;
}
COUNT(bfind_u32, ptx_u32, bfind(a, 32, false))
COUNT(bfind_s32, ptx_s32, bfind((uint32_t)(a < 0 ? ~a : a), 32, false))
COUNT(bfind_u64, ptx_u64, bfind(a, 64, false))
COUNT(bfind_s64, ptx_s64, bfind((uint64_t)(a < 0 ? ~a : a), 64, false))
COUNT(bfind_shift_u32, ptx_u32, bfind(a, 32, true))
COUNT(bfind_shift_s32, ptx_s32, bfind((uint32_t)(a < 0 ? ~a : a), 32, true))
COUNT(bfind_shift_u64, ptx_u64, bfind(a, 64, true))
COUNT(bfind_shift_s64, ptx_s64, bfind((uint64_t)(a < 0 ? ~a : a), 64, true))

static uint64_t reverse(uint64_t a, int width) {
    uint64_t r = 0;

    for (int i = 0; i < width; i++) {
        r = r << 1 | (a >> i & 1);
    }
    return r;
}
OP1(brev_32, ptx_u32, reverse(a, 32))
OP1(brev_64, ptx_u64, reverse(a, 64))

/* len bits of a from pos on; of signed ones, the topmost (or the sign) fills the rest. */
static uint64_t extract(uint64_t a, uint32_t pos, uint32_t len, uint32_t width, bool is_signed) {
    uint64_t sign = 0;
    uint64_t r = 0;
    uint32_t top;

    pos &= 0xff;
    len &= 0xff;
    top = pos + len - 1 < width - 1 ? pos + len - 1 : width - 1;
    if (is_signed && len > 0) {
        sign = a >> top & 1;
    }
    for (uint32_t i = 0; i < width; i++) {
        r |= (i < len && pos + i < width ? a >> (pos + i) & 1 : sign) << i;
    }
    return r;
}

static uint64_t insert(uint64_t a, uint64_t b, uint32_t pos, uint32_t len, uint32_t width) {
    pos &= 0xff;
    len &= 0xff;
    for (uint32_t i = 0; i < len && pos + i < width; i++) {
        const uint64_t bit = (uint64_t)1 << (pos + i);

        b = (b & ~bit) | ((a >> i & 1) << (pos + i));
    }
    return b;
}

#define FIELD(name, T, width, is_signed)                                                           \
    static void name(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {                  \
        const ptx_u32 *pos = PTX_REG(w, ptx_u32, o->b);                                            \
        const ptx_u32 *len = PTX_REG(w, ptx_u32, o->c);                                            \
        T r[PTX_LANES];                                                                            \
        PTX_A(T);                                                                                  \
        for (int l = 0; l < PTX_LANES; l++) {                                                      \
            r[l] = (T)extract(pa[l], pos[l], len[l], width, is_signed);                            \
        }                                                                                          \
        ptx_put(w, o->d, r, sizeof(r[0]), mask);                                                   \
    }
FIELD(bfe_u32, ptx_u32, 32, false)
FIELD(bfe_s32, ptx_u32, 32, true)
FIELD(bfe_u64, ptx_u64, 64, false)
FIELD(bfe_s64, ptx_u64, 64, true)

/* Four operands: the last is in v. */
#define INSERT(name, T, width)                                                                     \
    static void name(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {                  \
        const ptx_u32 *pos = PTX_REG(w, ptx_u32, o->c);                                            \
        const ptx_u32 *len = PTX_REG(w, ptx_u32, o->v[0]);                                         \
        T r[PTX_LANES];                                                                            \
        PTX_AB(T);                                                                                 \
        for (int l = 0; l < PTX_LANES; l++) {                                                      \
            r[l] = (T)insert(pa[l], pb[l], pos[l], len[l], width);                                 \
        }                                                                                          \
        ptx_put(w, o->d, r, sizeof(r[0]), mask);                                                   \
    }
INSERT(bfi_32, ptx_u32, 32)
INSERT(bfi_64, ptx_u64, 64)

/* Bytes of {b, a} by the nibbles of the selector; bit 3: that byte's sign eight times. */
static uint32_t permute(uint32_t a, uint32_t b, uint32_t selector) {
    const uint64_t bytes = (uint64_t)b << 32 | a;
    uint32_t r = 0;

    for (int i = 0; i < 4; i++) {
        const uint32_t s = selector >> 4 * i & 15;
        uint32_t byte = (uint32_t)(bytes >> 8 * (s & 7)) & 0xff;

        byte = (s & 8) == 0 ? byte : (byte & 0x80) != 0 ? 0xff : 0;
        r |= byte << 8 * i;
    }
    return r;
}
OP3(prmt, ptx_u32, permute(a, b, c & 0xffff))

/* The modes' selectors for c & 3, as the ISA's table has them. */
static uint32_t permute_mode(uint32_t a, uint32_t b, uint32_t c, const uint16_t selectors[4]) {
    return permute(a, b, selectors[c & 3]);
}
static const uint16_t F4E[] = {0x3210, 0x4321, 0x5432, 0x6543};
static const uint16_t B4E[] = {0x5670, 0x6701, 0x7012, 0x0123};
static const uint16_t RC8[] = {0x0000, 0x1111, 0x2222, 0x3333};
static const uint16_t ECL[] = {0x3210, 0x3211, 0x3222, 0x3333};
static const uint16_t ECR[] = {0x0000, 0x1110, 0x2210, 0x3210};
static const uint16_t RC16[] = {0x1010, 0x3232, 0x1010, 0x3232};
OP3(prmt_f4e, ptx_u32, permute_mode(a, b, c, F4E))
OP3(prmt_b4e, ptx_u32, permute_mode(a, b, c, B4E))
OP3(prmt_rc8, ptx_u32, permute_mode(a, b, c, RC8))
OP3(prmt_ecl, ptx_u32, permute_mode(a, b, c, ECL))
OP3(prmt_ecr, ptx_u32, permute_mode(a, b, c, ECR))
OP3(prmt_rc16, ptx_u32, permute_mode(a, b, c, RC16))

static void lop3(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    const uint32_t table = *PTX_REG(w, ptx_u32, o->v[0]); /* a constant: the same in all lanes */
    uint32_t r[PTX_LANES] = {0};
    PTX_ABC(ptx_u32);

    for (uint32_t i = 0; i < 8; i++) {
        const uint32_t fa = (i & 4) != 0 ? 0 : PTX_ALL;
        const uint32_t fb = (i & 2) != 0 ? 0 : PTX_ALL;
        const uint32_t fc = (i & 1) != 0 ? 0 : PTX_ALL;
        const uint32_t on = (table >> i & 1) != 0 ? PTX_ALL : 0;

        for (int l = 0; on != 0 && l < PTX_LANES; l++) {
            r[l] |= (pa[l] ^ fa) & (pb[l] ^ fb) & (pc[l] ^ fc);
        }
    }
    ptx_put(w, o->d, r, sizeof(r[0]), mask);
}

static uint32_t mask_of(uint32_t pos, uint32_t len, bool clamp) {
    const uint32_t p = clamp ? (pos > 32 ? 32 : pos) : pos & 31;
    const uint32_t n = clamp ? (len > 32 ? 32 : len) : len & 31;

    return (uint32_t)((((uint64_t)1 << n) - 1) << p);
}
OP2(bmsk_clamp, ptx_u32, mask_of(a, b, true))
OP2(bmsk_wrap, ptx_u32, mask_of(a, b, false))

const struct ptx_row ptx_rows_bits[] = {
    {"and.b16", and_16, "2=22", 0},
    {"and.b32", and_32, "4=44", 0},
    {"and.b64", and_64, "8=88", 0},
    {"and.pred", and_pred, "p=pp", 0},
    {"or.b16", or_16, "2=22", 0},
    {"or.b32", or_32, "4=44", 0},
    {"or.b64", or_64, "8=88", 0},
    {"or.pred", or_pred, "p=pp", 0},
    {"xor.b16", xor_16, "2=22", 0},
    {"xor.b32", xor_32, "4=44", 0},
    {"xor.b64", xor_64, "8=88", 0},
    {"xor.pred", xor_pred, "p=pp", 0},
    {"not.b16", not_16, "2=2", 0},
    {"not.b32", not_32, "4=4", 0},
    {"not.b64", not_64, "8=8", 0},
    {"not.pred", not_pred, "p=p", 0},
    {"cnot.b16", cnot_16, "2=2", 0},
    {"cnot.b32", cnot_32, "4=4", 0},
    {"cnot.b64", cnot_64, "8=8", 0},
    {"shl.b16", shl_16, "2=24", 0},
    {"shl.b32", shl_32, "4=44", 0},
    {"shl.b64", shl_64, "8=84", 0},
    {"shr.b16", shr_u16, "2=24", 0},
    {"shr.u16", shr_u16, "2=24", 0},
    {"shr.s16", shr_s16, "2=24", 0},
    {"shr.b32", shr_u32, "4=44", 0},
    {"shr.u32", shr_u32, "4=44", 0},
    {"shr.s32", shr_s32, "4=44", 0},
    {"shr.b64", shr_u64, "8=84", 0},
    {"shr.u64", shr_u64, "8=84", 0},
    {"shr.s64", shr_s64, "8=84", 0},
    {"shf.l.wrap.b32", shf_l_wrap, "4=444", 0},
    {"shf.r.wrap.b32", shf_r_wrap, "4=444", 0},
    {"shf.l.clamp.b32", shf_l_clamp, "4=444", 0},
    {"shf.r.clamp.b32", shf_r_clamp, "4=444", 0},
    {"popc.b32", popc_32, "4=4", 0},
    {"popc.b64", popc_64, "4=8", 0},
    {"clz.b32", clz_32, "4=4", 0},
    {"clz.b64", clz_64, "4=8", 0},
    {"bfind.u32", bfind_u32, "4=4", 0},
    {"bfind.s32", bfind_s32, "4=4", 0},
    {"bfind.u64", bfind_u64, "4=8", 0},
    {"bfind.s64", bfind_s64, "4=8", 0},
    {"bfind.shiftamt.u32", bfind_shift_u32, "4=4", 0},
    {"bfind.shiftamt.s32", bfind_shift_s32, "4=4", 0},
    {"bfind.shiftamt.u64", bfind_shift_u64, "4=8", 0},
    {"bfind.shiftamt.s64", bfind_shift_s64, "4=8", 0},
    {"brev.b32", brev_32, "4=4", 0},
    {"brev.b64", brev_64, "8=8", 0},
    {"bfe.u32", bfe_u32, "4=444", 0},
    {"bfe.s32", bfe_s32, "4=444", 0},
    {"bfe.u64", bfe_u64, "8=844", 0},
    {"bfe.s64", bfe_s64, "8=844", 0},
    {"bfi.b32", bfi_32, "4=4444", 0},
    {"bfi.b64", bfi_64, "8=8844", 0},
    {"prmt.b32", prmt, "4=444", 0},
    {"prmt.b32.f4e", prmt_f4e, "4=444", 0},
    {"prmt.b32.b4e", prmt_b4e, "4=444", 0},
    {"prmt.b32.rc8", prmt_rc8, "4=444", 0},
    {"prmt.b32.ecl", prmt_ecl, "4=444", 0},
    {"prmt.b32.ecr", prmt_ecr, "4=444", 0},
    {"prmt.b32.rc16", prmt_rc16, "4=444", 0},
    {"lop3.b32", lop3, "4=4444", 0},
    {"bmsk.clamp.b32", bmsk_clamp, "4=44", 0},
    {"bmsk.wrap.b32", bmsk_wrap, "4=44", 0},
    {NULL, NULL, NULL, 0},
};
