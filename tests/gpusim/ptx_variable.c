/* Declarations of variables, with their initial values. */
#include "ptx_compile.h"

#include <stdlib.h>
#include <string.h>

/* Between two variables of a module lie bytes that belong to none, so that running over the end of
 * one is noticed. */
#define REDZONE 16

static bool parse_bounds(struct ptx_compiler *c, struct ptx_variable *v) {
    while (ptx_lex_take(&c->lex, "[")) {
        uint64_t n;

        if (ptx_lex_take(&c->lex, "]")) {
            v->bytes = 0; /* extern: as large as it happens to be; else by its initial values */
            continue;
        }
        if (!ptx_parse_integer(c, &n) || !ptx_expect(c, "]")) {
            return false;
        }
        v->bytes *= n;
    }
    return true;
}

bool ptx_parse_declarator(struct ptx_compiler *c, struct ptx_variable *v) {
    const struct ptx_type *type;
    uint64_t align = 0;
    uint64_t ignored;
    int vector = 1;

    for (;;) {
        if (ptx_lex_take(&c->lex, ".align")) {
            if (!ptx_parse_integer(c, &align)) {
                return false;
            }
        } else if (ptx_lex_take(&c->lex, ".v2")) {
            vector = 2;
        } else if (ptx_lex_take(&c->lex, ".v4")) {
            vector = 4;
        } else {
            break;
        }
    }
    if (!ptx_parse_type(c, &type)) {
        return false;
    }
    if (ptx_lex_take(&c->lex, ".ptr")) { /* of a parameter: .ptr .global .align 16 */
        while (c->lex.token.s[0] == '.') {
            const bool is_align = ptx_token_is(&c->lex.token, ".align");

            ptx_lex_next(&c->lex);
            if (is_align && !ptx_parse_integer(c, &ignored)) {
                return false;
            }
        }
    }
    if (c->lex.token.kind != PTX_WORD) {
        return ptx_error(c, "a name expected, not '%.*s'", (int)c->lex.token.n, c->lex.token.s);
    }
    v->name = ptx_name(c->module, c->lex.token.s, c->lex.token.n);
    ptx_lex_next(&c->lex);
    v->bytes = (size_t)type->bytes * (size_t)vector;
    v->align = align != 0 ? align : v->bytes;
    return parse_bounds(c, v);
}

static bool append(uint8_t **data, size_t *n, const void *bytes, size_t size) {
    for (size_t i = 0; i < size; i++) {
        *data = ptx_grow(*data, *n, 1);
        (*data)[(*n)++] = ((const uint8_t *)bytes)[i];
    }
    return true;
}

/* A variable's address, "generic(name)" or "name", both with "+n". */
static bool parse_address_value(struct ptx_compiler *c, uint64_t *bits) {
    const bool generic = ptx_lex_take(&c->lex, "generic") && ptx_lex_take(&c->lex, "(");
    const struct ptx_variable *v = ptx_variable_find(c, c->lex.token.s, c->lex.token.n);
    uint64_t offset = 0;

    if (v == NULL || v->space == PTX_SHARED) {
        return ptx_error(c, "no variable '%.*s'", (int)c->lex.token.n, c->lex.token.s);
    }
    ptx_lex_next(&c->lex);
    if (generic && !ptx_expect(c, ")")) {
        return false;
    }
    if (ptx_lex_take(&c->lex, "+") && !ptx_parse_integer(c, &offset)) {
        return false;
    }
    *bits = PTX_BASE(PTX_WINDOW_MODULE) + v->offset + offset;
    return true;
}

static bool parse_values(struct ptx_compiler *c, size_t size, uint8_t **data, size_t *n) {
    struct ptx_operand o;

    if (ptx_lex_take(&c->lex, "{")) {
        while (!ptx_lex_take(&c->lex, "}")) {
            if (!parse_values(c, size, data, n)) {
                return false;
            }
            ptx_lex_take(&c->lex, ",");
        }
        return true;
    }
    if (c->lex.token.kind == PTX_WORD) {
        uint64_t bits;

        return parse_address_value(c, &bits) && append(data, n, &bits, size);
    }
    if (!ptx_parse_operand(c, &o)) {
        return false;
    }
    if (o.kind == PTX_OPERAND_REAL && size == 4) {
        double x;
        float y;

        memcpy(&x, &o.bits, 8);
        y = (float)x;
        return append(data, n, &y, 4);
    }
    return append(data, n, &o.bits, size);
}

static void place(struct ptx_module *m, struct ptx_variable *v, const uint8_t *values,
                  size_t n_value) {
    v->offset = (m->n_data + REDZONE + v->align - 1) / v->align * v->align;
    m->data = realloc(m->data, v->offset + v->bytes);
    if (m->data == NULL && v->offset + v->bytes > 0) {
        abort();
    }
    memset(m->data + m->n_data, 0, v->offset + v->bytes - m->n_data);
    if (n_value > 0) {
        memcpy(m->data + v->offset, values, n_value);
    }
    m->n_data = v->offset + v->bytes;
}

/* Bytes of an element are those of the type; the declarator has only the whole. */
static size_t element_bytes(const struct ptx_lexer *l) {
    struct ptx_lexer ahead = *l;

    while (ahead.token.kind != PTX_END && !ptx_token_is(&ahead.token, ";")) {
        const struct ptx_type *type = ptx_type_find(ahead.token.s + 1, ahead.token.n - 1);

        if (ahead.token.s[0] == '.' && type != NULL) {
            return type->bytes;
        }
        ptx_lex_next(&ahead);
    }
    return 1;
}

bool ptx_parse_variable(struct ptx_compiler *c, enum ptx_space space, bool external) {
    struct ptx_variable v = {.space = (uint8_t)space,
                             .owner = c->n_call > 0 ? c->calls[c->n_call - 1] : NULL};
    const size_t size = element_bytes(&c->lex);
    struct ptx_variable *kept;
    uint8_t *values = NULL;
    size_t n_value = 0;
    bool ok = ptx_parse_declarator(c, &v);

    if (ok && ptx_lex_take(&c->lex, "=")) {
        ok = parse_values(c, size, &values, &n_value);
        v.bytes = v.bytes < n_value ? n_value : v.bytes;
    }
    ok = ok && ptx_expect(c, ";");
    if (ok && ptx_variable_find(c, v.name, strlen(v.name)) == NULL) { /* else: inlined twice */
        v.external = external && v.bytes == 0;
        if (space != PTX_SHARED) {
            place(c->module, &v, values, n_value);
        }
        kept = ptx_alloc(c->module, sizeof(*kept));
        v.next = c->module->variables;
        *kept = v;
        c->module->variables = kept;
    }
    free(values);
    return ok;
}
