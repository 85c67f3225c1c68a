/* cp.async: its bytes arrive in shared memory when their thread waits for them, and not before. */
#include "ptx_compile.h"
#include "ptx_warp.h"

enum { WAIT_GROUP, WAIT_ALL };

static uint64_t address(const struct ptx_warp *w, uint32_t slot, bool narrow, uint32_t lane) {
    return narrow ? PTX_REG(w, ptx_u32, slot)[lane] : PTX_REG(w, ptx_u64, slot)[lane];
}

/* Reads what is to be copied; the rest of data stays zero. */
static bool read_source(struct ptx_warp *w, const struct ptx_op *o, uint32_t lane, uint32_t bytes,
                        uint8_t *data) {
    const uint64_t from = address(w, o->b, o->v[1] != 0, lane) + (uint64_t)(int32_t)o->v[0];
    const uint32_t step = bytes == o->bytes ? bytes : 1;

    for (uint32_t i = 0; i < bytes; i += step) {
        const uint8_t *at = ptx_map(w, o, (int)lane, PTX_GLOBAL, from + i, step, PTX_READ);

        if (at == NULL) {
            return false;
        }
        memcpy(data + i, at, step);
    }
    return true;
}

/* d: destination, imm its offset; b: source, v[0] its offset, v[1]: in 32 bits; v[2]: 1: c is the
 * number of bytes to read, 2: c is the predicate that says to read none, v[3]: its negation. */
static void run_copy(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    PTX_FOR_LANES(l, mask) {
        const uint64_t to = address(w, o->a, (o->flags & PTX_ADDRESS32) != 0, l) + (uint64_t)o->imm;
        uint32_t n = o->bytes;
        struct ptx_copy copy = {.dst = (uint32_t)to, .lane = l, .bytes = o->bytes};

        if (o->v[2] == 1) {
            n = PTX_REG(w, ptx_u32, o->c)[l];
        } else if (o->v[2] == 2 && ((ptx_pred(w, o->c) ^ o->v[3]) >> l & 1) != 0) {
            n = 0;
        }
        if (n > o->bytes) {
            ptx_finding(w, o, (int)l, "cp.async of %u bytes from %u", (unsigned)o->bytes, n);
            n = o->bytes;
        }
        if (ptx_map(w, o, (int)l, PTX_SHARED, to, o->bytes, PTX_WRITE) == NULL ||
            !read_source(w, o, l, n, copy.data)) {
            return;
        }
        copy.group = w->committed[l];
        w->copies = ptx_grow(w->copies, w->n_copy, sizeof(w->copies[0]));
        w->copies[w->n_copy++] = copy;
        if (w->cta->shadow != NULL) { /* a write from now on, though the bytes come later */
            ptx_shadow_store(w, o, (int)l, copy.dst, w->cta->shared + to, o->bytes, false);
            ptx_shadow_pending(w, copy.dst, o->bytes, 1);
        }
    }
}

static void run_commit(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    (void)o;
    PTX_FOR_LANES(l, mask) {
        w->committed[l]++;
    }
}

/* Lanes wait until at most `keep` of the groups that they have committed are on their way. */
static void run_wait(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    size_t kept = 0;

    for (size_t i = 0; i < w->n_copy; i++) {
        const struct ptx_copy *c = &w->copies[i];
        const bool due =
            o->sub == WAIT_ALL || (uint64_t)c->group + (uint64_t)o->imm < w->committed[c->lane];

        if ((mask >> c->lane & 1) != 0 && due) {
            ptx_shadow_pending(w, c->dst, c->bytes, -1);
            ptx_store(w, o, (int)c->lane, w->cta->shared + c->dst, c->data, c->bytes, false);
        } else {
            w->copies[kept++] = *c;
        }
    }
    w->n_copy = kept;
}

/* ---- decoding ---- */

static bool parse_source_size(struct ptx_compiler *c, struct ptx_op *o) {
    const struct ptx_lexer before = c->lex;
    struct ptx_operand operand;

    if (!ptx_parse_operand(c, &operand)) {
        return false;
    }
    c->lex = before;
    if (operand.kind == PTX_OPERAND_REG && operand.bytes == 0) {
        o->v[2] = 2;
        return ptx_parse_slot(c, 'p', &o->c, &o->v[3]);
    }
    o->v[2] = 1;
    return ptx_parse_slot(c, '4', &o->c, NULL);
}

static bool parse_copy(struct ptx_compiler *c, const struct ptx_mnemonic *m, struct ptx_op *o) {
    struct ptx_address to;
    struct ptx_address from;
    uint64_t bytes;
    uint32_t hint;

    o->v = ptx_alloc(c->module, 4 * sizeof(o->v[0]));
    if (!ptx_parse_address(c, &to) || !ptx_expect(c, ",") || !ptx_parse_address(c, &from) ||
        !ptx_expect(c, ",") || !ptx_parse_integer(c, &bytes)) {
        return false;
    }
    if (bytes != 4 && bytes != 8 && bytes != 16) {
        return ptx_error(c, "cp.async copies 4, 8 or 16 bytes");
    }
    o->space = PTX_SHARED;
    o->bytes = (uint8_t)bytes;
    o->flags = m->flags | (to.bytes == 4 ? PTX_ADDRESS32 : 0);
    o->a = to.slot;
    o->imm = to.offset;
    o->b = from.slot;
    o->v[0] = (uint32_t)from.offset;
    o->v[1] = from.bytes == 4;
    if ((m->flags & PTX_HINT) != 0) {
        return ptx_expect(c, ",") && ptx_parse_slot(c, '8', &hint, NULL);
    }
    return !ptx_lex_take(&c->lex, ",") || parse_source_size(c, o);
}

static bool decode_cp(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    static const char *const names[] = {"commit_group", "wait_group", "wait_all", NULL};
    struct ptx_op *o;
    uint64_t keep;
    int what;

    if (!ptx_part_take(m, "async")) {
        return ptx_error(c, "unknown instruction: cp without .async");
    }
    what = ptx_part_choice(m, names);
    if (what < 0) {
        if ((!ptx_part_take(m, "shared") && !ptx_part_take(m, "shared::cta")) ||
            !ptx_part_take(m, "global")) {
            return ptx_error(c, "unknown instruction: cp.async of this kind");
        }
        return ptx_mnemonic_done(c, m, PTX_CACHE | PTX_HINT) &&
               parse_copy(c, m, ptx_emit(c, run_copy));
    }
    if (!ptx_mnemonic_done(c, m, 0)) {
        return false;
    }
    o = ptx_emit(c, what == 0 ? run_commit : run_wait);
    o->sub = what == 2 ? WAIT_ALL : WAIT_GROUP;
    if (what == 1) {
        if (!ptx_parse_integer(c, &keep)) {
            return false;
        }
        o->imm = (int64_t)keep;
    }
    return true;
}

const struct ptx_decoder ptx_decode_async[] = {{"cp", decode_cp}, {NULL, NULL}};
