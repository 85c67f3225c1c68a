/* What the fuzz targets share. A target, fuzz_NAME.c, is a fuzz_one that takes arbitrary bytes, and
 * aborts where a promise is broken. Linked with libFuzzer it is fuzzed (scripts/fuzz), linked with
 * replay.c it takes the files of corpus/NAME once (the unit suite). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "text/tokenizer.h"

/* The input, taken apart from the front. */
struct fuzz_input {
    const uint8_t *data;
    size_t size;
};

/* The target. */
void fuzz_one(struct fuzz_input in);
/* What libFuzzer and replay.c call: the target, which must be done within a second of CPU. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* assert, but never compiled out. */
#define FUZZ_CHECK(condition)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, #condition);                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* The next byte; 0 at the end. */
unsigned fuzz_byte(struct fuzz_input *in);
/* What comes before the next zero byte, which is skipped; all of it where there is none. */
struct fuzz_input fuzz_part(struct fuzz_input *in);

/* A directory of this process alone, gone when it ends. */
const char *fuzz_dir(void);
/* Writes DIR/name in that directory: n bytes, and zeros up to `size`. */
void fuzz_put(const char *name, const void *data, size_t n, size_t size);
void fuzz_drop(const char *name);

/* Holds `ok`, and where it is false the error, to what errors promise: one line, printable, of a
 * kind that bad input may have. Returns ok. */
bool fuzz_result(bool ok, const struct error *err);
/* The same of a message alone. */
void fuzz_message(const char *text);

/* The tokenizer of tests/data/NAME, loaded once. */
const struct tokenizer *fuzz_tokenizer(const char *name);
