/* Rotary position embedding (Su et al., "RoFormer", 2021), as a table of cosines and sines. */
#pragma once

#include "model/config.h"

/* table [n_position][head_dim]: cos of the head_dim/2 angles, then their sin. Angles in f64:
 * position * theta^(-2i/head_dim), for ROPE_LLAMA3 with the frequencies scaled as Llama 3.1's
 * (https://arxiv.org/abs/2407.21783; transformers' modeling_rope_utils.py defines the constants).
 */
void rope_table_fill(float *table, const struct rope_config *rope, int head_dim, int n_position);
