/* Words, numbers and punctuation of PTX. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ptx_token_kind { PTX_END, PTX_WORD, PTX_NUMBER, PTX_STRING, PTX_PUNCT };

struct ptx_token {
    enum ptx_token_kind kind;
    const char *s; /* in the text */
    size_t n;
    uint32_t line;
};

struct ptx_lexer {
    const char *text; /* ends with NUL */
    const char *at;
    uint32_t line;
    struct ptx_token token; /* the current one */
};

void ptx_lex_start(struct ptx_lexer *, const char *text, size_t at, uint32_t line);
void ptx_lex_next(struct ptx_lexer *);
/* To the first token of the next line: .loc and .file end with theirs. */
void ptx_lex_next_line(struct ptx_lexer *);
bool ptx_token_is(const struct ptx_token *, const char *s);
/* Takes the token if it is s. */
bool ptx_lex_take(struct ptx_lexer *, const char *s);
