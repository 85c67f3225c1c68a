/* mov with packing, comparisons, selections. */
#include "ptx_convert.h"
#include "ptx_float.h"
#include "ptx_warp.h"

/* ---- mov ---- */

PTX_LANEWISE(mov_16, uint16_t, ptx_u16, PTX_A, a)
PTX_LANEWISE(mov_32, uint32_t, ptx_u32, PTX_A, a)
PTX_LANEWISE(mov_64, uint64_t, ptx_u64, PTX_A, a)

static void mov_pred(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    ptx_set_pred(w, o->d, ptx_pred(w, o->a), mask);
}

static void mov_clock(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    w->cta->clock++; /* so that it moves, too, while this warp runs */
    PTX_FOR_LANES(l, mask) {
        const uint64_t now = w->cta->clock >> (o->sub != 0 ? 32 : 0);

        memcpy(w->regs + o->d + (size_t)l * o->reg, &now, o->reg);
    }
}

/* a [bytes * count] into v's registers. */
static void unpack(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    const size_t whole = (size_t)o->bytes * o->count;
    uint8_t copy[8 * PTX_LANES]; /* the source may be among the destinations */

    memcpy(copy, w->regs + o->a, whole * PTX_LANES);
    for (uint32_t i = 0; i < o->count; i++) {
        PTX_FOR_LANES(l, mask) {
            uint64_t x = 0;

            memcpy(&x, copy + l * whole + (size_t)i * o->bytes, o->bytes);
            memcpy(w->regs + o->v[i] + (size_t)l * o->reg, &x, o->reg);
        }
    }
}

static void pack(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    const size_t whole = (size_t)o->bytes * o->count;

    PTX_FOR_LANES(l, mask) {
        uint8_t x[8];

        for (uint32_t i = 0; i < o->count; i++) {
            memcpy(x + i * o->bytes, w->regs + o->v[i] + (size_t)l * o->reg, o->bytes);
        }
        memcpy(w->regs + o->d + l * whole, x, whole);
    }
}

static char kind_of(const struct ptx_type *type) {
    const bool real = type->class == PTX_FLOAT;

    return type->bytes == 0   ? 'p'
           : type->bytes == 2 ? '2'
           : type->bytes == 4 ? (real && ptx_format_of(type) == PTX_F32 ? 'f' : '4')
           : real             ? 'd'
                              : '8';
}

/* {a, b, ...}: elements of `bytes` / count. */
static bool parse_parts(struct ptx_compiler *c, struct ptx_op *o, uint32_t bytes) {
    uint32_t slots[8];
    uint32_t reg;
    int count;

    if (!ptx_parse_vector(c, slots, &count, 8, 2, &reg)) {
        return false;
    }
    o->bytes = (uint8_t)(bytes / (uint32_t)count);
    o->count = (uint8_t)count;
    o->reg = (uint8_t)reg;
    o->v = ptx_alloc(c->module, sizeof(slots));
    memcpy(o->v, slots, sizeof(slots[0]) * (size_t)count);
    return (bytes % (uint32_t)count == 0 && o->bytes > 0 && reg >= o->bytes) ||
           ptx_error(c, "a vector that does not fit the type");
}

static bool is_clock(const struct ptx_kernel *k, uint32_t slot, bool *high) {
    for (int i = PTX_CLOCK; i <= PTX_GLOBALTIMER; i++) {
        if (slot != 0 && k->specials[i] == slot) {
            *high = i == PTX_CLOCK_HI;
            return true;
        }
    }
    return false;
}

static bool decode_mov(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    const struct ptx_type *type;
    struct ptx_op *o;
    bool high = false;
    char kind;

    if (!ptx_part_type(m, &type) || type->bytes == 1 || !ptx_mnemonic_done(c, m, 0)) {
        return ptx_error(c, "unknown instruction: mov of this type");
    }
    kind = kind_of(type);
    o = ptx_emit(c, kind == 'p'        ? mov_pred
                    : type->bytes == 2 ? mov_16
                    : type->bytes == 4 ? mov_32
                                       : mov_64);
    if (ptx_token_is(&c->lex.token, "{")) {
        o->run = unpack;
        return parse_parts(c, o, type->bytes) && ptx_expect(c, ",") &&
               ptx_parse_slot(c, kind, &o->a, NULL);
    }
    if (!ptx_parse_destination(c, kind, &o->d) || !ptx_expect(c, ",")) {
        return false;
    }
    if (ptx_token_is(&c->lex.token, "{")) {
        o->run = pack;
        return parse_parts(c, o, type->bytes);
    }
    if (!ptx_parse_slot(c, kind, &o->a, NULL)) {
        return false;
    }
    if (is_clock(c->kernel, o->a, &high)) {
        o->run = mov_clock;
        o->sub = high;
        o->reg = type->bytes;
    }
    return true;
}

