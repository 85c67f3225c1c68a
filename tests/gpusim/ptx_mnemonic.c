/* The parts of a mnemonic: "fma.rn.ftz.f32" is root "fma", flags, and the part "f32". */
#include "ptx_compile.h"

#include <string.h>

static const struct {
    const char *name;
    uint32_t flag;
} FLAGS[] = {
    {"ftz", PTX_FTZ},
    {"sat", PTX_SAT},
    {"rn", PTX_RN},
    {"rz", PTX_RZ},
    {"rm", PTX_RM},
    {"rp", PTX_RP},
    {"rna", PTX_RNA},
    {"rni", PTX_RN | PTX_INTEGER},
    {"rzi", PTX_RZ | PTX_INTEGER},
    {"rmi", PTX_RM | PTX_INTEGER},
    {"rpi", PTX_RP | PTX_INTEGER},
    {"approx", PTX_APPROX},
    {"full", PTX_FULL},
    {"uni", PTX_UNI},
    {"relu", PTX_RELU},
    {"NaN", PTX_NAN},
    {"xorsign", PTX_XORSIGN},
    {"noftz", PTX_NOFTZ},
    {"sync", PTX_SYNC},
    {"aligned", PTX_ALIGNED},
    {"abs", PTX_ABS},
    {"nc", PTX_CACHE},
    {"ca", PTX_CACHE},
    {"cg", PTX_CACHE},
    {"cs", PTX_CACHE},
    {"lu", PTX_CACHE},
    {"cv", PTX_CACHE},
    {"wb", PTX_CACHE},
    {"wt", PTX_CACHE},
    {"volatile", PTX_STRONG},
    {"relaxed", PTX_STRONG},
    {"acquire", PTX_STRONG},
    {"release", PTX_STRONG},
    {"acq_rel", PTX_STRONG},
    {"sc", PTX_STRONG},
    {"mmio", PTX_STRONG},
    {"weak", PTX_CACHE},
    {"cta", PTX_SCOPE},
    {"cluster", PTX_SCOPE},
    {"gpu", PTX_SCOPE},
    {"sys", PTX_SCOPE},
    {"gl", PTX_SCOPE},
    {"L2::cache_hint", PTX_HINT | PTX_CACHE},
};

/* These read their first part themselves: "all" of vote, "cc" ... are no flags there. */
static uint32_t flag_of(const char *part) {
    for (size_t i = 0; i < sizeof(FLAGS) / sizeof(FLAGS[0]); i++) {
        if (strcmp(FLAGS[i].name, part) == 0) {
            return FLAGS[i].flag;
        }
    }
    return strncmp(part, "L1::", 4) == 0 || strncmp(part, "L2::", 4) == 0 ? PTX_CACHE : 0;
}

bool ptx_parse_mnemonic(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    const struct ptx_token *t = &c->lex.token;
    char *next;

    if (t->kind != PTX_WORD || t->n >= sizeof(m->text)) {
        return ptx_error(c, "an instruction expected");
    }
    *m = (struct ptx_mnemonic){0};
    memcpy(m->text, t->s, t->n);
    m->text[t->n] = '\0';
    m->root = strtok_r(m->text, ".", &next);
    if (m->root == NULL) {
        return ptx_error(c, "an instruction expected");
    }
    for (char *part; (part = strtok_r(NULL, ".", &next)) != NULL;) {
        uint32_t flag = flag_of(part);

        if (strcmp(m->root, "vote") == 0 && strcmp(part, "uni") == 0) {
            flag = 0; /* a mode there */
        }
        if (flag == 0 && m->n_part == 16) {
            return ptx_error(c, "too many modifiers");
        }
        if (flag == 0) {
            m->part[m->n_part++] = part;
        }
        m->flags |= flag;
    }
    ptx_lex_next(&c->lex);
    return true;
}

void ptx_part_remove(struct ptx_mnemonic *m, int i) {
    m->n_part--;
    memmove(&m->part[i], &m->part[i + 1], sizeof(m->part[0]) * (size_t)(m->n_part - i));
}

bool ptx_part_take(struct ptx_mnemonic *m, const char *name) {
    for (int i = 0; i < m->n_part; i++) {
        if (strcmp(m->part[i], name) == 0) {
            ptx_part_remove(m, i);
            return true;
        }
    }
    return false;
}

bool ptx_part_type(struct ptx_mnemonic *m, const struct ptx_type **out) {
    *out = m->n_part > 0 ? ptx_type_find(m->part[0], strlen(m->part[0])) : NULL;
    if (*out != NULL) {
        ptx_part_remove(m, 0);
    }
    return *out != NULL;
}

int ptx_part_choice(struct ptx_mnemonic *m, const char *const *names) {
    for (int i = 0; m->n_part > 0 && names[i] != NULL; i++) {
        if (strcmp(m->part[0], names[i]) == 0) {
            ptx_part_remove(m, 0);
            return i;
        }
    }
    return -1;
}

bool ptx_mnemonic_done(struct ptx_compiler *c, const struct ptx_mnemonic *m, uint32_t allowed) {
    if (m->n_part > 0) {
        return ptx_error(c, "unknown instruction: '.%s' of '%s' is not supported", m->part[0],
                         m->root);
    }
    return (m->flags & ~allowed) == 0 ||
           ptx_error(c, "unknown instruction: a modifier of '%s' is not supported", m->root);
}
