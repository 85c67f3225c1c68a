#include "device/host/host.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/widen.h"

static size_t panel_count(int rows) {
    return ((size_t)rows + VEC_WIDTH - 1) / VEC_WIDTH;
}

static size_t panel_bytes(enum dtype dtype, int n_unit) {
    return VEC_WIDTH * (size_t)n_unit * dtype_size(dtype);
}

size_t host_matrix_bytes(const struct device *d, enum dtype dtype, int rows, int cols,
                         int leaf_cols) {
    (void)d;
    return panel_count(rows) * panel_bytes(dtype, dtype_units(dtype, cols, leaf_cols));
}

bool host_matrix_create(struct device *d, enum dtype dtype, int rows, int cols, int leaf_cols,
                        struct matrix **out, struct error *err) {
    if (rows < 0 || cols < 0 || leaf_cols < 0 || (unsigned)dtype >= DTYPE_COUNT) {
        return error_set(err, ERROR_SHAPE, "a matrix of %d rows and %d columns", rows, cols);
    }
    struct matrix *m = calloc(1, sizeof *m);
    if (!m) {
        return error_set(err, ERROR_MEMORY, "no memory for a matrix");
    }
    *m = (struct matrix){.dtype = dtype, .rows = rows, .cols = cols, .leaf_cols = leaf_cols};
    m->n_unit = dtype_units(dtype, cols, leaf_cols);
    m->panel_bytes = panel_bytes(dtype, m->n_unit);
    m->bytes = host_matrix_bytes(d, dtype, rows, cols, leaf_cols);
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

bool host_matrix_has_bound(const struct matrix *m, int col) {
    int in_leaf = m->leaf_cols ? col % m->leaf_cols : col;
    return col == m->cols || !dtype_is_quantized(m->dtype) || in_leaf % DTYPE_GROUP == 0;
}

/* Columns from col on, before end, that lie in one leaf. */
static int run_of_leaf(const struct matrix *m, int col, int end) {
    int leaf_end = m->leaf_cols ? col - col % m->leaf_cols + m->leaf_cols : end;
    return (leaf_end < end ? leaf_end : end) - col;
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
    if (!host_matrix_has_bound(m, col) || !host_matrix_has_bound(m, col + n_cols)) {
        return error_set(err, ERROR_SHAPE, "columns %d + %d are not whole groups of %d", col,
                         n_cols, DTYPE_GROUP);
    }
    if (dtype_is_quantized(dtype) ||
        (dtype != m->dtype && m->dtype != DTYPE_F32 && !dtype_is_quantized(m->dtype))) {
        return error_set(err, ERROR_UNSUPPORTED, "%s values for a matrix of %s", dtype_name(dtype),
                         dtype_name(m->dtype));
    }
    return true;
}

/* One row of the source to columns [col, col + n) of row `row`. */
static void quantize(const struct host_kernels *kernels, const struct matrix *m, int row, int col,
                     int n, enum dtype src_dtype, const unsigned char *src) {
    unsigned char *panel = m->data + (size_t)(row / VEC_WIDTH) * m->panel_bytes;
    for (int c = 0, run; c < n; c += run) {
        run = run_of_leaf(m, col + c, col + n);
        int unit = dtype_units(m->dtype, col + c, m->leaf_cols);
        kernels->quantize_row(panel + (size_t)unit * VEC_WIDTH * dtype_size(m->dtype),
                              row % VEC_WIDTH, src + (size_t)c * dtype_size(src_dtype), run,
                              src_dtype, m->dtype);
    }
}

static void fill_quantized(const struct host_kernels *kernels, const struct matrix *m, int row,
                           int n_rows, int col, int n_cols, enum dtype src_dtype,
                           const unsigned char *src, size_t src_stride, size_t *n_nonfinite) {
    for (int r = 0; r < n_rows; r++) {
        const unsigned char *from = src + (size_t)r * src_stride;
        *n_nonfinite += kernels->count_nonfinite(src_dtype, from, n_cols);
        quantize(kernels, m, row + r, col, n_cols, src_dtype, from);
    }
}

bool host_matrix_fill(struct device *d, struct matrix *m, int row, int n_rows, int col, int n_cols,
                      enum dtype src_dtype, const void *src, size_t src_stride, size_t *n_nonfinite,
                      struct error *err) {
    const struct host_kernels *kernels = host_of(d)->kernels;
    if (!check_fill(m, row, n_rows, col, n_cols, src_dtype, err)) {
        return false;
    }
    if (dtype_is_quantized(m->dtype)) {
        fill_quantized(kernels, m, row, n_rows, col, n_cols, src_dtype, src, src_stride,
                       n_nonfinite);
        return true;
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

/* Weight i of lane `row` of a panel's group. */
static int quant_at(enum dtype dtype, const unsigned char *group, int row, int i) {
    const unsigned char *quants = group + VEC_WIDTH * sizeof(uint16_t) + 4 * row;
    if (dtype == DTYPE_Q8_0) {
        return quants[i / 4 * 64 + i % 4] - 128;
    }
    int half = i % (DTYPE_GROUP / 2);
    int pair = quants[half / 4 * 64 + half % 4];
    return (i == half ? pair & 15 : pair >> 4) - 8;
}

void host_matrix_row(const struct matrix *m, int row, float *y) {
    const unsigned char *panel = m->data + (size_t)(row / VEC_WIDTH) * m->panel_bytes;
    int lane = row % VEC_WIDTH;
    if (!dtype_is_quantized(m->dtype)) {
        for (int i = 0; i < m->cols; i++) {
            y[i] = widen_at(m->dtype, panel, (size_t)i * VEC_WIDTH + lane);
        }
        return;
    }
    for (int i = 0, n; i < m->cols; i += n) {
        n = run_of_leaf(m, i, m->cols);
        n = n < DTYPE_GROUP ? n : DTYPE_GROUP;
        const unsigned char *group = panel + (size_t)dtype_units(m->dtype, i, m->leaf_cols) *
                                                 VEC_WIDTH * dtype_size(m->dtype);
        float d = widen_at(DTYPE_F16, group, (size_t)lane);
        for (int k = 0; k < n; k++) {
            y[i + k] = d * (float)quant_at(m->dtype, group, lane, k);
        }
    }
}
