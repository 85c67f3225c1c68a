#include "device/host/host.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/widen.h"

static size_t panel_count(int rows) {
    return ((size_t)rows + VEC_WIDTH - 1) / VEC_WIDTH;
}

size_t host_matrix_bytes(const struct device *d, enum dtype dtype, int rows, int cols) {
    (void)d;
    return panel_count(rows) * VEC_WIDTH * (size_t)cols * dtype_size(dtype);
}

bool host_matrix_create(struct device *d, enum dtype dtype, int rows, int cols, struct matrix **out,
                        struct error *err) {
    (void)d;
    if (rows < 0 || cols < 0 || (unsigned)dtype >= DTYPE_COUNT) {
        return error_set(err, ERROR_SHAPE, "a matrix of %d rows and %d columns", rows, cols);
    }
    struct matrix *m = calloc(1, sizeof *m);
    if (!m) {
        return error_set(err, ERROR_MEMORY, "no memory for a matrix");
    }
    *m = (struct matrix){.dtype = dtype, .rows = rows, .cols = cols};
    m->panel_bytes = VEC_WIDTH * (size_t)cols * dtype_size(dtype);
    m->bytes = host_matrix_bytes(d, dtype, rows, cols);
    m->data = host_memory_alloc(m->bytes);
    if (!m->data) {
        size_t bytes = m->bytes;
        free(m);
        return error_set(err, ERROR_MEMORY, "cannot allocate %zu bytes for a matrix", bytes);
    }
    *out = m;
    return true;
}

void host_matrix_destroy(struct device *d, struct matrix *m) {
    (void)d;
    if (m) {
        host_memory_free(m->data, m->bytes);
        free(m);
    }
}

/* Some rows of one panel, some columns. */
struct strip {
    const unsigned char *rows[VEC_WIDTH]; /* the source's */
    int first;                            /* row in the panel */
    int n_row;
    int n_col;
};

/* to: the panel at the strip's first column. */
static void pack(const struct host_kernels *kernels, const struct matrix *m, unsigned char *to,
                 const struct strip *s, enum dtype dtype) {
    size_t element = dtype_size(m->dtype);
    if (dtype == m->dtype && s->n_row == VEC_WIDTH) {
        kernels->interleave(to, s->rows, s->n_col, element);
        return;
    }
    for (int i = 0; i < s->n_col; i++) {
        for (int r = 0; r < s->n_row; r++) {
            size_t at = (size_t)i * VEC_WIDTH + s->first + r;
            if (dtype == m->dtype) {
                memcpy(to + at * element, s->rows[r] + i * element, element);
            } else {
                ((float *)(void *)to)[at] = widen_at(dtype, s->rows[r], (size_t)i);
            }
        }
    }
}

static bool check_fill(const struct matrix *m, int row, int n_rows, int col, int n_cols,
                       enum dtype dtype, struct error *err) {
    if (row < 0 || n_rows < 0 || row > m->rows - n_rows || col < 0 || n_cols < 0 ||
        col > m->cols - n_cols) {
        return error_set(err, ERROR_SHAPE,
                         "rows %d + %d, columns %d + %d do not fit a matrix of %d x %d", row,
                         n_rows, col, n_cols, m->rows, m->cols);
    }
    if (dtype != m->dtype && m->dtype != DTYPE_F32) {
        return error_set(err, ERROR_UNSUPPORTED, "%s values for a matrix of %s", dtype_name(dtype),
                         dtype_name(m->dtype));
    }
    return true;
}

bool host_matrix_fill(struct device *d, struct matrix *m, int row, int n_rows, int col, int n_cols,
                      enum dtype src_dtype, const void *src, size_t src_stride, size_t *n_nonfinite,
                      struct error *err) {
    const struct host_kernels *kernels = host_of(d)->kernels;
    if (!check_fill(m, row, n_rows, col, n_cols, src_dtype, err)) {
        return false;
    }
    size_t element = dtype_size(m->dtype);
    for (int r = row, n; r < row + n_rows; r += n) {
        struct strip s = {.first = r % VEC_WIDTH};
        n = VEC_WIDTH - s.first;
        n = n < row + n_rows - r ? n : row + n_rows - r;
        s.n_row = n;
        unsigned char *panel = m->data + (size_t)(r / VEC_WIDTH) * m->panel_bytes;
        for (int c = 0; c < n_cols; c += PACK_COLUMNS) {
            s.n_col = n_cols - c < PACK_COLUMNS ? n_cols - c : PACK_COLUMNS;
            for (int i = 0; i < n; i++) {
                s.rows[i] = (const unsigned char *)src + (size_t)(r - row + i) * src_stride +
                            (size_t)c * dtype_size(src_dtype);
                *n_nonfinite += kernels->count_nonfinite(src_dtype, s.rows[i], s.n_col);
            }
            pack(kernels, m, panel + (size_t)(col + c) * VEC_WIDTH * element, &s, src_dtype);
        }
    }
    return true;
}
