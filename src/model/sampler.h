/* From logits to a token. Deterministic: the same candidates and seed give the same token on every
 * machine and for every world size. Few candidates are weighed in f64 by base/realmath, whole
 * vocabularies by device/host/row.h, whose weights are f32. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/random.h"
#include "model/config.h"

/* What is added to a token's logit: -100 as good as forbids it, 100 as good as demands it. */
struct logit_bias {
    int32_t id;
    double bias;
};

struct sampling {
    double temperature;        /* 0: greedy */
    int top_k;                 /* 0: off */
    double top_p;              /* 1: off */
    double min_p;              /* 0: off */
    double repetition_penalty; /* 1: off */
    double presence_penalty;   /* 0: off */
    double frequency_penalty;  /* 0: off */
    uint64_t seed;
    const struct logit_bias *biases; /* [n_bias] borrowed for the sampler's life; no id twice */
    int n_bias;
};

/* Greedy, nothing else. */
struct sampling sampling_default(void);

/* What the model's generation_config.json recommends. What it leaves open: temperature 1, filters
 * and penalties off. Where it says do_sample: false, only its repetition_penalty counts. */
struct sampling sampling_recommended(const struct model_config *c);

/* Errors: USAGE, naming the field and its range. */
bool sampling_validate(const struct sampling *s, struct error *err);

/* How many candidates a choice needs: 1 for greedy, top_k for top-k without penalties and biases; 0
 * when it needs all logits. */
int sampling_candidates(const struct sampling *s);

struct sampler; /* opaque: options, random state, counts of tokens seen */

bool sampler_create(struct sampler **out, const struct sampling *s, struct error *err);
/* Tells the sampler of a token of the prompt or of the output. The repetition penalty counts both,
 * presence and frequency the output alone. Errors: INPUT (no token id), MEMORY. */
bool sampler_accept(struct sampler *s, int32_t token, bool is_prompt, struct error *err);

/* Picks from candidates sorted by logit, largest first, ties by lower id.
 * Order of filters: top_k, temperature, top_p, min_p (as llama.cpp and transformers agree on the
 * set kept). values, ids [n] borrowed. NaN counts as -inf; among nothing but that the lowest id is
 * as good as any, so that a broken model still ends its text. Errors: SHAPE (n < 1). */
bool sampler_pick(struct sampler *s, const float *values, const int32_t *ids, int n, int32_t *out,
                  struct error *err);

/* Picks from all logits [vocab], adding biases first, then applying penalties, in the order of
 * vLLM; biases of ids outside the vocabulary do nothing. logits is clobbered. With the same options
 * and seed it chooses what sampler_pick chooses from the sorted top_k of them, where top_k is at
 * most STEP_MAX_CANDIDATES. Errors: SHAPE, MEMORY. */
bool sampler_pick_logits(struct sampler *s, float *logits, int vocab, int32_t *out,
                         struct error *err);

void sampler_destroy(struct sampler *s);
