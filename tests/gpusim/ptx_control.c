/* Branches, calls, ends, barriers of a block, fences. */
#include "ptx_compile.h"
#include "ptx_warp.h"

/* ---- running ---- */

void ptx_run_exit(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    (void)o;
    ptx_lanes_exit(w, mask);
}

static void run_bra(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    ptx_jump(w, mask, (uint32_t)o->imm);
}

static void run_brx(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    const ptx_u32 *index = PTX_REG(w, ptx_u32, o->a);

    while (mask != 0) {
        const uint32_t i = index[__builtin_ctz(mask)];
        uint32_t same = 0;

        PTX_FOR_LANES(l, mask) {
            same |= index[l] == i ? (uint32_t)1 << l : 0;
        }
        if (i >= (uint32_t)o->imm) {
            ptx_finding(w, o, __builtin_ctz(mask), "jump to entry %u of a table of %u", i,
                        (uint32_t)o->imm);
            ptx_stop(w, PTX_FAILED);
            return;
        }
        ptx_jump(w, same, o->v[i]);
        mask &= ~same;
    }
}

static void run_trap(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    ptx_finding(w, o, __builtin_ctz(mask), "%s",
                o->sub != 0 ? "an assertion failed" : "the kernel trapped");
    ptx_stop(w, PTX_FAILED);
}

static void run_nothing(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    (void)w;
    (void)o;
    (void)mask;
}

/* ---- barriers ---- */

enum { BAR_SYNC, BAR_ARRIVE, BAR_POPC, BAR_AND, BAR_OR };

/* What the warps that met did before is known to all of them. */
static void join_clocks(struct ptx_cta *cta, uint32_t warps) {
    uint32_t seen[PTX_MAX_WARPS] = {0};

    PTX_FOR_LANES(i, warps) {
        ptx_warp_ordered(&cta->warps[i]);
        for (uint32_t j = 0; j < cta->n_warp; j++) {
            seen[j] = cta->warps[i].seen[j] > seen[j] ? cta->warps[i].seen[j] : seen[j];
        }
    }
    PTX_FOR_LANES(i, warps) {
        memcpy(cta->warps[i].seen, seen, sizeof(seen));
    }
}

static void store_result(struct ptx_warp *w, const struct ptx_op *o, uint32_t lanes,
                         const struct ptx_barrier *b) {
    uint32_t r[PTX_LANES];

    if (o->sub == BAR_POPC) {
        for (int l = 0; l < PTX_LANES; l++) {
            r[l] = b->n_true;
        }
        ptx_put(w, o->d, r, 4, lanes);
    } else if (o->sub == BAR_AND || o->sub == BAR_OR) {
        const bool is = o->sub == BAR_AND ? b->n_true == b->arrived : b->n_true > 0;

        ptx_set_pred(w, o->d, is ? PTX_ALL : 0, lanes);
    }
}

static void release(struct ptx_cta *cta, uint32_t number) {
    struct ptx_barrier *b = &cta->barriers[number];

    for (uint32_t i = 0; i < cta->n_warp; i++) {
        struct ptx_warp *w = &cta->warps[i];

        for (int j = 0; j < w->n_group; j++) {
            struct ptx_group *g = &w->groups[j];

            if (g->wait == PTX_WAIT_BARRIER && g->barrier == number) {
                store_result(w, &cta->kernel->ops[g->at], g->mask, b);
                g->wait = PTX_RUN;
            }
        }
    }
    join_clocks(cta, b->warps);
    *b = (struct ptx_barrier){0};
}

static bool number_ok(struct ptx_warp *w, const struct ptx_op *o, int lane, uint32_t number,
                      uint32_t expected, bool all) {
    const struct ptx_barrier *b = &w->cta->barriers[number % PTX_N_BARRIER];

    if (number >= PTX_N_BARRIER) {
        ptx_finding(w, o, lane, "there is no barrier %u", number);
    } else if (!all && (expected == 0 || expected % PTX_LANES != 0)) {
        ptx_finding(w, o, lane, "barrier for %u threads, no multiple of a warp's", expected);
    } else if (b->arrived > 0 && b->expected != expected) {
        ptx_finding(w, o, lane, "divergent barrier: %u threads expected here, %u by those who wait",
                    expected, b->expected);
    } else if (b->arrived > 0 && b->all && b->at != (uint32_t)(o - w->cta->kernel->ops)) {
        ptx_finding(w, o, lane,
                    "divergent barrier: other threads of the block wait at the one of PTX line %u",
                    w->cta->kernel->sources[b->at].line);
    } else {
        return true;
    }
    ptx_stop(w, PTX_FAILED);
    return false;
}

/* Threads of a last, incomplete warp count as a whole one where a number is given. */
static uint32_t arriving(const struct ptx_warp *w, uint32_t lanes, bool all) {
    const uint32_t n = (uint32_t)__builtin_popcount(lanes);

    return !all && lanes == w->present ? PTX_LANES : n;
}

