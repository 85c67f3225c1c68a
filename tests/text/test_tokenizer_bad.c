/* What is wrong with a tokenizer's files is said in one line that names file and field, and nothing
 * in them crashes the program. */
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/random.h"
#include "text_data.h"

/* Two merges over four bytes: small enough to read, and whole. `%s` in its parts are replaced. */
struct parts {
    const char *added, *normalizer, *pre, *post, *decoder, *model_extra, *vocab, *merges, *type;
};

static const struct parts good = {
    .added = "[{\"id\": 6, \"content\": \"<s>\", \"special\": true}]",
    .normalizer = "null",
    .pre = "{\"type\": \"ByteLevel\", \"add_prefix_space\": false}",
    .post = "null",
    .decoder = "{\"type\": \"ByteLevel\"}",
    .model_extra = "",
    .vocab = "{\"a\": 0, \"b\": 1, \"c\": 2, \"\u0120\": 3, \"ab\": 4, \"abc\": 5}",
    .merges = "[\"a b\", [\"ab\", \"c\"]]",
    .type = "\"BPE\"",
};

static char *assemble(const struct parts *p) {
    char *text = NULL;
    assert_true(asprintf(&text,
                         "{\"added_tokens\": %s, \"normalizer\": %s, \"pre_tokenizer\": %s, "
                         "\"post_processor\": %s, \"decoder\": %s, \"model\": {\"type\": %s, %s"
                         "\"vocab\": %s, \"merges\": %s}}",
                         p->added, p->normalizer, p->pre, p->post, p->decoder, p->type,
                         p->model_extra, p->vocab, p->merges) > 0);
    return text;
}

static char dir[64];

static bool load(const char *json, size_t n, int vocab, struct tokenizer **t, struct error *err) {
    text_data_write(dir, "tokenizer.json", json, n);
    return tokenizer_load(t, dir, vocab, err);
}

static bool load_parts(const struct parts *p, int vocab, struct tokenizer **t, struct error *err) {
    char *json = assemble(p);
    bool ok = load(json, strlen(json), vocab, t, err);
    free(json);
    return ok;
}

static void assert_encodes(const struct parts *p, const char *text, const char *want) {
    struct tokenizer *t;
    struct error err;
    struct token_list ids = {0};
    struct buffer got = {0};
    assert_ok(load_parts(p, 0, &t, &err), &err);
    assert_ok(tokenizer_encode(t, text, strlen(text), true, &ids, &err), &err);
    for (size_t i = 0; i < ids.n; i++) {
        assert_ok(buffer_printf(&got, &err, "%s%d", i ? " " : "", (int)ids.ids[i]), &err);
    }
    assert_ok(buffer_append(&got, "", 1, &err), &err);
    assert_string_equal((char *)got.data, want);
    buffer_finish(&got);
    token_list_finish(&ids);
    tokenizer_destroy(t);
}

/* ---- what is fine ---- */

static void small_but_whole(void **state) {
    (void)state;
    struct parts p = good;
    assert_encodes(&p, "abcab<s>c", "5 4 6 2");
    p.type = "null"; /* files of old converters */
    assert_encodes(&p, "abc", "5");
    p = good;
    p.merges = "[\"#version: 0.2\", \"a b\"]";
    assert_encodes(&p, "abc", "4 2");
    p = good;
    p.merges = "[]";
    assert_encodes(&p, "abc", "0 1 2");
    p.model_extra = "\"ignore_merges\": true, \"continuing_subword_prefix\": \"\", ";
    assert_encodes(&p, "abc", "5");
}

static void bytes_without_a_token(void **state) {
    (void)state;
    struct parts p = good;
    assert_encodes(&p, "axyc", "0 2"); /* as Hugging Face: they vanish */
    assert_encodes(&p, "axyb", "4");
    p.model_extra = "\"unk_token\": \"c\", ";
    assert_encodes(&p, "axyb", "0 2 2 1");
    p.model_extra = "\"unk_token\": \"c\", \"fuse_unk\": true, ";
    assert_encodes(&p, "axyb", "0 2 1");
}

