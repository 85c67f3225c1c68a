#include "model/loader.h"

#include <omp.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"

enum { CHUNK_BYTES = 1 << 20, CHUNK_ROWS = 16 };

struct job {
    const struct st_tensor *tensor;
    int cols; /* of the tensor; 0: a vector */
    struct loader_part part;
    struct matrix *matrix;
    int at_row;
    float *vector;
    atomic_size_t n_nonfinite;
};

struct chunk {
    int job;
    int row; /* of the part */
    int n_rows;
};

struct loader {
    const struct st_set *set;
    struct device *device;
    struct job *jobs;
    size_t n_job, job_capacity;
    struct chunk *chunks;
    size_t n_chunk;
    uint64_t bytes_total;
    size_t buffer_bytes; /* the largest chunk */
};

bool loader_create(struct loader **out, const struct st_set *set, struct device *device,
                   struct error *err) {
    struct loader *l = calloc(1, sizeof *l);
    if (!l) {
        return error_set(err, ERROR_MEMORY, "cannot allocate the loader");
    }
    l->set = set;
    l->device = device;
    *out = l;
    return true;
}

static bool add_job(struct loader *l, const struct job *job, struct error *err) {
    if (l->n_job == l->job_capacity) {
        size_t capacity = l->job_capacity ? 2 * l->job_capacity : 256;
        struct job *jobs = realloc(l->jobs, capacity * sizeof *jobs);
        if (!jobs) {
            return error_set(err, ERROR_MEMORY, "cannot allocate %zu loader jobs", capacity);
        }
        l->jobs = jobs;
        l->job_capacity = capacity;
    }
    l->jobs[l->n_job++] = *job;
    return true;
}

bool loader_add_matrix(struct loader *l, const char *name, int rows, int cols,
                       struct loader_part part, struct matrix *m, int at_row, struct error *err) {
    struct job job = {.cols = cols, .part = part, .matrix = m, .at_row = at_row};
    if (!st_require(l->set, name, 2, (int64_t[]){rows, cols}, &job.tensor, err)) {
        return false;
    }
    return part.n_rows == 0 || part.n_cols == 0 || add_job(l, &job, err);
}

bool loader_add_vector(struct loader *l, const char *name, int size, int first, int n, float *dst,
                       struct error *err) {
    struct job job = {.part = {.row = first, .n_rows = n, .n_cols = 1}, .vector = dst};
    return st_require(l->set, name, 1, (int64_t[]){size}, &job.tensor, err) &&
           (n == 0 || add_job(l, &job, err));
}

bool loader_dtype(const struct loader *l, const char *name, int rows, int cols, enum dtype *out,
                  struct error *err) {
    const struct st_tensor *t;
    if (!st_require(l->set, name, 2, (int64_t[]){rows, cols}, &t, err)) {
        return false;
    }
    *out = t->dtype;
    return true;
}

static size_t row_bytes(const struct job *j) {
    return (size_t)j->part.n_cols * dtype_size(j->tensor->dtype);
}

static int rows_per_chunk(const struct job *j) {
    if (j->vector) {
        return j->part.n_rows;
    }
    size_t rows = CHUNK_BYTES / row_bytes(j);
    rows = rows < CHUNK_ROWS ? CHUNK_ROWS : rows / CHUNK_ROWS * CHUNK_ROWS;
    return rows < (size_t)j->part.n_rows ? (int)rows : j->part.n_rows;
}

/* Cuts the jobs into chunks of about a megabyte, the unit of reading and of parallelism: every
 * thread holds one. */
static bool cut_chunks(struct loader *l, struct error *err) {
    size_t n = 0;
    for (size_t i = 0; i < l->n_job; i++) {
        int step = rows_per_chunk(&l->jobs[i]);
        n += (size_t)((l->jobs[i].part.n_rows + step - 1) / step);
    }
    l->chunks = malloc((n + 1) * sizeof *l->chunks);
    if (!l->chunks) {
        return error_set(err, ERROR_MEMORY, "cannot allocate %zu loader chunks", n);
    }
    for (size_t i = 0; i < l->n_job; i++) {
        const struct job *j = &l->jobs[i];
        int step = rows_per_chunk(j);
        for (int row = 0; row < j->part.n_rows; row += step) {
            int rows = j->part.n_rows - row < step ? j->part.n_rows - row : step;
            size_t bytes = (size_t)rows * row_bytes(j);
            l->chunks[l->n_chunk++] = (struct chunk){(int)i, row, rows};
            l->bytes_total += bytes;
            l->buffer_bytes = bytes > l->buffer_bytes ? bytes : l->buffer_bytes;
        }
    }
    return true;
}

