/* Byte-level byte pair encoding: a word's bytes become tokens, and neighbours merge, the pair of
 * lowest rank first and the leftmost of equals, until none can. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "text/tokenizer.h"
#include "text/vocab.h"

/* Pair of tokens -> rank and result. */
struct bpe_merge {
    int32_t left, right; /* left < 0: free slot */
    int32_t result;
    uint32_t rank;
};

struct bpe {
    const struct vocab *vocab;
    struct bpe_merge *merges; /* [merges_size] owns; hashed by (left, right) */
    size_t merges_size;       /* a power of two */
    int32_t byte_id[256];     /* token of a single byte; -1: none */
    size_t longest;           /* bytes of a token; 0: some bytes have none */
    int32_t unk_id;           /* for a byte without a token; -1: such bytes vanish */
    bool fuse_unk;            /* a run of unknown bytes is one unk_id */
    bool ignore_merges;       /* a word that is a token is that token, whatever the merges say */
};

/* Memory for one word, kept between words. Zero-initialised is empty. */
struct bpe_scratch {
    struct bpe_symbol *symbols; /* owns */
    uint64_t *heap;             /* owns */
    size_t n_heap;
    size_t capacity;
};

/* Room for n merges over `vocab`, which is borrowed and must be complete. Errors: MEMORY. */
bool bpe_init(struct bpe *b, const struct vocab *vocab, size_t n_merge, struct error *err);

/* Adds the merge of the tokens with these bytes. Errors (without the field): TOKENIZER. */
bool bpe_add_merge(struct bpe *b, uint32_t rank, const void *left, size_t n_left, const void *right,
                   size_t n_right, struct error *err);

/* Appends the tokens of one word of n bytes, n <= 2^31. Errors: MEMORY. */
bool bpe_encode(const struct bpe *b, struct bpe_scratch *scratch, const unsigned char *word,
                size_t n, struct token_list *out, struct error *err);

/* As many tokens, or more, come of a word of n bytes. */
size_t bpe_least_tokens(const struct bpe *b, size_t n);

void bpe_finish(struct bpe *b);
void bpe_scratch_finish(struct bpe_scratch *s);
