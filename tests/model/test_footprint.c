#include "tempdir.h"

#include <stdio.h>
#include <string.h>

#include "model/footprint.h"

/* Qwen3-0.6B. */
static struct model_config qwen3_small(void) {
    return (struct model_config){.arch = MODEL_ARCH_QWEN3,
                                 .hidden = 1024,
                                 .intermediate = 3072,
                                 .n_layer = 28,
                                 .n_head = 16,
                                 .n_kv_head = 8,
                                 .head_dim = 128,
                                 .vocab = 151936,
                                 .max_positions = 40960,
                                 .tied = true,
                                 .qk_norm = true};
}

static struct footprint of(const struct model_config *c, int world, int rank,
                           const struct footprint_params *p) {
    struct shard_dims dims = footprint_dims(c);
    struct shard s;
    struct error err = {0};
    assert_ok(shard_compute(&s, &dims, world, rank, &err), &err);
    return footprint_of_shard(c, &s, p);
}

static const struct footprint_params params = {.dtype = DTYPE_BF16,
                                               .kv = DTYPE_F32,
                                               .ctx = 4096,
                                               .n_block = 64,
                                               .max_tok = 512,
                                               .max_logits = 1};

static void one_rank_holds_the_whole_model(void **state) {
    (void)state;
    struct model_config c = qwen3_small();
    struct footprint f = of(&c, 1, 0, &params);
    /* matrices in bf16; norms in f32 */
    uint64_t per_layer = 1024ull * (4096 + 2048 + 3 * 3072);
    uint64_t elements = 28 * per_layer + 151936ull * 1024;
    assert_int_equal(f.weights, 2 * elements + 4 * (28ull * (2048 + 256) + 1024));
    /* 2 x layers x KV heads x head_dim x 4 bytes for each of 4096 positions */
    assert_int_equal(f.kv, 2ull * 28 * 8 * 128 * 4 * 4096);
    assert_in_range(f.buffers, 1 << 20, 256 << 20);
    assert_int_equal(footprint_total(&f), f.weights + f.kv + f.buffers);
}

/* As the numbers alone tell, and as the device does. */
static void a_cache_in_bf16_takes_half(void **state) {
    (void)state;
    struct model_config c = qwen3_small();
    struct footprint f32 = of(&c, 2, 1, &params);
    struct footprint_params half = params;
    const struct host_options host = {.n_thread = 1};
    struct device *d;
    struct error err = {0};
    half.kv = DTYPE_BF16;
    assert_int_equal(of(&c, 2, 1, &half).kv, f32.kv / 2);
    assert_ok(host_device_create(&host, &d, &err), &err);
    half.device = d;
    assert_int_equal(of(&c, 2, 1, &half).kv, f32.kv / 2);
    c.head_dim = 80; /* padded */
    half.device = NULL;
    uint64_t kv = of(&c, 2, 1, &half).kv;
    half.device = d;
    assert_int_equal(of(&c, 2, 1, &half).kv, kv);
    device_destroy(d);
}

static void parts_add_up_where_they_divide(void **state) {
    (void)state;
    struct model_config c = qwen3_small();
    struct footprint whole = of(&c, 1, 0, &params);
    for (int world = 2; world <= 8; world *= 2) {
        uint64_t weights = 0, kv = 0;
        for (int r = 0; r < world; r++) {
            struct footprint f = of(&c, world, r, &params);
            weights += f.weights;
            kv += f.kv;
        }
        uint64_t norms = 4 * (28ull * (2048 + 256) + 1024); /* every rank has its own */
        assert_int_equal(weights, whole.weights + (world - 1) * norms);
        assert_int_equal(kv, whole.kv);
    }
    /* 16 ranks share 8 KV heads: each is held twice. */
    assert_int_equal(of(&c, 16, 5, &params).kv, whole.kv / 8);
}

