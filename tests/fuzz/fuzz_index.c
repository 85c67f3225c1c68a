/* model.safetensors.index.json, beside two shards of three tensors. */
#include <string.h>

#include "format/safetensors.h"
#include "fuzz.h"

static void put_shard(const char *name, const char *header) {
    uint8_t file[300] = {(uint8_t)strlen(header)};
    FUZZ_CHECK(strlen(header) < 256);
    memcpy(file + 8, header, strlen(header));
    fuzz_put(name, file, 8 + strlen(header), 8 + strlen(header) + 8);
}

static void put_shards(void) {
    put_shard("a.safetensors", "{\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                               "\"y\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[4,8]}}");
    put_shard("b.safetensors", "{\"z\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}");
}

void fuzz_one(struct fuzz_input in) {
    static bool there;
    struct st_set *s;
    struct error err = {0};
    if (!there) {
        put_shards();
        there = true;
    }
    fuzz_put("model.safetensors.index.json", in.data, in.size, 0);
    if (fuzz_result(st_open(&s, fuzz_dir(), &err), &err)) {
        for (int i = 0; i < st_count(s); i++) {
            const struct st_tensor *t = st_at(s, i);
            const char *path = st_file_path(s, t->file);
            size_t n = strlen(fuzz_dir());
            uint8_t bytes[8];
            FUZZ_CHECK(st_find(s, t->name) == t);
            FUZZ_CHECK(strncmp(path, fuzz_dir(), n) == 0 && strrchr(path, '/') == path + n);
            FUZZ_CHECK(t->bytes <= sizeof bytes && st_read(s, t, 0, bytes, t->bytes, &err));
        }
        st_close(s);
    }
}
