#include "ptx_lex.h"

#include <ctype.h>
#include <string.h>

static void skip_space(struct ptx_lexer *l) {
    for (;;) {
        if (*l->at == '\n') {
            l->line++;
            l->at++;
        } else if (isspace((unsigned char)*l->at)) {
            l->at++;
        } else if (l->at[0] == '/' && l->at[1] == '/') {
            l->at += strcspn(l->at, "\n");
        } else if (l->at[0] == '/' && l->at[1] == '*') {
            l->at += 2;
            while (*l->at != '\0' && !(l->at[0] == '*' && l->at[1] == '/')) {
                l->line += *l->at == '\n';
                l->at++;
            }
            l->at += *l->at != '\0' ? 2 : 0;
        } else {
            return;
        }
    }
}

static bool in_word(char c) {
    return isalnum((unsigned char)c) || c == '_' || c == '$' || c == '%' || c == '.';
}

/* "L1::no_allocate" is part of a mnemonic, "label:" is not. */
static size_t word_length(const char *s) {
    size_t n = 0;

    for (;;) {
        if (in_word(s[n])) {
            n++;
        } else if (s[n] == ':' && s[n + 1] == ':') {
            n += 2;
        } else {
            return n;
        }
    }
}

void ptx_lex_next(struct ptx_lexer *l) {
    struct ptx_token *t = &l->token;

    skip_space(l);
    *t = (struct ptx_token){.s = l->at, .line = l->line};
    if (*l->at == '\0') {
        t->kind = PTX_END;
    } else if (*l->at == '"') {
        t->kind = PTX_STRING;
        t->n = 1 + strcspn(l->at + 1, "\"\n");
        t->n += l->at[t->n] == '"';
    } else if (isdigit((unsigned char)*l->at)) {
        t->kind = PTX_NUMBER;
        t->n = word_length(l->at);
    } else if (in_word(*l->at)) {
        t->kind = PTX_WORD;
        t->n = word_length(l->at);
    } else {
        t->kind = PTX_PUNCT;
        t->n = 1;
    }
    l->at += t->n;
}

void ptx_lex_start(struct ptx_lexer *l, const char *text, size_t at, uint32_t line) {
    *l = (struct ptx_lexer){.text = text, .at = text + at, .line = line};
    ptx_lex_next(l);
}

void ptx_lex_next_line(struct ptx_lexer *l) {
    if (l->token.line == l->line) {
        l->at += strcspn(l->at, "\n");
        ptx_lex_next(l);
    }
}

bool ptx_token_is(const struct ptx_token *t, const char *s) {
    return t->kind != PTX_STRING && t->n == strlen(s) && memcmp(t->s, s, t->n) == 0;
}

bool ptx_lex_take(struct ptx_lexer *l, const char *s) {
    if (!ptx_token_is(&l->token, s)) {
        return false;
    }
    ptx_lex_next(l);
    return true;
}
