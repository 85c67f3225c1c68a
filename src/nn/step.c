#include "nn/step.h"

#include <string.h>

#include "device/device.h"

static bool targets_validate(const struct step_seq *q, int i, int vocab, struct error *err) {
    if (!q->targets) {
        return error_set(err, ERROR_PROTOCOL, "step: seqs[%d]: no targets", i);
    }
    for (int t = 0; t < q->n_tok; t++) {
        if (q->targets[t] < -1 || q->targets[t] >= vocab) {
            return error_set(err, ERROR_PROTOCOL,
                             "step: seqs[%d]: targets[%d] is %d, the vocabulary has %d", i, t,
                             q->targets[t], vocab);
        }
    }
    return true;
}

static bool output_validate(const struct step_seq *q, int i, int vocab, struct error *err) {
    if ((unsigned)q->output >= STEP_OUTPUT_COUNT) {
        return error_set(err, ERROR_PROTOCOL, "step: seqs[%d]: output %d is not known", i,
                         (int)q->output);
    }
    if (q->output == STEP_OUTPUT_CANDIDATES && (q->top_k < 1 || q->top_k > STEP_MAX_CANDIDATES)) {
        return error_set(err, ERROR_PROTOCOL, "step: seqs[%d]: top_k is %d, must be 1 to %d", i,
                         q->top_k, STEP_MAX_CANDIDATES);
    }
    return q->output != STEP_OUTPUT_LOGPROBS || targets_validate(q, i, vocab, err);
}

static bool seq_validate(const struct step_seq *q, int i, const struct step_limits *lim,
                         struct error *err) {
    if (q->n_tok < 1 || q->pos < 0 || q->n_tok > lim->ctx || q->pos > lim->ctx - q->n_tok) {
        return error_set(err, ERROR_PROTOCOL,
                         "step: seqs[%d]: %d tokens at position %d do not fit a context of %d", i,
                         q->n_tok, q->pos, lim->ctx);
    }
    int need = (q->pos + q->n_tok + KV_BLOCK - 1) / KV_BLOCK;
    if (q->n_block < need || q->n_block > lim->n_block) {
        return error_set(err, ERROR_PROTOCOL,
                         "step: seqs[%d]: blocks: %d given, %d needed, %d exist", i, q->n_block,
                         need, lim->n_block);
    }
    for (int t = 0; t < q->n_tok; t++) {
        if (q->tokens[t] < 0 || q->tokens[t] >= lim->vocab) {
            return error_set(err, ERROR_PROTOCOL,
                             "step: seqs[%d]: tokens[%d] is %d, the vocabulary has %d", i, t,
                             q->tokens[t], lim->vocab);
        }
    }
    return output_validate(q, i, lim->vocab, err);
}

/* Marks the blocks that a sequence writes in a bit map; a block is written by one only. */
static bool claim_blocks(uint8_t *claimed, const struct step_seq *q, int i, int n_block,
                         struct error *err) {
    for (int b = 0; b < q->n_block; b++) {
        int32_t block = q->blocks[b];
        if (block < 0 || block >= n_block) {
            return error_set(err, ERROR_PROTOCOL, "step: seqs[%d]: blocks[%d] is %d, there are %d",
                             i, b, block, n_block);
        }
        uint8_t bit = (uint8_t)(1u << (block & 7));
        if (b >= q->pos / KV_BLOCK) {
            if (claimed[block >> 3] & bit) {
                return error_set(err, ERROR_PROTOCOL,
                                 "step: seqs[%d]: blocks[%d]: block %d is written twice", i, b,
                                 block);
            }
            claimed[block >> 3] |= bit;
        }
    }
    return true;
}

/* The blocks before the first written one are only read, and may be shared (a common prefix), but
 * not with one who writes them in the same step. */
static bool check_reads(const uint8_t *claimed, const struct step_seq *q, int i,
                        struct error *err) {
    for (int b = 0; b < q->pos / KV_BLOCK; b++) {
        int32_t block = q->blocks[b];
        if (claimed[block >> 3] >> (block & 7) & 1) {
            return error_set(err, ERROR_PROTOCOL,
                             "step: seqs[%d]: blocks[%d]: block %d is read here and written "
                             "elsewhere",
                             i, b, block);
        }
    }
    return true;
}

bool step_validate(const struct step *step, const struct step_limits *lim, uint8_t *claimed,
                   struct error *err) {
    if (step->n_seq < 1 || step->n_seq > STEP_MAX_SEQS) {
        return error_set(err, ERROR_PROTOCOL, "step: %d sequences, must be 1 to %d", step->n_seq,
                         STEP_MAX_SEQS);
    }
    int64_t n_tok = 0;
    for (int i = 0; i < step->n_seq; i++) {
        if (!seq_validate(&step->seqs[i], i, lim, err)) {
            return false;
        }
        n_tok += step->seqs[i].n_tok;
    }
    if (n_tok > lim->max_tok) {
        return error_set(err, ERROR_PROTOCOL, "step: %lld tokens, at most %d fit one step",
                         (long long)n_tok, lim->max_tok);
    }
    memset(claimed, 0, step_claim_bytes(lim->n_block));
    bool ok = true;
    for (int i = 0; ok && i < step->n_seq; i++) {
        ok = claim_blocks(claimed, &step->seqs[i], i, lim->n_block, err);
    }
    for (int i = 0; ok && i < step->n_seq; i++) {
        ok = check_reads(claimed, &step->seqs[i], i, err);
    }
    return ok;
}
