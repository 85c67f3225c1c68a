/* What tells one copy of a model from another, for the price of some reads: ranks compare theirs,
 * since each reads other slices of the weights and would not notice that a host has other files. */
#pragma once

#include <stdint.h>

#include "base/error.h"
#include "format/safetensors.h"
#include "model/config.h"

struct model_progress;

struct fingerprint {
    uint64_t config;  /* of what the forward pass takes from config.json */
    uint64_t headers; /* of the weights' files: names, sizes, and the tensors in them */
    /* Of their data: every vector (norms, biases), and blocks of 4 KiB: the first, the last, and 14
     * at places that depend on the data's size alone. */
    uint64_t content;
};

/* Of all files, or of the one that is `file`th in the order of their names, counted from 1. One
 * that is not there has a fingerprint of its own. `progress` is told now and then that this goes
 * on, of no bytes; may be NULL. Errors: IO, ST_TRUNCATED, MEMORY, progress's. */
bool fingerprint_read(struct fingerprint *out, const struct model_config *config,
                      const struct st_set *set, int file, const struct model_progress *progress,
                      struct error *err);

/* The plain name of that file; NULL: there is none. Borrowed from the set. */
const char *fingerprint_file(const struct st_set *set, int file);
