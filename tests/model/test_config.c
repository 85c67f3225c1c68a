/* config.json: every bad field is one error that names file and field; what Hugging Face reads is
 * read the same way. */
#include "tempdir.h"

#include <sys/stat.h>

#include <jansson.h>

#include "base/leaf_tree.h"
#include "base/random.h"
#include "device/device.h"
#include "model/config.h"

static struct tempdir dir;

static int setup(void **state) {
    (void)state;
    tempdir_make(&dir);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    tempdir_remove(&dir);
    return 0;
}

static json_t *base_config(const char *model) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s/config.json", getenv("LOCKSTEP_TEST_DATA"), model);
    json_t *root = json_load_file(path, 0, NULL);
    assert_non_null(root);
    return root;
}

static void write_config(json_t *root) {
    assert_int_equal(json_dump_file(root, tempdir_join(&dir, "config.json"), 0), 0);
    json_decref(root);
}

/* Writes the model's config.json with the fields of `changes` (JSON) set, "DELETE" removing one. */
static void put_config(const char *model, const char *changes) {
    json_t *root = base_config(model);
    json_error_t where;
    json_t *fields = json_loads(changes, 0, &where);
    const char *key;
    json_t *value;
    if (!fields) {
        fail_msg("bad JSON in the test: %s: %s", changes, where.text);
    }
    json_object_foreach(fields, key, value) {
        if (json_is_string(value) && strcmp(json_string_value(value), "DELETE") == 0) {
            json_object_del(root, key);
        } else {
            json_object_set(root, key, value);
        }
    }
    json_decref(fields);
    write_config(root);
}

static struct model_config load(const char *model, const char *changes) {
    struct model_config c;
    struct error err = {0};
    put_config(model, changes);
    assert_ok(model_config_load(&c, dir.path, &err), &err);
    return c;
}

static void refuse(enum error_kind kind, const char *text, const char *text2) {
    struct model_config c;
    struct error err = {0};
    assert_error(model_config_load(&c, dir.path, &err), &err, kind, text, text2);
}

/* ---- good ---- */

static void the_golden_models_load(void **state) {
    (void)state;
    char path[512];
    struct model_config c;
    struct error err = {0};

    snprintf(path, sizeof path, "%s/tiny-qwen3", getenv("LOCKSTEP_TEST_DATA"));
    assert_ok(model_config_load(&c, path, &err), &err);
    assert_int_equal(c.arch, MODEL_ARCH_QWEN3);
    assert_string_equal(c.arch_name, "Qwen3ForCausalLM");
    assert_int_equal(c.hidden, 64);
    assert_int_equal(c.intermediate, 192);
    assert_int_equal(c.n_layer, 4);
    assert_int_equal(c.n_head, 8);
    assert_int_equal(c.n_kv_head, 4);
    assert_int_equal(c.head_dim, 32);
    assert_int_equal(c.vocab, 1024);
    assert_int_equal(c.max_positions, 512);
    assert_true(c.rms_eps == 1e-6f);
    assert_true(c.rope.kind == ROPE_PLAIN && c.rope.theta == 1e6);
    assert_true(c.tied && c.qk_norm && !c.qkv_bias && !c.o_bias && !c.mlp_bias);
    assert_int_equal(c.dtype, DTYPE_BF16);
    assert_int_equal(c.n_eos, 2); /* one of them only in generation_config.json */
    assert_int_equal(c.eos[0], 1009);
    assert_int_equal(c.eos[1], 1007);
    assert_int_equal(c.bos, 1007);
    assert_true(c.do_sample && c.temperature == 0.6 && c.top_p == 0.95 && c.top_k == 20);
    assert_true(c.min_p < 0 && c.repetition_penalty < 0);

    snprintf(path, sizeof path, "%s/tiny-llama", getenv("LOCKSTEP_TEST_DATA"));
    assert_ok(model_config_load(&c, path, &err), &err);
    assert_int_equal(c.arch, MODEL_ARCH_LLAMA);
    assert_int_equal(c.head_dim, 16); /* hidden / heads */
    assert_true(c.rope.kind == ROPE_LLAMA3 && c.rope.theta == 500000 && c.rope.factor == 8);
    assert_true(c.rope.low_freq_factor == 1 && c.rope.high_freq_factor == 4);
    assert_true(c.rope.original_positions == 64);
    assert_true(!c.tied && !c.qk_norm);
    assert_int_equal(c.n_eos, 2);
    assert_int_equal(c.eos[1], 999);
}