/* ---- comparisons ---- */

enum { EQ, NE, LT, LE, GT, GE, EQU, NEU, LTU, LEU, GTU, GEU, NUM, IS_NAN };
static const char *const COMPARISONS[] = {"eq",  "ne",  "lt",  "le",  "gt",  "ge",  "equ",
                                          "neu", "ltu", "leu", "gtu", "geu", "num", "nan",
                                          "lo",  "ls",  "hi",  "hs",  NULL};

#define BITS(expr)                                                                                 \
    for (int l = 0; l < PTX_LANES; l++) {                                                          \
        r |= (uint32_t)(expr) << l;                                                                \
    }                                                                                              \
    break
/* In C only != is true of a NaN: the unordered ones are the opposites of the ordered. */
#define COMPARE(name, T)                                                                           \
    static uint32_t name(const T *a, const T *b, int comparison) {                                 \
        uint32_t r = 0;                                                                            \
        switch (comparison) {                                                                      \
        case EQ:                                                                                   \
            BITS(a[l] == b[l]);                                                                    \
        case NE:                                                                                   \
            BITS((a[l] < b[l]) | (a[l] > b[l]));                                                   \
        case LT:                                                                                   \
            BITS(a[l] < b[l]);                                                                     \
        case LE:                                                                                   \
            BITS(a[l] <= b[l]);                                                                    \
        case GT:                                                                                   \
            BITS(a[l] > b[l]);                                                                     \
        case GE:                                                                                   \
            BITS(a[l] >= b[l]);                                                                    \
        case EQU:                                                                                  \
            BITS(!((a[l] < b[l]) | (a[l] > b[l])));                                                \
        case NEU:                                                                                  \
            BITS(a[l] != b[l]);                                                                    \
        case LTU:                                                                                  \
            BITS(!(a[l] >= b[l]));                                                                 \
        case LEU:                                                                                  \
            BITS(!(a[l] > b[l]));                                                                  \
        case GTU:                                                                                  \
            BITS(!(a[l] <= b[l]));                                                                 \
        case GEU:                                                                                  \
            BITS(!(a[l] < b[l]));                                                                  \
        case NUM:                                                                                  \
            BITS((a[l] == a[l]) & (b[l] == b[l]));                                                 \
        default:                                                                                   \
            BITS((a[l] != a[l]) | (b[l] != b[l]));                                                 \
        }                                                                                          \
        return r;                                                                                  \
    }
COMPARE(compare_u16, ptx_u16)
COMPARE(compare_s16, ptx_s16)
COMPARE(compare_u32, ptx_u32)
COMPARE(compare_s32, ptx_s32)
COMPARE(compare_u64, ptx_u64)
COMPARE(compare_s64, ptx_s64)
COMPARE(compare_f32, ptx_f32)
COMPARE(compare_f64, ptx_f64)

static void widen_lanes(const struct ptx_warp *w, uint32_t slot, const struct ptx_op *o, int part,
                        ptx_f32 *r) {
    const enum ptx_format format = (enum ptx_format)o->reg;

    for (int l = 0; l < PTX_LANES; l++) {
        if (format == PTX_F32) {
            r[l] = PTX_REG(w, ptx_f32, slot)[l];
        } else if (o->bytes == 2) {
            r[l] = ptx_from_half(PTX_REG(w, ptx_u16, slot)[l], format);
        } else {
            r[l] = ptx_from_half((uint16_t)(PTX_REG(w, ptx_u32, slot)[l] >> part * 16), format);
        }
        r[l] = (o->flags & PTX_FTZ) != 0 ? ptx_flush(r[l]) : r[l];
    }
}

/* Of pairs: the comparison of the part's halves. */
static uint32_t compare(const struct ptx_warp *w, const struct ptx_op *o, int part) {
    const void *a = w->regs + o->a;
    const void *b = w->regs + o->b;
    const bool is_signed = o->class == PTX_SIGNED;
    ptx_f32 x[PTX_LANES];
    ptx_f32 y[PTX_LANES];

    if (o->class == PTX_FLOAT && o->bytes < 8) {
        if (o->reg == PTX_F32 && (o->flags & PTX_FTZ) == 0) {
            return compare_f32(a, b, o->sub);
        }
        widen_lanes(w, o->a, o, part, x);
        widen_lanes(w, o->b, o, part, y);
        return compare_f32(x, y, o->sub);
    }
    if (o->class == PTX_FLOAT) {
        return compare_f64(a, b, o->sub);
    }
    switch (o->bytes) {
    case 2:
        return is_signed ? compare_s16(a, b, o->sub) : compare_u16(a, b, o->sub);
    case 4:
        return is_signed ? compare_s32(a, b, o->sub) : compare_u32(a, b, o->sub);
    default:
        return is_signed ? compare_s64(a, b, o->sub) : compare_u64(a, b, o->sub);
    }
}

