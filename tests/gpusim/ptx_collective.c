/* What the lanes of a warp do together: shuffles, votes, matches, reductions. */
#include "ptx_compile.h"
#include "ptx_warp.h"

/* ---- running ---- */

/* Whether all lanes of the operation's mask run it now (else they wait for each other). */
static bool gathered(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask, uint32_t slot) {
    const uint32_t need = PTX_REG(w, ptx_u32, slot)[__builtin_ctz(mask)];

    if ((mask & ~need) != 0) {
        ptx_finding(w, o, __builtin_ctz(mask & ~need),
                    "this thread is not in the mask 0x%08x of the lanes that take part", need);
        ptx_stop(w, PTX_FAILED);
        return false;
    }
    return ptx_warp_gather(w, o, mask, need);
}

enum { SHFL_UP, SHFL_DOWN, SHFL_BFLY, SHFL_IDX };

/* Lane to read from; *inside: it lies in the lane's segment. */
static uint32_t shfl_source(int mode, uint32_t lane, uint32_t b, uint32_t c, bool *inside) {
    const uint32_t segment = c >> 8 & 31;
    const uint32_t most = (lane & segment) | (c & 31 & ~segment);
    const uint32_t least = lane & segment;
    int32_t j;

    b &= 31;
    switch (mode) {
    case SHFL_UP:
        j = (int32_t)(lane - b);
        *inside = j >= (int32_t)most;
        break;
    case SHFL_DOWN:
        j = (int32_t)(lane + b);
        *inside = j <= (int32_t)most;
        break;
    case SHFL_BFLY:
        j = (int32_t)(lane ^ b);
        *inside = j <= (int32_t)most;
        break;
    default:
        j = (int32_t)(least | (b & ~segment));
        *inside = j <= (int32_t)most;
        break;
    }
    return *inside ? (uint32_t)j : lane;
}

/* d, imm: the predicate; a, b, c; v[0]: the mask of lanes. */
static void run_shfl(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    uint32_t r[PTX_LANES] = {0};
    uint32_t p = 0;
    PTX_ABC(ptx_u32);

    if (!gathered(w, o, mask, o->v[0])) {
        return;
    }
    PTX_FOR_LANES(l, mask) {
        bool inside;
        const uint32_t from = shfl_source(o->sub, l, pb[l], pc[l], &inside);

        if ((mask >> from & 1) == 0) {
            ptx_finding(w, o, (int)l, "shuffle from lane %u, which does not take part", from);
        }
        r[l] = pa[from];
        p |= (uint32_t)inside << l;
    }
    ptx_put(w, o->d, r, sizeof(r[0]), mask);
    if (o->imm != 0) {
        ptx_set_pred(w, (uint32_t)o->imm, p, mask);
    }
}

enum { VOTE_ALL, VOTE_ANY, VOTE_UNI, VOTE_BALLOT };

static void run_vote(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    uint32_t bits;
    bool is;

    if (!gathered(w, o, mask, o->b)) {
        return;
    }
    bits = (ptx_pred(w, o->a) ^ o->v[0]) & mask;
    if (o->sub == VOTE_BALLOT) {
        PTX_FOR_LANES(l, mask) {
            PTX_REG(w, ptx_u32, o->d)[l] = bits;
        }
        return;
    }
    is = o->sub == VOTE_ANY   ? bits != 0
         : o->sub == VOTE_ALL ? bits == mask
                              : bits == 0 || bits == mask;
    ptx_set_pred(w, o->d, is ? PTX_ALL : 0, mask);
}

static uint64_t value_of(const struct ptx_warp *w, const struct ptx_op *o, uint32_t lane) {
    return o->bytes == 4 ? PTX_REG(w, ptx_u32, o->a)[lane] : PTX_REG(w, ptx_u64, o->a)[lane];
}

