/* Directives of a module: variables, functions, kernels. */
#include "ptx_compile.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *ptx_alloc(struct ptx_module *m, size_t bytes) {
    struct ptx_memory *p = calloc(1, sizeof(*p) + 8 + bytes);

    if (p == NULL) {
        abort();
    }
    p->next = m->memory;
    m->memory = p;
    return (char *)p + 16;
}

_Static_assert(sizeof(struct ptx_memory) == 8, "ptx_alloc() aligns to 16");

char *ptx_name(struct ptx_module *m, const char *s, size_t n) {
    char *name = ptx_alloc(m, n + 1);

    memcpy(name, s, n);
    return name;
}

void *ptx_grow(void *p, size_t n, size_t size) {
    if ((n & (n - 1)) == 0) { /* 0, 1, 2, 4, ...: full */
        p = realloc(p, (n == 0 ? 1 : n * 2) * size);
        if (p == NULL) {
            abort();
        }
    }
    return p;
}

bool ptx_error(struct ptx_compiler *c, const char *fmt, ...) {
    char message[256];
    const char *s = c->statement != NULL ? c->statement : c->lex.token.s;
    va_list args;

    va_start(args, fmt);
    vsnprintf(message, sizeof(message), fmt, args);
    va_end(args);
    snprintf(c->error, c->error_size, "PTX line %u: %s: `%.*s`",
             c->statement != NULL ? c->statement_line : c->lex.token.line, message,
             (int)strcspn(s, ";\n"), s);
    return false;
}

bool ptx_expect(struct ptx_compiler *c, const char *punct) {
    return ptx_lex_take(&c->lex, punct) ||
           ptx_error(c, "'%s' expected, not '%.*s'", punct, (int)c->lex.token.n, c->lex.token.s);
}

bool ptx_parse_integer(struct ptx_compiler *c, uint64_t *out) {
    const bool negative = ptx_lex_take(&c->lex, "-");
    const struct ptx_token *t = &c->lex.token;
    char *end;

    if (t->kind != PTX_NUMBER) {
        return ptx_error(c, "a number expected, not '%.*s'", (int)t->n, t->s);
    }
    if (t->n > 2 && (t->s[1] == 'b' || t->s[1] == 'B') && t->s[0] == '0') {
        *out = strtoull(t->s + 2, &end, 2);
    } else {
        *out = strtoull(t->s, &end, 0);
    }
    end += *end == 'U' ? 1 : 0;
    if (end != t->s + t->n) {
        return ptx_error(c, "not an integer: '%.*s'", (int)t->n, t->s);
    }
    *out = negative ? -*out : *out;
    ptx_lex_next(&c->lex);
    return true;
}

const struct ptx_type *ptx_type_find(const char *name, size_t n) {
    static const struct ptx_type types[] = {
        {"pred", 0, PTX_BITS},    {"b8", 1, PTX_BITS},      {"b16", 2, PTX_BITS},
        {"b32", 4, PTX_BITS},     {"b64", 8, PTX_BITS},     {"u8", 1, PTX_UNSIGNED},
        {"u16", 2, PTX_UNSIGNED}, {"u32", 4, PTX_UNSIGNED}, {"u64", 8, PTX_UNSIGNED},
        {"s8", 1, PTX_SIGNED},    {"s16", 2, PTX_SIGNED},   {"s32", 4, PTX_SIGNED},
        {"s64", 8, PTX_SIGNED},   {"f16", 2, PTX_FLOAT},    {"bf16", 2, PTX_FLOAT},
        {"f32", 4, PTX_FLOAT},    {"f64", 8, PTX_FLOAT},    {"f16x2", 4, PTX_FLOAT},
        {"bf16x2", 4, PTX_FLOAT}, {"tf32", 4, PTX_FLOAT},
    };

    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        if (strlen(types[i].name) == n && memcmp(types[i].name, name, n) == 0) {
            return &types[i];
        }
    }
    return NULL;
}

bool ptx_parse_type(struct ptx_compiler *c, const struct ptx_type **out) {
    const struct ptx_token *t = &c->lex.token;

    *out = t->n > 1 && t->s[0] == '.' ? ptx_type_find(t->s + 1, t->n - 1) : NULL;
    if (*out == NULL) {
        return ptx_error(c, "unknown type '%.*s'", (int)t->n, t->s);
    }
    ptx_lex_next(&c->lex);
    return true;
}

struct ptx_variable *ptx_variable_find(const struct ptx_compiler *c, const char *s, size_t n) {
    const void *owner = c->n_call > 0 ? c->calls[c->n_call - 1] : NULL;

    for (struct ptx_variable *v = c->module->variables; v != NULL; v = v->next) {
        if (strlen(v->name) == n && memcmp(v->name, s, n) == 0 &&
            (v->owner == NULL || v->owner == owner)) {
            return v;
        }
    }
    return NULL;
}

struct ptx_function *ptx_function_find(const struct ptx_module *m, const char *s, size_t n) {
    for (struct ptx_function *f = m->functions; f != NULL; f = f->next) {
        if (strlen(f->name) == n && memcmp(f->name, s, n) == 0) {
            return f;
        }
    }
    return NULL;
}

