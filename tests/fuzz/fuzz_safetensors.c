/* One safetensors file. First byte: 0, the rest is the file; else the rest is its header, before
 * which its length is put, and the next two bytes say how much data follows. */
#include <string.h>

#include "format/safetensors.h"
#include "fuzz.h"

static void put_file(struct fuzz_input in) {
    static uint8_t file[(1 << 20) + 8];
    if (fuzz_byte(&in) == 0) {
        fuzz_put("model.safetensors", in.data, in.size, 0);
        return;
    }
    size_t n_data = fuzz_byte(&in);
    n_data |= (size_t)fuzz_byte(&in) << 8;
    size_t n = in.size < sizeof file - 8 ? in.size : sizeof file - 8;
    for (int i = 0; i < 8; i++) {
        file[i] = (uint8_t)((uint64_t)n >> (8 * i));
    }
    if (n > 0) {
        memcpy(file + 8, in.data, n);
    }
    fuzz_put("model.safetensors", file, 8 + n, 8 + n + n_data);
}

/* What the set says of a tensor holds: it can be found, has its shape, and can be read. */
static void check_tensor(const struct st_set *s, const struct st_tensor *t) {
    static uint8_t bytes[1 << 16];
    struct error err = {0};
    const struct st_tensor *found = NULL;
    FUZZ_CHECK(st_find(s, t->name) == t);
    bool ok = fuzz_result(
        st_require(s, t->name, t->n_dim <= ST_MAX_DIMS ? t->n_dim : 1, t->shape, &found, &err),
        &err);
    FUZZ_CHECK(ok == (t->supported && t->n_dim <= ST_MAX_DIMS));
    size_t n = t->bytes < sizeof bytes ? (size_t)t->bytes : sizeof bytes;
    FUZZ_CHECK(fuzz_result(st_read(s, t, 0, bytes, n, &err), &err));
    FUZZ_CHECK(fuzz_result(st_read(s, t, t->bytes - n, bytes, n, &err), &err));
    FUZZ_CHECK(!fuzz_result(st_read(s, t, t->bytes, bytes, 1, &err), &err));
}

void fuzz_one(struct fuzz_input in) {
    struct st_set *s;
    struct error err = {0};
    put_file(in);
    if (fuzz_result(st_open(&s, fuzz_dir(), &err), &err)) {
        for (int i = 0; i < st_count(s); i++) {
            check_tensor(s, st_at(s, i));
        }
        st_close(s);
    }
}