/* With the predicate c that may follow; count: 0 none, 1 and, 2 or, 3 xor. */
static uint32_t with_predicate(const struct ptx_warp *w, const struct ptx_op *o, uint32_t bits) {
    const uint32_t c = o->count != 0 ? ptx_pred(w, o->c) ^ o->v[0] : 0;

    return o->count == 1 ? bits & c : o->count == 2 ? bits | c : o->count == 3 ? bits ^ c : bits;
}

static void run_setp(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    const uint32_t p = compare(w, o, 0);
    const bool pairs = o->reg == PTX_F16X2 || o->reg == PTX_BF16X2;
    const uint32_t first = with_predicate(w, o, p);

    if (o->imm != 0) { /* p|q: q is the opposite, or, of pairs, the upper half's */
        const uint32_t q = with_predicate(w, o, pairs ? compare(w, o, 1) : ~p);

        ptx_set_pred(w, (uint32_t)o->imm, q, mask);
    }
    ptx_set_pred(w, o->d, first, mask);
}

/* true is all ones, or 1.0; v[1]: the format of the result, v[2]: bytes of it. */
static void run_set(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    static const uint32_t one[] = {
        [PTX_NO_FLOAT] = 0xffffffff, [PTX_F16] = 0x3c00,       [PTX_BF16] = 0x3f80,
        [PTX_F32] = 0x3f800000,      [PTX_F16X2] = 0x3c003c00, [PTX_BF16X2] = 0x3f803f80};
    const bool pairs = o->reg == PTX_F16X2 || o->reg == PTX_BF16X2;
    const uint32_t low = with_predicate(w, o, compare(w, o, 0));
    const uint32_t high = pairs ? with_predicate(w, o, compare(w, o, 1)) : low;

    PTX_FOR_LANES(l, mask) {
        const uint32_t halves =
            ((low >> l & 1) != 0 ? 0xffff : 0) | ((high >> l & 1) != 0 ? 0xffff0000 : 0);
        const uint32_t x = one[o->v[1]] & halves;

        memcpy(w->regs + o->d + (size_t)l * o->v[2], &x, o->v[2]);
    }
}

static bool parse_comparison(struct ptx_compiler *c, struct ptx_mnemonic *m, int *comparison,
                             int *combine) {
    static const char *const combinations[] = {"and", "or", "xor", NULL};

    *comparison = ptx_part_choice(m, COMPARISONS);
    *combine = ptx_part_choice(m, combinations) + 1;
    if (*comparison > IS_NAN) { /* lo, ls, hi, hs: lt, le, gt, ge of unsigned ones */
        *comparison = LT + *comparison - IS_NAN - 1;
    }
    return *comparison >= 0 || ptx_error(c, "unknown instruction: an unknown comparison");
}

/* a, b and the predicate behind them. */
static bool parse_compared(struct ptx_compiler *c, struct ptx_op *o, const struct ptx_type *type,
                           int comparison, int combine) {
    const char kind = kind_of(type);

    if (type->bytes < 2 || (type->class == PTX_BITS && comparison > NE) ||
        (type->class != PTX_FLOAT && comparison > GE)) {
        return ptx_error(c, "unknown instruction: a comparison that this type does not have");
    }
    o->sub = (uint8_t)comparison;
    o->bytes = type->bytes;
    o->class = type->class;
    o->reg = (uint8_t)ptx_format_of(type);
    o->count = (uint8_t)combine;
    if (o->v == NULL) {
        o->v = ptx_alloc(c->module, 3 * sizeof(o->v[0]));
    }
    return ptx_parse_slot(c, kind, &o->a, NULL) && ptx_expect(c, ",") &&
           ptx_parse_slot(c, kind, &o->b, NULL) &&
           (combine == 0 || (ptx_expect(c, ",") && ptx_parse_slot(c, 'p', &o->c, &o->v[0])));
}

static bool decode_setp(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    const struct ptx_type *type;
    struct ptx_op *o;
    uint32_t second;
    int comparison;
    int combine;

    if (!parse_comparison(c, m, &comparison, &combine) || !ptx_part_type(m, &type) ||
        !ptx_mnemonic_done(c, m, PTX_FTZ)) {
        return ptx_error(c, "unknown instruction: setp of this kind");
    }
    o = ptx_emit(c, run_setp);
    o->flags = m->flags;
    if (!ptx_parse_destination(c, 'p', &o->d)) {
        return false;
    }
    if (ptx_lex_take(&c->lex, "|")) {
        if (!ptx_parse_destination(c, 'p', &second)) {
            return false;
        }
        o->imm = second;
    }
    return ptx_expect(c, ",") && parse_compared(c, o, type, comparison, combine);
}