/* {...} whose first brace is taken. */
static bool skip_braces(struct ptx_compiler *c) {
    for (int depth = 1; depth > 0;) {
        if (c->lex.token.kind == PTX_END) {
            return ptx_error(c, "'}' missing at the end");
        }
        depth += ptx_token_is(&c->lex.token, "{") ? 1 : 0;
        depth -= ptx_token_is(&c->lex.token, "}") ? 1 : 0;
        ptx_lex_next(&c->lex);
    }
    return true;
}

static bool parse_parameter(struct ptx_compiler *c, struct ptx_parameter *out, size_t *end) {
    struct ptx_variable v = {0};

    if (!ptx_lex_take(&c->lex, ".param")) {
        return ptx_error(c, "only parameters in .param are supported");
    }
    if (!ptx_parse_declarator(c, &v)) {
        return false;
    }
    *out = (struct ptx_parameter){.name = v.name, .bytes = v.bytes};
    out->offset = (*end + v.align - 1) / v.align * v.align;
    *end = out->offset + v.bytes;
    return true;
}

/* ( ... ), whose parenthesis is taken. */
static bool parse_parameters(struct ptx_compiler *c, struct ptx_parameter **out, int *n) {
    struct ptx_parameter list[256];
    size_t end = 0;

    *n = 0;
    while (!ptx_lex_take(&c->lex, ")")) {
        if (*n == 256) {
            return ptx_error(c, "more than 256 parameters");
        }
        if ((*n > 0 && !ptx_expect(c, ",")) || !parse_parameter(c, &list[*n], &end)) {
            return false;
        }
        (*n)++;
    }
    *out = ptx_alloc(c->module, sizeof(list[0]) * (size_t)*n);
    memcpy(*out, list, sizeof(list[0]) * (size_t)*n);
    return true;
}

/* .maxntid 256, 1, 1 and the like, in front of a body. */
static bool parse_tuning(struct ptx_compiler *c, int *max_threads) {
    while (!ptx_token_is(&c->lex.token, "{") && !ptx_token_is(&c->lex.token, ";")) {
        const bool threads =
            ptx_token_is(&c->lex.token, ".maxntid") || ptx_token_is(&c->lex.token, ".reqntid");
        const bool pragma = ptx_token_is(&c->lex.token, ".pragma");
        uint64_t product = 1;

        if (c->lex.token.kind != PTX_WORD || c->lex.token.s[0] != '.') {
            return ptx_error(c, "a directive or '{' expected, not '%.*s'", (int)c->lex.token.n,
                             c->lex.token.s);
        }
        ptx_lex_next(&c->lex);
        if (pragma) {
            ptx_lex_next(&c->lex);
            if (!ptx_expect(c, ";")) {
                return false;
            }
        }
        while (c->lex.token.kind == PTX_NUMBER) {
            uint64_t x;

            if (!ptx_parse_integer(c, &x)) {
                return false;
            }
            product *= x;
            ptx_lex_take(&c->lex, ",");
        }
        *max_threads = threads ? (int)product : *max_threads;
    }
    return true;
}

static bool add_kernel(struct ptx_compiler *c, const struct ptx_function *f, int max_threads) {
    struct ptx_kernel *k = ptx_alloc(c->module, sizeof(*k));
    struct ptx_kernel **last = &c->module->kernels;

    *k = (struct ptx_kernel){.name = f->name,
                             .module = c->module,
                             .params = f->params,
                             .n_param = f->n_param,
                             .max_threads = max_threads};
    k->specials = ptx_alloc(c->module, sizeof(k->specials[0]) * PTX_SPECIAL_COUNT);
    if (f->n_param > 0) {
        const struct ptx_parameter *p = &f->params[f->n_param - 1];

        k->param_bytes = p->offset + p->bytes;
    }
    while (*last != NULL) {
        last = &(*last)->next;
    }
    *last = k;
    return true;
}

static bool parse_function(struct ptx_compiler *c, bool is_kernel) {
    struct ptx_function f = {0};
    struct ptx_function *known;
    int max_threads = PTX_MAX_THREADS;

    if (ptx_lex_take(&c->lex, ".attribute") && !ptx_error(c, ".attribute of a function")) {
        return false;
    }
    if (ptx_lex_take(&c->lex, "(") && !parse_parameters(c, &f.returns, &f.n_return)) {
        return false;
    }
    f.name = ptx_name(c->module, c->lex.token.s, c->lex.token.n);
    ptx_lex_next(&c->lex);
    if (ptx_lex_take(&c->lex, "(") && !parse_parameters(c, &f.params, &f.n_param)) {
        return false;
    }
    if (!parse_tuning(c, &max_threads)) {
        return false;
    }
    known = ptx_function_find(c->module, f.name, strlen(f.name));
    if (known == NULL) {
        known = ptx_alloc(c->module, sizeof(*known));
        f.next = c->module->functions;
        c->module->functions = known;
    } else {
        f.next = known->next;
        f.body = known->body;
        f.body_line = known->body_line;
    }
    if (ptx_token_is(&c->lex.token, ";")) {
        if (f.body == 0) {
            *known = f;
        }
        ptx_lex_next(&c->lex);
        return true;
    }
    f.body = (size_t)(c->lex.at - c->module->text);
    f.body_line = c->lex.line;
    *known = f;
    ptx_lex_next(&c->lex);
    return skip_braces(c) && (!is_kernel || add_kernel(c, known, max_threads));
}