static void added_tokens_overlap(void **state) {
    (void)state;
    struct parts p = good;
    p.added = "[{\"id\": 6, \"content\": \"<s>\"}, {\"id\": 7, \"content\": \"<s><s>\"},"
              " {\"id\": 8, \"content\": \"<s>a\"}, {\"id\": 9, \"content\": \"s>\"}]";
    assert_encodes(&p, "<s><s><s>a", "7 8"); /* leftmost, then longest */
    assert_encodes(&p, "<<s>", "6");
    assert_encodes(&p, "s>b", "9 1");
    p.added = "[{\"id\": 6, \"content\": \"<s>\", \"lstrip\": true, \"rstrip\": true}]";
    assert_encodes(&p, "a \n\t<s>\u3000 b", "0 6 1");
    assert_encodes(&p, " <s> <s> ", "6 6");
}

static void normalized_added_tokens_are_found_after_nfc(void **state) {
    (void)state;
    struct parts p = good;
    p.normalizer = "{\"type\": \"NFC\"}";
    p.added = "[{\"id\": 6, \"content\": \"e\u0301\", \"normalized\": true}]";
    assert_encodes(&p, "ae\u0301b", "0 6 1");
    assert_encodes(&p, "a\u00e9b", "0 6 1");
    p.added = "[{\"id\": 6, \"content\": \"e\u0301\", \"normalized\": false}]";
    assert_encodes(&p, "ae\u0301b", "0 6 1");
    assert_encodes(&p, "a\u00e9b", "4"); /* unknown bytes, which vanish */
}

static void template_around_the_text(void **state) {
    (void)state;
    struct parts p = good;
    p.post = "{\"type\": \"Sequence\", \"processors\": [{\"type\": \"ByteLevel\"}, "
             "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"B\"}}, "
             "{\"Sequence\": {\"id\": \"A\"}}, {\"SpecialToken\": {\"id\": \"E\"}}], "
             "\"special_tokens\": {\"B\": {\"ids\": [6]}, \"E\": {\"ids\": [2, 1]}}}]}";
    assert_encodes(&p, "ab", "6 4 2 1");
    assert_encodes(&p, "", "6 2 1");
}

static void gpt2_and_smollm_cut_digits(void **state) {
    (void)state;
    struct parts p = good;
    p.vocab = "{\"a\": 0, \"1\": 1, \"2\": 2, \"\u0120\": 3, \"12\": 4, \"\u01201\": 5}";
    p.merges = "[\"1 2\", \"\u0120 1\"]";
    assert_encodes(&p, "a12 1", "0 4 5");
    p.pre = "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Digits\", "
            "\"individual_digits\": true}, {\"type\": \"ByteLevel\", \"add_prefix_space\": "
            "false}]}";
    assert_encodes(&p, "a12 1", "0 1 2 3 1");
}

/* ---- what is not ---- */

