#include "format/safetensors.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/flight.h"
#include "format/json.h"
#include "format/show.h"
#include "format/st_file.h"

#define SINGLE_NAME "model.safetensors"
#define INDEX_NAME  "model.safetensors.index.json"

enum { MAX_FILES = 1024, MAX_INDEX_BYTES = 100000000 };

struct st_set {
    char *origin; /* the file that lists the tensors, for errors: the index or the only file */
    int n_file;
    struct st_file *files;
    struct st_list tensors; /* sorted by name */
    st_maker *make;         /* of a set that is nowhere; else NULL */
};

static char *join(const char *dir, const char *name, struct error *err) {
    char *path;
    if (asprintf(&path, "%s/%s", dir, name) < 0) {
        error_set(err, ERROR_MEMORY, "no memory for a path");
        return NULL;
    }
    return path;
}

/* Opens one more file of the set; returns its number, -1 on failure. */
static int add_file(struct st_set *s, const char *dir, const char *name, struct error *err) {
    struct st_file *files = realloc(s->files, (size_t)(s->n_file + 1) * sizeof *files);
    if (!files) {
        error_set(err, ERROR_MEMORY, "no memory for %d files", s->n_file + 1);
        return -1;
    }
    s->files = files;
    char *path = join(dir, name, err);
    if (!path || !st_file_open(&s->files[s->n_file], path, s->n_file, &s->tensors, err)) {
        return -1;
    }
    flight_pulse(clock_now()); /* there may be hundreds, on a slow disk */
    return s->n_file++;
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Opens the file that the index gives for a tensor, unless it is open already. */
static bool open_shard(struct st_set *s, const char *dir, const struct json_fields *map,
                       const char *tensor, const json_t *value, struct error *err) {
    const char *name = json_string_value(value);
    if (!name || !name[0] || strchr(name, '/') || strcmp(name, ".") == 0 ||
        strcmp(name, "..") == 0) {
        return json_bad_field(map, tensor, "the plain name of a file in the same directory", value,
                              err);
    }
    /* Neighbours in the index mostly share a file, so the last one opened is looked at first. */
    for (int i = s->n_file - 1; i >= 0; i--) {
        if (strcmp(base_name(s->files[i].path), name) == 0) {
            return true;
        }
    }
    if (s->n_file == MAX_FILES) {
        return error_set(err, ERROR_ST_HEADER, "%s: weight_map: more than %d files",
                         show_path(map->file).text, MAX_FILES);
    }
    return add_file(s, dir, name, err) >= 0 ||
           error_wrap(err, INDEX_NAME ": weight_map: %s", show_text(tensor).text);
}

/* Keeps the tensors that the index places in the file they are in. Others of the shards are extra:
 * not listed, or listed for another file. */
static void drop_unlisted(struct st_set *s, const json_t *map) {
    int kept = 0;
    for (int i = 0; i < s->tensors.n; i++) {
        struct st_tensor *t = &s->tensors.items[i];
        const char *file = json_string_value(json_object_get(map, t->name));
        if (file && strcmp(file, base_name(s->files[t->file].path)) == 0) {
            s->tensors.items[kept++] = *t;
        } else {
            free((char *)t->name);
        }
    }
    s->tensors.n = kept;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct st_tensor *)a)->name, ((const struct st_tensor *)b)->name);
}

static void sort_tensors(struct st_set *s) {
    if (s->tensors.n > 0) {
        qsort(s->tensors.items, (size_t)s->tensors.n, sizeof *s->tensors.items, by_name);
    }
}

static bool open_index(struct st_set *s, const char *dir, struct error *err) {
    bool ok = false;
    json_t *root = NULL;
    struct json_fields f, map;
    const char *tensor;
    json_t *value;

    if (!json_read_file(&root, s->origin, MAX_INDEX_BYTES, 0, err) ||
        !json_fields_init(&f, root, s->origin, "", "", ERROR_ST_HEADER, err) ||
        !json_fields_init(&map, json_object_get(root, "weight_map"), s->origin, "weight_map",
                          "weight_map: ", ERROR_ST_HEADER, err)) {
        goto out;
    }
    json_object_foreach((json_t *)map.object, tensor, value) {
        if (!open_shard(s, dir, &map, tensor, value, err)) {
            goto out;
        }
    }
    drop_unlisted(s, map.object);
    sort_tensors(s);
    json_object_foreach((json_t *)map.object, tensor, value) {
        if (!st_find(s, tensor)) {
            error_set(err, ERROR_ST_HEADER, "%s: weight_map: %s: %s has no such tensor",
                      show_path(s->origin).text, show_text(tensor).text,
                      show_text(json_string_value(value)).text);
            goto out;
        }
    }
    ok = true;
out:
    json_decref(root);
    return ok;
}

static bool exists(const char *path) {
    struct stat st;
    return lstat(path, &st) == 0; /* a dangling link is there, and is reported when opened */
}

static bool open_any(struct st_set *s, const char *dir, struct error *err) {
    s->origin = join(dir, SINGLE_NAME, err);
    if (!s->origin) {
        return false;
    }
    if (exists(s->origin)) {
        bool ok = add_file(s, dir, SINGLE_NAME, err) >= 0;
        sort_tensors(s);
        return ok;
    }
    free(s->origin);
    s->origin = join(dir, INDEX_NAME, err);
    if (!s->origin) {
        return false;
    }
    if (exists(s->origin)) {
        return open_index(s, dir, err);
    }
    return error_set(err, ERROR_IO,
                     "%s: no weights: neither " SINGLE_NAME " nor " INDEX_NAME " is there",
                     show_path(dir).text);
}

