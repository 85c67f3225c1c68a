/* The inside of struct model, for the files of this folder. */
#pragma once

#include "model/model.h"
#include "model/weights.h"
#include "nn/kv_cache.h"

/* Activations of one step, M = tokens of the step; all device memory, f32. */
struct activations {
    float *x;         /* [M, H] the residual stream */
    float *h;         /* [M, H] normed, and the row-parallel results */
    float *qkv;       /* [M, (h + 2k) D] */
    float *attention; /* [M, h D] */
    float *gate_up;   /* [M, 2 F] */
    float *mlp;       /* [M, F] */
    float *pieces;    /* [n_piece, M, H] partial sums of a row-parallel layer */
    float *rope;      /* [ctx, D] */
};

/* The tokens of a step as the device operations want them; host memory. */
struct batch {
    int n_tok;
    int n_seq;
    int32_t *ids;         /* owns [max_tok] */
    struct seq_run *seqs; /* owns [STEP_MAX_SEQS] */
};

/* Buffers of the head and of the results; see output.c. */
struct output {
    float *hidden;             /* device [OUTPUT_CHUNK, H] */
    float *logits;             /* device [OUTPUT_CHUNK, V] this rank's part */
    float *gathered;           /* device, rank 0: [OUTPUT_CHUNK, vocab], rank by rank */
    void *candidates;          /* device [OUTPUT_CHUNK * STEP_MAX_CANDIDATES] values, then ids */
    void *gathered_candidates; /* device, rank 0: every rank's, rank by rank */
    size_t *bytes;             /* [world] what each rank sends */
    struct output_row *rows;   /* [max_tok] */
    float *all_logits;         /* host, rank 0, grown on demand: [n_logit_row, vocab] */
    size_t all_logits_capacity;
    float *values; /* host, rank 0, grown on demand: [n_candidate_row, k] */
    int32_t *ids;
    size_t candidate_capacity;
};

enum { OUTPUT_CHUNK = 32 };

struct model {
    struct model_config config;
    struct model_params params;
    struct nn_context nn;
    struct weights weights;
    struct kv_cache kv;
    struct activations act;
    struct batch batch;
    struct output out;
    size_t bytes; /* allocated on this rank for weights, KV and buffers */
};

/* The transformer's body: batch in, m->act.x [M, H] out (before the final norm). Collective. */
bool forward(struct model *m, struct error *err);

bool output_init(struct output *o, const struct model *m, struct error *err);
/* Rank 0, before any communication: room for the step's results, and pointers to it.
 * Errors: MEMORY. */
bool output_prepare(struct model *m, const struct step *step, struct step_result *results,
                    struct error *err);
/* Final norm, head, and what each sequence asked for, gathered to rank 0. Collective. */
bool output_run(struct model *m, const struct step *step, struct error *err);
void output_finish(struct output *o, const struct model *m);
