#include "test.h"

#include "text_data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *text_data_path(const char *name) {
    static char path[1024];
    const char *dir = getenv("LOCKSTEP_TEST_DATA");
    if (!dir) {
        fail_msg("LOCKSTEP_TEST_DATA is not set");
    }
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

int text_data_each(const char *name, void (*check)(const json_t *line, void *ctx), void *ctx) {
    FILE *f = fopen(text_data_path(name), "r");
    char *line = NULL;
    size_t capacity = 0;
    int count = 0;
    assert_non_null(f);
    while (getline(&line, &capacity, f) > 0) {
        json_t *v = json_loads(line, JSON_ALLOW_NUL, NULL);
        assert_non_null(v);
        check(v, ctx);
        json_decref(v);
        count++;
    }
    free(line);
    fclose(f);
    return count;
}

struct tokenizer *text_data_tokenizer(const char *name) {
    struct tokenizer *t = NULL;
    struct error err;
    assert_ok(tokenizer_load(&t, text_data_path(name), 0, &err), &err);
    return t;
}

void text_data_make_dir(char *out) {
    strcpy(out, "/tmp/lockstep-text-XXXXXX");
    assert_non_null(mkdtemp(out));
}

void text_data_write(const char *dir, const char *name, const void *bytes, size_t n) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

void text_data_remove_dir(const char *dir) {
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json",
                                        "chat_template.jinja"};
    char path[1024];
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    rmdir(dir);
}

static bool unpack(const char *packed, const char *out) {
    char command[4096];
    snprintf(command, sizeof command,
             "xz -dc '%s' > '%s' 2>/dev/null || python3 -c 'import lzma, shutil, sys; "
             "shutil.copyfileobj(lzma.open(sys.argv[1]), open(sys.argv[2], \"wb\"))' '%s' '%s'",
             packed, out, packed, out);
    return system(command) == 0;
}

struct tokenizer *text_data_qwen3(void) {
    struct tokenizer *t = NULL;
    struct error err;
    char dir[64], out[128];
    struct buffer config = {0};
    text_data_make_dir(dir);
    snprintf(out, sizeof out, "%s/tokenizer.json", dir);
    if (unpack(text_data_path("tokenizer/qwen3/tokenizer.json.xz"), out)) {
        assert_ok(buffer_read_file(&config, text_data_path("tokenizer/qwen3/tokenizer_config.json"),
                                   1 << 20, &err),
                  &err);
        text_data_write(dir, "tokenizer_config.json", config.data, config.size);
        buffer_finish(&config);
        assert_ok(tokenizer_load(&t, dir, 151936, &err), &err);
    } else {
        print_message("skipped: neither xz nor Python's lzma can unpack Qwen3's tokenizer\n");
    }
    text_data_remove_dir(dir);
    return t;
}

void text_data_assert_ids(const char *what, const json_t *want, const int32_t *ids, size_t n) {
    assert_true(json_is_array(want));
    if (json_array_size(want) != n) {
        fail_msg("%s: %zu ids, not %zu", what, n, json_array_size(want));
    }
    for (size_t i = 0; i < n; i++) {
        json_int_t w = json_integer_value(json_array_get(want, i));
        if (ids[i] != w) {
            fail_msg("%s: id %zu is %d, not %d", what, i, (int)ids[i], (int)w);
        }
    }
}