static void options_add_what_they_add(void **state) {
    (void)state;
    struct model_config c = qwen3_small();
    uint64_t base = of(&c, 1, 0, &params).weights;
    c.tied = false;
    assert_int_equal(of(&c, 1, 0, &params).weights, base + 2ull * 151936 * 1024);
    c.tied = true;
    c.qkv_bias = c.o_bias = c.mlp_bias = true;
    assert_int_equal(of(&c, 1, 0, &params).weights,
                     base + 28ull * 4 * (4096 + 1024 + 2 * 3072 + 1024));
    c = qwen3_small();
    struct footprint_params f32 = params;
    f32.dtype = DTYPE_F32;
    uint64_t norms = 4 * (28ull * (2048 + 256) + 1024);
    assert_int_equal(of(&c, 1, 0, &f32).weights, 2 * (base - norms) + norms);
}

static void rows_are_padded_to_panels(void **state) {
    (void)state;
    struct model_config c = {.hidden = 10,
                             .intermediate = 3,
                             .n_layer = 1,
                             .n_head = 1,
                             .n_kv_head = 1,
                             .head_dim = 2,
                             .vocab = 17,
                             .tied = true};
    uint64_t qkv = 16 * 10, o = 16 * 2, gate_up = 16 * 10, down = 16 * 3, table = 32 * 10;
    assert_int_equal(of(&c, 1, 0, &params).weights,
                     2 * (qkv + o + gate_up + down + table) + 4 * (20 + 10));
    assert_int_equal(of(&c, 1, 0, &params).kv, 64ull * 64 * 32 * 4 * 2);
}

/* 34 and 18 bytes for 32 weights; groups of the leaves of o begin with each head. */
static void quantized_groups_are_counted(void **state) {
    (void)state;
    struct model_config c = qwen3_small();
    uint64_t norms = 4 * (28ull * (2048 + 256) + 1024);
    uint64_t numbers = (of(&c, 1, 0, &params).weights - norms) / 2;
    struct footprint_params q8 = params, q4 = params;
    q8.dtype = DTYPE_Q8_0;
    q4.dtype = DTYPE_Q4_0;
    assert_int_equal(of(&c, 1, 0, &q8).weights, numbers / 32 * 34 + norms);
    assert_int_equal(of(&c, 1, 0, &q4).weights, numbers / 32 * 18 + norms);
    struct device *host;
    struct error err = {0};
    const struct host_options options = {.n_thread = 1};
    assert_ok(host_device_create(&options, &host, &err), &err);
    c.head_dim = 80, c.hidden = 1000, c.intermediate = 3000; /* groups that are cut short */
    struct footprint_params with_device = q8;
    with_device.device = host;
    for (int rank = 0; rank < 3; rank++) {
        assert_int_equal(of(&c, 3, rank, &with_device).weights, of(&c, 3, rank, &q8).weights);
    }
    for (int wide = 0; wide < 2; wide++) {
        c.intermediate = wide ? 3000 : 100;
        struct shard_dims dims = footprint_dims(&c);
        struct shard s;
        assert_ok(shard_compute(&s, &dims, 1, 0, &err), &err);
        /* 3000 columns, or 16 heads of 3 groups */
        assert_int_equal(footprint_widest_groups(&c, &s), wide ? 94 : 48);
    }
    device_destroy(host);
}

/* What decides is the communicator, not the device: GPUs may compute in f32, too. */
static void partial_sums_are_counted_as_they_travel(void **state) {
    (void)state;
    struct model_config c = qwen3_small();
    struct footprint_params pieces = params, one = params;
    const struct host_options host = {.n_thread = 1};
    struct device *f32;
    struct error err = {0};
    assert_ok(host_device_create(&host, &f32, &err), &err);
    pieces.device = one.device = f32;
    one.one_sum = true;
    for (int rank = 0; rank < 3; rank++) {
        struct leaf_run runs[LEAF_TREE_MAX_PIECES];
        int n_piece = leaf_tree_pieces(16, leaf_run_of_rank(16, 3, rank), runs);
        struct shard_dims dims = footprint_dims(&c);
        struct shard s;
        assert_ok(shard_compute(&s, &dims, 3, rank, &err), &err);
        int widest = s.mlp.count > 1024 ? s.mlp.count : 1024; /* of a linear: the host packs it */
        assert_int_equal(of(&c, 3, rank, &pieces).buffers - of(&c, 3, rank, &one).buffers,
                         512 * ((2 * n_piece - 1) * 1024 + widest) * 4);
    }
    device_destroy(f32);
}

