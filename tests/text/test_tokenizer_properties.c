/* What holds for every text: ids decode to it, streaming gives the same bytes, odd inputs take no
 * more than their length. */
#include "test.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/random.h"
#include "text/unicode.h"
#include "text/utf8.h"
#include "text_data.h"

static struct tokenizer *llama; /* has no normalizer, so that ids decode to the very text */
static struct tokenizer *qwen;  /* NFC */

static uint32_t random_character(struct random *r) {
    static const uint32_t interesting[] = {
        ' ',   '\n',  '\r',   '\t',   '\'',   0xa0,   0x85,    0x180e, 0x2028, 0x200d,  0x3000,
        0x301, 0x323, 0xac00, 0x1100, 0x1161, 0xfeff, 0x1f600, 0xfffd, 0,      0x10ffff};
    uint32_t kind = (uint32_t)(random_u64(r) % 6);
    uint32_t v = (uint32_t)random_u64(r);
    switch (kind) {
    case 0:
        return interesting[v % (sizeof interesting / sizeof interesting[0])];
    case 1:
    case 2:
        return 0x20 + v % 0x5f;
    case 3:
        return 0x80 + v % 0x700;
    case 4:
        return 0x800 + v % 0xd000;
    default:
        return 0xe000 + v % 0x102000;
    }
}

static void random_text(struct random *r, struct buffer *out) {
    size_t n = random_u64(r) % 60;
    struct error err;
    buffer_clear(out);
    for (size_t i = 0; i < n; i++) {
        char c[4];
        if (random_u64(r) % 16 == 0) {
            static const char *const added[] = {"<|im_end|>", "<|eot_id|>", "<think>", "<|im_",
                                                "<"};
            const char *a = added[random_u64(r) % 5];
            assert_ok(buffer_append(out, a, strlen(a), &err), &err);
        }
        assert_ok(buffer_append(out, c, utf8_encode(random_character(r), c), &err), &err);
    }
}

static void assert_same(const struct buffer *a, const struct buffer *b) {
    assert_int_equal(a->size, b->size);
    if (a->size) {
        assert_memory_equal(a->data, b->data, a->size);
    }
}

/* As many tokens as there are, and one less. */
static void check_most(const struct tokenizer *t, const struct buffer *text,
                       const struct token_list *want) {
    struct token_list ids = {0};
    struct error err;
    bool more;
    const char *bytes = text->data ? (char *)text->data : "";
    assert_ok(token_list_push(&ids, 7, &err), &err);
    assert_ok(tokenizer_encode_most(t, bytes, text->size, false, want->n, &more, &ids, &err), &err);
    assert_false(more);
    assert_int_equal(ids.n, want->n + 1);
    assert_int_equal(ids.ids[0], 7);
    if (want->n) {
        assert_memory_equal(ids.ids + 1, want->ids, want->n * sizeof *want->ids);
        assert_ok(
            tokenizer_encode_most(t, bytes, text->size, false, want->n - 1, &more, &ids, &err),
            &err);
        assert_true(more);
        assert_int_equal(ids.n, want->n + 1);
    }
    token_list_finish(&ids);
}

static void check_round_trip(const struct tokenizer *t, const struct buffer *text,
                             const struct buffer *want) {
    struct error err;
    struct token_list ids = {0};
    struct buffer whole = {0}, streamed = {0};
    struct detokenizer d = {0};
    assert_ok(
        tokenizer_encode(t, text->data ? (char *)text->data : "", text->size, false, &ids, &err),
        &err);
    check_most(t, text, &ids);
    assert_ok(tokenizer_decode(t, ids.ids, ids.n, false, &whole, &err), &err);
    assert_same(&whole, want);
    for (size_t i = 0; i < ids.n; i++) {
        assert_ok(detokenizer_push(&d, t, ids.ids[i], false, &streamed, &err), &err);
        assert_int_equal(utf8_valid_prefix((char *)streamed.data, streamed.size), streamed.size);
    }
    assert_int_equal(d.n_pending, 0); /* a whole text leaves nothing over */
    assert_same(&streamed, want);
    buffer_finish(&whole);
    buffer_finish(&streamed);
    token_list_finish(&ids);
}