bool st_open(struct st_set **out, const char *dir, struct error *err) {
    struct st_set *s = calloc(1, sizeof *s);
    if (!s) {
        return error_set(err, ERROR_MEMORY, "no memory for a set of tensors");
    }
    if (!open_any(s, dir, err)) {
        st_close(s);
        return false;
    }
    *out = s;
    return true;
}

bool st_make(struct st_set **out, const char *name, const struct st_tensor *tensors, int n,
             st_maker *make, struct error *err) {
    struct st_set *s = calloc(1, sizeof *s);
    bool ok = s && (s->origin = strdup(name)) && (s->files = calloc(1, sizeof *s->files));
    if (ok) {
        s->make = make;
        s->files[s->n_file++] = (struct st_file){.path = strdup(name), .fd = -1};
        ok = s->files[0].path != NULL;
    }
    if (!ok) {
        error_set(err, ERROR_MEMORY, "no memory for a set of tensors");
    }
    for (int i = 0; ok && i < n; i++) {
        ok = st_list_append(&s->tensors, tensors[i], err);
        s->files[0].size = tensors[i].offset + tensors[i].bytes;
    }
    if (!ok) {
        st_close(s);
        return false;
    }
    sort_tensors(s);
    *out = s;
    return true;
}

/* Bytes at an offset of the file that is nowhere. */
static void make_range(const struct st_set *s, uint64_t offset, unsigned char *dst, size_t n) {
    for (int i = 0; i < s->tensors.n; i++) {
        const struct st_tensor *t = &s->tensors.items[i];
        uint64_t from = offset > t->offset ? offset : t->offset;
        uint64_t end = offset + n, last = t->offset + t->bytes;
        uint64_t to = end < last ? end : last;
        if (from < to) {
            s->make(t, from - t->offset, dst + (from - offset), (size_t)(to - from));
        }
    }
}

const struct st_tensor *st_find(const struct st_set *s, const char *name) {
    struct st_tensor key = {.name = name};
    return s->tensors.n ? bsearch(&key, s->tensors.items, (size_t)s->tensors.n,
                                  sizeof *s->tensors.items, by_name)
                        : NULL;
}

struct shape_text {
    char text[128];
};

static struct shape_text show_shape(int n_dim, const int64_t *shape) {
    struct shape_text s = {"["};
    for (int i = 0; i < n_dim && i < ST_MAX_DIMS; i++) {
        size_t used = strlen(s.text);
        snprintf(s.text + used, sizeof s.text - used, "%s%lld", i ? ", " : "", (long long)shape[i]);
    }
    size_t used = strlen(s.text);
    snprintf(s.text + used, sizeof s.text - used, "]");
    return s;
}

bool st_require(const struct st_set *s, const char *name, int n_dim, const int64_t *shape,
                const struct st_tensor **out, struct error *err) {
    const struct st_tensor *t = st_find(s, name);
    if (!t) {
        return error_set(err, ERROR_ST_TENSOR, "%s: %s: missing", show_path(s->origin).text,
                         show_text(name).text);
    }
    if (!t->supported) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "%s: %s: dtype %s is not supported (quantized checkpoints are not; F32, "
                         "BF16 and F16 are)",
                         show_path(s->files[t->file].path).text, show_text(name).text,
                         show_text(t->dtype_name).text);
    }
    if (t->n_dim != n_dim || memcmp(t->shape, shape, (size_t)n_dim * sizeof *shape) != 0) {
        return error_set(err, ERROR_ST_TENSOR, "%s: %s: shape %s, but config.json calls for %s",
                         show_path(s->files[t->file].path).text, show_text(name).text,
                         show_shape(t->n_dim, t->shape).text, show_shape(n_dim, shape).text);
    }
    *out = t;
    return true;
}

int st_count(const struct st_set *s) {
    return s->tensors.n;
}

const struct st_tensor *st_at(const struct st_set *s, int i) {
    return &s->tensors.items[i];
}

int st_file_count(const struct st_set *s) {
    return s->n_file;
}

const char *st_file_path(const struct st_set *s, int file) {
    return s->files[file].path;
}

uint64_t st_file_size(const struct st_set *s, int file) {
    return s->files[file].size;
}

bool st_read(const struct st_set *s, const struct st_tensor *t, uint64_t begin, void *dst, size_t n,
             struct error *err) {
    if (begin > t->bytes || n > t->bytes - begin) {
        return error_set(err, ERROR_SHAPE, "%s: bytes %llu to %llu of a tensor that has %llu",
                         show_text(t->name).text, (unsigned long long)begin,
                         (unsigned long long)(begin + n), (unsigned long long)t->bytes);
    }
    if (s->make) {
        s->make(t, begin, dst, n);
        return true;
    }
    return st_file_read(&s->files[t->file], t->offset + begin, dst, n, err) ||
           error_wrap(err, "%s", show_text(t->name).text);
}

bool st_read_file(const struct st_set *s, int file, uint64_t offset, void *dst, size_t n,
                  struct error *err) {
    if (s->make) {
        make_range(s, offset, dst, n);
        return true;
    }
    return st_file_read(&s->files[file], offset, dst, n, err);
}

void st_close(struct st_set *s) {
    if (s) {
        for (int i = 0; i < s->n_file; i++) {
            st_file_close(&s->files[i]);
        }
        free(s->files);
        st_list_finish(&s->tensors);
        free(s->origin);
        free(s);
    }
}
