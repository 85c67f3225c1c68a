/* Bodies of functions: scopes, registers, labels, statements; calls are inlined. */
#include "ptx_compile.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "ptx_warp.h"

static bool same(const char *a, size_t n_a, const char *b, size_t n_b) {
    return n_a == n_b && memcmp(a, b, n_a) == 0;
}

struct ptx_symbol *ptx_symbol_add(struct ptx_compiler *c, enum ptx_symbol_kind kind,
                                  const char *name, size_t n_name, uint64_t value) {
    struct ptx_symbol *s;

    c->symbols = ptx_grow(c->symbols, c->n_symbol, sizeof(c->symbols[0]));
    s = &c->symbols[c->n_symbol++];
    *s = (struct ptx_symbol){.name = name, .n_name = n_name, .kind = kind, .value = value};
    return s;
}

/* Whether the token is a register of the range: its name followed by a number below count. */
static bool in_range(const struct ptx_symbol *s, const struct ptx_token *t, uint32_t *index) {
    uint64_t n = 0;

    if (s->count == 0 || t->n <= s->n_name || memcmp(t->s, s->name, s->n_name) != 0) {
        return false;
    }
    for (size_t i = s->n_name; i < t->n; i++) {
        if (!isdigit((unsigned char)t->s[i]) || n > s->count) {
            return false;
        }
        n = n * 10 + (uint64_t)(t->s[i] - '0');
    }
    *index = (uint32_t)n;
    return n < s->count;
}

const struct ptx_symbol *ptx_symbol_find(const struct ptx_compiler *c, const struct ptx_token *t,
                                         uint32_t *slot) {
    for (size_t i = c->n_symbol; i > c->first_symbol; i--) {
        const struct ptx_symbol *s = &c->symbols[i - 1];
        uint32_t index = 0;

        if (s->count > 0 ? in_range(s, t, &index) : same(s->name, s->n_name, t->s, t->n)) {
            *slot = (uint32_t)s->value + index * (s->bytes == 0 ? 4 : s->bytes * PTX_LANES);
            return s;
        }
    }
    return NULL;
}

struct ptx_op *ptx_emit(struct ptx_compiler *c, ptx_run_fn *run) {
    struct ptx_kernel *k = c->kernel;
    struct ptx_source *source;
    struct ptx_op *op;

    k->ops = ptx_grow(k->ops, k->n_op, sizeof(k->ops[0]));
    k->sources = ptx_grow(k->sources, k->n_op, sizeof(k->sources[0]));
    op = &k->ops[k->n_op];
    /* An operation that is no access to memory says so. */
    *op = (struct ptx_op){.run = run, .guard = c->guard, .flip = c->flip, .space = PTX_CONST};
    source = &k->sources[k->n_op];
    *source = (struct ptx_source){.line = c->statement_line,
                                  .at = (uint32_t)(c->statement - c->module->text),
                                  .n = (uint32_t)strcspn(c->statement, ";\n")};
    k->n_op++;
    return op;
}

static struct ptx_fixup *add_fixup(struct ptx_compiler *c, const char *name, size_t n_name) {
    c->fixups = ptx_grow(c->fixups, c->n_fixup, sizeof(c->fixups[0]));
    c->fixups[c->n_fixup] =
        (struct ptx_fixup){.name = name, .n_name = n_name, .line = c->statement_line};
    return &c->fixups[c->n_fixup++];
}

bool ptx_use_label(struct ptx_compiler *c, uint32_t op, uint32_t *entry) {
    struct ptx_fixup *f;

    if (c->lex.token.kind != PTX_WORD) {
        return ptx_error(c, "a label expected");
    }
    f = add_fixup(c, c->lex.token.s, c->lex.token.n);
    f->op = op;
    f->entry = entry;
    ptx_lex_next(&c->lex);
    return true;
}

#define RETURN "<return>"

void ptx_use_return(struct ptx_compiler *c, uint32_t op) {
    add_fixup(c, RETURN, sizeof(RETURN) - 1)->op = op;
}

