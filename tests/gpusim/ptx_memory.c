/* ld, st, atom, red, and the conversions between spaces. */
#include "ptx_compile.h"
#include "ptx_float.h"
#include "ptx_warp.h"

/* ---- running ---- */

static uint64_t address_of(const struct ptx_warp *w, const struct ptx_op *o, uint32_t lane) {
    const uint64_t base = (o->flags & PTX_ADDRESS32) != 0 ? PTX_REG(w, ptx_u32, o->a)[lane]
                                                          : PTX_REG(w, ptx_u64, o->a)[lane];

    return base + (uint64_t)o->imm;
}

static bool map_lanes(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask,
                      enum ptx_access access, uint8_t **at) {
    const uint32_t bytes = (uint32_t)o->bytes * o->count;

    PTX_FOR_LANES(l, mask) {
        at[l] = ptx_map(w, o, (int)l, (enum ptx_space)o->space, address_of(w, o, l), bytes, access);
        if (at[l] == NULL) {
            return false;
        }
    }
    return true;
}

/* An element to a register that may be wider. */
static void widen(uint8_t *reg, const uint8_t *from, const struct ptx_op *o) {
    int64_t x = 0;

    memcpy(&x, from, o->bytes); /* little-endian */
    if (o->class == PTX_SIGNED && o->bytes < 8) {
        const int shift = 64 - o->bytes * 8;

        x = (int64_t)((uint64_t)x << shift) >> shift;
    }
    memcpy(reg, &x, o->reg);
}

static void run_ld(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    const enum ptx_access access = (o->flags & PTX_STRONG) != 0 ? PTX_STRONG_READ : PTX_READ;
    uint8_t *at[PTX_LANES];

    if (!map_lanes(w, o, mask, access, at)) {
        return;
    }
    for (uint32_t i = 0; i < o->count; i++) {
        uint8_t *reg = w->regs + o->v[i];
        const size_t offset = (size_t)i * o->bytes;

        if (o->bytes != o->reg) {
            PTX_FOR_LANES(l, mask) {
                widen(reg + (size_t)l * o->reg, at[l] + offset, o);
            }
        } else if (o->bytes == 4) {
            PTX_FOR_LANES(l, mask) {
                memcpy(reg + (size_t)l * 4, at[l] + offset, 4);
            }
        } else {
            PTX_FOR_LANES(l, mask) {
                memcpy(reg + (size_t)l * o->bytes, at[l] + offset, o->bytes);
            }
        }
    }
}

static void run_st(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    const bool strong = (o->flags & PTX_STRONG) != 0;
    const uint32_t bytes = o->bytes;
    uint8_t *at[PTX_LANES];

    if (!map_lanes(w, o, mask, strong ? PTX_STRONG_WRITE : PTX_WRITE, at)) {
        return;
    }
    PTX_FOR_LANES(l, mask) {
        uint8_t data[32];

        for (uint32_t i = 0; i < o->count; i++) {
            memcpy(data + i * bytes, w->regs + o->v[i] + (size_t)l * o->reg, bytes);
        }
        ptx_store(w, o, (int)l, at[l], data, bytes * o->count, strong);
    }
}

enum {
    ATOM_ADD,
    ATOM_MIN,
    ATOM_MAX,
    ATOM_AND,
    ATOM_OR,
    ATOM_XOR,
    ATOM_EXCH,
    ATOM_CAS,
    ATOM_INC,
    ATOM_DEC
};

static uint64_t add_halves(uint64_t a, uint64_t b, enum ptx_format format) {
    const int n = format == PTX_F16X2 || format == PTX_BF16X2 ? 2 : 1;
    uint64_t r = 0;

    for (int i = 0; i < n; i++) {
        const float x = ptx_from_half((uint16_t)(a >> 16 * i), format);
        const float y = ptx_from_half((uint16_t)(b >> 16 * i), format);

        r |= (uint64_t)ptx_to_half((double)x + (double)y, format, PTX_RN) << 16 * i;
    }
    return r;
}

