/* Operands: every one becomes a slot of the register file. */
#include "ptx_compile.h"

#include <stdlib.h>
#include <string.h>

#define SLOT_ALIGN 64

uint32_t ptx_new_slot(struct ptx_compiler *c, uint32_t bytes, uint32_t count) {
    const uint32_t at = c->kernel->reg_bytes;
    const uint32_t size = (bytes == 0 ? 4 : bytes * PTX_LANES) * count;

    c->kernel->reg_bytes = at + (size + SLOT_ALIGN - 1) / SLOT_ALIGN * SLOT_ALIGN;
    return at;
}

uint32_t ptx_constant_slot(struct ptx_compiler *c, uint64_t bits, uint32_t bytes) {
    struct ptx_kernel *k = c->kernel;
    const uint64_t kept = bytes == 8 || bytes == 0 ? bits : bits & (((uint64_t)1 << bytes * 8) - 1);

    for (uint32_t i = 0; i < k->n_constant; i++) {
        if (k->constants[i].bytes == bytes && k->constants[i].bits == kept) {
            return k->constants[i].slot;
        }
    }
    k->constants = ptx_grow(k->constants, k->n_constant, sizeof(k->constants[0]));
    k->constants[k->n_constant] =
        (struct ptx_constant){.slot = ptx_new_slot(c, bytes, 1), .bytes = bytes, .bits = kept};
    return k->constants[k->n_constant++].slot;
}

static bool parse_number(struct ptx_compiler *c, bool negative, struct ptx_operand *o) {
    const struct ptx_token *t = &c->lex.token;
    const char second = t->n > 1 ? (char)(t->s[1] | 0x20) : '\0';
    char digits[40] = {0};
    char *end;

    if (t->kind != PTX_NUMBER || t->n >= sizeof(digits)) {
        return ptx_error(c, "an operand expected, not '%.*s'", (int)t->n, t->s);
    }
    memcpy(digits, t->s, t->n);
    if (t->s[0] == '0' && (second == 'f' || second == 'd')) {
        o->kind = second == 'f' ? PTX_OPERAND_SINGLE : PTX_OPERAND_REAL;
        o->bits = strtoull(digits + 2, &end, 16);
        o->bits ^= negative ? (uint64_t)1 << (second == 'f' ? 31 : 63) : 0;
    } else if (second != 'x' && strpbrk(digits, ".eE") != NULL) {
        const double x = negative ? -strtod(digits, &end) : strtod(digits, &end);

        o->kind = PTX_OPERAND_REAL;
        memcpy(&o->bits, &x, 8);
    } else {
        o->kind = PTX_OPERAND_INT;
        if (negative) {
            ptx_lex_take(&c->lex, "-");
        }
        if (!ptx_parse_integer(c, &o->bits)) {
            return false;
        }
        o->bits = negative ? -o->bits : o->bits;
        return true;
    }
    if (*end != '\0') {
        return ptx_error(c, "not a number: '%s'", digits);
    }
    ptx_lex_next(&c->lex);
    return true;
}

static bool symbol_operand(struct ptx_compiler *c, const struct ptx_symbol *s, uint32_t slot,
                           struct ptx_operand *o) {
    if (s->kind == PTX_SYMBOL_TABLE) {
        return ptx_error(c, "a table of branch targets is no operand here");
    }
    if (s->kind == PTX_SYMBOL_REG) {
        o->kind = PTX_OPERAND_REG;
        o->slot = slot;
        o->bytes = s->bytes;
    } else {
        o->kind = PTX_OPERAND_INT;
        o->bits = s->value;
    }
    return true;
}

static void special_operand(struct ptx_compiler *c, int special, struct ptx_operand *o) {
    uint32_t *slot = &c->kernel->specials[special];

    o->kind = PTX_OPERAND_REG;
    o->bytes = ptx_special_bytes((enum ptx_special)special);
    if (*slot == 0) {
        *slot = ptx_new_slot(c, o->bytes, 1);
    }
    o->slot = *slot;
}

static uint64_t variable_address(struct ptx_compiler *c, const struct ptx_variable *v) {
    return v->space == PTX_SHARED ? ptx_shared_offset(c, v)
                                  : PTX_BASE(PTX_WINDOW_MODULE) + v->offset;
}