static const struct bad {
    struct parts parts; /* a NULL part is the good one */
    int vocab;
    enum error_kind kind;
    const char *names;
} bad[] = {
    {{.added = "{}"}, 0, ERROR_TOKENIZER, "added_tokens: must be an array"},
    {{.added = "[3]"}, 0, ERROR_TOKENIZER, "added_tokens[0]"},
    {{.added = "[{\"content\": \"x\"}]"}, 0, ERROR_TOKENIZER, "added_tokens[0].id"},
    {{.added = "[{\"id\": -1, \"content\": \"x\"}]"}, 0, ERROR_TOKENIZER, "added_tokens[0].id"},
    {{.added = "[{\"id\": 2147483647, \"content\": \"x\"}]"},
     0,
     ERROR_TOKENIZER,
     "added_tokens[0].id"},
    {{.added = "[{\"id\": 1e3, \"content\": \"x\"}]"}, 0, ERROR_TOKENIZER, "added_tokens[0].id"},
    {{.added = "[{\"id\": 6}]"}, 0, ERROR_TOKENIZER, "added_tokens[0].content"},
    {{.added = "[{\"id\": 6, \"content\": \"\"}]"}, 0, ERROR_TOKENIZER, "added_tokens[0].content"},
    {{.added = "[{\"id\": 6, \"content\": 6}]"}, 0, ERROR_TOKENIZER, "added_tokens[0].content"},
    {{.added = "[{\"id\": 6, \"content\": \"x\", \"special\": 1}]"},
     0,
     ERROR_TOKENIZER,
     "added_tokens[0].special"},
    {{.added = "[{\"id\": 6, \"content\": \"x\", \"single_word\": true}]"},
     0,
     ERROR_UNSUPPORTED,
     "added_tokens[0].single_word"},
    {{.added = "[{\"id\": 0, \"content\": \"x\"}]"}, 0, ERROR_TOKENIZER, "id 0 is taken"},
    {{.added = "[{\"id\": 6, \"content\": \"x\"}, {\"id\": 6, \"content\": \"x\"}]"},
     0,
     ERROR_TOKENIZER,
     "added_tokens[1]"},
    {{.added = "[{\"id\": 6, \"content\": \"x\"}, {\"id\": 7, \"content\": \"x\"}]"},
     0,
     ERROR_TOKENIZER,
     "ids 6 and 7"},
    {{.added = "[{\"id\": 6, \"content\": \"x\"}]"}, 6, ERROR_TOKENIZER, "outside [0, 6)"},
    {{.normalizer = "{\"type\": \"NFKC\"}"}, 0, ERROR_UNSUPPORTED, "normalizer: \"NFKC\""},
    {{.normalizer = "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Lowercase\"}]}"},
     0,
     ERROR_UNSUPPORTED,
     "normalizer.normalizers[0]: \"Lowercase\""},
    {{.normalizer = "\"NFC\""}, 0, ERROR_TOKENIZER, "normalizer: must be an object"},
    {{.pre = "null"}, 0, ERROR_TOKENIZER, "pre_tokenizer: is missing"},
    {{.pre = "{}"}, 0, ERROR_TOKENIZER, "pre_tokenizer.type"},
    {{.pre = "{\"type\": \"Metaspace\"}"}, 0, ERROR_UNSUPPORTED, "pre_tokenizer: \"Metaspace\""},
    {{.pre = "{\"type\": \"ByteLevel\"}"}, 0, ERROR_UNSUPPORTED, "pre_tokenizer.add_prefix_space"},
    {{.pre = "{\"type\": \"Digits\"}"}, 0, ERROR_UNSUPPORTED, "ByteLevel is missing"},
    {{.pre = "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"ByteLevel\", "
             "\"add_prefix_space\": false}, {\"type\": \"Digits\"}]}"},
     0,
     ERROR_UNSUPPORTED,
     "pretokenizers[1]: \"Digits\" after ByteLevel"},
    {{.pre = "{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"Regex\": \"(\"}}"},
     0,
     ERROR_TOKENIZER,
     "pre_tokenizer.pattern: not a regular expression"},
    {{.pre = "{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"Regex\": "
             "\"\\\\w+\"}}"},
     0,
     ERROR_UNSUPPORTED,
     "pre_tokenizer.pattern: \\w"},
    {{.pre = "{\"type\": \"Split\", \"behavior\": \"Removed\", \"pattern\": {\"String\": \" \"}}"},
     0,
     ERROR_UNSUPPORTED,
     "pre_tokenizer.behavior"},
    {{.pre = "{\"type\": \"Split\", \"pattern\": {\"String\": \" \"}}"},
     0,
     ERROR_TOKENIZER,
     "pre_tokenizer.behavior"},
    {{.post = "{\"type\": \"BertProcessing\"}"},
     0,
     ERROR_UNSUPPORTED,
     "post_processor: \"BertProcessing\""},
    {{.post = "{\"type\": \"TemplateProcessing\", \"single\": []}"},
     0,
     ERROR_TOKENIZER,
     "post_processor.single"},
    {{.post = "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": "
              "\"B\"}}, {\"Sequence\": {}}]}"},
     0,
     ERROR_TOKENIZER,
     "post_processor.single[0]"},
    {{.post = "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": "
              "\"B\"}}, {\"Sequence\": {}}], \"special_tokens\": {\"B\": {\"ids\": [99]}}}"},
     0,
     ERROR_TOKENIZER,
     "post_processor.single[0]: id 99"},
    {{.decoder = "null"}, 0, ERROR_TOKENIZER, "decoder: is missing"},
    {{.decoder = "{\"type\": \"WordPiece\"}"}, 0, ERROR_UNSUPPORTED, "decoder: \"WordPiece\""},
    {{.type = "\"Unigram\""}, 0, ERROR_UNSUPPORTED, "model.type: \"Unigram\""},
    {{.type = "7"}, 0, ERROR_TOKENIZER, "model.type"},
    {{.model_extra = "\"byte_fallback\": true, "}, 0, ERROR_UNSUPPORTED, "model.byte_fallback"},
    {{.model_extra = "\"dropout\": 0.5, "}, 0, ERROR_UNSUPPORTED, "model.dropout"},
    {{.model_extra = "\"end_of_word_suffix\": \"</w>\", "},
     0,
     ERROR_UNSUPPORTED,
     "model.end_of_word_suffix"},
    {{.model_extra = "\"unk_token\": \"zz\", "}, 0, ERROR_TOKENIZER, "model.unk_token"},
    {{.vocab = "[]"}, 0, ERROR_TOKENIZER, "model.vocab: must be an object"},
    {{.vocab = "{\"a\": \"0\"}"}, 0, ERROR_TOKENIZER, "model.vocab"},
    {{.vocab = "{\"a\": 0, \"b\": 0}"}, 0, ERROR_TOKENIZER, "model.vocab: token \"b\""},
    {{.vocab = "{\"a\": -7}"}, 0, ERROR_TOKENIZER, "model.vocab: id -7"},
    {{.vocab = "{\"a\": 4000000000}"}, 0, ERROR_TOKENIZER, "model.vocab: id 4000000000"},
    {{.vocab = "{\"a\": 10}"}, 10, ERROR_TOKENIZER, "model.vocab: id 10 is outside [0, 10)"},
    {{.vocab = "{\"a\": 9000000}"}, 10000000, ERROR_TOKENIZER, "the largest id is 9000000"},
    {{.vocab = "{\"a\": 0, \"a\": 1}"}, 0, ERROR_JSON, "line 1"},
    {{.vocab = "{\"\\ud800\": 0}"}, 0, ERROR_JSON, "line 1"},
    {{.merges = "{}"}, 0, ERROR_TOKENIZER, "model.merges: must be an array"},
    {{.merges = "[\"ab\"]"}, 0, ERROR_TOKENIZER, "model.merges[0]"},
    {{.merges = "[\"a b\", \"a b c\"]"}, 0, ERROR_TOKENIZER, "model.merges[1]"},
    {{.merges = "[[\"a\", \"b\", \"c\"]]"}, 0, ERROR_TOKENIZER, "model.merges[0]"},
    {{.merges = "[[\"a\", 3]]"}, 0, ERROR_TOKENIZER, "model.merges[0]"},
    {{.merges = "[3]"}, 0, ERROR_TOKENIZER, "model.merges[0]"},
    {{.merges = "[\"a z\"]"}, 0, ERROR_TOKENIZER, "model.merges[0]: its second part"},
    {{.merges = "[\"a  \"]"}, 0, ERROR_TOKENIZER, "model.merges[0]"},
    {{.merges = "[\" b\"]"}, 0, ERROR_TOKENIZER, "model.merges[0]: its first part"},
    {{.merges = "[\"\u3042 b\"]"}, 0, ERROR_TOKENIZER, "model.merges[0]: its first part"},
    {{.merges = "[\"b a\"]"}, 0, ERROR_TOKENIZER, "model.merges[0]: the merged token"},
    {{.merges = "[\"a b\", \"a b\"]"}, 0, ERROR_TOKENIZER, "repeats model.merges[0]"},
};

