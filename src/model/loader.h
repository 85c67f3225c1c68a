/* Reads parts of tensors from disk into packed matrices and device vectors. Jobs are collected
 * first, with every name and shape checked, and run afterwards, in parallel. */
#pragma once

#include "device/device.h"
#include "format/safetensors.h"
#include "model/model.h"

struct loader; /* opaque */

/* A block of a [rows, cols] tensor. */
struct loader_part {
    int row;
    int n_rows;
    int col;
    int n_cols;
};

/* set, device: borrowed. Errors: MEMORY. */
bool loader_create(struct loader **out, const struct st_set *set, struct device *device,
                   struct error *err);

/* Tensor `name` must be [rows, cols]; `part` of it goes to rows [at_row, ...), columns [0, ...) of
 * m, when the loader runs. Errors: ST_TENSOR, UNSUPPORTED, MEMORY. */
bool loader_add_matrix(struct loader *l, const char *name, int rows, int cols,
                       struct loader_part part, struct matrix *m, int at_row, struct error *err);

/* Tensor `name` must be [size]; elements [first, first + n) go to dst [n] f32 device, widened. */
bool loader_add_vector(struct loader *l, const char *name, int size, int first, int n, float *dst,
                       struct error *err);

/* The stored dtype of tensor `name`, which must be [rows, cols]: shapes are held to config.json
 * before anything is allocated for them. Errors: ST_TENSOR, UNSUPPORTED. */
bool loader_dtype(const struct loader *l, const char *name, int rows, int cols, enum dtype *out,
                  struct error *err);

/* Runs all jobs. Warns of tensors with NaN or infinite values and counts them.
 * Errors: IO, ST_TRUNCATED, MEMORY. */
bool loader_run(struct loader *l, const struct model_progress *progress, uint64_t *bytes_read,
                uint64_t *n_nonfinite, struct error *err);

void loader_destroy(struct loader *l);