static uint64_t add_floats(uint64_t a, uint64_t b, enum ptx_format format) {
    double x;
    double y;
    uint64_t r;

    if (format == PTX_F32) {
        return ptx_float_bits(
            ptx_canonical(ptx_bits_float((uint32_t)a) + ptx_bits_float((uint32_t)b)));
    }
    if (format != PTX_F64) {
        return add_halves(a, b, format);
    }
    memcpy(&x, &a, 8);
    memcpy(&y, &b, 8);
    x += y;
    memcpy(&r, &x, 8);
    return r;
}

/* a: what is there, b, c: the operands, signed ones extended to 64 bits. */
static uint64_t combine(const struct ptx_op *o, uint64_t a, uint64_t b, uint64_t c) {
    const bool less = o->class == PTX_SIGNED ? (int64_t)a < (int64_t)b : a < b;

    switch (o->sub) {
    case ATOM_ADD:
        return o->class == PTX_FLOAT ? add_floats(a, b, (enum ptx_format)o->reg) : a + b;
    case ATOM_MIN:
        return less ? a : b;
    case ATOM_MAX:
        return less ? b : a;
    case ATOM_AND:
        return a & b;
    case ATOM_OR:
        return a | b;
    case ATOM_XOR:
        return a ^ b;
    case ATOM_CAS:
        return a == b ? c : a;
    case ATOM_INC:
        return a >= b ? 0 : a + 1;
    case ATOM_DEC:
        return a == 0 || a > b ? b : a - 1;
    default:
        return b;
    }
}

static uint64_t operand_of(const struct ptx_op *o, const void *from) {
    const int shift = 64 - o->bytes * 8;
    uint64_t x = 0;

    memcpy(&x, from, o->bytes);
    return o->class == PTX_SIGNED ? (uint64_t)((int64_t)(x << shift) >> shift) : x;
}

static void run_atom(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    uint8_t *at[PTX_LANES];
    const size_t size = o->bytes;

    if (!map_lanes(w, o, mask, PTX_STRONG_READ, at) ||
        !map_lanes(w, o, mask, PTX_STRONG_WRITE, at)) {
        return;
    }
    PTX_FOR_LANES(l, mask) {
        const uint64_t a = operand_of(o, at[l]);
        const uint64_t b = operand_of(o, w->regs + o->b + l * size);
        const uint64_t c = o->sub == ATOM_CAS ? operand_of(o, w->regs + o->c + l * size) : 0;
        const uint64_t r = combine(o, a, b, c);

        if (o->d != 0) { /* red has none */
            memcpy(w->regs + o->d + l * size, &a, size);
        }
        ptx_store(w, o, (int)l, at[l], &r, o->bytes, true);
    }
}

static void run_cvta(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    const bool narrow = o->reg == 4;
    uint64_t r[PTX_LANES];

    PTX_FOR_LANES(l, mask) {
        const uint64_t a = narrow ? PTX_REG(w, ptx_u32, o->a)[l] : PTX_REG(w, ptx_u64, o->a)[l];

        r[l] = o->sub != 0 ? PTX_OFFSET(a) : a + (uint64_t)o->imm;
    }
    PTX_FOR_LANES(l, mask) {
        memcpy(w->regs + o->d + (size_t)l * o->reg, &r[l], o->reg);
    }
}

static void run_isspacep(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    uint32_t bits = 0;

    PTX_FOR_LANES(l, mask) {
        const unsigned window = PTX_WINDOW(PTX_REG(w, ptx_u64, o->a)[l]);
        const bool is = window == (unsigned)o->imm ||
                        (o->imm == PTX_WINDOW_GLOBAL && window == PTX_WINDOW_MODULE);

        bits |= is ? (uint32_t)1 << l : 0;
    }
    ptx_set_pred(w, o->d, bits, mask);
}

/* ---- decoding ---- */