static void bad_fields_are_named(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct parts p = good;
#define TAKE(part) p.part = bad[i].parts.part ? bad[i].parts.part : p.part
        TAKE(added);
        TAKE(normalizer);
        TAKE(pre);
        TAKE(post);
        TAKE(decoder);
        TAKE(model_extra);
        TAKE(vocab);
        TAKE(merges);
        TAKE(type);
        struct tokenizer *t = NULL;
        struct error err = {0};
        assert_false(load_parts(&p, bad[i].vocab, &t, &err));
        if (err.kind != bad[i].kind || !strstr(err.message, bad[i].names) ||
            !strstr(err.message, "/tokenizer.json")) {
            fail_msg("case %zu (%s): %s: %s", i, bad[i].names, error_kind_name(err.kind),
                     err.message);
        }
    }
}

static void bad_files_are_named(void **state) {
    (void)state;
    static const struct {
        const char *json;
        enum error_kind kind;
        const char *names;
    } cases[] = {
        {"", ERROR_JSON, "tokenizer.json: not valid JSON: line 1"},
        {"not JSON", ERROR_JSON, "tokenizer.json: not valid JSON: line 1"},
        {"{\"model\": {}", ERROR_JSON, "tokenizer.json: not valid JSON: line 1"},
        {"\xff{}", ERROR_JSON, "tokenizer.json: not valid JSON: line 1"},
        {"[]", ERROR_TOKENIZER, "the whole file: must be an object"},
        {"{}", ERROR_TOKENIZER, "tokenizer.json: pre_tokenizer: is missing"},
    };
    struct tokenizer *t;
    struct error err;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_false(load(cases[i].json, strlen(cases[i].json), 0, &t, &err));
        if (err.kind != cases[i].kind || !strstr(err.message, cases[i].names)) {
            fail_msg("case %zu: %s: %s", i, error_kind_name(err.kind), err.message);
        }
    }
    assert_false(tokenizer_load(&t, "/nonexistent", 0, &err));
    assert_int_equal(err.kind, ERROR_IO);
    assert_non_null(strstr(err.message, "/nonexistent/tokenizer.json"));
}

