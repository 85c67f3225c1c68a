/* Weight matrices: row-major in the device's element type, whatever the checkpoint has. bf16 from
 * f32 and f16 rounds to nearest even; f16 also loses three bits of its mantissa that way. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/widen.h"
#include "device/cuda/cuda_device.h"

size_t cuda_matrix_bytes(const struct device *d, enum dtype dtype, int rows, int cols,
                         int leaf_cols) {
    (void)dtype;
    (void)leaf_cols;
    return (size_t)rows * (size_t)cols * dtype_size(d->act);
}

bool cuda_matrix_create(struct device *d, enum dtype dtype, int rows, int cols, int leaf_cols,
                        struct matrix **out, struct error *err) {
    if (dtype_is_quantized(dtype)) {
        return error_set(err, ERROR_UNSUPPORTED, "%s: quantized weights are for the host alone",
                         dtype_name(dtype));
    }
    size_t bytes = cuda_matrix_bytes(d, dtype, rows, cols, leaf_cols);
    struct matrix *m = calloc(1, sizeof *m);
    if (!m) {
        return error_set(err, ERROR_MEMORY, "no memory for a matrix");
    }
    m->rows = rows;
    m->cols = cols;
    cudaError_t e = bytes ? cudaMalloc(&m->data, bytes) : cudaSuccess;
    if (e != cudaSuccess) {
        free(m);
        cuda_error(err, e, "cudaMalloc");
        return error_wrap(err, "a matrix of %d x %d", rows, cols);
    }
    *out = m;
    return true;
}

void cuda_matrix_destroy(struct device *d, struct matrix *m) {
    if (m) {
        cuda_give_back(cuda_of(d), m->data);
        free(m);
    }
}

/* As most checkpoints are: nothing to convert, and one thread must keep up with the disk. */
static size_t copy_bf16(uint16_t *dst, const void *src, size_t n) {
    size_t bad = 0;
    memcpy(dst, src, n * sizeof *dst);
    for (size_t i = 0; i < n; i++) {
        bad += (dst[i] & 0x7f80) == 0x7f80;
    }
    return bad;
}

/* n values as the device's type; returns how many are NaN or infinite. */
static size_t convert(void *dst, enum dtype to, const void *src, enum dtype from, size_t n) {
    size_t bad = 0;
    if (from == DTYPE_BF16 && to == DTYPE_BF16) {
        return copy_bf16(dst, src, n);
    }
    for (size_t i = 0; i < n; i++) {
        float x = widen_at(from, src, i);
        bad += !isfinite(x);
        if (to == DTYPE_F32) {
            ((float *)dst)[i] = x;
        } else {
            ((uint16_t *)dst)[i] = narrow_bf16(x);
        }
    }
    return bad;
}

/* A part that fits a staging buffer. */
static bool fill_part(struct cuda_device *c, struct matrix *m, int row, int n_rows, int col,
                      int n_cols, enum dtype src_dtype, const char *src, size_t src_stride,
                      size_t *n_nonfinite, struct error *err) {
    enum dtype act = c->base.act;
    size_t size = dtype_size(act), width = (size_t)n_cols * size;
    struct cuda_staging *s;
    if (!cuda_staging_next(c, &s, err)) {
        return false;
    }
    for (int r = 0; r < n_rows; r++) {
        *n_nonfinite += convert((char *)s->data + (size_t)r * width, act,
                                src + (size_t)r * src_stride, src_dtype, (size_t)n_cols);
    }
    char *dst = (char *)m->data + ((size_t)row * (size_t)m->cols + (size_t)col) * size;
    CUDA_STREAM_TRY(c,
                    cudaMemcpy2DAsync(dst, (size_t)m->cols * size, s->data, width, width,
                                      (size_t)n_rows, cudaMemcpyHostToDevice, c->stream),
                    "cudaMemcpy2DAsync of weights");
    return cuda_staging_used(c, s, err);
}

bool cuda_matrix_fill(struct device *d, struct matrix *m, int row, int n_rows, int col, int n_cols,
                      enum dtype src_dtype, const void *src, size_t src_stride, size_t *n_nonfinite,
                      struct error *err) {
    struct cuda_device *c = cuda_of(d);
    if (row < 0 || col < 0 || n_rows < 0 || n_cols < 0 || n_rows > m->rows - row ||
        n_cols > m->cols - col) {
        return error_set(err, ERROR_SHAPE, "rows %d + %d, columns %d + %d of a %d x %d matrix", row,
                         n_rows, col, n_cols, m->rows, m->cols);
    }
    int most = (int)(CUDA_STAGING_BYTES / dtype_size(d->act)); /* values */
    for (int j = 0, w; j < n_cols; j += w) {
        w = n_cols - j < most ? n_cols - j : most;
        for (int i = 0, h; i < n_rows; i += h) {
            h = n_rows - i < most / w ? n_rows - i : most / w;
            const char *from =
                (const char *)src + (size_t)i * src_stride + (size_t)j * dtype_size(src_dtype);
            if (!fill_part(c, m, row + i, h, col + j, w, src_dtype, from, src_stride, n_nonfinite,
                           err)) {
                return false;
            }
        }
    }
    return true;
}