static void texts_round_trip(void **state) {
    (void)state;
    struct random r;
    struct error err;
    struct buffer text = {0}, nfc = {0};
    random_init(&r, 5);
    for (int i = 0; i < 3000; i++) {
        random_text(&r, &text);
        check_round_trip(llama, &text, &text);
        buffer_clear(&nfc);
        assert_ok(unicode_nfc(text.data ? (char *)text.data : "", text.size, &nfc, &err), &err);
        check_round_trip(qwen, &text, &nfc);
    }
    buffer_finish(&text);
    buffer_finish(&nfc);
}

/* Any ids at all: what is streamed is valid, and what it was not, became U+FFFD and nothing else.
 */
static void any_ids_stream_to_valid_text(void **state) {
    (void)state;
    struct random r;
    struct error err;
    struct buffer whole = {0}, streamed = {0}, repaired = {0};
    random_init(&r, 6);
    for (int i = 0; i < 2000; i++) {
        int32_t ids[40];
        int n = (int)(random_u64(&r) % 40);
        struct detokenizer d = {0};
        buffer_clear(&whole);
        buffer_clear(&streamed);
        buffer_clear(&repaired);
        for (int k = 0; k < n; k++) {
            /* the first 256 are single bytes: halves of characters in every combination */
            ids[k] = (int32_t)(random_u64(&r) % (k % 3 ? 256 : (uint64_t)tokenizer_size(qwen)));
            assert_ok(detokenizer_push(&d, qwen, ids[k], false, &streamed, &err), &err);
        }
        assert_ok(detokenizer_flush(&d, &streamed, &err), &err);
        assert_ok(tokenizer_decode(qwen, ids, (size_t)n, false, &whole, &err), &err);
        const char *p = whole.data ? (char *)whole.data : "";
        for (size_t at = 0; at < whole.size;) {
            size_t valid = utf8_valid_prefix(p + at, whole.size - at);
            assert_ok(buffer_append(&repaired, p + at, valid, &err), &err);
            at += valid;
            if (at <
                whole.size) { /* the longest start of a character is one U+FFFD (Unicode 3.9) */
                size_t bad = 0;
                while (at + bad < whole.size && utf8_continues((const unsigned char *)p + at, bad,
                                                               (unsigned char)p[at + bad])) {
                    bad++;
                }
                at += bad ? bad : 1;
                assert_ok(buffer_append(&repaired, "\xef\xbf\xbd", 3, &err), &err);
            }
        }
        assert_same(&streamed, &repaired);
    }
    buffer_finish(&whole);
    buffer_finish(&streamed);
    buffer_finish(&repaired);
}

static void utf8_is_strict(void **state) {
    (void)state;
    char c[4];
    for (uint32_t cp = 0; cp < 0x110000; cp++) {
        uint32_t back = 0;
        size_t n = utf8_encode(cp, c);
        bool surrogate = cp >= 0xd800 && cp < 0xe000;
        assert_int_equal(utf8_decode(c, n, &back), surrogate ? 0 : n);
        assert_true(surrogate || back == cp);
        assert_true(n == 1 || utf8_decode(c, n - 1, &back) == 0);
    }
}

/* Long runs cost their length, not its square. */
static void long_runs_are_quick(void **state) {
    (void)state;
    enum { N = 1 << 20 };
    static const char *const patterns[] = {
        "a", " ", "\n ", "<", "<|im_start|", "a\u0323\u0301", "\u0301\u0323", "\u4f60\u597d", "1"};
    struct error err;
    char *text = malloc(N);
    double start = clock_now();
    for (size_t i = 0; i < sizeof patterns / sizeof patterns[0]; i++) {
        struct token_list ids = {0};
        size_t len = strlen(patterns[i]);
        size_t n = N / len * len;
        for (size_t k = 0; k < n; k += len) {
            memcpy(text + k, patterns[i], len);
        }
        assert_ok(tokenizer_encode(qwen, text, n, false, &ids, &err), &err);
        assert_true(ids.n > 0);
        token_list_finish(&ids);
    }
    double seconds = clock_now() - start;
    print_message("9 runs of 1 MiB: %.2f s\n", seconds);
    assert_true(seconds < 60); /* a square would take hours; the rest is for slow machines */
    free(text);
}

static int setup(void **state) {
    (void)state;
    llama = text_data_tokenizer("tiny-llama");
    qwen = text_data_tokenizer("tiny-qwen3");
    return 0;
}

static int teardown(void **state) {
    (void)state;
    tokenizer_destroy(llama);
    tokenizer_destroy(qwen);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_round_trip),
        cmocka_unit_test(any_ids_stream_to_valid_text),
        cmocka_unit_test(utf8_is_strict),
        cmocka_unit_test(long_runs_are_quick),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
