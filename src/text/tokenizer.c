#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_impl.h"
#include "text/unicode.h"
#include "text/utf8.h"

bool token_list_push(struct token_list *l, int32_t id, struct error *err) {
    if (l->n == l->capacity) {
        size_t capacity = l->capacity ? l->capacity + l->capacity / 2 : 64;
        int32_t *grown = realloc(l->ids, capacity * sizeof *grown);
        if (!grown) {
            return error_set(err, ERROR_MEMORY, "cannot allocate %zu token ids", capacity);
        }
        l->ids = grown;
        l->capacity = capacity;
    }
    l->ids[l->n++] = id;
    return true;
}

void token_list_finish(struct token_list *l) {
    free(l->ids);
    *l = (struct token_list){0};
}

/* What one call of tokenizer_encode works with. */
struct encoding {
    const struct tokenizer *t;
    struct pattern_scratch *pattern;
    struct bpe_scratch bpe;
    struct buffer normalized;
    size_t end;             /* tokens in out; more than that are not of interest */
    bool full;              /* there would be */
    struct token_list *out; /* borrowed */
};

/* False: there are too many, which the caller has to tell from an error. */
static bool has_room(struct encoding *e, size_t n) {
    e->full = e->full || n > e->end || e->out->n > e->end - n;
    return !e->full;
}

static bool encode_word(void *ctx, const char *word, size_t n, struct error *err) {
    struct encoding *e = ctx;
    return has_room(e, bpe_least_tokens(&e->t->bpe, n)) &&
           bpe_encode(&e->t->bpe, &e->bpe, (const unsigned char *)word, n, e->out, err);
}

/* Cuts `text` at the tokens of `added` and hands what lies between to `rest`. */
static bool encode_around(struct encoding *e, const struct added_tokens *added, const char *text,
                          size_t n,
                          bool (*rest)(struct encoding *, const char *, size_t, struct error *),
                          struct error *err) {
    size_t done = 0;
    while (done < n) {
        size_t start = n;
        size_t end = n;
        const struct added_token *t = added_tokens_find(added, text, n, done, &start, &end);
        if (start > done && !rest(e, text + done, start - done, err)) {
            return false;
        }
        if (t && !token_list_push(e->out, t->id, err)) {
            return false;
        }
        done = end;
    }
    return true;
}

static bool encode_plain(struct encoding *e, const char *text, size_t n, struct error *err) {
    return pretokenizer_run(&e->t->pretokenizer, e->pattern, text, n, encode_word, e, err);
}

static bool encode_segment(struct encoding *e, const char *text, size_t n, struct error *err) {
    if (e->t->nfc && !unicode_is_surely_nfc(text, n)) {
        buffer_clear(&e->normalized);
        if (!unicode_nfc(text, n, &e->normalized, err)) {
            return false;
        }
        text = (const char *)e->normalized.data;
        n = e->normalized.size;
    }
    return encode_around(e, &e->t->normalized, text, n, encode_plain, err);
}

static bool push_all(struct token_list *out, const struct token_list *ids, struct error *err) {
    for (size_t i = 0; i < ids->n; i++) {
        if (!token_list_push(out, ids->ids[i], err)) {
            return false;
        }
    }
    return true;
}

bool tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, bool add_special,
                      struct token_list *out, struct error *err) {
    bool more;
    return tokenizer_encode_most(t, text, n, add_special, SIZE_MAX, &more, out, err);
}

bool tokenizer_encode_most(const struct tokenizer *t, const char *text, size_t n, bool add_special,
                           size_t most, bool *more, struct token_list *out, struct error *err) {
    size_t valid = utf8_valid_prefix(text, n);
    if (valid < n) {
        return error_set(err, ERROR_INPUT, "not UTF-8: byte 0x%02x at offset %zu",
                         (unsigned char)text[valid], valid);
    }
    if (n > INT32_MAX) {
        return error_set(err, ERROR_INPUT, "%zu bytes of text, more than %d", n, INT32_MAX);
    }
    size_t before = out->n;
    struct encoding e = {
        .t = t, .out = out, .end = most < SIZE_MAX - before ? before + most : SIZE_MAX};
    bool ok = pattern_scratch_create(&e.pattern, err) &&
              (!add_special || push_all(out, &t->prefix, err)) &&
              encode_around(&e, &t->raw, text, n, encode_segment, err) &&
              (!add_special || push_all(out, &t->suffix, err));
    *more = e.full || (ok && out->n > e.end);
    if (!ok || *more) {
        out->n = before;
    }
    pattern_scratch_destroy(e.pattern);
    bpe_scratch_finish(&e.bpe);
    buffer_finish(&e.normalized);
    return ok || *more;
}

static bool append_token(const struct tokenizer *t, int32_t id, bool skip_special,
                         struct buffer *out, struct error *err) {
    size_t n;
    if (!tokenizer_check_id(t, id, err)) {
        return false;
    }
    const char *bytes = tokenizer_token_bytes(t, id, &n);
    return (skip_special && tokenizer_is_special(t, id)) || buffer_append(out, bytes, n, err);
}

bool tokenizer_check_id(const struct tokenizer *t, int32_t id, struct error *err) {
    return (id >= 0 && id < t->n_id) ||
           error_set(err, ERROR_INPUT, "token id %d is outside [0, %d)", (int)id, t->n_id);
}

bool tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                      struct buffer *out, struct error *err) {
    size_t before = out->size;
    for (size_t i = 0; i < n; i++) {
        if (!append_token(t, ids[i], skip_special, out, err)) {
            out->size = before;
            return false;
        }
    }
    return true;
}

const char *tokenizer_token_bytes(const struct tokenizer *t, int32_t id, size_t *n) {
    *n = 0;
    return id >= 0 && id < t->vocab.size ? (const char *)vocab_bytes(&t->vocab, id, n) : "";
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id) {
    return id >= 0 && id < t->vocab.size && (t->vocab.token[id].flags & VOCAB_SPECIAL);
}

int32_t tokenizer_find(const struct tokenizer *t, const char *token) {
    size_t n = strlen(token);
    const struct added_token *a = added_tokens_get(&t->raw, token, n);
    if (!a) {
        a = added_tokens_get(&t->normalized, token, n);
    }
    return a ? a->id : vocab_find(&t->vocab, token, n);
}

int tokenizer_size(const struct tokenizer *t) {
    return t->vocab.size;
}

const char *tokenizer_chat_template(const struct tokenizer *t) {
    return t->chat_template;
}

const char *tokenizer_bos_token(const struct tokenizer *t) {
    return t->bos_token;
}

void tokenizer_destroy(struct tokenizer *t) {
    if (!t) {
        return;
    }
    bpe_finish(&t->bpe);
    vocab_finish(&t->vocab);
    pretokenizer_finish(&t->pretokenizer);
    added_tokens_finish(&t->raw);
    added_tokens_finish(&t->normalized);
    token_list_finish(&t->prefix);
    token_list_finish(&t->suffix);
    free(t->chat_template);
    free(t->bos_token);
    free(t);
}
