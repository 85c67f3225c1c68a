/* One safetensors file: eight bytes of header length, a JSON header, the tensors' data. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "format/safetensors.h"

struct st_file {
    char *path; /* owns */
    int fd;
    uint64_t size;
};

/* A growing list of tensors, which owns their names (one allocation each, st_tensor.name). */
struct st_list {
    struct st_tensor *items;
    int n;
    int capacity;
};

/* Opens a regular file and appends its tensors to `list`, with st_tensor.file = index. As the
 * reference implementation does, demands that the tensors cover the data area without gap, overlap
 * or rest. Takes `path` over, also when it fails. On failure `list` may have grown.
 * Errors: IO, MEMORY, ST_HEADER, ST_TRUNCATED. */
bool st_file_open(struct st_file *out, char *path, int index, struct st_list *list,
                  struct error *err);

/* Reads n bytes at a file offset, all or an error. Thread-safe. Errors: IO, ST_TRUNCATED. */
bool st_file_read(const struct st_file *f, uint64_t offset, void *dst, size_t n, struct error *err);

void st_file_close(struct st_file *f); /* accepts a zeroed file */
/* Appends t with copies of both names, which share one allocation. Errors: MEMORY. */
bool st_list_append(struct st_list *list, struct st_tensor t, struct error *err);
void st_list_finish(struct st_list *list);