static enum ptx_space take_space(struct ptx_mnemonic *m) {
    static const char *const names[] = {"global", "shared",       "shared::cta", "local", "param",
                                        "const",  "param::entry", "param::func", NULL};
    static const enum ptx_space spaces[] = {PTX_GLOBAL, PTX_SHARED, PTX_SHARED, PTX_LOCAL,
                                            PTX_PARAM,  PTX_CONST,  PTX_PARAM,  PTX_PARAM};
    const int i = ptx_part_choice(m, names);

    return i < 0 ? PTX_GENERIC : spaces[i];
}

/* Fills in where the operation's address comes from. */
static bool set_address(struct ptx_compiler *c, struct ptx_op *o, enum ptx_space space) {
    struct ptx_address a;

    if (!ptx_parse_address(c, &a)) {
        return false;
    }
    if (space == PTX_PARAM && a.space == PTX_LOCAL) { /* of a call: the thread's own */
        space = PTX_LOCAL;
    }
    o->space = (uint8_t)space;
    o->a = a.slot;
    o->imm = a.offset;
    o->flags |= a.bytes == 4 ? PTX_ADDRESS32 : 0;
    return true;
}

#define ACCESS_FLAGS (PTX_CACHE | PTX_STRONG | PTX_SCOPE | PTX_HINT)

static bool skip_hint(struct ptx_compiler *c, const struct ptx_mnemonic *m) {
    uint32_t slot;

    return (m->flags & PTX_HINT) == 0 ||
           (ptx_expect(c, ",") && ptx_parse_slot(c, '8', &slot, NULL));
}

/* ld and st differ in the order of address and data. */
static bool decode_access(struct ptx_compiler *c, struct ptx_mnemonic *m, bool load) {
    static const char *const vectors[] = {"v2", "v4", "v8", NULL};
    const enum ptx_space space = take_space(m);
    const int vector = ptx_part_choice(m, vectors);
    const struct ptx_type *type;
    uint32_t slots[8];
    uint32_t reg;
    int count;
    struct ptx_op *o;

    if (!ptx_part_type(m, &type) || type->bytes == 0) {
        return ptx_error(c, "unknown instruction: %s of an unknown type", m->root);
    }
    if (!ptx_mnemonic_done(c, m, ACCESS_FLAGS)) {
        return false;
    }
    o = ptx_emit(c, load ? run_ld : run_st);
    o->flags = m->flags;
    if ((load &&
         (!ptx_parse_vector(c, slots, &count, 8, type->bytes, &reg) || !ptx_expect(c, ","))) ||
        !set_address(c, o, space) ||
        (!load &&
         (!ptx_expect(c, ",") || !ptx_parse_vector(c, slots, &count, 8, type->bytes, &reg)))) {
        return false;
    }
    if (count != (vector < 0 ? 1 : 2 << vector) || reg < type->bytes) {
        return ptx_error(c, "registers that do not fit the type");
    }
    o->bytes = type->bytes;
    o->class = type->class;
    o->count = (uint8_t)count;
    o->reg = (uint8_t)reg;
    o->v = ptx_alloc(c->module, sizeof(slots));
    memcpy(o->v, slots, sizeof(slots[0]) * (size_t)count);
    return skip_hint(c, m);
}

static bool decode_ld(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    return decode_access(c, m, true);
}

static bool decode_st(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    return decode_access(c, m, false);
}

static bool atomic_type_ok(int op, const struct ptx_type *type) {
    switch (op) {
    case ATOM_ADD:
        return type->bytes >= 2 && type->class != PTX_BITS &&
               (type->class == PTX_FLOAT || type->bytes >= 4);
    case ATOM_MIN:
    case ATOM_MAX:
        return type->bytes >= 4 && (type->class == PTX_SIGNED || type->class == PTX_UNSIGNED);
    case ATOM_CAS:
        return type->bytes >= 2 && type->class == PTX_BITS;
    case ATOM_INC:
    case ATOM_DEC:
        return type->bytes == 4 && type->class == PTX_UNSIGNED;
    default:
        return type->bytes >= 4 && type->class == PTX_BITS;
    }
}

