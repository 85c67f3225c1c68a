/* Generation of one sequence, and the score of a given one. */
#pragma once

#include "leader/generation.h"

/* Who listens while a text is generated. All may be NULL. */
struct generate_listener {
    /* Text as it becomes certain; a false return ends the generation as interrupted. */
    bool (*on_text)(void *user, const char *text, size_t n);
    void *user;
    bool (*interrupted)(void); /* asked between steps */
};

struct generate_result {
    struct token_list ids; /* owns; ends with the EOS token where one ended it */
    struct buffer text;    /* owns */
    enum finish_reason finish;
    double prefill_seconds; /* until the first token is known */
    double decode_seconds;  /* the rest */
};

/* tokenizer NULL: no text. Errors: those of generation_create, INTERRUPTED (while the prompt is
 * fed), engine's. */
bool generate(struct engine *e, const struct tokenizer *tokenizer,
              const struct generate_request *request, const struct generate_listener *listener,
              struct generate_result *out, struct error *err);

void generate_result_finish(struct generate_result *r);

/* A given text, to be scored. */
struct score_request {
    const int32_t *ids; /* [n_ids] borrowed */
    int n_ids;
    bool last;                 /* the last position's logits are wanted */
    bool hash;                 /* a hash of all logits is wanted: all of them come to rank 0 */
    bool (*interrupted)(void); /* asked between steps; may be NULL */
};

struct score_result {
    int n;            /* tokens scored: all but the first */
    double *logprobs; /* owns [n], natural logarithm */
    double sum;       /* of them */
    float *last;      /* owns [vocab]: logits of the last position; NULL: not wanted */
    uint64_t hash;    /* FNV-1a of all positions' logits' bits, in order; 0: not wanted */
};

/* Log-probabilities of the text, fed as one sequence. Errors: INPUT (no ids, more than the
 * context), MEMORY, engine's. */
bool score(struct engine *e, const struct score_request *request, struct score_result *out,
           struct error *err);

void score_result_finish(struct score_result *r);