static void nesting_bombs_are_refused(void **state) {
    (void)state;
    enum { DEPTH = 100000 };
    char *bomb = malloc(DEPTH + 1);
    struct tokenizer *t;
    struct error err;
    memset(bomb, '[', DEPTH);
    assert_false(load(bomb, DEPTH, 0, &t, &err));
    assert_int_equal(err.kind, ERROR_JSON);
    free(bomb);

    struct buffer pre = {0};
    for (int i = 0; i < 500; i++) {
        assert_ok(buffer_printf(&pre, &err, "{\"type\": \"Sequence\", \"pretokenizers\": ["), &err);
    }
    for (int i = 0; i < 500; i++) {
        assert_ok(buffer_printf(&pre, &err, "]}"), &err);
    }
    assert_ok(buffer_append(&pre, "", 1, &err), &err);
    struct parts p = good;
    p.pre = (const char *)pre.data;
    assert_false(load_parts(&p, 0, &t, &err));
    assert_int_equal(err.kind, ERROR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "nested too deep"));
    buffer_finish(&pre);
}

static void bad_configs_are_named(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"{", "tokenizer_config.json: not valid JSON: line 1"},
        {"[]", "tokenizer_config.json: the whole file"},
        {"{\"chat_template\": 1}", "tokenizer_config.json: chat_template"},
        {"{\"bos_token\": 1}", "tokenizer_config.json: bos_token"},
        {"{\"bos_token\": {\"content\": []}}", "tokenizer_config.json: bos_token"},
    };
    struct tokenizer *t;
    struct error err;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        text_data_write(dir, "tokenizer_config.json", cases[i][0], strlen(cases[i][0]));
        assert_false(load_parts(&good, 0, &t, &err));
        assert_non_null(strstr(err.message, cases[i][1]));
    }
    static const char list[] =
        "{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"T\"}, {\"name\": "
        "\"default\", \"template\": \"D\"}], \"bos_token\": {\"content\": \"<s>\"}}";
    text_data_write(dir, "tokenizer_config.json", list, sizeof list - 1);
    assert_ok(load_parts(&good, 0, &t, &err), &err);
    assert_string_equal(tokenizer_chat_template(t), "D");
    assert_string_equal(tokenizer_bos_token(t), "<s>");
    tokenizer_destroy(t);
    text_data_write(dir, "chat_template.jinja", "J", 1);
    assert_ok(load_parts(&good, 0, &t, &err), &err);
    assert_string_equal(tokenizer_chat_template(t), "J");
    tokenizer_destroy(t);
    text_data_remove_dir(dir);
    text_data_make_dir(dir);
}

static void slow_patterns_end(void **state) {
    (void)state;
    struct parts p = good;
    p.pre = "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"behavior\": "
            "\"Isolated\", \"pattern\": {\"Regex\": \"(?:a|aa)+$\"}}, {\"type\": "
            "\"ByteLevel\", \"add_prefix_space\": false}]}";
    struct tokenizer *t;
    struct error err;
    struct token_list ids = {0};
    char text[200];
    memset(text, 'a', sizeof text);
    text[sizeof text - 1] = 'b';
    assert_ok(load_parts(&p, 0, &t, &err), &err);
    assert_false(tokenizer_encode(t, text, sizeof text, false, &ids, &err));
    assert_int_equal(err.kind, ERROR_TOKENIZER);
    assert_int_equal(ids.n, 0);
    tokenizer_destroy(t);
    token_list_finish(&ids);
}

