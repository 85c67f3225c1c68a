/* Ids, texts and stream pieces against those of Hugging Face's tokenizers. */
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text_data.h"

static struct tokenizer *qwen3;

static void check_encode(const struct tokenizer *t, const json_t *line, const char *field,
                         bool special) {
    const json_t *text = json_object_get(line, "text");
    const json_t *want = json_object_get(line, field);
    struct token_list ids = {0};
    struct error err;
    assert_true(json_is_string(text) && json_is_array(want));
    assert_ok(
        tokenizer_encode(t, json_string_value(text), json_string_length(text), special, &ids, &err),
        &err);
    text_data_assert_ids(json_string_value(json_object_get(line, "id")), want, ids.ids, ids.n);
    token_list_finish(&ids);
}

static void check_decode(const struct tokenizer *t, const json_t *line, const char *field,
                         bool skip_special) {
    const json_t *ids = json_object_get(line, "ids");
    const json_t *want = json_object_get(line, field);
    struct buffer out = {0};
    struct detokenizer d = {0};
    struct error err;
    assert_non_null(want);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        int32_t id = (int32_t)json_integer_value(json_array_get(ids, i));
        assert_ok(detokenizer_push(&d, t, id, skip_special, &out, &err), &err);
    }
    assert_ok(detokenizer_flush(&d, &out, &err), &err);
    if (out.size != json_string_length(want) ||
        memcmp(out.data ? (char *)out.data : "", json_string_value(want), out.size) != 0) {
        fail_msg("%s: decodes to \"%.*s\"", json_string_value(json_object_get(line, "id")),
                 (int)out.size, (char *)out.data);
    }
    buffer_finish(&out);
}

static void check_tiny(const json_t *line, void *ctx) {
    check_encode(ctx, line, "ids", false);
    check_encode(ctx, line, "ids_with_special", true);
}

static void tiny_qwen3(void **state) {
    (void)state;
    struct tokenizer *t = text_data_tokenizer("tiny-qwen3");
    assert_int_equal(text_data_each("tokenizer/tokenizer_tiny-qwen3.jsonl", check_tiny, t), 632);
    tokenizer_destroy(t);
}

static void tiny_llama(void **state) {
    (void)state;
    struct tokenizer *t = text_data_tokenizer("tiny-llama");
    assert_int_equal(text_data_each("tokenizer/tokenizer_tiny-llama.jsonl", check_tiny, t), 632);
    tokenizer_destroy(t);
}

static void check_qwen3(const json_t *line, void *ctx) {
    check_encode(ctx, line, "ids", true);
    check_decode(ctx, line, "decoded", false);
    check_decode(ctx, line, "decoded_skip_special", true);
}

static void qwen3_texts(void **state) {
    (void)state;
    if (!qwen3) {
        skip();
    }
    assert_int_equal(text_data_each("tokenizer/qwen3_tokenizer_golden.jsonl", check_qwen3, qwen3),
                     316);
}

static void check_stream(const json_t *line, void *ctx) {
    const json_t *ids = json_object_get(line, "ids");
    const json_t *pieces = json_object_get(line, "piece_hex");
    assert_int_equal(json_array_size(ids), json_array_size(pieces));
    for (size_t i = 0; i < json_array_size(ids); i++) {
        size_t n;
        const char *bytes =
            tokenizer_token_bytes(ctx, (int32_t)json_integer_value(json_array_get(ids, i)), &n);
        char hex[512] = "";
        assert_true(2 * n < sizeof hex);
        for (size_t k = 0; k < n; k++) {
            snprintf(hex + 2 * k, 3, "%02x", (unsigned char)bytes[k]);
        }
        assert_string_equal(hex, json_string_value(json_array_get(pieces, i)));
    }
}

static void qwen3_stream_pieces(void **state) {
    (void)state;
    if (!qwen3) {
        skip();
    }
    assert_int_equal(
        text_data_each("tokenizer/qwen3_tokenizer_stream_golden.jsonl", check_stream, qwen3), 83);
}

/* 151643 tokens and 26 added ones; ids up to 151936 are the model's padding. */
static void qwen3_vocabulary(void **state) {
    (void)state;
    if (!qwen3) {
        skip();
    }
    struct error err;
    struct buffer out = {0};
    int32_t padding = 151935;
    int32_t outside = 151936;
    assert_int_equal(tokenizer_size(qwen3), 151669);
    assert_int_equal(tokenizer_find(qwen3, "<|im_end|>"), 151645);
    assert_int_equal(tokenizer_find(qwen3, " the"), 279);
    assert_int_equal(tokenizer_find(qwen3, "no such token"), -1);
    assert_true(tokenizer_is_special(qwen3, 151645));
    assert_false(tokenizer_is_special(qwen3, 151667)); /* <think> */
    assert_ok(tokenizer_decode(qwen3, &padding, 1, false, &out, &err), &err);
    assert_int_equal(out.size, 0);
    assert_false(tokenizer_decode(qwen3, &outside, 1, false, &out, &err));
    assert_int_equal(err.kind, ERROR_INPUT);
    buffer_finish(&out);
}

static int load(void **state) {
    (void)state;
    qwen3 = text_data_qwen3();
    return 0;
}

static int unload(void **state) {
    (void)state;
    tokenizer_destroy(qwen3);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiny_qwen3),       cmocka_unit_test(tiny_llama),
        cmocka_unit_test(qwen3_texts),      cmocka_unit_test(qwen3_stream_pieces),
        cmocka_unit_test(qwen3_vocabulary),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