/* Reads the chunk's part of every row; only these bytes are asked of the disk. */
static bool read_rows(const struct loader *l, const struct job *j, const struct chunk *c,
                      unsigned char *buffer, struct error *err) {
    size_t size = dtype_size(j->tensor->dtype);
    size_t width = row_bytes(j);
    size_t stride = j->vector ? size : (size_t)j->cols * size;
    uint64_t begin = (uint64_t)(j->part.row + c->row) * stride + (uint64_t)j->part.col * size;
    if (width == stride) {
        return st_read(l->set, j->tensor, begin, buffer, width * (size_t)c->n_rows, err);
    }
    for (int r = 0; r < c->n_rows; r++) {
        if (!st_read(l->set, j->tensor, begin + (uint64_t)r * stride, buffer + (size_t)r * width,
                     width, err)) {
            return false;
        }
    }
    return true;
}

static bool fill_vector(const struct loader *l, struct job *j, const unsigned char *buffer,
                        struct error *err) {
    size_t n = (size_t)j->part.n_rows;
    float *wide = malloc(n * sizeof *wide);
    if (!wide) {
        return error_set(err, ERROR_MEMORY, "cannot allocate %zu bytes", n * sizeof *wide);
    }
    dtype_widen(wide, buffer, j->tensor->dtype, n);
    size_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        bad += !__builtin_isfinite(wide[i]);
    }
    atomic_fetch_add(&j->n_nonfinite, bad);
    bool ok = l->device->ops->upload(l->device, j->vector, wide, n * sizeof *wide, err);
    free(wide);
    return ok;
}

static bool run_chunk(const struct loader *l, const struct chunk *c, unsigned char *buffer,
                      struct error *err) {
    struct job *j = &l->jobs[c->job];
    if (!read_rows(l, j, c, buffer, err)) {
        return false;
    }
    if (j->vector) {
        return fill_vector(l, j, buffer, err);
    }
    size_t bad = 0;
    bool ok = l->device->ops->matrix_fill(l->device, j->matrix, j->at_row + c->row, c->n_rows, 0,
                                          j->part.n_cols, j->tensor->dtype, buffer, row_bytes(j),
                                          &bad, err);
    atomic_fetch_add(&j->n_nonfinite, bad);
    return ok;
}

static uint64_t warn_nonfinite(const struct loader *l) {
    uint64_t total = 0;
    for (size_t i = 0; i < l->n_job; i++) {
        size_t n = atomic_load(&l->jobs[i].n_nonfinite);
        if (n) {
            log_warn("%s: tensor %s: %zu values are NaN or infinite",
                     st_file_path(l->set, l->jobs[i].tensor->file), l->jobs[i].tensor->name, n);
        }
        total += n;
    }
    return total;
}

/* What the threads of a load share. */
struct progress {
    const struct model_progress *to; /* NULL: nobody wants to know */
    double last;
    atomic_uint_least64_t done;
    uint64_t total;
};

/* Only the main thread may speak to other ranks. */
static bool report(struct progress *p, struct error *err) {
    static const double every_s = 0.1;
    if (omp_get_thread_num() != 0 || !p->to || !p->to->report || clock_now() - p->last < every_s) {
        return true;
    }
    p->last = clock_now();
    return p->to->report(p->to->user, atomic_load(&p->done), p->total, err);
}

bool loader_run(struct loader *l, const struct model_progress *progress, uint64_t *bytes_read,
                uint64_t *n_nonfinite, struct error *err) {
    if (!cut_chunks(l, err)) {
        return false;
    }
    struct progress p = {.to = progress, .last = clock_now(), .total = l->bytes_total};
    atomic_bool failed = false;
    struct error first = {0};

#pragma omp parallel num_threads(l->device->n_thread)
    {
        unsigned char *buffer = malloc(l->buffer_bytes + 1);
        struct error mine = {0};
        bool ok = buffer || error_set(&mine, ERROR_MEMORY, "cannot allocate %zu bytes to read into",
                                      l->buffer_bytes);
#pragma omp for schedule(dynamic)
        for (size_t i = 0; i < l->n_chunk; i++) {
            const struct chunk *c = &l->chunks[i];
            if (!ok || atomic_load(&failed)) {
                continue;
            }
            ok = run_chunk(l, c, buffer, &mine);
            atomic_fetch_add(&p.done, (size_t)c->n_rows * row_bytes(&l->jobs[c->job]));
            ok = ok && report(&p, &mine);
            if (!ok && !atomic_exchange(&failed, true)) {
                first = mine;
            }
        }
        if (!buffer && !atomic_exchange(&failed, true)) {
            first = mine; /* a thread without work would not have said so */
        }
        free(buffer);
    }
    if (failed) {
        if (err) {
            *err = first;
        }
        return false;
    }
    *bytes_read = l->bytes_total;
    *n_nonfinite = warn_nonfinite(l);
    return true;
}

void loader_destroy(struct loader *l) {
    if (l) {
        free(l->jobs);
        free(l->chunks);
        free(l);
    }
}