static bool parse_directive(struct ptx_compiler *c) {
    static const char *const linking[] = {".visible", ".weak", ".extern", ".common"};
    bool external = false;

    for (size_t i = 0; i < 4; i++) {
        if (ptx_lex_take(&c->lex, linking[i])) {
            external = i == 2;
            break;
        }
    }
    if (ptx_token_is(&c->lex.token, ".loc") || ptx_token_is(&c->lex.token, ".file")) {
        ptx_lex_next_line(&c->lex);
        return true;
    }
    if (ptx_lex_take(&c->lex, ".version") || ptx_lex_take(&c->lex, ".address_size")) {
        ptx_lex_next(&c->lex);
        return true;
    }
    if (ptx_lex_take(&c->lex, ".target")) {
        do {
            ptx_lex_next(&c->lex);
        } while (ptx_lex_take(&c->lex, ","));
        return true;
    }
    if (ptx_lex_take(&c->lex, ".pragma")) {
        ptx_lex_next(&c->lex);
        return ptx_expect(c, ";");
    }
    if (ptx_lex_take(&c->lex, ".section")) {
        ptx_lex_next(&c->lex);
        return ptx_expect(c, "{") && skip_braces(c);
    }
    if (ptx_lex_take(&c->lex, ".entry")) {
        return parse_function(c, true);
    }
    if (ptx_lex_take(&c->lex, ".func")) {
        return parse_function(c, false);
    }
    if (ptx_lex_take(&c->lex, ".global")) {
        return ptx_parse_variable(c, PTX_GLOBAL, external);
    }
    if (ptx_lex_take(&c->lex, ".const")) {
        return ptx_parse_variable(c, PTX_CONST, external);
    }
    if (ptx_lex_take(&c->lex, ".shared")) {
        return ptx_parse_variable(c, PTX_SHARED, external);
    }
    return ptx_error(c, "unknown directive '%.*s'", (int)c->lex.token.n, c->lex.token.s);
}

static bool compile(struct ptx_compiler *c) {
    ptx_lex_start(&c->lex, c->module->text, 0, 1);
    while (c->lex.token.kind != PTX_END) {
        if (!parse_directive(c)) {
            return false;
        }
    }
    for (struct ptx_kernel *k = c->module->kernels; k != NULL; k = k->next) {
        c->kernel = k;
        if (!ptx_compile_kernel(c, ptx_function_find(c->module, k->name, strlen(k->name)))) {
            return false;
        }
    }
    return true;
}

bool ptx_module_create(struct ptx_module **out, const char *text, size_t n, char *error,
                       size_t error_size) {
    struct ptx_module *m = calloc(1, sizeof(*m));
    struct ptx_compiler c = {.module = m, .error = error, .error_size = error_size};
    bool ok;

    if (m == NULL) {
        abort();
    }
    while (n > 0 && text[n - 1] == '\0') {
        n--;
    }
    m->text = ptx_name(m, text, n);
    m->n_text = n;
    m->used = ptx_alloc(m, (size_t)ptx_opcode_count());
    ok = compile(&c);
    free(c.symbols);
    free(c.labels);
    free(c.fixups);
    free(c.shared);
    free(c.shared_at);
    if (ok) {
        *out = m;
    } else {
        ptx_module_destroy(m);
    }
    return ok;
}

void ptx_module_destroy(struct ptx_module *m) {
    if (m == NULL) {
        return;
    }
    for (struct ptx_kernel *k = m->kernels; k != NULL; k = k->next) {
        free(k->ops);
        free(k->sources);
        free(k->constants);
    }
    free(m->data);
    while (m->memory != NULL) { /* the kernels too lie in it */
        struct ptx_memory *p = m->memory;

        m->memory = p->next;
        free(p);
    }
    free(m);
}

const struct ptx_kernel *ptx_module_find(const struct ptx_module *m, const char *name) {
    for (const struct ptx_kernel *k = m->kernels; k != NULL; k = k->next) {
        if (strcmp(k->name, name) == 0) {
            return k;
        }
    }
    return NULL;
}

const char *ptx_kernel_name(const struct ptx_kernel *k) {
    return k->name;
}

int ptx_kernel_n_param(const struct ptx_kernel *k) {
    return k->n_param;
}

size_t ptx_kernel_param_bytes(const struct ptx_kernel *k, int i) {
    return k->params[i].bytes;
}

size_t ptx_kernel_param_offset(const struct ptx_kernel *k, int i) {
    return k->params[i].offset;
}

size_t ptx_kernel_shared_bytes(const struct ptx_kernel *k) {
    return k->shared_bytes;
}

int ptx_kernel_max_threads(const struct ptx_kernel *k) {
    return k->max_threads;
}
