/* A loaded model: this rank's shard of the weights, its KV cache, and the forward pass. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "comm/comm.h"
#include "device/device.h"
#include "model/config.h"
#include "model/fingerprint.h"
#include "model/footprint.h"
#include "nn/step.h"

struct model; /* opaque */

/* What `load` carries; equal on every rank. */
struct model_params {
    const char *dir;  /* borrowed */
    int32_t ctx;      /* positions of one sequence */
    int32_t n_block;  /* KV blocks of KV_BLOCK positions, shared by all sequences */
    int32_t max_tok;  /* tokens of one step, all sequences together */
    enum dtype kv;    /* of the KV cache: F32 or BF16, and on a GPU that of its activations */
    int32_t file;     /* the fingerprint is of this file of weights; 0: of all */
    enum dtype quant; /* matrices are quantized to this; F32: they stay as they are stored */
};

/* Told now and then while loading: bytes of the shard read so far and in all, of this rank; in all
 * 0 before that is known. A false return, with its error, ends the load. May be NULL. */
struct model_progress {
    bool (*report)(void *user, uint64_t bytes_done, uint64_t bytes_total, struct error *err);
    void *user;
};

/* Also what it takes to tell the same of any other rank of any world with such a device
 * (footprint_of_shard). */
struct model_needs {
    struct footprint own;
    struct model_config config;
    struct footprint_params sizes;
};

/* What model_load would allocate on this rank, and the model's fingerprint, where `print` is not
 * NULL. Reads what that takes, and allocates nothing. Errors: those of model_load. */
bool model_measure(const struct model_params *params, struct device *device, struct comm *comm,
                   const struct model_progress *progress, struct model_needs *out,
                   struct fingerprint *print, struct error *err);

/* Reads this rank's shard. No communication: one rank may take far longer than another, and only
 * the control plane knows whether it still makes progress. Who called it on all ranks unloads those
 * that succeeded when one did not. Errors: those of model_config_load and st_open, UNSUPPORTED
 * (more ranks than query heads, quantized weights on a GPU), MEMORY (model_measure looks ahead). */
bool model_load(struct model **out, const struct model_params *params, struct device *device,
                struct comm *comm, const struct model_progress *progress, struct error *err);

/* Results of a step, in the order of its sequences, on rank 0. Owned by the model and valid until
 * the next step. */
struct step_result {
    const float *logits; /* LOGITS: one row; ALL_LOGITS: n_tok rows of vocab f32, dense; or NULL */
    const float *values; /* CANDIDATES: [n_candidate], largest first; or NULL */
    const int32_t *ids;  /* CANDIDATES: [n_candidate] */
    int n_candidate;
    /* LOGPROBS: [n_tok] log-probabilities of the targets, natural logarithm; NaN where there is no
     * target, and where a logit is NaN or +inf. Or NULL. */
    const double *logprobs;
    bool wrong;     /* some of it is not finite: the model's logits were NaN or infinite */
    int wrong_rank; /* whose part of the vocabulary alone had such; -1: no one rank's */
};

/* Errors: WRONG_RESULT, with the rank where it is one's. */
bool step_result_check(const struct step_result *r, struct error *err);

/* The first half of a step, without communication: checks it, and on rank 0 makes room for its
 * results [step->n_seq] (NULL elsewhere). Errors: PROTOCOL (step_validate's), MEMORY (on rank 0
 * alone, which has yet to ask the others). */
bool model_prepare(struct model *m, const struct step *step, struct step_result *results,
                   struct error *err);
/* The second: runs the forward pass, and fills the results on rank 0. Collective. What it needs is
 * allocated, but for what CUDA allocates by itself. Errors: COMM, DEADLINE, DEVICE. */
bool model_run(struct model *m, struct error *err);
/* Both. */
bool model_step(struct model *m, const struct step *step, struct step_result *results,
                struct error *err);

/* A hash of the bits of a step's results, on rank 0. */
uint64_t model_digest(const struct model *m, const struct step *step,
                      const struct step_result *results);

const struct model_config *model_get_config(const struct model *m);
/* Bytes of weights, KV cache and buffers on this rank. */
size_t model_bytes(const struct model *m);
/* Bytes read from disk, and how many weights were NaN or infinite, on this rank. */
uint64_t model_bytes_read(const struct model *m);
uint64_t model_nonfinite(const struct model *m);
const struct fingerprint *model_fingerprint(const struct model *m);

void model_destroy(struct model *m);
