/* The inside of struct tokenizer, for the files tokenizer*.c alone. */
#pragma once

#include <jansson.h>

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/pretokenizer.h"
#include "text/tokenizer.h"
#include "text/vocab.h"

struct tokenizer {
    struct vocab vocab;
    int n_id; /* ids that decode: the model's vocabulary may be larger than the tokenizer's */
    struct bpe bpe;
    struct pretokenizer pretokenizer;
    struct added_tokens raw;        /* found in the raw text */
    struct added_tokens normalized; /* found after normalisation */
    bool nfc;
    struct token_list prefix; /* of the post-processor, before the text */
    struct token_list suffix; /* and after it */
    char *chat_template;      /* owns; NULL: none */
    char *bos_token;          /* owns; NULL: none */
};

/* The id in `v`, which must be an integer in [0, limit). Errors: TOKENIZER. */
bool tokenizer_read_id(const json_t *v, const char *path, int limit, int32_t *out,
                       struct error *err);

/* Reads "model": vocabulary and merges. `added` is "added_tokens" or NULL, for the largest id;
 * `limit` bounds the ids, or is 0. Errors: TOKENIZER, UNSUPPORTED, MEMORY. */
bool tokenizer_load_model(struct tokenizer *t, const json_t *root, const json_t *added, int limit,
                          struct error *err);

/* Reads what is there of tokenizer_config.json and chat_template.jinja. Errors (with the path): IO,
 * JSON, TOKENIZER. */
bool tokenizer_load_config(struct tokenizer *t, const char *dir, struct error *err);
