/* Whether a model fits into the memory of the ranks, which those of a host, of a control group or
 * of a GPU share; and what would fit where it does not. Numbers alone. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "model/model.h"

/* What a rank needs, and the memory that is free to it. Bytes; UINT64_MAX where nothing limits. */
struct fit_rank {
    const char *host; /* borrowed */
    struct footprint needs;
    uint64_t own;   /* free to it alone */
    uint64_t group; /* free to all of its group: the ranks of its host with the same group_id */
    uint64_t group_id;
    uint64_t all; /* free to all of its host */
};

/* Ranks that need more than they may take together. */
struct fit_lack {
    int first; /* the lowest of them */
    int n_rank;
    struct footprint needs; /* of all of them */
    uint64_t available;
};

/* Whether all fit into that share, 0 to 1, of what is free; else *lack (may be NULL) says who does
 * not. */
bool fit_holds(const struct fit_rank *ranks, int world, double share, struct fit_lack *lack);

/* What is free to one rank: of what it shares, an equal part. */
uint64_t fit_part(const struct fit_rank *ranks, int world, int rank);

/* As much of the memory as is offered: the rest of the program, and other programs, grow, too. */
#define FIT_SHARE 0.9

/* The most KV blocks, up to those of `needs`, with which the model would fit; 0: it never does.
 * Changes the ranks' needs. */
int64_t fit_blocks(const struct model_needs *needs, struct fit_rank *ranks, int world);

/* "; fits with --ctx 8192, with --kv-dtype bf16, with --max-batch 4 or on 4 ranks with as much
 * memory each", "" where nothing helps. max_batch: of the run, 0: it has no such option. Changes
 * the ranks' needs. */
void fit_advise(const struct model_needs *needs, struct fit_rank *ranks, int world, int max_batch,
                char *out, size_t size);

/* A table of the ranks, with a line for those that share memory and do not fit. */
bool fit_table(const struct fit_rank *ranks, int world, struct buffer *out, struct error *err);