static void absent_fields_have_hugging_face_defaults(void **state) {
    (void)state;
    struct model_config c =
        load("tiny-llama", "{\"num_key_value_heads\":null,\"rms_norm_eps\":\"DELETE\","
                           "\"rope_theta\":\"DELETE\",\"rope_scaling\":\"DELETE\","
                           "\"tie_word_embeddings\":\"DELETE\",\"hidden_act\":\"DELETE\","
                           "\"max_position_embeddings\":\"DELETE\",\"eos_token_id\":null,"
                           "\"bos_token_id\":null,\"torch_dtype\":\"DELETE\",\"head_dim\":null}");
    assert_int_equal(c.n_kv_head, 4);
    assert_true(c.rms_eps == 1e-6f);
    assert_true(c.rope.kind == ROPE_PLAIN && c.rope.theta == 10000);
    assert_false(c.tied);
    assert_int_equal(c.max_positions, 2048);
    assert_int_equal(c.n_eos, 0);
    assert_int_equal(c.bos, -1);
    assert_int_equal(c.dtype, DTYPE_BF16);
    c = load("tiny-qwen3", "{\"head_dim\":\"DELETE\",\"max_position_embeddings\":\"DELETE\"}");
    assert_int_equal(c.head_dim, 128);
    assert_int_equal(c.max_positions, 32768);
}

static void both_generations_of_the_format_are_read(void **state) {
    (void)state;
    struct model_config c =
        load("tiny-llama", "{\"rope_theta\":\"DELETE\",\"rope_scaling\":\"DELETE\","
                           "\"torch_dtype\":\"DELETE\",\"dtype\":\"float16\",\"rope_parameters\":"
                           "{\"rope_theta\":123456.0,\"rope_type\":\"llama3\",\"factor\":32.0,"
                           "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
                           "\"original_max_position_embeddings\":8192}}");
    assert_true(c.rope.kind == ROPE_LLAMA3 && c.rope.theta == 123456 && c.rope.factor == 32);
    assert_int_equal(c.dtype, DTYPE_F16);
    c = load("tiny-qwen3", "{\"rope_theta\":\"DELETE\",\"torch_dtype\":\"float32\","
                           "\"rope_parameters\":{\"rope_theta\":5000000}}");
    assert_true(c.rope.kind == ROPE_PLAIN && c.rope.theta == 5e6);
    assert_int_equal(c.dtype, DTYPE_F32);
    c = load("tiny-llama", "{\"rope_scaling\":{\"type\":\"default\"}}");
    assert_int_equal(c.rope.kind, ROPE_PLAIN);
}

static void biases_follow_the_architecture(void **state) {
    (void)state;
    struct model_config c = load("tiny-llama", "{\"attention_bias\":true,\"mlp_bias\":true}");
    assert_true(c.qkv_bias && c.o_bias && c.mlp_bias);
    c = load("tiny-qwen3", "{\"attention_bias\":true,\"mlp_bias\":true}");
    assert_true(c.qkv_bias && c.o_bias && !c.mlp_bias);
    c = load("tiny-llama", "{\"architectures\":[\"Qwen2ForCausalLM\"],\"rope_scaling\":null}");
    assert_true(c.arch == MODEL_ARCH_QWEN2 && c.qkv_bias && !c.o_bias && !c.mlp_bias && !c.qk_norm);
    c = load("tiny-llama", "{\"architectures\":null,\"model_type\":\"qwen2\"}");
    assert_string_equal(c.arch_name, "Qwen2ForCausalLM");
}

static void harmless_fields_are_ignored(void **state) {
    (void)state;
    load("tiny-qwen3", "{\"use_sliding_window\":false,\"sliding_window\":4096,"
                       "\"layer_types\":[\"full_attention\",\"full_attention\"],"
                       "\"quantization_config\":null,\"surprise\":{\"deep\":[1,2,{}]},"
                       "\"pad_token_id\":-1}");
}

