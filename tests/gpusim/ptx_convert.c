/* cvt: the usual conversions lane by lane, all others by way of 64-bit integers and f64. */
#include "ptx_convert.h"

#include "ptx_float.h"
#include "ptx_warp.h"

/* What run_convert() finds in an operation's v. */
enum { TO_CLASS, TO_BYTES, TO_FORMAT, TO_REG, FROM_CLASS, FROM_BYTES, FROM_FORMAT, FROM_REG, N_V };

union number {
    uint64_t u;
    int64_t s;
    double f;
};

PTX_LANEWISE(f32_from_s32, float, ptx_s32, PTX_A, (float)a)
PTX_LANEWISE(f32_from_u32, float, ptx_u32, PTX_A, (float)a)
PTX_LANEWISE(u64_from_u32, uint64_t, ptx_u32, PTX_A, a)
PTX_LANEWISE(s64_from_s32, int64_t, ptx_s32, PTX_A, a)
PTX_LANEWISE(u32_from_u64, uint32_t, ptx_u64, PTX_A, a)
PTX_LANEWISE(u32_from_u16, uint32_t, ptx_u16, PTX_A, a)
PTX_LANEWISE(s32_from_s16, int32_t, ptx_s16, PTX_A, a)
PTX_LANEWISE(u16_from_u32, uint16_t, ptx_u32, PTX_A, a)
PTX_LANEWISE(f32_from_bf16, float, ptx_u16, PTX_A, ptx_from_bf16(a))
PTX_LANEWISE(f32_from_f16, float, ptx_u16, PTX_A, ptx_from_f16(a))
PTX_LANEWISE(bf16_from_f32, uint16_t, ptx_f32, PTX_A, ptx_to_bf16(a))
PTX_LANEWISE(f64_from_f32, double, ptx_f32, PTX_A, (double)a)

static double flushed(double x, enum ptx_format format, uint32_t flags) {
    return (flags & PTX_FTZ) != 0 && format == PTX_F32 && fabs(x) < (double)FLT_MIN
               ? copysign(0.0, x)
               : x;
}

static union number load(const struct ptx_warp *w, const struct ptx_op *o, uint32_t lane) {
    const int shift = 64 - (int)o->v[FROM_BYTES] * 8;
    union number n = {0};
    float single;

    memcpy(&n, w->regs + o->a + (size_t)lane * o->v[FROM_REG], o->v[FROM_BYTES]);
    switch (o->v[FROM_FORMAT]) {
    case PTX_F16:
    case PTX_BF16:
        n.f = (double)ptx_from_half((uint16_t)n.u, (enum ptx_format)o->v[FROM_FORMAT]);
        break;
    case PTX_F32:
        memcpy(&single, &n, 4);
        n.f = flushed((double)single, PTX_F32, o->flags);
        break;
    case PTX_F64:
        break;
    default:
        n.u = o->v[FROM_CLASS] == PTX_SIGNED ? (uint64_t)((int64_t)(n.u << shift) >> shift) : n.u;
        break;
    }
    return n;
}

/* Clamped to what the integer type holds; n is signed, or not. */
static uint64_t clamp(union number n, bool is_signed, uint32_t bytes, bool to_signed) {
    const uint64_t most = (uint64_t)-1 >> (64 - bytes * 8) >> (to_signed ? 1 : 0);
    const int64_t least = to_signed ? -(int64_t)most - 1 : 0;

    if (is_signed && n.s < least) {
        return (uint64_t)least;
    }
    return (!is_signed || n.s >= 0) && n.u > most ? most : n.u;
}

/* Out of range: the nearest number that the type has; NaN: 0. */
static uint64_t to_integer(double x, uint32_t bytes, bool to_signed, uint32_t flags) {
    const int bits = (int)bytes * 8 - (to_signed ? 1 : 0);

    x = ptx_to_integral(x, flags);
    if (x != x) {
        return 0;
    }
    if (x >= ldexp(1.0, bits)) {
        return (uint64_t)-1 >> (64 - bits);
    }
    if (x < (to_signed ? -ldexp(1.0, bits) : 0.0)) {
        return to_signed ? ~((uint64_t)-1 >> (64 - bits)) : 0;
    }
    return to_signed ? (uint64_t)(int64_t)x : (uint64_t)x;
}

/* An integer as an f64 that rounds to narrower formats as the integer would: 53 bits of it, the
 * last one set if any below it is. */
static double sticky(union number n, bool is_signed) {
    const bool negative = is_signed && n.s < 0;
    uint64_t u = negative ? -n.u : n.u;
    double x;

    if (u >> 53 != 0) {
        u = u >> 11 | ((u & 0x7ff) != 0);
        x = (double)u * 0x1p11;
    } else {
        x = (double)u;
    }
    return negative ? -x : x;
}

