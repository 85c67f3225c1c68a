/* One instruction: a row of the tables, or a root with a decoder of its own. */
#include "ptx_compile.h"

#include <stdio.h>
#include <string.h>

static const struct ptx_row *const ROWS[] = {ptx_rows_integer, ptx_rows_bits, ptx_rows_real,
                                             ptx_rows_half};
static const struct ptx_decoder *const DECODERS[] = {ptx_decode_data,  ptx_decode_memory,
                                                     ptx_decode_async, ptx_decode_control,
                                                     ptx_decode_warp,  ptx_decode_mma};
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* The i-th of all opcodes, rows first; exactly one of row and decoder is set, or none. */
static const char *opcode(int i, const char *name, const struct ptx_row **row,
                          const struct ptx_decoder **decoder, int *index) {
    int n = 0;

    for (size_t t = 0; t < COUNT(ROWS); t++) {
        for (const struct ptx_row *r = ROWS[t]; r->name != NULL; r++, n++) {
            if (n == i || (name != NULL && strcmp(r->name, name) == 0)) {
                *row = r;
                *index = n;
                return r->name;
            }
        }
    }
    for (size_t t = 0; t < COUNT(DECODERS); t++) {
        for (const struct ptx_decoder *d = DECODERS[t]; d->root != NULL; d++, n++) {
            if (n == i || (name != NULL && strcmp(d->root, name) == 0)) {
                *decoder = d;
                *index = n;
                return d->root;
            }
        }
    }
    *index = n;
    return NULL;
}

const char *ptx_opcode_name(int i) {
    const struct ptx_row *row;
    const struct ptx_decoder *decoder;
    int index;

    return opcode(i, NULL, &row, &decoder, &index);
}

int ptx_opcode_count(void) {
    const struct ptx_row *row;
    const struct ptx_decoder *decoder;
    int n;

    (void)opcode(-1, NULL, &row, &decoder, &n);
    return n;
}

static bool decode_row(struct ptx_compiler *c, struct ptx_mnemonic *m, const struct ptx_row *row) {
    struct ptx_op *o;
    uint32_t slots[4] = {0};
    const char *kind = row->operands;
    int n = 0;

    m->n_part = 0; /* all of them are in the row's name */
    if (!ptx_mnemonic_done(c, m, row->allowed)) {
        return false;
    }
    o = ptx_emit(c, row->run);
    o->flags = m->flags;
    if (!ptx_parse_destination(c, *kind++, &o->d)) {
        return false;
    }
    for (kind++; *kind != '\0'; kind++) {
        if (!ptx_expect(c, ",") || !ptx_parse_slot(c, *kind, &slots[n++], NULL)) {
            return false;
        }
    }
    o->a = slots[0];
    o->b = n > 1 ? slots[1] : o->a; /* functions for three read three */
    o->c = n > 2 ? slots[2] : o->a;
    if (n > 3) {
        o->v = ptx_alloc(c->module, sizeof(slots[0]));
        o->v[0] = slots[3];
    }
    return true;
}

bool ptx_decode(struct ptx_compiler *c) {
    const struct ptx_row *row = NULL;
    const struct ptx_decoder *decoder = NULL;
    struct ptx_mnemonic m;
    char name[200];
    size_t n;
    int index;

    if (!ptx_parse_mnemonic(c, &m)) {
        return false;
    }
    n = (size_t)snprintf(name, sizeof(name), "%s", m.root);
    for (int i = 0; i < m.n_part; i++) {
        n += (size_t)snprintf(name + n, sizeof(name) - n, ".%s", m.part[i]);
    }
    if (opcode(-1, name, &row, &decoder, &index) == NULL || row == NULL) {
        (void)opcode(-1, m.root, &row, &decoder, &index);
    }
    if (row == NULL && decoder == NULL) {
        return ptx_error(c, "unknown instruction '%s'", name);
    }
    c->module->used[index] = 1;
    return row != NULL ? decode_row(c, &m, row) : decoder->decode(c, &m);
}
