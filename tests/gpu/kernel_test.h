/* What the tests of the CUDA kernels share: each kernel against a reference in double precision, at
 * odd sizes, on whatever device the loader finds: a GPU, or the simulated one.
 *
 * Tolerances: f32 1e-4, bf16 2^-7 (two roundings of 2^-8), both times the largest value of the row.
 */
#pragma once

#include "test.h"

#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

#include "base/random.h"
#include "device/cuda/kernels.h"

extern struct random rng;
extern cudaStream_t stream;

/* cmocka's setup and teardown of the group: the two above. */
int kernel_test_start(void **state);
int kernel_test_end(void **state);

/* Fails with CUDA's words. */
void ok(cudaError_t e);

/* ---- numbers ---- */

int random_int(struct random *r, int low, int high); /* inclusive */
float uniform(void);                                 /* from -2 to 2, in steps of 1/500 */
float rounded(enum kernel_type t, float x);
size_t type_size(enum kernel_type t);
/* n values that the type holds exactly; owned by the caller. */
float *values(enum kernel_type t, size_t n);

/* ---- device memory, to be freed by cudaFree; and copies of it, by free ---- */

/* from NULL: as cudaMalloc leaves it. */
void *device_bytes(const void *from, size_t bytes);
void *upload(enum kernel_type t, const float *x, size_t n);
void *upload_ints(const int32_t *x, size_t n);
float *download(enum kernel_type t, const void *p, size_t n);

/* ---- comparison of rows of dim values, within the tolerance; frees nothing ---- */

void same(const char *what, enum kernel_type t, const float *got, const double *want, size_t n_row,
          size_t dim);
void check(const char *what, enum kernel_type t, const void *device, const double *want,
           size_t n_row, size_t dim);