static void add_label(struct ptx_compiler *c, const char *name, size_t n_name) {
    c->labels = ptx_grow(c->labels, c->n_label, sizeof(c->labels[0]));
    c->labels[c->n_label++] =
        (struct ptx_label){.name = name, .n_name = n_name, .at = c->kernel->n_op};
}

/* Uses that no label of the scope answers stay for the scope around it. */
static void close_scope(struct ptx_compiler *c, size_t first_label, size_t first_fixup) {
    size_t kept = first_fixup;

    for (size_t i = first_fixup; i < c->n_fixup; i++) {
        const struct ptx_fixup f = c->fixups[i];
        const struct ptx_label *found = NULL;

        for (size_t j = first_label; j < c->n_label; j++) {
            if (same(c->labels[j].name, c->labels[j].n_name, f.name, f.n_name)) {
                found = &c->labels[j];
            }
        }
        if (found == NULL) {
            c->fixups[kept++] = f;
        } else if (f.entry != NULL) {
            *f.entry = found->at;
        } else {
            c->kernel->ops[f.op].imm = found->at;
        }
    }
    c->n_fixup = kept;
    c->n_label = first_label;
}

/* .reg .b32 %r<10>, x; */
static bool parse_registers(struct ptx_compiler *c) {
    const struct ptx_type *type;

    if (!ptx_parse_type(c, &type)) {
        return false;
    }
    do {
        const struct ptx_token name = c->lex.token;
        struct ptx_symbol *s;
        uint64_t count = 0;

        ptx_lex_next(&c->lex);
        if (ptx_lex_take(&c->lex, "<") &&
            (!ptx_parse_integer(c, &count) || !ptx_expect(c, ">") || count == 0)) {
            return ptx_error(c, "a number of registers expected");
        }
        s = ptx_symbol_add(
            c, PTX_SYMBOL_REG, name.s, name.n,
            ptx_new_slot(c, type->bytes == 1 ? 2 : type->bytes, count == 0 ? 1 : (uint32_t)count));
        s->count = (uint32_t)count;
        s->bytes = type->bytes == 1 ? 2 : type->bytes;
    } while (ptx_lex_take(&c->lex, ","));
    return ptx_expect(c, ";");
}

static uint64_t place_local(struct ptx_kernel *k, size_t bytes, size_t align) {
    const uint64_t at = (k->local_bytes + align - 1) / align * align;

    k->local_bytes = at + bytes;
    return at;
}

/* .local and, in a body, .param: a thread's own memory. */
static bool parse_local(struct ptx_compiler *c) {
    do {
        struct ptx_variable v = {0};

        if (!ptx_parse_declarator(c, &v)) {
            return false;
        }
        ptx_symbol_add(c, PTX_SYMBOL_LOCAL, v.name, strlen(v.name),
                       place_local(c->kernel, v.bytes, v.align));
    } while (ptx_lex_take(&c->lex, ","));
    return ptx_expect(c, ";");
}

uint64_t ptx_shared_offset(struct ptx_compiler *c, const struct ptx_variable *v) {
    struct ptx_kernel *k = c->kernel;
    size_t at;

    if (v->external) {
        c->dynamic_shared = true;
        return k->dynamic_at;
    }
    for (size_t i = 0; i < c->n_shared; i++) {
        if (c->shared[i] == v) {
            return c->shared_at[i];
        }
    }
    at = (k->shared_bytes + v->align - 1) / v->align * v->align;
    k->shared_bytes = at + v->bytes;
    c->shared = ptx_grow(c->shared, c->n_shared, sizeof(c->shared[0]));
    c->shared_at = ptx_grow(c->shared_at, c->n_shared, sizeof(c->shared_at[0]));
    c->shared[c->n_shared] = v;
    c->shared_at[c->n_shared++] = at;
    return at;
}