static bool parse_word(struct ptx_compiler *c, struct ptx_operand *o) {
    const struct ptx_token *t = &c->lex.token;
    const struct ptx_variable *v;
    uint32_t slot;
    const struct ptx_symbol *s = ptx_symbol_find(c, t, &slot);
    const int special = ptx_special_find(t->s, t->n);

    if (s != NULL) {
        if (!symbol_operand(c, s, slot, o)) {
            return false;
        }
    } else if (ptx_token_is(t, "_")) {
        o->kind = PTX_OPERAND_SINK;
    } else if (special >= 0) {
        special_operand(c, special, o);
    } else if (ptx_token_is(t, "WARP_SZ")) {
        o->kind = PTX_OPERAND_INT;
        o->bits = PTX_LANES;
    } else if ((v = ptx_variable_find(c, t->s, t->n)) != NULL) {
        o->kind = PTX_OPERAND_INT;
        o->bits = variable_address(c, v);
    } else {
        return ptx_error(c, "unknown name '%.*s'", (int)t->n, t->s);
    }
    ptx_lex_next(&c->lex);
    return true;
}

bool ptx_parse_operand(struct ptx_compiler *c, struct ptx_operand *o) {
    bool negative;

    *o = (struct ptx_operand){.negated = ptx_lex_take(&c->lex, "!")};
    negative = ptx_lex_take(&c->lex, "-");
    if (!negative && c->lex.token.kind == PTX_WORD) {
        return parse_word(c, o);
    }
    return parse_number(c, negative, o);
}

/* "[a]", "[a+4]", "[a+-4]", "[16]". */
bool ptx_parse_address(struct ptx_compiler *c, struct ptx_address *a) {
    struct ptx_operand o;
    uint64_t offset = 0;
    uint32_t slot;

    *a = (struct ptx_address){0};
    if (!ptx_expect(c, "[")) {
        return false;
    }
    if (c->lex.token.kind == PTX_WORD) {
        const struct ptx_symbol *s = ptx_symbol_find(c, &c->lex.token, &slot);

        if (s != NULL && s->kind == PTX_SYMBOL_LOCAL) {
            a->space = PTX_LOCAL;
        } else if (s != NULL && s->kind == PTX_SYMBOL_PARAM) {
            a->space = PTX_PARAM;
        }
    }
    if (!ptx_parse_operand(c, &o)) {
        return false;
    }
    if (ptx_lex_take(&c->lex, "+") || ptx_token_is(&c->lex.token, "-")) {
        if (!ptx_parse_integer(c, &offset)) {
            return false;
        }
    }
    a->offset = (int64_t)offset;
    a->bytes = o.bytes;
    a->slot = o.slot;
    if (o.kind != PTX_OPERAND_REG) {
        a->is_constant = true;
        a->offset += (int64_t)o.bits;
        a->bytes = 8;
        a->slot = ptx_constant_slot(c, 0, 8);
    } else if (o.bytes != 4 && o.bytes != 8) {
        return ptx_error(c, "an address is a register of 32 or 64 bits");
    }
    return ptx_expect(c, "]");
}

/* Bits of a constant in an operand of `bytes`, real ones as that float. */
static bool constant_bits(struct ptx_compiler *c, const struct ptx_operand *o, uint32_t bytes,
                          bool real, uint64_t *bits) {
    double x;
    float single;
    uint32_t low;

    *bits = o->bits;
    memcpy(&x, &o->bits, 8);
    if (o->kind == PTX_OPERAND_REAL && bytes == 4) {
        single = (float)x;
        memcpy(&low, &single, 4);
        *bits = low;
    } else if (o->kind == PTX_OPERAND_SINGLE && bytes == 8) {
        low = (uint32_t)o->bits;
        memcpy(&single, &low, 4);
        x = (double)single;
        memcpy(bits, &x, 8);
    } else if (o->kind == PTX_OPERAND_INT && real) {
        return ptx_error(c, "a float constant expected");
    } else if (o->kind == PTX_OPERAND_REAL && bytes < 4) {
        return ptx_error(c, "a float constant for an operand of %u bytes", bytes);
    }
    return true;
}

