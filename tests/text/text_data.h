/* Test data of the text layer: where it is, and the tokenizers made from it. */
#pragma once

#include <jansson.h>

#include "text/tokenizer.h"

/* LOCKSTEP_TEST_DATA/name, in a static buffer. */
const char *text_data_path(const char *name);

/* Calls `check` for every line of a .jsonl file; returns how many there were. */
int text_data_each(const char *name, void (*check)(const json_t *line, void *ctx), void *ctx);

/* The checkpoint LOCKSTEP_TEST_DATA/name's tokenizer. */
struct tokenizer *text_data_tokenizer(const char *name);

/* Qwen3's tokenizer, unpacked by xz or Python to a directory that is gone afterwards; NULL, with
 * the reason printed, when neither is here. */
struct tokenizer *text_data_qwen3(void);

/* A directory of its own under /tmp, in out[64]. */
void text_data_make_dir(char *out);
/* Writes dir/name. */
void text_data_write(const char *dir, const char *name, const void *bytes, size_t n);
/* Removes the files that the tests write, and the directory. */
void text_data_remove_dir(const char *dir);

/* Asserts that ids[0..n) are the integers of a JSON array; `what` is printed when not. */
void text_data_assert_ids(const char *what, const json_t *want, const int32_t *ids, size_t n);
