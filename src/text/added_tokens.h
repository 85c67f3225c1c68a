/* Added tokens: strings that are found in the text before anything else cuts it. Those that are not
 * "normalized" are found in the raw text, the others in the normalized rest. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum { ADDED_TOKEN_MAX_BYTES = 1024 };

struct added_token {
    char *content; /* owns */
    size_t length; /* at least 1 */
    int32_t id;
    bool lstrip; /* takes the white space before it */
    bool rstrip; /* takes the white space after it */
};

/* A set that is searched together. Zero-initialised is empty. */
struct added_tokens {
    struct added_token *token; /* [n] owns; sorted by content after added_tokens_sort */
    size_t n;
    size_t capacity;
    bool starts[256]; /* by first byte: some token starts with it */
};

/* Copies content[0..length), 1 to ADDED_TOKEN_MAX_BYTES bytes. Errors: MEMORY. */
bool added_tokens_push(struct added_tokens *a, struct added_token t, struct error *err);
/* To be called once, after the last push. */
void added_tokens_sort(struct added_tokens *a);

/* The leftmost, then longest, token in text[0..n) at or after `from`; NULL when there is none. The
 * match, with the white space it takes (never any before `from`), is [*start, *end). */
const struct added_token *added_tokens_find(const struct added_tokens *a, const char *text,
                                            size_t n, size_t from, size_t *start, size_t *end);

/* The token with exactly this content; NULL when there is none. */
const struct added_token *added_tokens_get(const struct added_tokens *a, const char *content,
                                           size_t n);

void added_tokens_finish(struct added_tokens *a);
