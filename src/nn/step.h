/* One step: what every rank must know to run the forward pass once, and nothing else.
 * Replicated: all ranks hold equal copies. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum step_output {
    STEP_OUTPUT_NONE,       /* feed the tokens, want nothing */
    STEP_OUTPUT_CANDIDATES, /* the top_k largest logits of the last token, gathered to the leader */
    STEP_OUTPUT_LOGITS,     /* all logits of the last token */
    STEP_OUTPUT_ALL_LOGITS, /* all logits of every token */
    STEP_OUTPUT_LOGPROBS,   /* the log-probability of one given token after every token */
    STEP_OUTPUT_COUNT
};

enum {
    STEP_MAX_SEQS = 1024,
    STEP_MAX_CANDIDATES = 1024,
};

struct step_seq {
    uint32_t id; /* the leader's name for the sequence, for traces and logs */
    int32_t pos; /* position of the first token */
    int32_t n_tok;
    const int32_t *tokens; /* [n_tok] borrowed */
    int32_t n_block;
    const int32_t *blocks; /* KV block list, covers positions [0, pos + n_tok); borrowed */
    enum step_output output;
    int32_t top_k; /* with CANDIDATES: 1 .. STEP_MAX_CANDIDATES */
    /* With LOGPROBS: [n_tok] the token that is looked for after each, in a text the one that
     * follows; -1: none. Borrowed. */
    const int32_t *targets;
};

struct step {
    int32_t n_seq;
    struct step_seq *seqs; /* borrowed */
};

/* What a model accepts; step_validate holds a step against it. */
struct step_limits {
    int32_t max_tok; /* tokens in one step, all sequences together */
    int32_t ctx;     /* positions of one sequence */
    int32_t n_block; /* blocks in the KV cache */
    int32_t vocab;   /* token ids are below it */
};

/* Errors: PROTOCOL, naming the sequence and the field. Rejects a KV block that is written twice,
 * and one that a sequence writes while another reads it; blocks that are only read may be shared.
 * claimed [step_claim_bytes(n_block)]: room for a map of blocks, so that nothing is allocated in a
 * step. */
bool step_validate(const struct step *step, const struct step_limits *limits, uint8_t *claimed,
                   struct error *err);

static inline size_t step_claim_bytes(int32_t n_block) {
    return (size_t)n_block / 8 + 1;
}