static void run_bar(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    struct ptx_cta *cta = w->cta;
    const int lane = __builtin_ctz(mask);
    const uint32_t number = PTX_REG(w, ptx_u32, o->a)[lane];
    const bool all = o->count == 0;
    const uint32_t expected = all ? cta->n_thread : PTX_REG(w, ptx_u32, o->b)[lane];
    const uint32_t at = (uint32_t)(o - cta->kernel->ops);
    struct ptx_barrier *b = &cta->barriers[number % PTX_N_BARRIER];

    if (!number_ok(w, o, lane, number, expected, all)) {
        return;
    }
    if (b->arrived == 0) {
        b->expected = expected;
        b->at = at;
        b->all = all;
    }
    b->arrived += arriving(w, mask, all);
    b->warps |= (uint32_t)1 << w->index;
    b->n_true += (uint32_t)__builtin_popcount((ptx_pred(w, o->c) ^ (uint32_t)o->imm) & mask);
    if (o->sub != BAR_ARRIVE) {
        struct ptx_group *g = ptx_warp_wait(w, mask, w->pc, PTX_WAIT_BARRIER);

        g->barrier = number;
        g->at = at;
    }
    if (b->arrived >= b->expected) {
        release(cta, number);
    }
}

static void run_warp_sync(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    const uint32_t need = PTX_REG(w, ptx_u32, o->a)[__builtin_ctz(mask)];
    struct ptx_group *g;

    if ((mask & ~need) != 0) {
        ptx_finding(w, o, __builtin_ctz(mask & ~need),
                    "this thread is not in the mask 0x%08x that it synchronises", need);
        ptx_stop(w, PTX_FAILED);
    } else if ((need & w->present & ~w->exited & ~mask) == 0) {
        ptx_warp_ordered(w);
    } else {
        g = ptx_warp_wait(w, mask, w->pc, PTX_WAIT_WARP);
        g->need = need & w->present;
        g->at = (uint32_t)(o - w->cta->kernel->ops);
    }
}

/* ---- decoding ---- */

static bool decode_bra(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    if (!ptx_mnemonic_done(c, m, PTX_UNI)) {
        return false;
    }
    ptx_emit(c, run_bra);
    return ptx_use_label(c, c->kernel->n_op - 1, NULL);
}

static bool decode_brx(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    const struct ptx_symbol *s;
    uint32_t slot;
    struct ptx_op *o;

    if (!ptx_part_take(m, "idx") || !ptx_mnemonic_done(c, m, PTX_UNI)) {
        return ptx_error(c, "unknown instruction: brx");
    }
    o = ptx_emit(c, run_brx);
    if (!ptx_parse_slot(c, '4', &o->a, NULL) || !ptx_expect(c, ",")) {
        return false;
    }
    s = ptx_symbol_find(c, &c->lex.token, &slot);
    if (s == NULL || s->kind != PTX_SYMBOL_TABLE) {
        return ptx_error(c, "no .branchtargets '%.*s'", (int)c->lex.token.n, c->lex.token.s);
    }
    o->v = s->table;
    o->imm = s->bytes;
    ptx_lex_next(&c->lex);
    return true;
}

/* (a, b, ...): names of the caller's .param variables. */
static bool parse_arguments(struct ptx_compiler *c, uint64_t *at, int n) {
    for (int i = 0; i < n; i++) {
        uint32_t slot;
        const struct ptx_symbol *s;

        if (i > 0 && !ptx_expect(c, ",")) {
            return false;
        }
        s = ptx_symbol_find(c, &c->lex.token, &slot);
        if (s == NULL || s->kind != PTX_SYMBOL_LOCAL) {
            return ptx_error(c, "a .param variable expected, not '%.*s'", (int)c->lex.token.n,
                             c->lex.token.s);
        }
        at[i] = s->value;
        ptx_lex_next(&c->lex);
    }
    return ptx_expect(c, ")");
}

static bool skip_to_semicolon(struct ptx_compiler *c) {
    while (c->lex.token.kind != PTX_END && !ptx_token_is(&c->lex.token, ";")) {
        ptx_lex_next(&c->lex);
    }
    return true;
}

static bool call_function(struct ptx_compiler *c, const struct ptx_function *f,
                          const uint64_t *args, const uint64_t *returns) {
    const uint32_t guard = c->guard;
    uint32_t over = 0;

    if (guard != 0) { /* the others jump over it */
        c->flip = ~c->flip;
        ptx_emit(c, run_bra);
        over = c->kernel->n_op - 1;
    }
    if (!ptx_inline_call(c, f, args, returns)) {
        return false;
    }
    if (guard != 0) {
        c->kernel->ops[over].imm = c->kernel->n_op;
    }
    return true;
}

