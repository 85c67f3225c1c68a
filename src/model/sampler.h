/* From logits to a token. Deterministic: the same candidates and seed give the same token on every
 * machine and for every world size. Arithmetic in f64 by base/realmath. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/random.h"

struct sampling {
    double temperature;        /* 0: greedy */
    int top_k;                 /* 0: off */
    double top_p;              /* 1: off */
    double min_p;              /* 0: off */
    double repetition_penalty; /* 1: off */
    double presence_penalty;   /* 0: off */
    double frequency_penalty;  /* 0: off */
    uint64_t seed;
};

/* Greedy, nothing else. */
struct sampling sampling_default(void);

/* Errors: USAGE, naming the field and its range. */
bool sampling_validate(const struct sampling *s, struct error *err);

/* How many candidates a choice needs: 1 for greedy, top_k for top-k without penalties; 0 when it
 * needs all logits. */
int sampling_candidates(const struct sampling *s);

struct sampler; /* opaque: options, random state, counts of tokens seen */

bool sampler_create(struct sampler **out, const struct sampling *s, struct error *err);
/* Tells the sampler of a token of the prompt or of the output. The repetition penalty counts both,
 * presence and frequency the output alone. Errors: INPUT (no token id), MEMORY. */
bool sampler_accept(struct sampler *s, int32_t token, bool is_prompt, struct error *err);

/* Picks from candidates sorted by logit, largest first, ties by lower id.
 * Order of filters: top_k, temperature, top_p, min_p (as llama.cpp and transformers agree on the
 * set kept). values, ids [n] borrowed. NaN counts as -inf; among nothing but that the lowest id is
 * as good as any, so that a broken model still ends its text. Errors: SHAPE (n < 1), MEMORY. */
bool sampler_pick(struct sampler *s, const float *values, const int32_t *ids, int n, int32_t *out,
                  struct error *err);

/* Picks from all logits [vocab], applying penalties first. logits is clobbered. With the same
 * options and seed it chooses what sampler_pick chooses from the sorted top_k of them.
 * Errors: SHAPE, MEMORY. */
bool sampler_pick_logits(struct sampler *s, float *logits, int vocab, int32_t *out,
                         struct error *err);

void sampler_destroy(struct sampler *s);