static uint32_t kind_bytes(char kind) {
    return kind == 'p' ? 0 : kind == '2' ? 2 : kind == '4' || kind == 'f' ? 4 : 8;
}

bool ptx_parse_slot(struct ptx_compiler *c, char kind, uint32_t *slot, uint32_t *flip) {
    const uint32_t bytes = kind_bytes(kind);
    struct ptx_operand o;
    uint64_t bits;

    if (!ptx_parse_operand(c, &o)) {
        return false;
    }
    if (flip != NULL) {
        *flip = o.negated ? ~(uint32_t)0 : 0;
    } else if (o.negated) {
        return ptx_error(c, "'!' is not possible here");
    }
    if (o.kind == PTX_OPERAND_REG) {
        *slot = o.slot;
        return o.bytes == bytes ||
               ptx_error(c, "a register of %u bits, where %u are needed", o.bytes * 8, bytes * 8);
    }
    if (o.kind == PTX_OPERAND_SINK) {
        return ptx_error(c, "'_' is no source");
    }
    if (kind == 'p') {
        *slot = ptx_constant_slot(c, o.bits != 0 ? ~(uint32_t)0 : 0, 0);
        return true;
    }
    if (!constant_bits(c, &o, bytes, kind == 'f' || kind == 'd', &bits)) {
        return false;
    }
    *slot = ptx_constant_slot(c, bits, bytes);
    return true;
}

bool ptx_parse_destination(struct ptx_compiler *c, char kind, uint32_t *slot) {
    const uint32_t bytes = kind_bytes(kind);
    struct ptx_operand o;

    if (!ptx_parse_operand(c, &o)) {
        return false;
    }
    *slot = o.kind == PTX_OPERAND_SINK ? ptx_new_slot(c, bytes, 1) : o.slot;
    if (o.kind != PTX_OPERAND_SINK && o.kind != PTX_OPERAND_REG) {
        return ptx_error(c, "the destination is no register");
    }
    return o.kind == PTX_OPERAND_SINK || o.bytes == bytes ||
           ptx_error(c, "a register of %u bits, where %u are needed", o.bytes * 8, bytes * 8);
}

bool ptx_operand_slot(struct ptx_compiler *c, const struct ptx_operand *o, uint32_t bytes,
                      uint32_t *slot, uint32_t *reg_bytes) {
    uint64_t bits;

    *reg_bytes = o->kind == PTX_OPERAND_REG ? o->bytes : bytes;
    *slot = o->slot;
    if (o->kind == PTX_OPERAND_REG) {
        return true;
    }
    if (o->kind == PTX_OPERAND_SINK) {
        *slot = ptx_new_slot(c, 8, 1);
        return true;
    }
    if (!constant_bits(c, o, bytes, false, &bits)) {
        return false;
    }
    *slot = ptx_constant_slot(c, bits, bytes);
    return true;
}

bool ptx_parse_vector(struct ptx_compiler *c, uint32_t *slots, int *count, int max, uint32_t bytes,
                      uint32_t *reg_bytes) {
    const bool braces = ptx_lex_take(&c->lex, "{");
    struct ptx_operand o;
    uint32_t size;

    bytes = bytes < 2 ? 2 : bytes; /* there are no registers of one */
    *reg_bytes = 0;
    for (*count = 0; *count < max; (*count)++) {
        if (*count > 0 && !ptx_lex_take(&c->lex, ",")) {
            break;
        }
        if (!ptx_parse_operand(c, &o) || !ptx_operand_slot(c, &o, bytes, &slots[*count], &size)) {
            return false;
        }
        if (o.kind != PTX_OPERAND_SINK && *reg_bytes != 0 && size != *reg_bytes) {
            return ptx_error(c, "operands of different sizes in a vector");
        }
        *reg_bytes = o.kind != PTX_OPERAND_SINK ? size : *reg_bytes;
        if (!braces) {
            (*count)++;
            break;
        }
    }
    *reg_bytes = *reg_bytes == 0 ? bytes : *reg_bytes; /* all of them _ */
    return !braces || ptx_expect(c, "}");
}
