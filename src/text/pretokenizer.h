/* Cuts text into words by the "pre_tokenizer" of a tokenizer.json: a sequence of patterns, each
 * applied to the pieces that the one before left. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "text/pattern.h"

enum { PRETOKENIZER_MAX_STEPS = 16 };

struct pretokenizer {
    struct pattern *step[PRETOKENIZER_MAX_STEPS]; /* owns */
    int n_step;
};

/* Called for each word, in order; false stops. */
typedef bool pretokenizer_word(void *ctx, const char *word, size_t n, struct error *err);

/* Reads the JSON object; `path` names it in errors. It must turn bytes into GPT-2's alphabet
 * (ByteLevel) at its end. Errors: TOKENIZER, UNSUPPORTED (by name), MEMORY. */
bool pretokenizer_init(struct pretokenizer *p, const json_t *json, const char *path,
                       struct error *err);

/* Cuts the valid UTF-8 text. Errors: TOKENIZER, and those of `word`. */
bool pretokenizer_run(const struct pretokenizer *p, struct pattern_scratch *scratch,
                      const char *text, size_t n, pretokenizer_word *word, void *ctx,
                      struct error *err);

void pretokenizer_finish(struct pretokenizer *p);