static void eos_is_united(void **state) {
    (void)state;
    put_config("tiny-qwen3", "{\"eos_token_id\":[5,6,5]}");
    tempdir_text(&dir, "generation_config.json", "{\"eos_token_id\":[6,7],\"bos_token_id\":3}");
    struct model_config c;
    struct error err = {0};
    assert_ok(model_config_load(&c, dir.path, &err), &err);
    assert_int_equal(c.n_eos, 3);
    assert_int_equal(c.eos[0] + 10 * c.eos[1] + 100 * c.eos[2], 5 + 60 + 700);
    assert_int_equal(c.bos, 1007); /* config.json's goes first */
    tempdir_clear(&dir);
}

/* ---- bad ---- */

static void bad_fields_are_named(void **state) {
    (void)state;
    static const struct {
        const char *changes;
        enum error_kind kind;
        const char *text; /* after "config.json: " */
        const char *text2;
    } cases[] = {
        /* sizes: missing, zero, negative, enormous, of a wrong type */
        {"{\"num_hidden_layers\":1000000000000}", ERROR_CONFIG, "num_hidden_layers: expected",
         "from 1 to 1024, got 1000000000000"},
        {"{\"num_hidden_layers\":1e12}", ERROR_CONFIG, "num_hidden_layers", "1000000000000"},
        {"{\"num_hidden_layers\":0}", ERROR_CONFIG, "num_hidden_layers", "got 0"},
        {"{\"num_hidden_layers\":\"x\"}", ERROR_CONFIG, "num_hidden_layers", "got \"x\""},
        {"{\"num_hidden_layers\":\"DELETE\"}", ERROR_CONFIG, "num_hidden_layers", "missing"},
        {"{\"num_hidden_layers\":null}", ERROR_CONFIG, "num_hidden_layers", "got null"},
        {"{\"num_hidden_layers\":[4]}", ERROR_CONFIG, "num_hidden_layers", "got a list"},
        {"{\"num_hidden_layers\":4.5}", ERROR_CONFIG, "num_hidden_layers", "got 4.5"},
        {"{\"num_hidden_layers\":true}", ERROR_CONFIG, "num_hidden_layers", "got true"},
        {"{\"num_attention_heads\":0}", ERROR_CONFIG, "num_attention_heads", "got 0"},
        {"{\"num_attention_heads\":-8}", ERROR_CONFIG, "num_attention_heads", "got -8"},
        {"{\"num_attention_heads\":1025}", ERROR_CONFIG, "num_attention_heads", "1 to 1024"},
        {"{\"num_attention_heads\":\"DELETE\"}", ERROR_CONFIG, "num_attention_heads", "missing"},
        {"{\"num_key_value_heads\":0}", ERROR_CONFIG, "num_key_value_heads", "got 0"},
        {"{\"num_key_value_heads\":3}", ERROR_CONFIG, "num_key_value_heads", "8"},
        {"{\"num_key_value_heads\":16}", ERROR_CONFIG, "num_key_value_heads", "1 to 8"},
        {"{\"num_key_value_heads\":{}}", ERROR_CONFIG, "num_key_value_heads", "an object"},
        {"{\"hidden_size\":0}", ERROR_CONFIG, "hidden_size", "got 0"},
        {"{\"hidden_size\":2147483648}", ERROR_CONFIG, "hidden_size", "2147483648"},
        {"{\"hidden_size\":\"DELETE\"}", ERROR_CONFIG, "hidden_size", "missing"},
        {"{\"intermediate_size\":-1}", ERROR_CONFIG, "intermediate_size", "-1"},
        {"{\"intermediate_size\":\"DELETE\"}", ERROR_CONFIG, "intermediate_size", "missing"},
        {"{\"vocab_size\":0}", ERROR_CONFIG, "vocab_size", "got 0"},
        {"{\"vocab_size\":9223372036854775807}", ERROR_CONFIG, "vocab_size", "9223372036854775807"},
        {"{\"head_dim\":33}", ERROR_CONFIG, "head_dim", "33"},
        {"{\"head_dim\":0}", ERROR_CONFIG, "head_dim", "got 0"},
        {"{\"head_dim\":1024}", ERROR_CONFIG, "head_dim", "1024"},
        {"{\"max_position_embeddings\":0}", ERROR_CONFIG, "max_position_embeddings", "got 0"},
        {"{\"rms_norm_eps\":-1}", ERROR_CONFIG, "rms_norm_eps", "got -1"},
        {"{\"rms_norm_eps\":\"small\"}", ERROR_CONFIG, "rms_norm_eps", "small"},
        {"{\"rope_theta\":0}", ERROR_CONFIG, "rope_theta", "got 0"},
        {"{\"tie_word_embeddings\":1}", ERROR_CONFIG, "tie_word_embeddings", "true or false"},
        {"{\"torch_dtype\":16}", ERROR_CONFIG, "torch_dtype", "a string"},
        {"{\"eos_token_id\":1024}", ERROR_CONFIG, "eos_token_id", "1024"},
        {"{\"eos_token_id\":[1,-1]}", ERROR_CONFIG, "eos_token_id", "-1"},
        {"{\"eos_token_id\":\"</s>\"}", ERROR_CONFIG, "eos_token_id", "</s>"},
        {"{\"eos_token_id\":[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]}", ERROR_CONFIG,
         "eos_token_id", "16"},
        {"{\"bos_token_id\":-5}", ERROR_CONFIG, "bos_token_id", "-5"},
        /* rope scaling */
        {"{\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4}}", ERROR_UNSUPPORTED,
         "rope_scaling.rope_type", "yarn"},
        {"{\"rope_scaling\":{\"type\":\"linear\",\"factor\":4}}", ERROR_UNSUPPORTED,
         "rope_scaling.type", "linear"},
        {"{\"rope_scaling\":{\"factor\":4}}", ERROR_CONFIG, "rope_scaling.rope_type", "missing"},
        {"{\"rope_scaling\":\"llama3\"}", ERROR_CONFIG, "rope_scaling", "an object"},
        {"{\"rope_scaling\":{\"rope_type\":\"llama3\"}}", ERROR_CONFIG, "rope_scaling.factor",
         "missing"},
        {"{\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":0,\"low_freq_factor\":1,"
         "\"high_freq_factor\":4,\"original_max_position_embeddings\":8192}}",
         ERROR_CONFIG, "rope_scaling.factor", "got 0"},
        {"{\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,"
         "\"high_freq_factor\":4,\"original_max_position_embeddings\":8192}}",
         ERROR_CONFIG, "rope_scaling.high_freq_factor", "more than low_freq_factor"},
        {"{\"rope_parameters\":{\"rope_type\":\"dynamic\"}}", ERROR_UNSUPPORTED,
         "rope_parameters.rope_type", "dynamic"},
        {"{\"rope_parameters\":{\"rope_theta\":\"big\"}}", ERROR_CONFIG,
         "rope_parameters.rope_theta", "big"},
        {"{\"partial_rotary_factor\":0.5}", ERROR_UNSUPPORTED, "partial_rotary_factor: heads of",
         "(0.5)"},
        /* what this program does not do */
        {"{\"architectures\":[\"Qwen3MoeForCausalLM\"]}", ERROR_UNSUPPORTED,
         "architectures: \"Qwen3MoeForCausalLM\"", "LlamaForCausalLM"},
        {"{\"architectures\":[]}", ERROR_CONFIG, "architectures", "a list"},
        {"{\"architectures\":[7]}", ERROR_CONFIG, "architectures", "a list"},
        {"{\"architectures\":\"DELETE\",\"model_type\":\"DELETE\"}", ERROR_CONFIG, "architectures",
         "missing"},
        {"{\"architectures\":\"DELETE\",\"model_type\":\"gpt2\"}", ERROR_UNSUPPORTED,
         "model_type: \"gpt2\"", "Qwen3ForCausalLM"},
        {"{\"architectures\":\"DELETE\",\"model_type\":4}", ERROR_CONFIG, "model_type", "got 4"},
        {"{\"quantization_config\":{\"quant_method\":\"awq\",\"bits\":4}}", ERROR_UNSUPPORTED,
         "quantization_config", "awq"},
        {"{\"quantization_config\":{}}", ERROR_UNSUPPORTED, "quantization_config", "quantized"},
        {"{\"use_sliding_window\":true}", ERROR_UNSUPPORTED, "use_sliding_window", ""},
        {"{\"use_sliding_window\":3}", ERROR_CONFIG, "use_sliding_window", "got 3"},
        {"{\"layer_types\":[\"full_attention\",\"sliding_attention\"]}", ERROR_UNSUPPORTED,
         "layer_types", "sliding_attention"},
        {"{\"hidden_act\":\"gelu\"}", ERROR_UNSUPPORTED, "hidden_act", "gelu"},
        {"{\"hidden_act\":\"si\\nlu\"}", ERROR_UNSUPPORTED, "hidden_act", "si?lu"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char expected[128];
        put_config("tiny-qwen3", cases[i].changes);
        snprintf(expected, sizeof expected, "/config.json: %s", cases[i].text);
        refuse(cases[i].kind, expected, cases[i].text2);
    }
    put_config("tiny-llama", "{\"hidden_size\":66}");
    refuse(ERROR_CONFIG, "config.json: hidden_size", "num_attention_heads");
    put_config("tiny-llama", "{\"hidden_size\":60}");
    refuse(ERROR_CONFIG, "config.json: head_dim", "15");
}

static void what_is_not_json_is_refused(void **state) {
    (void)state;
    tempdir_clear(&dir);
    refuse(ERROR_IO, "config.json", "No such file");
    tempdir_text(&dir, "config.json", "");
    refuse(ERROR_JSON, "config.json", "");
    tempdir_text(&dir, "config.json", "hello");
    refuse(ERROR_JSON, "config.json", "line 1");
    tempdir_text(&dir, "config.json", "[]");
    refuse(ERROR_CONFIG, "config.json", "an object");
    tempdir_text(&dir, "config.json", "{\"hidden_size\": 1e999}");
    refuse(ERROR_JSON, "config.json", "hidden_size");
    tempdir_text(&dir, "config.json", "{\"hidden_size\": NaN}");
    refuse(ERROR_JSON, "config.json", "hidden_size");
    char bomb[8001];
    memset(bomb, '[', sizeof bomb - 1);
    memcpy(bomb, "{\"x\":", 5);
    bomb[sizeof bomb - 1] = 0;
    tempdir_text(&dir, "config.json", bomb);
    refuse(ERROR_JSON, "config.json", "depth");
    tempdir_clear(&dir);
    assert_int_equal(mkfifo(tempdir_join(&dir, "config.json"), 0600), 0);
    refuse(ERROR_IO, "config.json", "regular");
    tempdir_clear(&dir);
    assert_int_equal(mkdir(tempdir_join(&dir, "config.json"), 0700), 0);
    refuse(ERROR_IO, "config.json", "regular");
    tempdir_clear(&dir);
}

static void generation_config_is_checked_too(void **state) {
    (void)state;
    static const struct {
        const char *text;
        enum error_kind kind;
        const char *expected;
    } cases[] = {
        {"{\"temperature\":-1}", ERROR_CONFIG, "generation_config.json: temperature"},
        {"{\"temperature\":101}", ERROR_CONFIG, "generation_config.json: temperature"},
        {"{\"top_p\":1.5}", ERROR_CONFIG, "generation_config.json: top_p"},
        {"{\"top_p\":0}", ERROR_CONFIG, "generation_config.json: top_p"},
        {"{\"top_k\":-2}", ERROR_CONFIG, "generation_config.json: top_k"},
        {"{\"top_k\":\"many\"}", ERROR_CONFIG, "generation_config.json: top_k"},
        {"{\"min_p\":[]}", ERROR_CONFIG, "generation_config.json: min_p"},
        {"{\"repetition_penalty\":0}", ERROR_CONFIG, "generation_config.json: repetition_penalty"},
        {"{\"do_sample\":\"yes\"}", ERROR_CONFIG, "generation_config.json: do_sample"},
        {"{\"eos_token_id\":5000}", ERROR_CONFIG, "generation_config.json: eos_token_id"},
        {"[]", ERROR_CONFIG, "generation_config.json: expected an object"},
        {"{", ERROR_JSON, "generation_config.json"},
    };
    put_config("tiny-qwen3", "{}");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tempdir_text(&dir, "generation_config.json", cases[i].text);
        refuse(cases[i].kind, cases[i].expected, "");
    }
    tempdir_text(&dir, "generation_config.json", "{\"temperature\":null,\"unknown\":1}");
    struct model_config c;
    struct error err = {0};
    assert_ok(model_config_load(&c, dir.path, &err), &err);
    assert_true(c.temperature < 0);
    tempdir_clear(&dir);
    put_config("tiny-qwen3", "{}");
    assert_int_equal(symlink("nowhere", tempdir_join(&dir, "generation_config.json")), 0);
    refuse(ERROR_IO, "generation_config.json", "");
    tempdir_clear(&dir);
}