/* any: the lanes with this lane's value; all: all lanes, if they have one value, else 0. */
static void run_match(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    uint32_t r[PTX_LANES] = {0};
    uint32_t p = 0;

    if (!gathered(w, o, mask, o->b)) {
        return;
    }
    PTX_FOR_LANES(l, mask) {
        PTX_FOR_LANES(k, mask) {
            r[l] |= (uint32_t)(value_of(w, o, l) == value_of(w, o, k)) << k;
        }
        p |= (uint32_t)(r[l] == mask) << l;
        r[l] = o->sub == 0 || r[l] == mask ? r[l] : 0;
    }
    ptx_put(w, o->d, r, sizeof(r[0]), mask);
    if (o->imm != 0) {
        ptx_set_pred(w, (uint32_t)o->imm, p, mask);
    }
}

enum { REDUX_ADD, REDUX_MIN, REDUX_MAX, REDUX_AND, REDUX_OR, REDUX_XOR };

static uint32_t reduce(int op, bool is_signed, uint32_t a, uint32_t b) {
    const bool less = is_signed ? (int32_t)a < (int32_t)b : a < b;

    switch (op) {
    case REDUX_ADD:
        return a + b;
    case REDUX_MIN:
        return less ? a : b;
    case REDUX_MAX:
        return less ? b : a;
    case REDUX_AND:
        return a & b;
    case REDUX_OR:
        return a | b;
    default:
        return a ^ b;
    }
}

static void run_redux(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    const uint32_t first = (uint32_t)__builtin_ctz(mask);
    uint32_t x;
    PTX_A(ptx_u32);

    if (!gathered(w, o, mask, o->b)) {
        return;
    }
    x = pa[first];
    PTX_FOR_LANES(l, mask & (mask - 1)) {
        x = reduce(o->sub, o->class == PTX_SIGNED, x, pa[l]);
    }
    PTX_FOR_LANES(l, mask) {
        PTX_REG(w, ptx_u32, o->d)[l] = x;
    }
}

static void run_activemask(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    PTX_FOR_LANES(l, mask) {
        PTX_REG(w, ptx_u32, o->d)[l] = mask;
    }
}

/* The lowest lane leads. */
static void run_elect(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    const uint32_t leader = (uint32_t)__builtin_ctz(mask);

    if (!gathered(w, o, mask, o->a)) {
        return;
    }
    PTX_FOR_LANES(l, mask) {
        PTX_REG(w, ptx_u32, o->d)[l] = leader;
    }
    ptx_set_pred(w, (uint32_t)o->imm, (uint32_t)1 << leader, mask);
}

/* ---- decoding ---- */

/* d or d|p, then a comma. */
static bool parse_results(struct ptx_compiler *c, struct ptx_op *o) {
    uint32_t slot;

    if (!ptx_parse_destination(c, '4', &o->d)) {
        return false;
    }
    if (ptx_lex_take(&c->lex, "|")) {
        if (!ptx_parse_destination(c, 'p', &slot)) {
            return false;
        }
        o->imm = slot;
    }
    return ptx_expect(c, ",");
}

static bool needs_sync(struct ptx_compiler *c, const struct ptx_mnemonic *m) {
    if ((m->flags & PTX_SYNC) == 0) {
        return ptx_error(c, "unknown instruction: %s without .sync is gone since sm_70", m->root);
    }
    return ptx_mnemonic_done(c, m, PTX_SYNC | PTX_ALIGNED);
}

static bool decode_shfl(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    static const char *const modes[] = {"up", "down", "bfly", "idx", NULL};
    const int mode = ptx_part_choice(m, modes);
    struct ptx_op *o;

    if (mode < 0 || !ptx_part_take(m, "b32")) {
        return ptx_error(c, "unknown instruction: shfl of this kind");
    }
    o = ptx_emit(c, run_shfl);
    o->sub = (uint8_t)mode;
    o->v = ptx_alloc(c->module, sizeof(o->v[0]));
    return needs_sync(c, m) && parse_results(c, o) && ptx_parse_slot(c, '4', &o->a, NULL) &&
           ptx_expect(c, ",") && ptx_parse_slot(c, '4', &o->b, NULL) && ptx_expect(c, ",") &&
           ptx_parse_slot(c, '4', &o->c, NULL) && ptx_expect(c, ",") &&
           ptx_parse_slot(c, '4', &o->v[0], NULL);
}

