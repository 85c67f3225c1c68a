#include "model/fingerprint.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/flight.h"
#include "base/hash.h"
#include "base/random.h"
#include "model/model.h"

enum {
    BLOCK = 4096,
    N_RANDOM = 14, /* blocks beside the first and the last */
    VECTOR_MAX = 256 << 10,
    VECTORS_MAX = 16 << 20, /* bytes of a file; a model of 100 layers has 4 MiB of them */
};

/* What is known of one file while its tensors are gone through. */
struct file_print {
    int file; /* in the set */
    const char *name;
    uint64_t headers, content;
    uint64_t data; /* where the tensors begin */
    uint64_t vectors;
};

/* What all files share. */
struct printing {
    const struct st_set *set;
    unsigned char *buffer; /* owns [VECTOR_MAX] */
    const struct model_progress *progress;
    double told; /* when */
};

static uint64_t add_u64(uint64_t h, uint64_t v) {
    return hash_words(h, &v, sizeof v);
}

static uint64_t add_f64(uint64_t h, double v) {
    return hash_words(h, &v, sizeof v);
}

static uint64_t add_text(uint64_t h, const char *text) {
    return hash_bytes(h, text, strlen(text) + 1);
}

/* Sampling defaults and the like are rank 0's alone, and may differ. */
static uint64_t hash_config(const struct model_config *c) {
    const int numbers[] = {(int)c->arch, c->hidden,   c->intermediate, c->n_layer,       c->n_head,
                           c->n_kv_head, c->head_dim, c->vocab,        c->tied,          c->qk_norm,
                           c->qkv_bias,  c->o_bias,   c->mlp_bias,     (int)c->rope.kind};
    uint64_t h = HASH_START;
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        h = add_u64(h, (uint64_t)numbers[i]);
    }
    h = add_f64(h, (double)c->rms_eps);
    h = add_f64(h, c->rope.theta);
    h = add_f64(h, c->rope.factor);
    h = add_f64(h, c->rope.low_freq_factor);
    h = add_f64(h, c->rope.high_freq_factor);
    return add_f64(h, c->rope.original_positions);
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct file_print *)a)->name, ((const struct file_print *)b)->name);
}

/* One for each file, in the set's order; NULL: no memory. */
static struct file_print *list_files(const struct st_set *set) {
    int n = st_file_count(set);
    struct file_print *files = calloc((size_t)n + 1, sizeof *files);
    for (int i = 0; files && i < n; i++) {
        struct file_print *f = &files[i];
        f->file = i;
        f->name = base_name(st_file_path(set, i));
        f->headers = add_u64(add_text(HASH_START, f->name), st_file_size(set, i));
        f->content = HASH_START;
        f->data = st_file_size(set, i);
    }
    return files;
}

static void add_header(struct file_print *f, const struct st_tensor *t) {
    uint64_t h = add_text(add_text(f->headers, t->name), t->dtype_name);
    int n = t->n_dim <= ST_MAX_DIMS ? t->n_dim : ST_MAX_DIMS;
    h = hash_words(h, t->shape, (size_t)n * sizeof t->shape[0]);
    f->headers = add_u64(add_u64(h, t->offset), t->bytes);
    f->data = t->offset < f->data ? t->offset : f->data;
}

/* A slow disk is not a hang: this thread is seen to be alive, and the leader hears of it. */
static bool tell(struct printing *p, struct error *err) {
    static const double every_s = 0.1;
    double now = clock_now();
    flight_pulse(now);
    if (!p->progress || !p->progress->report || now - p->told < every_s) {
        return true;
    }
    p->told = now;
    return p->progress->report(p->progress->user, 0, 0, err);
}

static bool add_data(struct file_print *f, struct printing *p, uint64_t offset, size_t n,
                     struct error *err) {
    if (!st_read_file(p->set, f->file, offset, p->buffer, n, err)) {
        return false;
    }
    f->content = hash_words(f->content, p->buffer, n);
    return tell(p, err);
}

static bool add_tensor(struct file_print *f, struct printing *p, const struct st_tensor *t,
                       struct error *err) {
    add_header(f, t);
    if (t->n_dim != 1 || t->bytes > VECTOR_MAX || f->vectors + t->bytes > VECTORS_MAX) {
        return true;
    }
    f->vectors += t->bytes;
    return add_data(f, p, t->offset, (size_t)t->bytes, err);
}

static bool add_blocks(struct file_print *f, struct printing *p, struct error *err) {
    uint64_t size = st_file_size(p->set, f->file), n = size - f->data;
    struct random random;
    if (n <= (N_RANDOM + 2) * (uint64_t)BLOCK) {
        return add_data(f, p, f->data, (size_t)n, err);
    }
    random_init(&random, n);
    bool ok = add_data(f, p, f->data, BLOCK, err);
    for (int i = 0; ok && i < N_RANDOM; i++) {
        ok = add_data(f, p, f->data + random_u64(&random) % (n - BLOCK), BLOCK, err);
    }
    return ok && add_data(f, p, size - BLOCK, BLOCK, err);
}

/* Whatever the order of an index is, all ranks go through tensors and files by their names. */
static bool print_files(struct file_print *files, struct printing *p, struct error *err) {
    bool ok = true;
    for (int i = 0; ok && i < st_count(p->set); i++) {
        const struct st_tensor *t = st_at(p->set, i);
        ok = add_tensor(&files[t->file], p, t, err);
    }
    for (int i = 0; ok && i < st_file_count(p->set); i++) {
        ok = add_blocks(&files[i], p, err);
    }
    return ok;
}

/* Of all files, or of one; see fingerprint.h. */
static void put_together(struct fingerprint *out, struct file_print *files, int n, int file) {
    qsort(files, (size_t)n, sizeof *files, by_name);
    for (int i = 0; i < n; i++) {
        if (file == 0 || file == i + 1) {
            out->headers = add_u64(out->headers, files[i].headers);
            out->content = add_u64(out->content, files[i].content);
        }
    }
}

bool fingerprint_read(struct fingerprint *out, const struct model_config *config,
                      const struct st_set *set, int file, const struct model_progress *progress,
                      struct error *err) {
    int n = st_file_count(set);
    struct file_print *files = list_files(set);
    struct printing p = {.set = set, .buffer = malloc(VECTOR_MAX), .progress = progress};
    bool ok = files && p.buffer ? print_files(files, &p, err)
                                : error_set(err, ERROR_MEMORY, "cannot compare %d files", n);
    if (ok) {
        *out = (struct fingerprint){hash_config(config), HASH_START, HASH_START};
        put_together(out, files, n, file);
    }
    free(p.buffer);
    free(files);
    return ok;
}

const char *fingerprint_file(const struct st_set *set, int file) {
    struct file_print *files = list_files(set);
    const char *name = NULL;
    if (files && file >= 1 && file <= st_file_count(set)) {
        qsort(files, (size_t)st_file_count(set), sizeof *files, by_name);
        name = files[file - 1].name;
    }
    free(files);
    return name;
}
