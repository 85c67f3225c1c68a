/* The operations of device.h as their documentation says them: one number at a time, in the one
 * order, with nothing but fmaf. What every host kernel must equal to the bit. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/random.h"
#include "device/device.h"

/* w [rows][cols], widened. plan may be NULL. */
void ref_linear(float *y, const float *x, size_t x_stride, const float *w, int rows, int cols,
                int n_tok, const struct leaf_plan *plan);
/* d rounded to f16, and q [32], of n <= 32 weights; dtype: Q8_0 or Q4_0. */
float ref_quantize(enum dtype dtype, int *q, const float *w, int n);
/* The same as ref_linear with w quantized to dtype, in groups that start anew every leaf_cols. */
void ref_linear_quantized(float *y, const float *x, size_t x_stride, enum dtype dtype,
                          const float *w, int rows, int cols, int leaf_cols, int n_tok,
                          const struct leaf_plan *plan);
float ref_exp(float x);
float ref_sum(const float *x, int n);                                           /* in 16 lanes */
void ref_rmsnorm(float *y, const float *x, const float *w, int dim, float eps); /* one row */
float ref_silu_mul(float gate, float up);
void ref_rope(float *x, const float *rope, int head_dim); /* one head */
float ref_bf16(float x);                                  /* rounded to it */
/* One query row over n positions; k and v [n][head_dim]. */
void ref_attention(float *out, const float *q, const float *k, const float *v, int n, int head_dim,
                   float scale);

/* ---- what the tests share ---- */

enum { N_ISA_NAME = 4 };
extern const char *const isa_names[N_ISA_NAME];
/* A host device, or NULL where the instruction set is not usable here. */
struct device *make_device(const char *isa, int n_thread);
/* Fails on the first difference in bits; any NaN equals any other. */
void assert_same_bits(const float *got, const float *want, size_t n, const char *what);
/* Numbers around +-1 and, one in `odd` (0: none), a zero, denormal, infinity or NaN. */
void fill_floats(struct random *r, float *x, size_t n, int odd);
int random_int(struct random *r, int first, int last); /* inclusive */