/* name: .branchtargets a, b, c; */
static bool parse_targets(struct ptx_compiler *c, const struct ptx_token *name) {
    struct ptx_lexer ahead = c->lex;
    struct ptx_symbol *s;
    uint32_t n = 1;
    uint32_t *table;

    for (; ahead.token.kind != PTX_END && !ptx_token_is(&ahead.token, ";"); ptx_lex_next(&ahead)) {
        n += ptx_token_is(&ahead.token, ",");
    }
    table = ptx_alloc(c->module, n * sizeof(table[0]));
    s = ptx_symbol_add(c, PTX_SYMBOL_TABLE, name->s, name->n, 0);
    s->bytes = n;
    s->table = table;
    for (uint32_t i = 0; i < n; i++) {
        if ((i > 0 && !ptx_expect(c, ",")) || !ptx_use_label(c, 0, &table[i])) {
            return false;
        }
    }
    return ptx_expect(c, ";");
}

static bool parse_guard(struct ptx_compiler *c) {
    c->guard = 0;
    c->flip = 0;
    if (!ptx_lex_take(&c->lex, "@")) {
        return true;
    }
    return ptx_parse_slot(c, 'p', &c->guard, &c->flip);
}

static bool parse_block(struct ptx_compiler *c);

/* Lines that are no instructions: *known says whether this was one. */
static bool parse_local_directive(struct ptx_compiler *c, bool *known) {
    *known = true;
    if (ptx_token_is(&c->lex.token, ".loc") || ptx_token_is(&c->lex.token, ".file")) {
        ptx_lex_next_line(&c->lex);
        return true;
    }
    if (ptx_lex_take(&c->lex, ".pragma")) {
        ptx_lex_next(&c->lex);
        return ptx_expect(c, ";");
    }
    if (ptx_lex_take(&c->lex, ".reg")) {
        return parse_registers(c);
    }
    if (ptx_lex_take(&c->lex, ".local") || ptx_lex_take(&c->lex, ".param")) {
        return parse_local(c);
    }
    if (ptx_lex_take(&c->lex, ".shared")) {
        return ptx_parse_variable(c, PTX_SHARED, false);
    }
    if (ptx_lex_take(&c->lex, ".global")) {
        return ptx_parse_variable(c, PTX_GLOBAL, false);
    }
    if (ptx_lex_take(&c->lex, "{")) {
        return parse_block(c);
    }
    *known = ptx_lex_take(&c->lex, ";");
    return true;
}

static bool parse_statement(struct ptx_compiler *c) {
    struct ptx_token first = c->lex.token;
    bool known;

    c->statement = first.s;
    c->statement_line = first.line;
    if (!parse_local_directive(c, &known)) {
        return false;
    }
    if (known) {
        return true;
    }
    if (first.kind == PTX_WORD && *c->lex.at == ':') {
        ptx_lex_next(&c->lex);
        ptx_lex_next(&c->lex);
        if (ptx_lex_take(&c->lex, ".branchtargets")) {
            return parse_targets(c, &first);
        }
        add_label(c, first.s, first.n);
        return true;
    }
    return parse_guard(c) && ptx_decode(c) && ptx_expect(c, ";");
}

/* { ... } whose first brace is taken. */
static bool parse_block(struct ptx_compiler *c) {
    const size_t n_symbol = c->n_symbol;
    const size_t n_label = c->n_label;
    const size_t n_fixup = c->n_fixup;

    while (!ptx_lex_take(&c->lex, "}")) {
        if (c->lex.token.kind == PTX_END) {
            return ptx_error(c, "'}' missing at the end");
        }
        if (!parse_statement(c)) {
            return false;
        }
    }
    close_scope(c, n_label, n_fixup);
    c->n_symbol = n_symbol;
    return true;
}