static void the_largest_config_saturates(void **state) {
    (void)state;
    struct model_config c = {.hidden = MODEL_MAX_HIDDEN,
                             .intermediate = MODEL_MAX_INTERMEDIATE,
                             .n_layer = MODEL_MAX_LAYERS,
                             .n_head = LEAF_TREE_MAX_LEAVES,
                             .n_kv_head = LEAF_TREE_MAX_LEAVES,
                             .head_dim = DEVICE_MAX_HEAD_DIM,
                             .vocab = MODEL_MAX_VOCAB,
                             .max_positions = MODEL_MAX_POSITIONS};
    struct footprint_params huge = {.dtype = DTYPE_F32,
                                    .ctx = MODEL_MAX_POSITIONS,
                                    .n_block = INT64_MAX,
                                    .max_tok = INT32_MAX,
                                    .max_logits = INT32_MAX};
    struct footprint f = of(&c, 1, 0, &huge);
    assert_true(f.weights > 1ull << 50 && f.weights < 1ull << 60);
    assert_true(f.kv == UINT64_MAX);
    assert_true(footprint_total(&f) == UINT64_MAX);
}

/* The dtype that counts for a checkpoint of the matrices a, b and a vector. */
static enum dtype dtype_of(const char *a, const char *b, int size_a, int size_b) {
    struct tempdir dir;
    struct st_set *set = NULL;
    struct error err = {0};
    char file[512] = {0};
    int n = snprintf(file + 8, sizeof file - 8,
                     "{\"a\":{\"dtype\":\"%s\",\"shape\":[1,4],\"data_offsets\":[0,%d]},"
                     "\"b\":{\"dtype\":\"%s\",\"shape\":[1,4],\"data_offsets\":[%d,%d]},"
                     "\"v\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[%d,%d]}}",
                     a, 4 * size_a, b, 4 * size_a, 4 * (size_a + size_b), 4 * (size_a + size_b),
                     4 * (size_a + size_b) + 4);
    file[0] = (char)n;
    file[1] = (char)(n >> 8);
    tempdir_make(&dir);
    tempdir_write(&dir, "model.safetensors", file, 8 + (size_t)(n + 4 * (size_a + size_b) + 4));
    assert_ok(st_open(&set, dir.path, &err), &err);
    enum dtype t = footprint_dtype(set, DTYPE_COUNT);
    st_close(set);
    tempdir_remove(&dir);
    return t;
}

static void mixed_matrices_count_as_the_widest(void **state) {
    (void)state;
    assert_int_equal(dtype_of("BF16", "BF16", 2, 2), DTYPE_BF16);
    assert_int_equal(dtype_of("F16", "F16", 2, 2), DTYPE_F16);
    assert_int_equal(dtype_of("BF16", "F32", 2, 4), DTYPE_F32);
    assert_int_equal(dtype_of("F32", "BF16", 4, 2), DTYPE_F32);
    assert_int_equal(dtype_of("BF16", "F16", 2, 2), DTYPE_F32);
    assert_int_equal(dtype_of("I8", "F16", 1, 2), DTYPE_F16);
    assert_int_equal(dtype_of("I8", "I8", 1, 1), DTYPE_COUNT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_rank_holds_the_whole_model),
        cmocka_unit_test(a_cache_in_bf16_takes_half),
        cmocka_unit_test(parts_add_up_where_they_divide),
        cmocka_unit_test(options_add_what_they_add),
        cmocka_unit_test(rows_are_padded_to_panels),
        cmocka_unit_test(quantized_groups_are_counted),
        cmocka_unit_test(partial_sums_are_counted_as_they_travel),
        cmocka_unit_test(the_largest_config_saturates),
        cmocka_unit_test(mixed_matrices_count_as_the_widest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
