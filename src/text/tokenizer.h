/* tokenizer.json: byte-level BPE as Hugging Face tokenizers compute it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"

struct tokenizer; /* opaque, immutable after load, shareable between threads */

/* A growable list of token ids. Zero-initialised is empty. */
struct token_list {
    int32_t *ids; /* owns */
    size_t n;
    size_t capacity;
};

bool token_list_push(struct token_list *l, int32_t id, struct error *err);
void token_list_finish(struct token_list *l);

/* Reads DIR/tokenizer.json and, where they are there, DIR/tokenizer_config.json and
 * DIR/chat_template.jinja. `vocab` is config.json's vocab_size, or 0
 * when unknown; ids at or above it are refused.
 * Errors (name the file and field): IO, JSON, TOKENIZER, UNSUPPORTED, MEMORY. */
bool tokenizer_load(struct tokenizer **out, const char *dir, int vocab, struct error *err);

/* Appends the ids of n bytes of text. Added tokens are matched on the raw text first.
 * add_special: apply the post-processor (BOS ...). Text must be UTF-8.
 * Errors: INPUT (not UTF-8, with the byte offset), MEMORY. */
bool tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, bool add_special,
                      struct token_list *out, struct error *err);

/* The same for a text of `most` tokens; where it has more, *more is set, out stays as it was, and
 * the rest of the text has not been looked at. */
bool tokenizer_encode_most(const struct tokenizer *t, const char *text, size_t n, bool add_special,
                           size_t most, bool *more, struct token_list *out, struct error *err);

/* Appends the bytes of the tokens; special tokens are left out when skip_special. Bytes that
 * are not UTF-8 stay as they are in out (a printer may replace them).
 * Errors: INPUT (as tokenizer_check_id), MEMORY. */
bool tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                      struct buffer *out, struct error *err);

/* Errors: INPUT, for an id outside [0, vocab of tokenizer_load or tokenizer_size()). Ids that no
 * token has (gaps, and the padding of a model's vocabulary) are fine and decode to nothing. */
bool tokenizer_check_id(const struct tokenizer *t, int32_t id, struct error *err);

/* The bytes of one token; *n = 0 for an id that has none. Borrowed. */
const char *tokenizer_token_bytes(const struct tokenizer *t, int32_t id, size_t *n);
bool tokenizer_is_special(const struct tokenizer *t, int32_t id);
/* Id of an added or vocabulary token by its text; -1 when there is none. */
int32_t tokenizer_find(const struct tokenizer *t, const char *token);
/* One more than the largest id. */
int tokenizer_size(const struct tokenizer *t);
/* The chat template's text and tokenizer_config.json's bos_token; NULL where there is none.
 * Borrowed. */
const char *tokenizer_chat_template(const struct tokenizer *t);
const char *tokenizer_bos_token(const struct tokenizer *t);

void tokenizer_destroy(struct tokenizer *t);

/* Streaming: ids in, whole UTF-8 characters out. Zero-initialised is a fresh stream. */
struct detokenizer {
    unsigned char pending[8]; /* an unfinished character */
    int n_pending;
};

/* Appends what became complete; an unfinished character waits for the next token. A byte that can
 * never become part of a character becomes U+FFFD. Errors: INPUT, MEMORY. */
bool detokenizer_push(struct detokenizer *d, const struct tokenizer *t, int32_t id,
                      bool skip_special, struct buffer *out, struct error *err);
/* Flushes what is still pending, as U+FFFD. */
bool detokenizer_flush(struct detokenizer *d, struct buffer *out, struct error *err);