/* ---- mutations ---- */

static void check_invariants(const struct model_config *c) {
    assert_in_range(c->hidden, 1, MODEL_MAX_HIDDEN);
    assert_in_range(c->intermediate, 1, MODEL_MAX_INTERMEDIATE);
    assert_in_range(c->n_layer, 1, MODEL_MAX_LAYERS);
    assert_in_range(c->n_head, 1, LEAF_TREE_MAX_LEAVES);
    assert_in_range(c->n_kv_head, 1, c->n_head);
    assert_int_equal(c->n_head % c->n_kv_head, 0);
    assert_in_range(c->head_dim, 2, DEVICE_MAX_HEAD_DIM);
    assert_int_equal(c->head_dim % 2, 0);
    assert_in_range(c->vocab, 1, MODEL_MAX_VOCAB);
    assert_true(c->rms_eps > 0 && c->rope.theta >= 1);
    assert_in_range(c->n_eos, 0, MODEL_MAX_EOS);
    for (int i = 0; i < c->n_eos; i++) {
        assert_in_range(c->eos[i], 0, c->vocab - 1);
    }
}

static void mutations_do_no_harm(void **state) {
    (void)state;
    static const char alphabet[] = "{}[]\",:0123456789-.eEtfn\\u\n\xff";
    struct random r;
    int loaded = 0;
    json_t *base = base_config("tiny-llama");
    char *text = json_dumps(base, JSON_COMPACT);
    size_t size = strlen(text);
    char *mutant = malloc(size);

    json_decref(base);
    random_init(&r, 3);
    for (int round = 0; round < 4000; round++) {
        size_t n = size;
        memcpy(mutant, text, size);
        for (uint64_t k = 1 + random_u64(&r) % 3; k > 0; k--) {
            mutant[random_u64(&r) % size] = alphabet[random_u64(&r) % (sizeof alphabet - 1)];
        }
        if (random_u64(&r) % 8 == 0) {
            n = random_u64(&r) % size;
        }
        tempdir_write(&dir, "config.json", mutant, n);
        struct model_config c;
        struct error err = {0};
        if (model_config_load(&c, dir.path, &err)) {
            loaded++;
            check_invariants(&c);
        } else {
            assert_non_null(strstr(err.message, "config.json"));
            assert_null(strchr(err.message, '\n'));
        }
    }
    assert_in_range(loaded, 1, 3999);
    free(mutant);
    free(text);
    tempdir_clear(&dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_golden_models_load),
        cmocka_unit_test(absent_fields_have_hugging_face_defaults),
        cmocka_unit_test(both_generations_of_the_format_are_read),
        cmocka_unit_test(biases_follow_the_architecture),
        cmocka_unit_test(harmless_fields_are_ignored),
        cmocka_unit_test(eos_is_united),
        cmocka_unit_test(bad_fields_are_named),
        cmocka_unit_test(what_is_not_json_is_refused),
        cmocka_unit_test(generation_config_is_checked_too),
        cmocka_unit_test(mutations_do_no_harm),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
