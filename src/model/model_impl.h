/* The inside of struct model, for the files of this folder. */
#pragma once

#include "model/model.h"
#include "model/weights.h"
#include "nn/kv_cache.h"

/* Activations of one step, M = tokens of the step; all device memory, "act" the device's type. */
struct activations {
    float *x;        /* [M, H] f32, the residual stream */
    float *delta;    /* [n_piece, M, H] f32: partial sums of a row-parallel layer, then, in
                      * [M, H], their sum, which the next norm adds to x */
    void *h;         /* [M, H] act, x normed */
    void *qkv;       /* [M, (h + 2k) D] act */
    void *attention; /* [M, h D] act */
    void *gate_up;   /* [M, 2 F] act */
    void *mlp;       /* [M, F] act */
    float *rope;     /* [ctx, D] f32 */
};

/* The tokens of a step as the device operations want them; host memory. */
struct batch {
    int32_t *ids;           /* owns [max_tok] */
    struct seq_run *seqs;   /* owns [STEP_MAX_SEQS] */
    int32_t *rows;          /* owns [max_tok] rows whose output is wanted */
    int32_t *targets;       /* owns [max_tok] of each of them, with LOGPROBS; -1: none */
    struct output_row *out; /* owns [max_tok] what is wanted of each of them */
    uint8_t *claimed;       /* owns: a map of the blocks that a step writes */
    int n_tok, n_seq, n_row;
    struct batch_size size; /* what the device pads it to */
};

/* What a step wants of one row. */
struct output_row {
    enum step_output kind;
    int k;   /* candidates wanted */
    int seq; /* of the step */
};

/* Buffers of the head and of the results; see output.c. */
struct output {
    float *hidden;   /* device [OUTPUT_CHUNK, H] */
    void *normed;    /* device [OUTPUT_CHUNK, H] act */
    float *logits;   /* device [OUTPUT_CHUNK, V] this rank's part */
    float *gathered; /* device, rank 0: [OUTPUT_CHUNK, vocab], rank by rank */
    void *digest;    /* device: what this rank makes of a chunk where its logits need not travel:
                      * [OUTPUT_CHUNK * STEP_MAX_CANDIDATES] values, then ids; or [OUTPUT_CHUNK]
                      * struct exp_sum */
    void *digests;   /* device, rank 0: every rank's, rank by rank */
    size_t *bytes;   /* owns [world] what each rank sends */
    struct candidate_list *lists; /* owns [world] while they are merged */
    /* host, rank 0, grown on demand */
    char *landing; /* what was gathered, as it comes from the device */
    size_t landing_capacity;
    float *all_logits; /* [n_logit_row, vocab] */
    size_t all_logits_capacity;
    float *values; /* [n_candidate_row, k] */
    int32_t *ids;
    size_t candidate_capacity;
    float *row_logits; /* [rows of a chunk, vocab] that log-probabilities are computed from */
    size_t row_logits_capacity;
    double *logprobs; /* [n_logprob] */
    size_t logprob_capacity;
    int *wrong; /* owns [max_tok] of each wanted row: whose logits are not finite; see output.c */
    struct step_result *results; /* of the step under way; borrowed */
};

/* One rank's candidates of one row while they are merged. */
struct candidate_list {
    const float *values;
    const int32_t *ids;
    int n;
};

/* Rows of logits at a time: as many as the device may pad a step of generation to. */
enum { OUTPUT_CHUNK = DEVICE_MAX_RECORDED };

struct model {
    struct model_config config;
    struct model_params params;
    struct nn_context nn;
    struct weights weights;
    struct kv_cache kv;
    struct activations act;
    struct batch batch;
    struct output out;
    struct fingerprint fingerprint;
    size_t bytes; /* allocated on this rank for weights, KV and buffers */
};

/* The transformer's body: the device's current batch in, m->act.x [M, H] out (before the final
 * norm). Collective; enqueued. */
bool forward(struct model *m, struct error *err);

/* Rows of the vocabulary that are rank's. */
int model_vocab_of_rank(const struct model *m, int rank);
/* Of this rank's heads. */
struct attention_shape model_attention_shape(const struct model *m);

bool output_init(struct output *o, const struct model *m, struct error *err);
/* Rank 0, before any communication: room for the step's results, and pointers to it.
 * Errors: MEMORY. */
bool output_prepare(struct model *m, const struct step *step, struct step_result *results,
                    struct error *err);
/* The k of a step that wants k candidates of each of at most OUTPUT_CHUNK rows and nothing else,
 * as the steps of generation do; 0 for any other. */
int output_candidates_only(const struct model *m);
/* Such a step's final norm, head, candidates and their gather to rank 0. Collective; enqueued, so
 * that it can be recorded. */
bool output_enqueue(struct model *m, int k, struct error *err);
/* Waits for what output_enqueue gathers; on rank 0, merges it into the results. */
bool output_collect(struct model *m, int k, struct error *err);
/* Any step's final norm, head, and what each sequence asked for, gathered to rank 0. Collective. */
bool output_run(struct model *m, struct error *err);
void output_finish(struct output *o, const struct model *m);

/* ---- judge.c, on rank 0 ---- */

/* What is said of a row: one of these, or the only rank whose logits are not finite. */
enum { OUTPUT_FINE = -2, OUTPUT_WRONG = -1 };

/* [vocab], rank by rank. */
int output_judge_logits(const struct model *m, const float *row);
/* [world], not merged yet. Seen is where none of a rank's logits is a number. */
int output_judge_candidates(const struct model *m, const struct candidate_list *lists);
/* One row's sums of each rank, `stride` apart. */
int output_judge_sums(const struct model *m, const struct exp_sum *sums, size_t stride);
/* After a step: tells which results are not finite. */
void output_judge(struct model *m);
