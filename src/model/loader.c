#include "model/loader.h"

#include <omp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/flight.h"
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

/* Hands a chunk that has been read to the device. */
static bool fill(const struct loader *l, const struct chunk *c, const unsigned char *buffer,
                 struct error *err) {
    struct job *j = &l->jobs[c->job];
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
struct run {
    const struct loader *l;
    const struct model_progress *to; /* NULL: nobody wants to know */
    double last_report;
    uint64_t done; /* bytes; atomic */
    size_t next;   /* chunk to be read; atomic */
    bool failed;   /* atomic */
    struct error first;
};

static void fail(struct run *run, const struct error *err) {
    if (!__atomic_exchange_n(&run->failed, true, __ATOMIC_ACQ_REL)) {
        run->first = *err;
    }
}

/* The next chunk, or NULL: there is none, or somebody failed. */
static const struct chunk *claim(struct run *run) {
    size_t i = __atomic_fetch_add(&run->next, 1, __ATOMIC_RELAXED);
    bool over = i >= run->l->n_chunk || __atomic_load_n(&run->failed, __ATOMIC_ACQUIRE);
    return over ? NULL : &run->l->chunks[i];
}

static uint64_t chunk_bytes(const struct run *run, const struct chunk *c) {
    return (uint64_t)c->n_rows * row_bytes(&run->l->jobs[c->job]);
}

/* A chunk is done: a disk may be slow, but one that gives nothing is a hang. */
static void pulse(void) {
    if (omp_get_thread_num() == 0) { /* the main thread */
        flight_pulse(clock_now());
    }
}

/* Only the main thread may speak to other ranks. */
static bool report(struct run *run, struct error *err) {
    static const double every_s = 0.1;
    if (omp_get_thread_num() != 0 || !run->to || !run->to->report ||
        clock_now() - run->last_report < every_s) {
        return true;
    }
    run->last_report = clock_now();
    return run->to->report(run->to->user, __atomic_load_n(&run->done, __ATOMIC_RELAXED),
                           run->l->bytes_total, err);
}

static unsigned char *buffer_create(const struct loader *l, struct error *err) {
    unsigned char *buffer = malloc(l->buffer_bytes + 1);
    if (!buffer) {
        error_set(err, ERROR_MEMORY, "cannot allocate %zu bytes to read into", l->buffer_bytes);
    }
    return buffer;
}

/* ---- a device that takes chunks from any thread: each thread reads and fills ---- */

static void read_and_fill(struct run *run) {
    const struct loader *l = run->l;
    struct error err = {0};
    unsigned char *buffer = buffer_create(l, &err);
    bool ok = buffer != NULL;
    const struct chunk *c;
    while (ok && (c = claim(run))) {
        ok = read_rows(l, &l->jobs[c->job], c, buffer, &err) && fill(l, c, buffer, &err);
        __atomic_fetch_add(&run->done, chunk_bytes(run, c), __ATOMIC_RELAXED);
        pulse();
        ok = ok && report(run, &err);
    }
    if (!ok) {
        fail(run, &err);
    }
    free(buffer);
}

/* ---- a device that only the main thread may call: the others read ahead of it ---- */

enum { SLOTS_PER_READER = 2, SLOT_NAP_US = 50 };

/* A chunk on its way from a reader to the main thread; whoever is in turn owns it. */
struct slot {
    const struct chunk *chunk; /* NULL: empty, the reader's turn; atomic */
    unsigned char *buffer;     /* owns */
};

static void read_ahead(struct run *run, struct slot slots[SLOTS_PER_READER]) {
    const struct loader *l = run->l;
    struct error err = {0};
    const struct chunk *c;
    for (int i = 0; (c = claim(run)); i = (i + 1) % SLOTS_PER_READER) {
        struct slot *s = &slots[i];
        while (__atomic_load_n(&s->chunk, __ATOMIC_ACQUIRE)) {
            if (__atomic_load_n(&run->failed, __ATOMIC_ACQUIRE)) {
                return;
            }
            usleep(SLOT_NAP_US);
        }
        if ((!s->buffer && !(s->buffer = buffer_create(l, &err))) ||
            !read_rows(l, &l->jobs[c->job], c, s->buffer, &err)) {
            fail(run, &err);
            return;
        }
        __atomic_store_n(&s->chunk, c, __ATOMIC_RELEASE);
    }
}

static void feed_device(struct run *run, struct slot *slots, int n_slot) {
    const struct loader *l = run->l;
    struct error err = {0};
    bool ok = true;
    for (size_t n_fed = 0; ok && n_fed < l->n_chunk;) {
        bool any = false;
        for (int i = 0; ok && i < n_slot; i++) {
            const struct chunk *c = __atomic_load_n(&slots[i].chunk, __ATOMIC_ACQUIRE);
            if (c) {
                ok = fill(l, c, slots[i].buffer, &err);
                run->done += chunk_bytes(run, c);
                pulse();
                __atomic_store_n(&slots[i].chunk, NULL, __ATOMIC_RELEASE);
                any = true;
                n_fed++;
            }
        }
        ok = ok && report(run, &err);
        if (__atomic_load_n(&run->failed, __ATOMIC_ACQUIRE)) {
            return;
        }
        if (!any) {
            usleep(SLOT_NAP_US);
        }
    }
    if (!ok || !l->device->ops->sync(l->device, &err)) {
        fail(run, &err);
    }
}

static void feed_from_readers(struct run *run, int n_reader) {
    struct error err = {0};
    int n_slot = n_reader * SLOTS_PER_READER;
    struct slot *slots = calloc((size_t)n_slot, sizeof *slots);
    if (!slots) {
        error_set(&err, ERROR_MEMORY, "cannot allocate %d buffers to read into", n_slot);
        fail(run, &err);
        return;
    }
    int dynamic = omp_get_dynamic();
    omp_set_dynamic(0); /* without a second thread nobody would read */
#pragma omp parallel num_threads(n_reader + 1)
    {
        int t = omp_get_thread_num();
        if (t > 0) {
            read_ahead(run, &slots[(t - 1) * SLOTS_PER_READER]);
        } else if (omp_get_num_threads() == n_reader + 1) {
            feed_device(run, slots, n_slot);
        } else {
            struct error few = {0};
            error_set(&few, ERROR_MEMORY, "only %d of %d threads could be started",
                      omp_get_num_threads(), n_reader + 1);
            fail(run, &few);
        }
    }
    omp_set_dynamic(dynamic);
    for (int i = 0; i < n_slot; i++) {
        free(slots[i].buffer);
    }
    free(slots);
}

bool loader_run(struct loader *l, const struct model_progress *progress, uint64_t *bytes_read,
                uint64_t *n_nonfinite, struct error *err) {
    if (!cut_chunks(l, err)) {
        return false;
    }
    /* The first report tells how much there is to read. */
    if (progress && progress->report && !progress->report(progress->user, 0, l->bytes_total, err)) {
        return false;
    }
    struct run run = {.l = l, .to = progress, .last_report = clock_now()};
    if (l->device->main_thread_only) {
        feed_from_readers(&run, l->device->n_thread);
    } else {
#pragma omp parallel num_threads(l->device->n_thread)
        read_and_fill(&run);
    }
    if (run.failed) {
        if (err) {
            *err = run.first;
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