static bool decode_vote(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    static const char *const modes[] = {"all", "any", "uni", "ballot", NULL};
    const int mode = ptx_part_choice(m, modes);
    struct ptx_op *o;

    if (mode < 0 || !ptx_part_take(m, mode == VOTE_BALLOT ? "b32" : "pred")) {
        return ptx_error(c, "unknown instruction: vote of this kind");
    }
    o = ptx_emit(c, run_vote);
    o->sub = (uint8_t)mode;
    o->v = ptx_alloc(c->module, sizeof(o->v[0]));
    return needs_sync(c, m) && ptx_parse_destination(c, mode == VOTE_BALLOT ? '4' : 'p', &o->d) &&
           ptx_expect(c, ",") && ptx_parse_slot(c, 'p', &o->a, &o->v[0]) && ptx_expect(c, ",") &&
           ptx_parse_slot(c, '4', &o->b, NULL);
}

static bool decode_match(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    static const char *const modes[] = {"any", "all", NULL};
    const int mode = ptx_part_choice(m, modes);
    const struct ptx_type *type;
    struct ptx_op *o;

    if (mode < 0 || !ptx_part_type(m, &type) || type->class != PTX_BITS || type->bytes < 4) {
        return ptx_error(c, "unknown instruction: match of this kind");
    }
    o = ptx_emit(c, run_match);
    o->sub = (uint8_t)mode;
    o->bytes = type->bytes;
    return needs_sync(c, m) && parse_results(c, o) &&
           ptx_parse_slot(c, type->bytes == 4 ? '4' : '8', &o->a, NULL) && ptx_expect(c, ",") &&
           ptx_parse_slot(c, '4', &o->b, NULL);
}

static bool decode_redux(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    static const char *const names[] = {"add", "min", "max", "and", "or", "xor", NULL};
    const int op = ptx_part_choice(m, names);
    const struct ptx_type *type;
    struct ptx_op *o;

    if (op < 0 || !ptx_part_type(m, &type) || type->bytes != 4 || type->class == PTX_FLOAT ||
        (op >= REDUX_AND) != (type->class == PTX_BITS)) {
        return ptx_error(c, "unknown instruction: redux of this kind");
    }
    o = ptx_emit(c, run_redux);
    o->sub = (uint8_t)op;
    o->class = type->class;
    return needs_sync(c, m) && ptx_parse_destination(c, '4', &o->d) && ptx_expect(c, ",") &&
           ptx_parse_slot(c, '4', &o->a, NULL) && ptx_expect(c, ",") &&
           ptx_parse_slot(c, '4', &o->b, NULL);
}

static bool decode_activemask(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    struct ptx_op *o = ptx_emit(c, run_activemask);

    return ptx_part_take(m, "b32") && ptx_mnemonic_done(c, m, 0) &&
           ptx_parse_destination(c, '4', &o->d);
}

static bool decode_elect(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    struct ptx_op *o = ptx_emit(c, run_elect);

    return needs_sync(c, m) && parse_results(c, o) && ptx_parse_slot(c, '4', &o->a, NULL) &&
           (o->imm != 0 || ptx_error(c, "elect needs a predicate"));
}

const struct ptx_decoder ptx_decode_warp[] = {
    {"shfl", decode_shfl},
    {"vote", decode_vote},
    {"match", decode_match},
    {"redux", decode_redux},
    {"elect", decode_elect},
    {"activemask", decode_activemask},
    {NULL, NULL},
};
