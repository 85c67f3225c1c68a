/* Where a model is: a directory, or nowhere. "random:SHAPE" is a Qwen3 model of a known shape in
 * BF16, whose weights are made when they are read: a function of where they would stand in a file,
 * the same on every rank of every world. For measuring speed without a checkpoint. */
#pragma once

#include "base/error.h"
#include "format/safetensors.h"

#define CHECKPOINT_RANDOM "random:"
/* The shapes there are. */
#define CHECKPOINT_SHAPES "qwen3-0.6b|qwen3-1.7b|qwen3-4b|qwen3-8b|qwen3-14b|qwen3-32b"

enum { CHECKPOINT_CONFIG_BYTES = 640 };

bool checkpoint_is_random(const char *dir);

/* What config.json would say, as JSON in out [CHECKPOINT_CONFIG_BYTES]. Errors: CONFIG (there is no
 * such shape). */
bool checkpoint_random_config(const char *dir, char *out, struct error *err);

/* The weights: norms are 1, all else lies in +-[2^-7, 2^-5), so that activations stay sane through
 * any number of layers. Errors: those of st_open, CONFIG (there is no such shape). */
bool checkpoint_open(struct st_set **out, const char *dir, struct error *err);
