/* Random checkpoints: weights that are nowhere, and still the same wherever and however one looks.
 */
#include "test.h"

#include <stdio.h>
#include <string.h>

#include "base/widen.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "model/weights.h"

#define SHAPE CHECKPOINT_RANDOM "qwen3-0.6b"

static struct st_set *must_open(const char *dir) {
    struct st_set *set = NULL;
    struct error err;
    assert_ok(checkpoint_open(&set, dir, &err), &err);
    return set;
}

static void every_shape_is_a_model(void **state) {
    (void)state;
    char shapes[] = CHECKPOINT_SHAPES, *rest = shapes, *name;
    struct error err;
    int n = 0;
    while ((name = strsep(&rest, "|"))) {
        char dir[64];
        struct model_config c;
        snprintf(dir, sizeof dir, CHECKPOINT_RANDOM "%s", name);
        assert_true(checkpoint_is_random(dir));
        assert_ok(model_config_load(&c, dir, &err), &err);
        struct st_set *set = must_open(dir);
        assert_ok(weights_check(&c, set, &err), &err);
        assert_int_equal(st_count(set), c.n_layer * 11 + (c.tied ? 2 : 3));
        st_close(set);
        n++;
    }
    assert_int_equal(n, 6);
}

static void known_sizes(void **state) {
    (void)state;
    struct st_set *set = must_open(SHAPE);
    assert_int_equal(st_file_count(set), 1);
    assert_int_equal(st_file_size(set, 0), 1192099840); /* 596,049,920 parameters */
    st_close(set);
}

static void other_shapes_are_refused(void **state) {
    (void)state;
    struct error err;
    struct model_config c;
    struct st_set *set;
    assert_false(checkpoint_is_random("models/random:qwen3-4b"));
    assert_false(model_config_load(&c, "random:qwen9-1b", &err));
    assert_int_equal(err.kind, ERROR_CONFIG);
    assert_non_null(strstr(err.message, "random:qwen9-1b"));
    assert_non_null(strstr(err.message, "qwen3-0.6b"));
    assert_false(checkpoint_open(&set, "random:", &err));
    assert_int_equal(err.kind, ERROR_CONFIG);
}

/* A rank of any world reads other rows, in other pieces, at any alignment. */
static void bytes_do_not_depend_on_the_reader(void **state) {
    (void)state;
    enum { N = 5000 };
    static unsigned char whole[N], pieces[N], file[N];
    struct error err;
    struct st_set *set = must_open(SHAPE);
    const struct st_tensor *t = st_find(set, "model.layers.3.mlp.down_proj.weight");
    assert_non_null(t);
    for (int from = 0; from < 9; from++) {
        assert_ok(st_read(set, t, from, whole, N, &err), &err);
        for (int at = 0, n = 1; at < N; at += n, n = n * 3 % 101 + 1) {
            n = n < N - at ? n : N - at;
            assert_ok(st_read(set, t, from + at, pieces + at, n, &err), &err);
        }
        assert_memory_equal(whole, pieces, N);
        assert_ok(st_read_file(set, 0, t->offset + from, file, N, &err), &err);
        assert_memory_equal(whole, file, N);
    }
    assert_false(st_read(set, t, t->bytes - 1, whole, 2, &err));
    st_close(set);
}

/* What a fingerprint reads goes across the ends of tensors. */
static void files_go_across_tensors(void **state) {
    (void)state;
    static unsigned char file[4096], part[4096];
    struct error err;
    struct st_set *set = must_open(SHAPE);
    const struct st_tensor *norm = st_find(set, "model.layers.0.self_attn.q_norm.weight");
    assert_non_null(norm);
    assert_int_equal(norm->bytes, 256);
    assert_ok(st_read_file(set, 0, norm->offset - 1001, file, sizeof file, &err), &err);
    assert_ok(st_read(set, norm, 0, part, 256, &err), &err);
    assert_memory_equal(file + 1001, part, 256);
    const struct st_tensor *before = st_find(set, "model.layers.0.self_attn.v_proj.weight");
    assert_int_equal(before->offset + before->bytes, norm->offset);
    assert_ok(st_read(set, before, before->bytes - 1001, part, 1001, &err), &err);
    assert_memory_equal(file, part, 1001);
    st_close(set);
}

static void weights_are_sane(void **state) {
    (void)state;
    enum { N = 1 << 14 };
    static uint16_t words[N];
    struct error err;
    struct st_set *set = must_open(SHAPE);
    assert_ok(st_read(set, st_find(set, "model.norm.weight"), 0, words, 2048, &err), &err);
    for (int i = 0; i < 1024; i++) {
        assert_true(widen_bf16(words[i]) == 1);
    }
    assert_ok(st_read(set, st_find(set, "model.embed_tokens.weight"), 0, words, sizeof words, &err),
              &err);
    double sum = 0;
    for (int i = 0; i < N; i++) {
        float x = widen_bf16(words[i]), size = x < 0 ? -x : x;
        assert_true(size >= 0x1p-7f && size < 0x1p-5f);
        sum += (double)x;
    }
    assert_true(sum / N < 1e-3 && sum / N > -1e-3); /* both signs; 0.019 / sqrt(N) is 1.5e-4 */
    assert_int_not_equal(memcmp(words, words + N / 2, sizeof words / 2), 0);
    st_close(set);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shape_is_a_model),
        cmocka_unit_test(known_sizes),
        cmocka_unit_test(other_shapes_are_refused),
        cmocka_unit_test(bytes_do_not_depend_on_the_reader),
        cmocka_unit_test(files_go_across_tensors),
        cmocka_unit_test(weights_are_sane),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