static bool decode_atomic(struct ptx_compiler *c, struct ptx_mnemonic *m, bool result) {
    static const char *const names[] = {"add",  "min", "max", "and", "or", "xor",
                                        "exch", "cas", "inc", "dec", NULL};
    const enum ptx_space space = take_space(m);
    const int op = ptx_part_choice(m, names);
    const struct ptx_type *type;
    struct ptx_op *o;
    char kind;

    if (op < 0 || !ptx_part_type(m, &type) || !atomic_type_ok(op, type)) {
        return ptx_error(c, "unknown instruction: %s of this kind", m->root);
    }
    if (!ptx_mnemonic_done(c, m, ACCESS_FLAGS | PTX_NOFTZ)) {
        return false;
    }
    kind = type->bytes == 2 ? '2' : type->bytes == 4 ? '4' : '8';
    kind = type->class == PTX_FLOAT && kind == '4' && type->name[0] == 'f' && type->name[1] == '3'
               ? 'f'
               : kind;
    o = ptx_emit(c, run_atom);
    if (result && (!ptx_parse_destination(c, kind, &o->d) || !ptx_expect(c, ","))) {
        return false;
    }
    o->sub = (uint8_t)op;
    o->bytes = type->bytes;
    o->class = type->class;
    o->count = 1;
    o->reg = (uint8_t)ptx_format_of(type);
    if (!set_address(c, o, space) || !ptx_expect(c, ",") || !ptx_parse_slot(c, kind, &o->b, NULL)) {
        return false;
    }
    if (op == ATOM_CAS && (!ptx_expect(c, ",") || !ptx_parse_slot(c, kind, &o->c, NULL))) {
        return false;
    }
    return skip_hint(c, m);
}

static bool decode_atom(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    return decode_atomic(c, m, true);
}

static bool decode_red(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    return decode_atomic(c, m, false);
}

static int window_of(enum ptx_space space) {
    return space == PTX_SHARED  ? PTX_WINDOW_SHARED
           : space == PTX_LOCAL ? PTX_WINDOW_LOCAL
           : space == PTX_PARAM ? PTX_WINDOW_PARAM
                                : PTX_WINDOW_GLOBAL;
}

/* Addresses of global and constant memory are generic ones already. */
static bool decode_cvta(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    const bool to = ptx_part_take(m, "to");
    const enum ptx_space space = take_space(m);
    const int window = window_of(space);
    const bool narrow = ptx_part_take(m, "u32");
    struct ptx_op *o;

    if (space == PTX_GENERIC || (narrow ? !to : !ptx_part_take(m, "u64"))) {
        return ptx_error(c, "unknown instruction: cvta of this kind");
    }
    o = ptx_emit(c, run_cvta);
    o->sub = to && window != PTX_WINDOW_GLOBAL;
    o->imm = to ? 0 : (int64_t)PTX_BASE(window);
    o->reg = narrow ? 4 : 8;
    return ptx_mnemonic_done(c, m, 0) && ptx_parse_destination(c, narrow ? '4' : '8', &o->d) &&
           ptx_expect(c, ",") && ptx_parse_slot(c, narrow ? '4' : '8', &o->a, NULL);
}

static bool decode_isspacep(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    const enum ptx_space space = take_space(m);
    struct ptx_op *o;

    if (space == PTX_GENERIC || space == PTX_CONST) {
        return ptx_error(c, "unknown instruction: isspacep of this kind");
    }
    o = ptx_emit(c, run_isspacep);
    o->imm = window_of(space);
    return ptx_mnemonic_done(c, m, 0) && ptx_parse_destination(c, 'p', &o->d) &&
           ptx_expect(c, ",") && ptx_parse_slot(c, '8', &o->a, NULL);
}

const struct ptx_decoder ptx_decode_memory[] = {
    {"ld", decode_ld},
    {"ldu", decode_ld},
    {"st", decode_st},
    {"atom", decode_atom},
    {"red", decode_red},
    {"cvta", decode_cvta},
    {"isspacep", decode_isspacep},
    {NULL, NULL},
};
