#include "text/vocab.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "text/utf8.h"

static size_t slot_of(const struct vocab *v, const void *bytes, size_t n) {
    uint64_t h = hash_bytes(HASH_START, bytes, n);
    return (size_t)(h ^ h >> 32) & (v->index_size - 1);
}

bool vocab_init(struct vocab *v, int size, struct error *err) {
    *v = (struct vocab){.size = size, .index_size = 64};
    while (v->index_size < (size_t)size * 3 / 2) {
        v->index_size *= 2;
    }
    v->token = calloc((size_t)size + 1, sizeof *v->token);
    v->index = calloc(v->index_size, sizeof *v->index);
    if (!v->token || !v->index) {
        vocab_finish(v);
        return error_set(err, ERROR_MEMORY, "cannot allocate a vocabulary of %d tokens", size);
    }
    return true;
}

/* The index slot that holds these bytes, or the free one where they would go. */
static uint32_t *find_slot(const struct vocab *v, const void *bytes, size_t n) {
    size_t i = slot_of(v, bytes, n);
    while (v->index[i]) {
        const struct vocab_token *t = &v->token[v->index[i] - 1];
        if (t->length == n && memcmp(v->bytes.data + t->offset, bytes, n) == 0) {
            break;
        }
        i = (i + 1) & (v->index_size - 1);
    }
    return &v->index[i];
}

bool vocab_add(struct vocab *v, int32_t id, const void *bytes, size_t n, unsigned flags,
               struct error *err) {
    struct vocab_token *t = &v->token[id];
    if (n > VOCAB_MAX_TOKEN_BYTES) {
        return error_set(err, ERROR_TOKENIZER, "a token of %zu bytes, more than %d", n,
                         VOCAB_MAX_TOKEN_BYTES);
    }
    if (t->flags & VOCAB_PRESENT) {
        bool same = t->length == n && memcmp(v->bytes.data + t->offset, bytes, n) == 0;
        if (!same || !(flags & VOCAB_ADDED) || (t->flags & VOCAB_ADDED)) {
            return error_set(err, ERROR_TOKENIZER, "id %d is taken by another token", (int)id);
        }
        t->flags = (t->flags | flags) & 0xff;
        return true;
    }
    if (flags & VOCAB_MODEL) {
        uint32_t *slot = find_slot(v, bytes, n);
        if (*slot) {
            return error_set(err, ERROR_TOKENIZER, "id %d repeats the bytes of id %u", (int)id,
                             *slot - 1);
        }
        *slot = (uint32_t)id + 1;
    }
    if (v->bytes.size > UINT32_MAX - n) {
        return error_set(err, ERROR_TOKENIZER, "more than 4 GiB of tokens");
    }
    uint32_t offset = (uint32_t)v->bytes.size;
    if (!buffer_append(&v->bytes, bytes, n, err)) {
        return false;
    }
    *t = (struct vocab_token){
        .offset = offset, .length = n & 0xffffff, .flags = (flags | VOCAB_PRESENT) & 0xff};
    return true;
}

int32_t vocab_find(const struct vocab *v, const void *bytes, size_t n) {
    return (int32_t)*find_slot(v, bytes, n) - 1;
}

void vocab_finish(struct vocab *v) {
    buffer_finish(&v->bytes);
    free(v->token);
    free(v->index);
    *v = (struct vocab){0};
}

/* The byte that a character of GPT-2's alphabet stands for, or -1. Printable bytes of Latin-1 stand
 * for themselves; the other 68 are U+0100 and on, in order. */
static int alphabet_byte(uint32_t cp) {
    if ((cp >= 0x21 && cp <= 0x7e) || (cp >= 0xa1 && cp <= 0xff && cp != 0xad)) {
        return (int)cp;
    }
    if (cp >= 0x100 && cp <= 0x120) {
        return (int)cp - 0x100; /* 0x00 .. 0x20 */
    }
    if (cp >= 0x121 && cp <= 0x142) {
        return (int)cp - 0x121 + 0x7f; /* 0x7f .. 0xa0 */
    }
    return cp == 0x143 ? 0xad : -1;
}

bool vocab_alphabet_decode(const char *text, size_t n, struct buffer *out, bool *inside,
                           struct error *err) {
    size_t start = out->size;
    if (!buffer_reserve(out, n, err)) {
        return false;
    }
    *inside = true;
    for (size_t i = 0; i < n;) {
        uint32_t cp = 0;
        size_t len = utf8_decode(text + i, n - i, &cp);
        int byte = len ? alphabet_byte(cp) : -1;
        if (byte < 0) {
            out->size = start;
            *inside = false;
            return true;
        }
        out->data[out->size++] = (unsigned char)byte;
        i += len;
    }
    return true;
}