static bool compile_body(struct ptx_compiler *c, const struct ptx_function *f) {
    const size_t n_label = c->n_label;
    const size_t n_fixup = c->n_fixup;
    const struct ptx_fixup *open;

    if (c->n_call == (int)(sizeof(c->calls) / sizeof(c->calls[0]))) {
        return ptx_error(c, "calls are nested too deeply at '%s'", f->name);
    }
    c->calls[c->n_call++] = f;
    ptx_lex_start(&c->lex, c->module->text, f->body, f->body_line);
    if (!parse_block(c)) {
        return false;
    }
    c->n_call--;
    add_label(c, RETURN, sizeof(RETURN) - 1);
    close_scope(c, n_label, n_fixup);
    if (c->n_fixup > n_fixup) {
        open = &c->fixups[n_fixup];
        c->statement_line = open->line;
        c->statement = open->name;
        return ptx_error(c, "no label '%.*s' in '%s'", (int)open->n_name, open->name, f->name);
    }
    return true;
}

bool ptx_inline_call(struct ptx_compiler *c, const struct ptx_function *f, const uint64_t *args,
                     const uint64_t *returns) {
    const struct ptx_compiler caller = *c;
    const struct ptx_source source = {.line = c->statement_line};
    bool ok;

    for (int i = 0; i < c->n_call; i++) {
        if (c->calls[i] == f) {
            return ptx_error(c, "recursion: '%s' calls itself, which is not supported", f->name);
        }
    }
    c->first_symbol = c->n_symbol;
    for (int i = 0; i < f->n_param; i++) {
        ptx_symbol_add(c, PTX_SYMBOL_LOCAL, f->params[i].name, strlen(f->params[i].name), args[i]);
    }
    for (int i = 0; i < f->n_return; i++) {
        ptx_symbol_add(c, PTX_SYMBOL_LOCAL, f->returns[i].name, strlen(f->returns[i].name),
                       returns[i]);
    }
    c->guard = 0;
    c->flip = 0;
    ok = compile_body(c, f);
    c->lex = caller.lex;
    c->first_symbol = caller.first_symbol;
    c->n_symbol = caller.n_symbol;
    c->statement = caller.statement;
    c->statement_line = source.line;
    return ok;
}

static void finish_kernel(struct ptx_compiler *c) {
    c->statement = c->module->text + c->module->n_text;
    c->guard = 0;
    c->flip = 0;
    ptx_emit(c, ptx_run_exit);
    c->kernel->local_bytes = (c->kernel->local_bytes + 15) / 16 * 16;
}

/* The smallest access to a space decides how finely it is watched. */
static uint32_t granule_of(const struct ptx_kernel *k, enum ptx_space space) {
    uint32_t least = 4;

    for (uint32_t i = 0; i < k->n_op; i++) {
        const struct ptx_op *o = &k->ops[i];

        if ((o->space == PTX_GENERIC || o->space == space) && o->bytes > 0 && o->bytes < least) {
            least = o->bytes;
        }
    }
    return least;
}

/* Forgets what an earlier pass made. */
static void start_pass(struct ptx_compiler *c) {
    struct ptx_kernel *k = c->kernel;

    c->n_symbol = c->n_label = c->n_fixup = c->first_symbol = 0;
    c->n_call = 0;
    k->n_op = k->n_constant = k->reg_bytes = 0;
    k->local_bytes = 0;
    memset(k->specials, 0, sizeof(k->specials[0]) * PTX_SPECIAL_COUNT);
    ptx_new_slot(c, 0, 1); /* slot 0 */
    for (int i = 0; i < k->n_param; i++) {
        ptx_symbol_add(c, PTX_SYMBOL_PARAM, k->params[i].name, strlen(k->params[i].name),
                       k->params[i].offset);
    }
}

bool ptx_compile_kernel(struct ptx_compiler *c, const struct ptx_function *f) {
    struct ptx_kernel *k = c->kernel;

    c->dynamic_shared = false;
    c->n_shared = 0;
    start_pass(c);
    if (!compile_body(c, f)) {
        return false;
    }
    if (c->dynamic_shared) { /* its place is known only now: behind all static variables */
        k->dynamic_at = (k->shared_bytes + 15) / 16 * 16;
        start_pass(c);
        if (!compile_body(c, f)) {
            return false;
        }
    }
    finish_kernel(c);
    k->granule = granule_of(k, PTX_SHARED);
    k->global_granule = granule_of(k, PTX_GLOBAL);
    return true;
}
