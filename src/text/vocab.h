/* Token ids and their bytes. Tokens of the BPE model can be found by their bytes. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"

struct vocab {
    struct buffer bytes;       /* of all tokens, one after the other */
    struct vocab_token *token; /* [size] owns; by id */
    uint32_t *index;   /* [index_size] owns; id + 1 of model tokens, hashed by bytes; 0: free */
    size_t index_size; /* a power of two */
    int size;          /* one more than the largest id */
};

enum vocab_flag {
    VOCAB_PRESENT = 1, /* the id exists; others are gaps */
    VOCAB_MODEL = 2,   /* BPE can produce it */
    VOCAB_ADDED = 4,
    VOCAB_SPECIAL = 8,
};

struct vocab_token {
    uint32_t offset;
    uint32_t length : 24;
    uint32_t flags : 8;
};

enum { VOCAB_MAX_TOKEN_BYTES = 65535 };

/* An empty vocabulary for ids in [0, size). Errors: MEMORY. */
bool vocab_init(struct vocab *v, int size, struct error *err);

/* Puts a token in. A second one for the same id, or a second model token with the same bytes, is an
 * error; an added token may repeat a model token's id. Errors (without the field): TOKENIZER,
 * MEMORY. */
bool vocab_add(struct vocab *v, int32_t id, const void *bytes, size_t n, unsigned flags,
               struct error *err);

/* Id of the model token with these bytes; -1 when there is none. */
int32_t vocab_find(const struct vocab *v, const void *bytes, size_t n);

/* Bytes of an id inside [0, size); borrowed. */
static inline const unsigned char *vocab_bytes(const struct vocab *v, int32_t id, size_t *n) {
    *n = v->token[id].length;
    return v->bytes.data + v->token[id].offset;
}

void vocab_finish(struct vocab *v);

/* GPT-2's alphabet writes every byte as one printable character. Appends the bytes that `text`
 * stands for; false in *inside when a character is not of the alphabet (out is then unchanged).
 * Errors: MEMORY. */
bool vocab_alphabet_decode(const char *text, size_t n, struct buffer *out, bool *inside,
                           struct error *err);