static double integer_to_f64(union number n, bool is_signed, uint32_t flags) {
    const long double exact = is_signed ? (long double)n.s : (long double)n.u;
    const double nearest = is_signed ? (double)n.s : (double)n.u;
    const bool above = (long double)nearest > exact;
    const bool below = (long double)nearest < exact;

    switch (flags & PTX_ROUND) {
    case PTX_RZ:
        return (exact > 0 ? above : below) ? nextafter(nearest, 0.0) : nearest;
    case PTX_RM:
        return above ? nextafter(nearest, -(double)INFINITY) : nearest;
    case PTX_RP:
        return below ? nextafter(nearest, (double)INFINITY) : nearest;
    default:
        return nearest;
    }
}

static uint64_t tf32(double x, uint32_t flags) {
    const uint32_t u = ptx_float_bits((float)x);

    if (x != x) {
        return 0x7fffffff;
    }
    if (isinf(x)) {
        return u;
    }
    if ((flags & PTX_RNA) != 0) {
        return (u + 0x1000) & ~(uint32_t)0x1fff;
    }
    return (u + ((flags & PTX_RZ) != 0 ? 0 : 0xfff + (u >> 13 & 1))) & ~(uint32_t)0x1fff;
}

static uint64_t to_float(double x, enum ptx_format format, uint32_t flags) {
    union number n = {.f = x};
    uint64_t most;

    if ((flags & PTX_INTEGER) != 0) {
        x = ptx_to_integral(x, flags);
    }
    if ((flags & PTX_SAT) != 0) {
        x = x > 0 ? (x < 1 ? x : 1) : 0;
    }
    if ((flags & PTX_RELU) != 0) {
        x = x > 0 || x != x ? x : 0;
    }
    switch (format) {
    case PTX_F16:
    case PTX_BF16:
        n.u = ptx_to_half(x, format, flags);
        most = format == PTX_F16 ? 0x7bff : 0x7f7f;
        if ((flags & PTX_SATFINITE) != 0 && (n.u & 0x7fff) == most + 1) {
            n.u--;
        }
        return n.u;
    case PTX_TF32:
        return tf32(x, flags);
    case PTX_F64:
        n.f = x;
        return x != x ? 0x7fffffffffffffff : n.u;
    default:
        return ptx_float_bits((float)flushed((double)ptx_to_f32(x, flags), PTX_F32, flags));
    }
}

static uint64_t convert(const struct ptx_op *o, union number n) {
    const enum ptx_format to = (enum ptx_format)o->v[TO_FORMAT];
    const bool from_signed = o->v[FROM_CLASS] == PTX_SIGNED;
    const bool to_signed = o->v[TO_CLASS] == PTX_SIGNED;

    if (o->v[FROM_CLASS] == PTX_FLOAT) {
        return o->v[TO_CLASS] == PTX_FLOAT ? to_float(n.f, to, o->flags)
                                           : to_integer(n.f, o->v[TO_BYTES], to_signed, o->flags);
    }
    if (o->v[TO_CLASS] != PTX_FLOAT) {
        return (o->flags & PTX_SAT) != 0 ? clamp(n, from_signed, o->v[TO_BYTES], to_signed) : n.u;
    }
    if (to == PTX_F64) {
        return to_float(integer_to_f64(n, from_signed, o->flags), to, o->flags);
    }
    return to_float(sticky(n, from_signed), to, o->flags);
}

static void run_convert(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    const int shift = 64 - (int)o->v[TO_BYTES] * 8;

    PTX_FOR_LANES(l, mask) {
        uint64_t r = convert(o, load(w, o, l)) << shift;

        r = o->v[TO_CLASS] == PTX_SIGNED ? (uint64_t)((int64_t)r >> shift) : r >> shift;
        memcpy(w->regs + o->d + (size_t)l * o->v[TO_REG], &r, o->v[TO_REG]);
    }
}

/* Two floats to a pair: a becomes the upper half. */
static void run_pair(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    const enum ptx_format format = o->sub == PTX_F16X2 ? PTX_F16 : PTX_BF16;
    const bool usual = format == PTX_BF16 && o->flags == PTX_RN;
    uint32_t r[PTX_LANES];
    PTX_AB(ptx_f32);

    for (int l = 0; l < PTX_LANES; l++) {
        const uint32_t high =
            usual ? ptx_to_bf16(pa[l]) : (uint32_t)to_float((double)pa[l], format, o->flags);
        const uint32_t low =
            usual ? ptx_to_bf16(pb[l]) : (uint32_t)to_float((double)pb[l], format, o->flags);

        r[l] = high << 16 | low;
    }
    ptx_put(w, o->d, r, sizeof(r[0]), mask);
}