/* call (result), name, (arguments); */
static bool decode_call(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    uint64_t args[256];
    uint64_t returns[8];
    struct ptx_lexer ahead = c->lex;
    const struct ptx_function *f;

    if (!ptx_mnemonic_done(c, m, PTX_UNI)) {
        return false;
    }
    if (ptx_token_is(&ahead.token, "(")) {
        while (ahead.token.kind != PTX_END && !ptx_lex_take(&ahead, ")")) {
            ptx_lex_next(&ahead);
        }
        ptx_lex_take(&ahead, ",");
    }
    f = ptx_function_find(c->module, ahead.token.s, ahead.token.n);
    if (f == NULL) {
        return ptx_error(c, "call of '%.*s', which is no function of this module",
                         (int)ahead.token.n, ahead.token.s);
    }
    if (f->body == 0 && ptx_token_is(&ahead.token, "__assertfail")) {
        ptx_emit(c, run_trap)->sub = 1;
        return skip_to_semicolon(c);
    }
    if (f->body == 0) {
        return ptx_error(c, "call of '%s', which is only declared", f->name);
    }
    if (f->n_return > 8) {
        return ptx_error(c, "more than 8 results");
    }
    if (ptx_lex_take(&c->lex, "(") &&
        (!parse_arguments(c, returns, f->n_return) || !ptx_expect(c, ","))) {
        return false;
    }
    ptx_lex_next(&c->lex);
    if (ptx_lex_take(&c->lex, ",") &&
        (!ptx_expect(c, "(") || !parse_arguments(c, args, f->n_param))) {
        return false;
    }
    return call_function(c, f, args, returns);
}

static bool decode_ret(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    if (!ptx_mnemonic_done(c, m, PTX_UNI)) {
        return false;
    }
    if (c->n_call == 1) {
        ptx_emit(c, ptx_run_exit);
    } else {
        ptx_emit(c, run_bra);
        ptx_use_return(c, c->kernel->n_op - 1);
    }
    return true;
}

static bool decode_exit(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    ptx_emit(c, ptx_run_exit);
    return ptx_mnemonic_done(c, m, 0);
}

static bool decode_trap(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    ptx_emit(c, run_trap);
    return ptx_mnemonic_done(c, m, 0);
}

/* Fences, prefetches, waits: memory is as one thread sees it, and nothing here takes time. */
static bool decode_nothing(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    (void)m;
    ptx_emit(c, run_nothing);
    return skip_to_semicolon(c);
}

/* barrier 0 where no number is given; b: threads; c: the predicate of a reduction. */
static bool parse_bar(struct ptx_compiler *c, struct ptx_op *o, bool reduces) {
    uint32_t flip = 0;
    uint32_t last;

    if (!ptx_parse_slot(c, '4', &o->a, NULL)) {
        return false;
    }
    while (ptx_lex_take(&c->lex, ",")) {
        const struct ptx_lexer before = c->lex;
        struct ptx_operand operand;

        if (!ptx_parse_operand(c, &operand)) {
            return false;
        }
        c->lex = before;
        if (reduces && operand.kind == PTX_OPERAND_REG && operand.bytes == 0) {
            if (!ptx_parse_slot(c, 'p', &o->c, &flip)) {
                return false;
            }
            o->imm = flip;
            return true;
        }
        if (o->count != 0 || !ptx_parse_slot(c, '4', &last, NULL)) {
            return ptx_error(c, "too many operands");
        }
        o->b = last;
        o->count = 1;
    }
    return !reduces || ptx_error(c, "a predicate is missing");
}

static bool decode_bar(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    static const char *const reductions[] = {"popc", "and", "or", NULL};
    const bool warp = ptx_part_take(m, "warp");
    const bool arrive = ptx_part_take(m, "arrive");
    const bool red = ptx_part_take(m, "red");
    const int reduction = red ? ptx_part_choice(m, reductions) : -1;
    struct ptx_op *o;

    if (red) {
        ptx_part_take(m, reduction == 0 ? "u32" : "pred");
    }
    if (!ptx_mnemonic_done(c, m, PTX_SYNC | PTX_ALIGNED | PTX_SCOPE)) {
        return false;
    }
    o = ptx_emit(c, warp ? run_warp_sync : run_bar);
    if (warp) {
        return ptx_parse_slot(c, '4', &o->a, NULL);
    }
    o->sub = arrive ? BAR_ARRIVE : BAR_SYNC;
    if (red) {
        if (reduction < 0) {
            return ptx_error(c, "unknown instruction: a reduction that is not supported");
        }
        o->sub = (uint8_t)(BAR_POPC + reduction);
        if (!ptx_parse_destination(c, reduction == 0 ? '4' : 'p', &o->d) || !ptx_expect(c, ",")) {
            return false;
        }
    }
    return parse_bar(c, o, red);
}

const struct ptx_decoder ptx_decode_control[] = {
    {"bra", decode_bra},
    {"brx", decode_brx},
    {"call", decode_call},
    {"ret", decode_ret},
    {"exit", decode_exit},
    {"trap", decode_trap},
    {"bar", decode_bar},
    {"barrier", decode_bar},
    {"membar", decode_nothing},
    {"fence", decode_nothing},
    {"prefetch", decode_nothing},
    {"prefetchu", decode_nothing},
    {"nanosleep", decode_nothing},
    {"griddepcontrol", decode_nothing},
    {NULL, NULL},
};
