/* A model's safetensors: one file, or shards named by model.safetensors.index.json.
 * Everything a header claims is checked against the file's size before it is believed.
 * Format: https://github.com/huggingface/safetensors (README, "Format"). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/error.h"

enum { ST_MAX_DIMS = 8 };

struct st_tensor {
    const char *name;       /* borrowed from the set */
    const char *dtype_name; /* as the file spells it */
    bool supported;         /* dtype is one of enum dtype */
    enum dtype dtype;
    int n_dim; /* ST_MAX_DIMS + 1: more than are kept, so no shape that st_require is asked for */
    int64_t shape[ST_MAX_DIMS];
    int file;        /* index into the set's files */
    uint64_t offset; /* from the file's start */
    uint64_t bytes;
};

struct st_set; /* opaque: open files and their tensors */

/* Opens DIR/model.safetensors, or the shards of DIR/model.safetensors.index.json. Symbolic links
 * are followed (the hub's cache uses them); an index may only name plain files in DIR itself.
 * Errors (name file, and tensor or field): IO, JSON, ST_HEADER, ST_TRUNCATED. */
bool st_open(struct st_set **out, const char *dir, struct error *err);

/* Writes n bytes of a tensor, from byte `begin` on. Pure, and called by many threads. */
typedef void st_maker(const struct st_tensor *t, uint64_t begin, void *dst, size_t n);

/* A set of one file that is nowhere: `name` is what errors call it, tensors [n] follow each other
 * without gaps from offset 0, and `make` has their bytes when they are read. name, tensors: copied.
 * Errors: MEMORY. */
bool st_make(struct st_set **out, const char *name, const struct st_tensor *tensors, int n,
             st_maker *make, struct error *err);

/* NULL when there is no such tensor. */
const struct st_tensor *st_find(const struct st_set *s, const char *name);

/* The tensor, held to a shape (n_dim numbers in shape). Errors: ST_TENSOR (missing, wrong shape),
 * UNSUPPORTED (dtype; quantized checkpoints are named as such). */
bool st_require(const struct st_set *s, const char *name, int n_dim, const int64_t *shape,
                const struct st_tensor **out, struct error *err);

int st_count(const struct st_set *s);
const struct st_tensor *st_at(const struct st_set *s, int i);
int st_file_count(const struct st_set *s);
const char *st_file_path(const struct st_set *s, int file);
uint64_t st_file_size(const struct st_set *s, int file);

/* Reads n bytes from byte `begin` of the tensor into dst, all of them or an error.
 * Thread-safe. Errors: IO, ST_TRUNCATED (names file and tensor). */
bool st_read(const struct st_set *s, const struct st_tensor *t, uint64_t begin, void *dst, size_t n,
             struct error *err);

/* Reads n bytes at an offset from the file's start. Thread-safe. Errors: IO, ST_TRUNCATED. */
bool st_read_file(const struct st_set *s, int file, uint64_t offset, void *dst, size_t n,
                  struct error *err);

void st_close(struct st_set *s);
