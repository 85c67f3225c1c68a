#include "format/st_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/json.h"
#include "format/show.h"

enum { LENGTH_BYTES = 8 };
static const uint64_t MAX_HEADER = 100000000; /* the reference implementation's limit */

/* Every dtype the format defines; the ones with a name in base/dtype.h can be computed with. */
static const struct {
    const char *name;
    int bits;
    bool supported;
    enum dtype dtype;
} dtypes[] = {
    {"F32", 32, true, DTYPE_F32}, {"BF16", 16, true, DTYPE_BF16},
    {"F16", 16, true, DTYPE_F16}, {"F64", 64, false, 0},
    {"I64", 64, false, 0},        {"U64", 64, false, 0},
    {"I32", 32, false, 0},        {"U32", 32, false, 0},
    {"I16", 16, false, 0},        {"U16", 16, false, 0},
    {"I8", 8, false, 0},          {"U8", 8, false, 0},
    {"BOOL", 8, false, 0},        {"F8_E5M2", 8, false, 0},
    {"F8_E4M3", 8, false, 0},     {"F8_E4M3FNUZ", 8, false, 0},
    {"F8_E5M2FNUZ", 8, false, 0}, {"F8_E8M0", 8, false, 0},
    {"F6_E2M3", 6, false, 0},     {"F6_E3M2", 6, false, 0},
    {"F4", 4, false, 0},          {"C64", 64, false, 0},
};

void st_list_finish(struct st_list *list) {
    for (int i = 0; i < list->n; i++) {
        free((char *)list->items[i].name);
    }
    free(list->items);
    *list = (struct st_list){0};
}

bool st_list_append(struct st_list *list, struct st_tensor t, struct error *err) {
    if (list->n == list->capacity) {
        int capacity = list->capacity ? list->capacity * 2 : 256;
        struct st_tensor *items = realloc(list->items, (size_t)capacity * sizeof *items);
        if (!items) {
            return error_set(err, ERROR_MEMORY, "no memory for %d tensors", capacity);
        }
        list->items = items;
        list->capacity = capacity;
    }
    size_t n_name = strlen(t.name) + 1;
    size_t n_dtype = strlen(t.dtype_name) + 1;
    char *text = malloc(n_name + n_dtype);
    if (!text) {
        return error_set(err, ERROR_MEMORY, "no memory for a tensor's name");
    }
    memcpy(text, t.name, n_name);
    memcpy(text + n_name, t.dtype_name, n_dtype);
    t.name = text;
    t.dtype_name = text + n_name;
    list->items[list->n++] = t;
    return true;
}

static bool parse_shape(const struct json_fields *f, struct st_tensor *t, uint64_t *n_element,
                        struct error *err) {
    const json_t *shape = json_object_get(f->object, "shape");
    size_t n = json_array_size(shape);
    uint64_t product = 1;

    if (!json_is_array(shape)) {
        return json_bad_field(f, "shape", "a list of sizes", shape, err);
    }
    t->n_dim = n <= ST_MAX_DIMS ? (int)n : ST_MAX_DIMS + 1;
    for (size_t i = 0; i < n; i++) {
        const json_t *size = json_array_get(shape, i);
        if (!json_is_integer(size) || json_integer_value(size) < 0) {
            return json_bad_field(f, "shape", "whole numbers from 0", size, err);
        }
        if (i < ST_MAX_DIMS) {
            t->shape[i] = json_integer_value(size);
        }
        if (__builtin_mul_overflow(product, (uint64_t)json_integer_value(size), &product)) {
            return json_bad_field(f, "shape", "sizes whose product fits 64 bits", size, err);
        }
    }
    *n_element = product;
    return true;
}

/* Sets offset and bytes, the offset still counted from the data area's start. */
static bool parse_offsets(const struct json_fields *f, struct st_tensor *t, struct error *err) {
    const json_t *offsets = json_object_get(f->object, "data_offsets");
    const json_t *begin = json_array_get(offsets, 0);
    const json_t *end = json_array_get(offsets, 1);

    if (!json_is_array(offsets) || json_array_size(offsets) != 2) {
        return json_bad_field(f, "data_offsets", "[begin, end]", offsets, err);
    }
    if (!json_is_integer(begin) || json_integer_value(begin) < 0) {
        return json_bad_field(f, "data_offsets", "a whole number from 0 as its begin", begin, err);
    }
    if (!json_is_integer(end) || json_integer_value(end) < json_integer_value(begin)) {
        return json_bad_field(f, "data_offsets", "an end that is not before the begin", end, err);
    }
    t->offset = (uint64_t)json_integer_value(begin);
    t->bytes = (uint64_t)(json_integer_value(end) - json_integer_value(begin));
    return true;
}

/* Finds the dtype and holds the byte count to it. A dtype that this build has never heard of is
 * left to st_require, so that an extra tensor of a newer kind does no harm. */