static bool decode_set(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    const struct ptx_type *to;
    const struct ptx_type *type;
    struct ptx_op *o;
    int comparison;
    int combine;

    if (!parse_comparison(c, m, &comparison, &combine) || !ptx_part_type(m, &to) ||
        !ptx_part_type(m, &type) || !ptx_mnemonic_done(c, m, PTX_FTZ) ||
        (to->bytes != 2 && to->bytes != 4)) {
        return ptx_error(c, "unknown instruction: set of this kind");
    }
    o = ptx_emit(c, run_set);
    o->flags = m->flags;
    o->v = ptx_alloc(c->module, 3 * sizeof(o->v[0]));
    o->v[1] = ptx_format_of(to);
    o->v[2] = to->bytes;
    return ptx_parse_destination(c, kind_of(to), &o->d) && ptx_expect(c, ",") &&
           parse_compared(c, o, type, comparison, combine);
}

/* ---- selections ---- */

#define SELP(name, T)                                                                              \
    static void name(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {                  \
        const uint32_t p = ptx_pred(w, o->c) ^ o->v[0];                                            \
        T r[PTX_LANES];                                                                            \
        PTX_AB(T);                                                                                 \
        for (int l = 0; l < PTX_LANES; l++) {                                                      \
            r[l] = (p >> l & 1) != 0 ? pa[l] : pb[l];                                              \
        }                                                                                          \
        ptx_put(w, o->d, r, sizeof(r[0]), mask);                                                   \
    }
SELP(selp_16, ptx_u16)
SELP(selp_32, ptx_u32)
SELP(selp_64, ptx_u64)

static bool decode_selp(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    const struct ptx_type *type;
    struct ptx_op *o;
    char kind;

    if (!ptx_part_type(m, &type) || type->bytes < 2 || !ptx_mnemonic_done(c, m, 0)) {
        return ptx_error(c, "unknown instruction: selp of this type");
    }
    kind = kind_of(type);
    o = ptx_emit(c, type->bytes == 2 ? selp_16 : type->bytes == 4 ? selp_32 : selp_64);
    o->v = ptx_alloc(c->module, sizeof(o->v[0]));
    return ptx_parse_destination(c, kind, &o->d) && ptx_expect(c, ",") &&
           ptx_parse_slot(c, kind, &o->a, NULL) && ptx_expect(c, ",") &&
           ptx_parse_slot(c, kind, &o->b, NULL) && ptx_expect(c, ",") &&
           ptx_parse_slot(c, 'p', &o->c, &o->v[0]);
}

/* c >= 0 ? a : b. */
static void run_slct(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    PTX_FOR_LANES(l, mask) {
        const float x = PTX_REG(w, ptx_f32, o->c)[l];
        const float real = (o->flags & PTX_FTZ) != 0 ? ptx_flush(x) : x;
        const bool first = o->class == PTX_FLOAT ? real >= 0.0f : PTX_REG(w, ptx_s32, o->c)[l] >= 0;

        memmove(w->regs + o->d + (size_t)l * o->bytes,
                w->regs + (first ? o->a : o->b) + (size_t)l * o->bytes, o->bytes);
    }
}

static bool decode_slct(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    const struct ptx_type *type;
    const struct ptx_type *by;
    struct ptx_op *o;
    char kind;

    if (!ptx_part_type(m, &type) || !ptx_part_type(m, &by) || type->bytes < 2 || by->bytes != 4 ||
        !ptx_mnemonic_done(c, m, PTX_FTZ)) {
        return ptx_error(c, "unknown instruction: slct of these types");
    }
    kind = kind_of(type);
    o = ptx_emit(c, run_slct);
    o->flags = m->flags;
    o->class = by->class;
    o->bytes = type->bytes;
    return ptx_parse_destination(c, kind, &o->d) && ptx_expect(c, ",") &&
           ptx_parse_slot(c, kind, &o->a, NULL) && ptx_expect(c, ",") &&
           ptx_parse_slot(c, kind, &o->b, NULL) && ptx_expect(c, ",") &&
           ptx_parse_slot(c, kind_of(by), &o->c, NULL);
}

const struct ptx_decoder ptx_decode_data[] = {
    {"mov", decode_mov},   {"setp", decode_setp},   {"set", decode_set}, {"selp", decode_selp},
    {"slct", decode_slct}, {"cvt", ptx_decode_cvt}, {NULL, NULL},
};
