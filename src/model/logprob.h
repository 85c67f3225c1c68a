/* The log-probability of a token, in f64, from a row of logits or from what ranks made of its
 * parts. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "device/device.h"

/* log softmax(logits)[id], to within some 1e-7: the exponentials are f32, see device/host/row.h.
 * logits [vocab] f32, host memory; 0 <= id < vocab. NaN where any logit is NaN or +inf, and where
 * all are -inf. The bits depend on nothing but the arguments. */
double logprob_of_row(const float *logits, int vocab, int32_t id);

/* The same to within the parts' f32 rounding. parts[0], parts[stride], ... are the n_part parts
 * that the row was cut into, with one target: the part that holds it has its logit, the others have
 * 0. */
double logprob_of_parts(const struct exp_sum *parts, int n_part, size_t stride);