static const struct {
    const char *to;
    const char *from;
    uint32_t flags;
    uint32_t to_reg;
    uint32_t from_reg;
    ptx_run_fn *run;
} USUAL[] = {
    {"f32", "s32", PTX_RN, 4, 4, f32_from_s32},   {"f32", "u32", PTX_RN, 4, 4, f32_from_u32},
    {"u64", "u32", 0, 8, 4, u64_from_u32},        {"s64", "s32", 0, 8, 4, s64_from_s32},
    {"u32", "u64", 0, 4, 8, u32_from_u64},        {"u32", "u16", 0, 4, 2, u32_from_u16},
    {"s32", "s16", 0, 4, 2, s32_from_s16},        {"u16", "u32", 0, 2, 4, u16_from_u32},
    {"f32", "bf16", 0, 4, 2, f32_from_bf16},      {"f32", "f16", 0, 4, 2, f32_from_f16},
    {"bf16", "f32", PTX_RN, 2, 4, bf16_from_f32}, {"f64", "f32", 0, 8, 4, f64_from_f32},
};

static ptx_run_fn *usual(const struct ptx_type *to, const struct ptx_type *from,
                         const struct ptx_op *o) {
    for (size_t i = 0; i < sizeof(USUAL) / sizeof(USUAL[0]); i++) {
        if (strcmp(USUAL[i].to, to->name) == 0 && strcmp(USUAL[i].from, from->name) == 0 &&
            USUAL[i].flags == o->flags && USUAL[i].to_reg == o->v[TO_REG] &&
            USUAL[i].from_reg == o->v[FROM_REG]) {
            return USUAL[i].run;
        }
    }
    return run_convert;
}

static bool parse_register(struct ptx_compiler *c, uint32_t bytes, uint32_t *slot, uint32_t *reg) {
    struct ptx_operand operand;

    if (!ptx_parse_operand(c, &operand) ||
        !ptx_operand_slot(c, &operand, bytes < 2 ? 2 : bytes, slot, reg)) {
        return false;
    }
    return *reg >= bytes || ptx_error(c, "a register that is too small for the type");
}

static bool decode_pair(struct ptx_compiler *c, struct ptx_op *o, const struct ptx_type *to) {
    o->run = run_pair;
    o->sub = (uint8_t)ptx_format_of(to);
    return ptx_parse_destination(c, '4', &o->d) && ptx_expect(c, ",") &&
           ptx_parse_slot(c, 'f', &o->a, NULL) && ptx_expect(c, ",") &&
           ptx_parse_slot(c, 'f', &o->b, NULL);
}

bool ptx_decode_cvt(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    const bool satfinite = ptx_part_take(m, "satfinite");
    const struct ptx_type *to;
    const struct ptx_type *from;
    struct ptx_op *o;

    if (!ptx_part_type(m, &to) || !ptx_part_type(m, &from) || to->bytes == 0 || from->bytes == 0 ||
        to->class == PTX_BITS || from->class == PTX_BITS || strstr(from->name, "x2") != NULL ||
        strcmp(from->name, "tf32") == 0) {
        return ptx_error(c, "unknown instruction: cvt between these types");
    }
    if (!ptx_mnemonic_done(c, m,
                           PTX_ROUND | PTX_INTEGER | PTX_FTZ | PTX_SAT | PTX_RELU | PTX_RNA)) {
        return false;
    }
    o = ptx_emit(c, run_convert);
    o->flags = m->flags | (satfinite ? PTX_SATFINITE : 0);
    if (strstr(to->name, "x2") != NULL) {
        return strcmp(from->name, "f32") == 0 ? decode_pair(c, o, to)
                                              : ptx_error(c, "unknown instruction: cvt to pairs");
    }
    o->v = ptx_alloc(c->module, N_V * sizeof(o->v[0]));
    o->v[TO_CLASS] = to->class;
    o->v[TO_BYTES] = to->bytes;
    o->v[TO_FORMAT] = ptx_format_of(to);
    o->v[FROM_CLASS] = from->class;
    o->v[FROM_BYTES] = from->bytes;
    o->v[FROM_FORMAT] = ptx_format_of(from);
    if (!parse_register(c, to->bytes, &o->d, &o->v[TO_REG]) || !ptx_expect(c, ",") ||
        !parse_register(c, from->bytes, &o->a, &o->v[FROM_REG])) {
        return false;
    }
    o->run = usual(to, from, o);
    return true;
}
