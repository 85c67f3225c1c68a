#include "gpu/kernel_test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct random rng;
cudaStream_t stream;

int kernel_test_start(void **state) {
    (void)state;
    random_init(&rng, 7);
    cudaError_t e = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    if (e != cudaSuccess) {
        fprintf(stderr, "no device: %s\n", cudaGetErrorString(e));
        return -1;
    }
    return 0;
}

int kernel_test_end(void **state) {
    (void)state;
    return cudaStreamDestroy(stream) == cudaSuccess ? 0 : -1;
}

void ok(cudaError_t e) {
    if (e != cudaSuccess) {
        fail_msg("%s: %s", cudaGetErrorName(e), cudaGetErrorString(e));
    }
}

/* ---- numbers ---- */

int random_int(struct random *r, int low, int high) {
    return low + (int)(random_unit(r) * (high - low + 1));
}

size_t type_size(enum kernel_type t) {
    return t == KERNEL_F32 ? 4 : 2;
}

static uint16_t to_bf16(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return isnan(x) ? 0x7fff : (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static float from_bf16(uint16_t h) {
    uint32_t u = (uint32_t)h << 16;
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

float rounded(enum kernel_type t, float x) {
    return t == KERNEL_F32 ? x : from_bf16(to_bf16(x));
}

float uniform(void) {
    return (float)random_int(&rng, -1000, 1000) / 500.0f;
}

float *values(enum kernel_type t, size_t n) {
    float *x = malloc((n + 1) * sizeof *x);
    for (size_t i = 0; i < n; i++) {
        x[i] = rounded(t, uniform());
    }
    return x;
}

/* ---- device memory ---- */

void *device_bytes(const void *from, size_t bytes) {
    void *p = NULL;
    ok(cudaMalloc(&p, bytes ? bytes : 1));
    if (from && bytes) {
        ok(cudaMemcpyAsync(p, from, bytes, cudaMemcpyHostToDevice, stream));
        ok(cudaStreamSynchronize(stream));
    }
    return p;
}

void *upload(enum kernel_type t, const float *x, size_t n) {
    uint16_t *half = malloc(2 * (n + 1));
    for (size_t i = 0; i < n; i++) {
        half[i] = to_bf16(x[i]);
    }
    void *p = device_bytes(t == KERNEL_F32 ? (const void *)x : half, n * type_size(t));
    free(half);
    return p;
}

void *upload_ints(const int32_t *x, size_t n) {
    return device_bytes(x, n * sizeof *x);
}

float *download(enum kernel_type t, const void *p, size_t n) {
    float *x = malloc((n + 1) * sizeof *x);
    uint16_t *half = malloc(2 * (n + 1));
    ok(cudaMemcpyAsync(t == KERNEL_F32 ? (void *)x : half, p, n * type_size(t),
                       cudaMemcpyDeviceToHost, stream));
    ok(cudaStreamSynchronize(stream));
    for (size_t i = 0; t == KERNEL_BF16 && i < n; i++) {
        x[i] = from_bf16(half[i]);
    }
    free(half);
    return x;
}

void same(const char *what, enum kernel_type t, const float *got, const double *want, size_t n_row,
          size_t dim) {
    double unit = t == KERNEL_F32 ? 1e-4 : 1.0 / 128;
    for (size_t m = 0; m < n_row; m++) {
        double scale = 1e-3;
        for (size_t i = 0; i < dim; i++) {
            scale = fmax(scale, fabs(want[m * dim + i]));
        }
        for (size_t i = 0; i < dim; i++) {
            double diff = fabs((double)got[m * dim + i] - want[m * dim + i]);
            if (!(diff <= unit * scale)) {
                fail_msg("%s, type %d: row %zu of %zu, column %zu of %zu: %g is not %g", what, t, m,
                         n_row, i, dim, (double)got[m * dim + i], want[m * dim + i]);
            }
        }
    }
}

void check(const char *what, enum kernel_type t, const void *device, const double *want,
           size_t n_row, size_t dim) {
    float *got = download(t, device, n_row * dim);
    same(what, t, got, want, n_row, dim);
    free(got);
}