static bool check_dtype(const struct json_fields *f, struct st_tensor *t, uint64_t n_element,
                        struct error *err) {
    uint64_t bits;
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        if (strcmp(dtypes[i].name, t->dtype_name) != 0) {
            continue;
        }
        t->supported = dtypes[i].supported;
        t->dtype = dtypes[i].dtype;
        if (__builtin_mul_overflow(n_element, (uint64_t)dtypes[i].bits, &bits) || bits % 8 != 0 ||
            bits / 8 != t->bytes) {
            return error_set(err, ERROR_ST_HEADER,
                             "%s: %sdata_offsets: %llu bytes, but shape and dtype (%llu x %s) "
                             "take another number",
                             show_path(f->file).text, f->prefix, (unsigned long long)t->bytes,
                             (unsigned long long)n_element, t->dtype_name);
        }
    }
    return true;
}

static bool parse_tensor(const char *path, const char *name, const json_t *value, int index,
                         struct st_list *list, struct error *err) {
    struct st_tensor t = {.name = name, .file = index};
    struct json_fields f;
    uint64_t n_element = 0;
    char prefix[sizeof(struct shown) + 2];

    snprintf(prefix, sizeof prefix, "%s: ", show_text(name).text);
    return json_fields_init(&f, value, path, name, prefix, ERROR_ST_HEADER, err) &&
           json_get_string(&f, "dtype", &t.dtype_name, err) &&
           parse_shape(&f, &t, &n_element, err) && parse_offsets(&f, &t, err) &&
           check_dtype(&f, &t, n_element, err) && st_list_append(list, t, err);
}

