#include "model/fingerprint.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/random.h"

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

static bool add_data(struct file_print *f, const struct st_set *set, uint64_t offset, size_t n,
                     unsigned char *buffer, struct error *err) {
    if (!st_read_file(set, f->file, offset, buffer, n, err)) {
        return false;
    }
    f->content = hash_words(f->content, buffer, n);
    return true;
}

static bool add_tensor(struct file_print *f, const struct st_set *set, const struct st_tensor *t,
                       unsigned char *buffer, struct error *err) {
    add_header(f, t);
    if (t->n_dim != 1 || t->bytes > VECTOR_MAX || f->vectors + t->bytes > VECTORS_MAX) {
        return true;
    }
    f->vectors += t->bytes;
    return add_data(f, set, t->offset, (size_t)t->bytes, buffer, err);
}

static bool add_blocks(struct file_print *f, const struct st_set *set, unsigned char *buffer,
                       struct error *err) {
    uint64_t size = st_file_size(set, f->file), n = size - f->data;
    struct random random;
    if (n <= (N_RANDOM + 2) * (uint64_t)BLOCK) {
        return add_data(f, set, f->data, (size_t)n, buffer, err);
    }
    random_init(&random, n);
    bool ok = add_data(f, set, f->data, BLOCK, buffer, err);
    for (int i = 0; ok && i < N_RANDOM; i++) {
        ok = add_data(f, set, f->data + random_u64(&random) % (n - BLOCK), BLOCK, buffer, err);
    }
    return ok && add_data(f, set, size - BLOCK, BLOCK, buffer, err);
}

/* Whatever the order of an index is, all ranks go through tensors and files by their names. */
static bool print_files(struct file_print *files, const struct st_set *set, unsigned char *buffer,
                        struct error *err) {
    bool ok = true;
    for (int i = 0; ok && i < st_count(set); i++) {
        const struct st_tensor *t = st_at(set, i);
        ok = add_tensor(&files[t->file], set, t, buffer, err);
    }
    for (int i = 0; ok && i < st_file_count(set); i++) {
        ok = add_blocks(&files[i], set, buffer, err);
    }
    return ok;
}

bool fingerprint_read(struct fingerprint *out, const struct model_config *config,
                      const struct st_set *set, int file, struct error *err) {
    int n = st_file_count(set);
    struct file_print *files = list_files(set);
    unsigned char *buffer = malloc(VECTOR_MAX);
    bool ok = files && buffer ? print_files(files, set, buffer, err)
                              : error_set(err, ERROR_MEMORY, "cannot compare %d files", n);
    if (ok) {
        struct fingerprint p = {hash_config(config), HASH_START, HASH_START};
        qsort(files, (size_t)n, sizeof *files, by_name);
        for (int i = 0; i < n; i++) {
            if (file == 0 || file == i + 1) {
                p.headers = add_u64(p.headers, files[i].headers);
                p.content = add_u64(p.content, files[i].content);
            }
        }
        *out = p;
    }
    free(buffer);
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