static void text_that_is_not_utf8(void **state) {
    (void)state;
    static const struct {
        const char *text;
        const char *offset;
    } cases[] = {{"ab\xff", "offset 2"},           {"\xc0\x80", "offset 0"},
                 {"a\xe3\x81", "offset 1"},        {"\xed\xa0\x80", "offset 0"},
                 {"\xf4\x90\x80\x80", "offset 0"}, {"abcdefgh\x80", "offset 8"}};
    struct tokenizer *t;
    struct error err;
    struct token_list ids = {0};
    assert_ok(load_parts(&good, 0, &t, &err), &err);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_false(tokenizer_encode(t, cases[i].text, strlen(cases[i].text), false, &ids, &err));
        assert_int_equal(err.kind, ERROR_INPUT);
        assert_non_null(strstr(err.message, cases[i].offset));
    }
    tokenizer_destroy(t);
}

/* ---- mutations of a real file ---- */

static void mutate(struct random *r, unsigned char *p, size_t *n) {
    int edits = 1 + (int)(random_u64(r) % 4);
    for (int i = 0; i<edits && * n> 1; i++) {
        size_t at = random_u64(r) % *n;
        size_t span = 1 + random_u64(r) % 40;
        span = span < *n - at ? span : *n - at - 1;
        switch (random_u64(r) % 5) {
        case 0:
            p[at] = (unsigned char)random_u64(r);
            break;
        case 1:
            p[at] = (unsigned char)"{}[]\",:0123456789eE-\\u "[random_u64(r) % 24];
            break;
        case 2: /* cut out */
            memmove(p + at, p + at + span, *n - at - span);
            *n -= span;
            break;
        case 3: /* copy over */
            memmove(p + at, p + random_u64(r) % (*n - span), span);
            break;
        default: /* cut off */
            *n = random_u64(r) % 20 == 0 ? at : *n;
        }
    }
}

/* A short tokenizer.json with every kind of field, so that mutations hit them all. */
static void mutated_files_load_or_fail_cleanly(void **state) {
    (void)state;
    struct random r;
    struct error err;
    struct buffer tiny = {0};
    struct parts p = good;
    int loaded = 0;
    p.normalizer = "{\"type\": \"NFC\"}";
    p.post = "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"B\"}}, "
             "{\"Sequence\": {\"id\": \"A\"}}], \"special_tokens\": {\"B\": {\"ids\": [6]}}}";
    char *small = assemble(&p);
    assert_ok(buffer_read_file(&tiny, text_data_path("tiny-qwen3/tokenizer.json"), 1 << 20, &err),
              &err);
    unsigned char *copy = malloc(tiny.size + 1);
    random_init(&r, 2024);
    for (int i = 0; i < 2000; i++) {
        bool big = i % 5 == 0;
        size_t n = big ? tiny.size : strlen(small);
        memcpy(copy, big ? (char *)tiny.data : small, n);
        mutate(&r, copy, &n);
        struct tokenizer *t = NULL;
        struct token_list ids = {0};
        struct buffer text = {0};
        if (load((const char *)copy, n, 0, &t, &err)) {
            static const char sample[] = "abc <s>e\u0301 123  x\n\u3042<|im_end|> cab";
            loaded++;
            if (tokenizer_encode(t, sample, sizeof sample - 1, true, &ids, &err)) {
                assert_ok(tokenizer_decode(t, ids.ids, ids.n, false, &text, &err), &err);
            }
        } else {
            assert_non_null(strstr(err.message, "tokenizer.json"));
        }
        buffer_finish(&text);
        token_list_finish(&ids);
        tokenizer_destroy(t);
    }
    print_message("%d of 2000 still load\n", loaded);
    assert_in_range(loaded, 20, 1900);
    free(copy);
    free(small);
    buffer_finish(&tiny);
}

static int setup(void **state) {
    (void)state;
    text_data_make_dir(dir);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    text_data_remove_dir(dir);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_but_whole),
        cmocka_unit_test(bytes_without_a_token),
        cmocka_unit_test(added_tokens_overlap),
        cmocka_unit_test(normalized_added_tokens_are_found_after_nfc),
        cmocka_unit_test(template_around_the_text),
        cmocka_unit_test(gpt2_and_smollm_cut_digits),
        cmocka_unit_test(bad_fields_are_named),
        cmocka_unit_test(bad_files_are_named),
        cmocka_unit_test(nesting_bombs_are_refused),
        cmocka_unit_test(bad_configs_are_named),
        cmocka_unit_test(slow_patterns_end),
        cmocka_unit_test(text_that_is_not_utf8),
        cmocka_unit_test(mutated_files_load_or_fail_cleanly),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