static int by_offset(const void *a, const void *b) {
    const struct st_tensor *x = a;
    const struct st_tensor *y = b;
    if (x->offset != y->offset) {
        return x->offset < y->offset ? -1 : 1;
    }
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* Says what is wrong with the offset of tensor i, which is not where tensor i - 1 ends: when the
 * last one is not even in the file it is the culprit. */
static bool bad_place(const struct st_file *file, const struct st_tensor *tensors, int n, int i,
                      uint64_t expected, uint64_t actual, struct error *err) {
    const struct st_tensor *last = &tensors[n - 1];
    if (last->offset + last->bytes > actual) {
        return error_set(err, ERROR_ST_HEADER,
                         "%s: %s: data_offsets: end at %llu, the file has %llu bytes of data",
                         show_path(file->path).text, show_text(last->name).text,
                         (unsigned long long)(last->offset + last->bytes),
                         (unsigned long long)actual);
    }
    return error_set(
        err, ERROR_ST_HEADER, "%s: %s: data_offsets: begin at %llu, but %s ends at %llu",
        show_path(file->path).text, show_text(tensors[i].name).text,
        (unsigned long long)tensors[i].offset, i ? show_text(tensors[i - 1].name).text : "nothing",
        (unsigned long long)expected);
}

/* The tensors must cover the data area exactly; then offsets count from the file's start. */
static bool place_tensors(const struct st_file *file, struct st_tensor *tensors, int n,
                          uint64_t data_start, struct error *err) {
    uint64_t end = 0;
    uint64_t actual = file->size - data_start;
    if (n > 0) {
        qsort(tensors, (size_t)n, sizeof *tensors, by_offset);
    }
    for (int i = 0; i < n; i++) {
        if (tensors[i].offset != end) {
            return bad_place(file, tensors, n, i, end, actual, err);
        }
        end += tensors[i].bytes;
    }
    if (end > actual) {
        return error_set(err, ERROR_ST_TRUNCATED,
                         "%s: truncated: its header claims %llu bytes of data, the file has %llu",
                         show_path(file->path).text, (unsigned long long)end,
                         (unsigned long long)actual);
    }
    if (end < actual) {
        return error_set(err, ERROR_ST_HEADER,
                         "%s: %llu bytes after the last tensor belong to none (data_offsets)",
                         show_path(file->path).text, (unsigned long long)(actual - end));
    }
    for (int i = 0; i < n; i++) {
        tensors[i].offset += data_start;
    }
    return true;
}

static bool parse_header(const struct st_file *file, const char *text, size_t n, int index,
                         struct st_list *list, struct error *err) {
    bool ok = false;
    json_t *root = NULL;
    struct json_fields f;
    int first = list->n;
    struct st_tensor *added = NULL;
    const char *name;
    json_t *value;
    char place[4200];

    snprintf(place, sizeof place, "%s: header", file->path);
    if (!json_parse(&root, place, text, n, 0, err)) {
        if (err && err->kind == ERROR_JSON) {
            err->kind = ERROR_ST_HEADER;
        }
        goto out;
    }
    if (!json_fields_init(&f, root, file->path, "header", "", ERROR_ST_HEADER, err)) {
        goto out;
    }
    json_object_foreach(root, name, value) {
        if (strcmp(name, "__metadata__") == 0) {
            if (!json_is_object(value) && !json_is_null(value)) {
                json_bad_field(&f, name, "an object", value, err);
                goto out;
            }
        } else if (!parse_tensor(file->path, name, value, index, list, err)) {
            goto out;
        }
    }
    if (list->n > first) {
        added = list->items + first;
    }
    ok = place_tensors(file, added, list->n - first, LENGTH_BYTES + (uint64_t)n, err);
out:
    json_decref(root);
    return ok;
}

/* Reads the header's length and checks it against the file before anything is allocated for it. */
static bool header_length(const struct st_file *f, size_t *out, struct error *err) {
    unsigned char bytes[LENGTH_BYTES];
    uint64_t n = 0;

    if (f->size < LENGTH_BYTES) {
        return error_set(err, ERROR_ST_TRUNCATED,
                         "%s: truncated: the header's length takes 8 bytes, the file has %llu",
                         show_path(f->path).text, (unsigned long long)f->size);
    }
    if (!st_file_read(f, 0, bytes, sizeof bytes, err)) {
        return false;
    }
    if (memcmp(bytes, "version ", sizeof bytes) == 0) {
        return error_set(err, ERROR_ST_HEADER,
                         "%s: a Git LFS pointer, not the weights (git lfs pull fetches them)",
                         show_path(f->path).text);
    }
    for (int i = LENGTH_BYTES - 1; i >= 0; i--) {
        n = n << 8 | bytes[i];
    }
    if (n > MAX_HEADER) {
        return error_set(err, ERROR_ST_HEADER,
                         "%s: header length: %llu bytes, more than the %llu that are accepted",
                         show_path(f->path).text, (unsigned long long)n,
                         (unsigned long long)MAX_HEADER);
    }
    if (n > f->size - LENGTH_BYTES) {
        return error_set(err, ERROR_ST_TRUNCATED,
                         "%s: truncated: its header length claims %llu bytes, the file has %llu",
                         show_path(f->path).text, (unsigned long long)n,
                         (unsigned long long)(f->size - LENGTH_BYTES));
    }
    *out = (size_t)n;
    return true;
}

static bool open_regular(struct st_file *f, struct error *err) {
    struct stat st;
    /* O_NONBLOCK: opening a FIFO must not wait for its writer. */
    f->fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (f->fd < 0) {
        const char *why = strerror(errno);
        if (errno == ENOENT && lstat(f->path, &st) == 0) {
            why = "a symbolic link to a file that does not exist";
        }
        return error_set(err, ERROR_IO, "%s: %s", show_path(f->path).text, why);
    }
    if (fstat(f->fd, &st) != 0) {
        return error_set(err, ERROR_IO, "%s: %s", show_path(f->path).text, strerror(errno));
    }
    if (!S_ISREG(st.st_mode)) {
        return error_set(err, ERROR_IO, "%s: %s, not a regular file", show_path(f->path).text,
                         S_ISDIR(st.st_mode)    ? "a directory"
                         : S_ISFIFO(st.st_mode) ? "a FIFO"
                                                : "a device or socket");
    }
    int flags = fcntl(f->fd, F_GETFL);
    if (flags < 0 || fcntl(f->fd, F_SETFL, flags & ~O_NONBLOCK) != 0) {
        return error_set(err, ERROR_IO, "%s: %s", show_path(f->path).text, strerror(errno));
    }
    f->size = (uint64_t)st.st_size;
    return true;
}

bool st_file_open(struct st_file *out, char *path, int index, struct st_list *list,
                  struct error *err) {
    bool ok = false;
    struct st_file f = {.path = path, .fd = -1};
    char *text = NULL;
    size_t n = 0;

    if (!open_regular(&f, err) || !header_length(&f, &n, err)) {
        goto out;
    }
    text = malloc(n ? n : 1);
    if (!text) {
        error_set(err, ERROR_MEMORY, "%s: no memory for a header of %zu bytes",
                  show_path(path).text, n);
        goto out;
    }
    if (!st_file_read(&f, LENGTH_BYTES, text, n, err) ||
        !parse_header(&f, text, n, index, list, err)) {
        goto out;
    }
    *out = f; /* moves */
    f = (struct st_file){.fd = -1};
    ok = true;
out:
    free(text);
    st_file_close(&f);
    return ok;
}

bool st_file_read(const struct st_file *f, uint64_t offset, void *dst, size_t n,
                  struct error *err) {
    char *p = dst;
    size_t done = 0;
    while (done < n) {
        size_t want = n - done < (1u << 30) ? n - done : 1u << 30;
        ssize_t got = pread(f->fd, p + done, want, (off_t)(offset + done));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return error_set(err, ERROR_IO, "%s: %s", show_path(f->path).text, strerror(errno));
        }
        if (got == 0) { /* it was longer when it was opened */
            return error_set(err, ERROR_ST_TRUNCATED,
                             "%s: truncated while it was read: it had %llu bytes, now it ends at "
                             "%llu",
                             show_path(f->path).text, (unsigned long long)f->size,
                             (unsigned long long)(offset + done));
        }
        done += (size_t)got;
    }
    return true;
}

void st_file_close(struct st_file *f) {
    if (f->path && f->fd >= 0) {
        close(f->fd);
    }
    free(f->path);
    *f = (struct st_file){.fd = -1};
}
