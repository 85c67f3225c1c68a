#include "model/config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/leaf_tree.h"
#include "device/device.h"
#include "format/json.h"
#include "format/show.h"
#include "model/checkpoint.h"

enum { MAX_CONFIG_BYTES = 16 << 20 };

static const struct {
    const char *name;
    const char *model_type;
    int max_positions; /* Hugging Face's default */
} archs[] = {
    [MODEL_ARCH_QWEN3] = {"Qwen3ForCausalLM", "qwen3", 32768},
    [MODEL_ARCH_QWEN2] = {"Qwen2ForCausalLM", "qwen2", 32768},
    [MODEL_ARCH_LLAMA] = {"LlamaForCausalLM", "llama", 2048},
};
_Static_assert(sizeof archs / sizeof archs[0] == MODEL_ARCH_COUNT, "every architecture has a row");

/* "FILE: FIELD: what", for things that are right but not for this program. */
static bool unsupported(const struct json_fields *f, const char *key, const char *what,
                        const char *value, struct error *err) {
    return error_set(err, ERROR_UNSUPPORTED, "%s: %s%s: %s \"%s\" is not supported",
                     show_path(f->file).text, f->prefix, key, what, show_text(value).text);
}

static bool get_int(const struct json_fields *f, const char *key, int64_t min, int64_t max,
                    int *out, struct error *err) {
    int64_t v;
    if (!json_get_int(f, key, min, max, &v, err)) {
        return false;
    }
    *out = (int)v;
    return true;
}

static bool get_int_or(const struct json_fields *f, const char *key, int64_t min, int64_t max,
                       int *out, struct error *err) {
    return !json_has(f, key) || get_int(f, key, min, max, out, err);
}

/* ---- architecture ---- */

static bool read_arch(const struct json_fields *f, struct model_config *c, struct error *err) {
    const json_t *list = json_object_get(f->object, "architectures");
    const char *name = json_string_value(json_array_get(list, 0));
    const char *type = NULL;

    if (!name && (json_has(f, "architectures") || !json_has(f, "model_type"))) {
        return json_bad_field(f, "architectures", "a list with a name", list, err);
    }
    if (!name && !json_get_string(f, "model_type", &type, err)) {
        return false;
    }
    for (int a = 0; a < MODEL_ARCH_COUNT; a++) {
        if (strcmp(name ? name : type, name ? archs[a].name : archs[a].model_type) == 0) {
            c->arch = (enum model_arch)a;
            snprintf(c->arch_name, sizeof c->arch_name, "%s", archs[a].name);
            return true;
        }
    }
    return error_set(
        err, ERROR_UNSUPPORTED, "%s: %s: \"%s\" is not supported; supported are %s, %s and %s",
        show_path(f->file).text, name ? "architectures" : "model_type",
        show_text(name ? name : type).text, archs[0].name, archs[1].name, archs[2].name);
}

/* Quantized checkpoints hold other tensors than these architectures' own. */
static bool refuse_quantized(const struct json_fields *f, struct error *err) {
    static const char *const keys[] = {"quantization_config", "compression_config"};
    for (int i = 0; i < 2; i++) {
        if (json_has(f, keys[i])) {
            const json_t *q = json_object_get(f->object, keys[i]);
            const char *method = json_string_value(json_object_get(q, "quant_method"));
            return unsupported(f, keys[i], "a checkpoint quantized with",
                               method ? method : "unknown", err);
        }
    }
    return true;
}

/* ---- sizes ---- */

static bool read_head_dim(const struct json_fields *f, struct model_config *c, struct error *err) {
    if (json_has(f, "head_dim")) {
        if (!get_int(f, "head_dim", 2, DEVICE_MAX_HEAD_DIM, &c->head_dim, err)) {
            return false;
        }
    } else if (c->arch == MODEL_ARCH_QWEN3) {
        c->head_dim = 128; /* Qwen3Config's default, whatever the hidden size */
    } else {
        if (c->hidden % c->n_head != 0) {
            return error_set(
                err, ERROR_CONFIG,
                "%s: hidden_size: %d is not a multiple of num_attention_heads, %d, and "
                "there is no head_dim",
                show_path(f->file).text, c->hidden, c->n_head);
        }
        c->head_dim = c->hidden / c->n_head;
    }
    if (c->head_dim % 2 != 0 || c->head_dim > DEVICE_MAX_HEAD_DIM) {
        return error_set(err, ERROR_CONFIG,
                         "%s: head_dim: expected an even number up to %d, got %d",
                         show_path(f->file).text, DEVICE_MAX_HEAD_DIM, c->head_dim);
    }
    return true;
}

static bool read_sizes(const struct json_fields *f, struct model_config *c, struct error *err) {
    c->max_positions = archs[c->arch].max_positions;
    if (!get_int(f, "hidden_size", 1, MODEL_MAX_HIDDEN, &c->hidden, err) ||
        !get_int(f, "intermediate_size", 1, MODEL_MAX_INTERMEDIATE, &c->intermediate, err) ||
        !get_int(f, "num_hidden_layers", 1, MODEL_MAX_LAYERS, &c->n_layer, err) ||
        !get_int(f, "num_attention_heads", 1, LEAF_TREE_MAX_LEAVES, &c->n_head, err) ||
        !get_int(f, "vocab_size", 1, MODEL_MAX_VOCAB, &c->vocab, err) ||
        !get_int_or(f, "max_position_embeddings", 1, MODEL_MAX_POSITIONS, &c->max_positions, err)) {
        return false;
    }
    c->n_kv_head = c->arch == MODEL_ARCH_LLAMA ? c->n_head : 32; /* Hugging Face's defaults */
    if (!get_int_or(f, "num_key_value_heads", 1, c->n_head, &c->n_kv_head, err)) {
        return false;
    }
    if (c->n_head % c->n_kv_head != 0) {
        return error_set(err, ERROR_CONFIG,
                         "%s: num_key_value_heads: %d does not divide num_attention_heads, %d",
                         show_path(f->file).text, c->n_kv_head, c->n_head);
    }
    return read_head_dim(f, c, err);
}

/* ---- what the layers are made of ---- */

static bool refuse_sliding_window(const struct json_fields *f, struct error *err) {
    bool sliding = false;
    if (!json_get_bool_or(f, "use_sliding_window", &sliding, err)) {
        return false;
    }
    if (sliding) {
        return unsupported(f, "use_sliding_window", "attention in a sliding window,", "true", err);
    }
    const json_t *types = json_object_get(f->object, "layer_types");
    for (size_t i = 0; i < json_array_size(types); i++) {
        const char *type = json_string_value(json_array_get(types, i));
        if (!type || strcmp(type, "full_attention") != 0) {
            return unsupported(f, "layer_types", "a layer of type", type ? type : "unknown", err);
        }
    }
    return true;
}

static bool read_dtype(const struct json_fields *f, struct model_config *c, struct error *err) {
    static const struct {
        const char *name;
        enum dtype dtype;
    } names[] = {{"float32", DTYPE_F32}, {"bfloat16", DTYPE_BF16}, {"float16", DTYPE_F16}};
    const char *name = "bfloat16";
    if (!json_get_string_or(f, "torch_dtype", &name, err) ||
        !json_get_string_or(f, "dtype", &name, err)) {
        return false;
    }
    c->dtype = DTYPE_BF16;
    for (int i = 0; i < 3; i++) {
        if (strcmp(name, names[i].name) == 0) {
            c->dtype = names[i].dtype;
        }
    }
    return true;
}

static bool read_layers(const struct json_fields *f, struct model_config *c, struct error *err) {
    const char *activation = "silu";
    bool attention_bias = false;
    double eps = 1e-6;

    if (!json_get_string_or(f, "hidden_act", &activation, err) ||
        !json_get_bool_or(f, "tie_word_embeddings", &c->tied, err) ||
        !json_get_bool_or(f, "attention_bias", &attention_bias, err) ||
        !json_get_bool_or(f, "mlp_bias", &c->mlp_bias, err) ||
        !json_get_number_or(f, "rms_norm_eps", 1e-30, 1, &eps, err)) {
        return false;
    }
    if (strcmp(activation, "silu") != 0 && strcmp(activation, "swish") != 0) {
        return unsupported(f, "hidden_act", "activation", activation, err);
    }
    c->rms_eps = (float)eps;
    c->qk_norm = c->arch == MODEL_ARCH_QWEN3;
    /* Qwen2 always has the three biases and never the fourth, and reads no such field. */
    c->qkv_bias = c->arch == MODEL_ARCH_QWEN2 || attention_bias;
    c->o_bias = c->arch != MODEL_ARCH_QWEN2 && attention_bias;
    c->mlp_bias = c->arch == MODEL_ARCH_LLAMA && c->mlp_bias;
    return refuse_sliding_window(f, err) && read_dtype(f, c, err);
}

/* ---- rotary embedding ---- */

static bool read_llama3(const struct json_fields *f, struct rope_config *r, struct error *err) {
    r->kind = ROPE_LLAMA3;
    if (!json_get_number(f, "factor", 1, 1e6, &r->factor, err) ||
        !json_get_number(f, "low_freq_factor", 1e-6, 1e6, &r->low_freq_factor, err) ||
        !json_get_number(f, "high_freq_factor", 1e-6, 1e6, &r->high_freq_factor, err) ||
        !json_get_number(f, "original_max_position_embeddings", 1, MODEL_MAX_POSITIONS,
                         &r->original_positions, err)) {
        return false;
    }
    if (r->high_freq_factor <= r->low_freq_factor) {
        return error_set(err, ERROR_CONFIG,
                         "%s: %shigh_freq_factor: expected more than low_freq_factor, %g, got %g",
                         show_path(f->file).text, f->prefix, r->low_freq_factor,
                         r->high_freq_factor);
    }
    return true;
}

static bool read_theta(const struct json_fields *f, double *theta, struct error *err) {
    double whole = 1;
    if (!json_get_number_or(f, "rope_theta", 1, 1e18, theta, err) ||
        !json_get_number_or(f, "partial_rotary_factor", 0, 1, &whole, err)) {
        return false;
    }
    return whole >= 1 || error_set(err, ERROR_UNSUPPORTED,
                                   "%s: %spartial_rotary_factor: heads of which only a part is "
                                   "rotated are not supported (%g)",
                                   show_path(f->file).text, f->prefix, whole);
}

/* The type is spelled rope_type, or type in older files; without either a factor would be lost. */
static bool read_scaling(const struct json_fields *f, struct rope_config *r, struct error *err) {
    const char *key = json_has(f, "rope_type") ? "rope_type" : "type";
    const char *type = "default";
    if (!json_has(f, key) && json_has(f, "factor")) {
        return json_bad_field(f, "rope_type", "a string", NULL, err);
    }
    if (!json_get_string_or(f, key, &type, err)) {
        return false;
    }
    if (strcmp(type, "llama3") == 0) {
        return read_llama3(f, r, err);
    }
    return strcmp(type, "default") == 0 || unsupported(f, key, "rope scaling", type, err);
}

/* rope_theta and rope_scaling, or, since transformers 5, both in rope_parameters. */
static bool read_rope(const struct json_fields *f, struct rope_config *r, struct error *err) {
    struct json_fields inner;
    r->kind = ROPE_PLAIN;
    r->theta = 10000;
    if (!read_theta(f, &r->theta, err)) {
        return false;
    }
    if (json_has(f, "rope_parameters")) {
        return json_fields_init(&inner, json_object_get(f->object, "rope_parameters"), f->file,
                                "rope_parameters", "rope_parameters.", f->kind, err) &&
               read_theta(&inner, &r->theta, err) && read_scaling(&inner, r, err);
    }
    if (json_has(f, "rope_scaling")) {
        return json_fields_init(&inner, json_object_get(f->object, "rope_scaling"), f->file,
                                "rope_scaling", "rope_scaling.", f->kind, err) &&
               read_scaling(&inner, r, err);
    }
    return true;
}

/* ---- tokens ---- */

static bool add_eos(const struct json_fields *f, const json_t *value, struct model_config *c,
                    struct error *err) {
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        json_integer_value(value) >= c->vocab) {
        return json_bad_field(f, "eos_token_id", "ids below vocab_size", value, err);
    }
    int32_t id = (int32_t)json_integer_value(value);
    for (int i = 0; i < c->n_eos; i++) {
        if (c->eos[i] == id) {
            return true;
        }
    }
    if (c->n_eos == MODEL_MAX_EOS) {
        return error_set(err, ERROR_CONFIG, "%s: eos_token_id: more than %d different ids",
                         show_path(f->file).text, MODEL_MAX_EOS);
    }
    c->eos[c->n_eos++] = id;
    return true;
}

static bool read_tokens(const struct json_fields *f, struct model_config *c, struct error *err) {
    const json_t *eos = json_object_get(f->object, "eos_token_id");
    if (json_is_array(eos)) {
        for (size_t i = 0; i < json_array_size(eos); i++) {
            if (!add_eos(f, json_array_get(eos, i), c, err)) {
                return false;
            }
        }
    } else if (json_has(f, "eos_token_id") && !add_eos(f, eos, c, err)) {
        return false;
    }
    return c->bos >= 0 || get_int_or(f, "bos_token_id", 0, c->vocab - 1, &c->bos, err);
}

/* ---- the two files ---- */

static bool read_config(const struct json_fields *f, struct model_config *c, struct error *err) {
    return read_arch(f, c, err) && refuse_quantized(f, err) && read_sizes(f, c, err) &&
           read_layers(f, c, err) && read_rope(f, &c->rope, err) && read_tokens(f, c, err);
}

static bool read_generation(const struct json_fields *f, struct model_config *c,
                            struct error *err) {
    return read_tokens(f, c, err) && json_get_bool_or(f, "do_sample", &c->do_sample, err) &&
           json_get_number_or(f, "temperature", 0, 100, &c->temperature, err) &&
           json_get_number_or(f, "top_p", 1e-9, 1, &c->top_p, err) &&
           json_get_number_or(f, "min_p", 0, 1, &c->min_p, err) &&
           json_get_number_or(f, "repetition_penalty", 1e-3, 100, &c->repetition_penalty, err) &&
           get_int_or(f, "top_k", -1, INT32_MAX, &c->top_k, err);
}

/* Reads DIR/name and hands its fields to `read`. */
static bool read_file(struct model_config *c, const char *dir, const char *name, bool required,
                      bool (*read)(const struct json_fields *, struct model_config *,
                                   struct error *),
                      struct error *err) {
    bool ok = false;
    char *path = NULL;
    json_t *root = NULL;
    struct json_fields f;
    struct stat st;

    if (asprintf(&path, "%s/%s", dir, name) < 0) {
        path = NULL;
        error_set(err, ERROR_MEMORY, "no memory for a path");
        goto out;
    }
    if (!required && lstat(path, &st) != 0 && errno == ENOENT) {
        ok = true;
        goto out;
    }
    ok = json_read_file(&root, path, MAX_CONFIG_BYTES, 0, err) &&
         json_fields_init(&f, root, path, "", "", ERROR_CONFIG, err) && read(&f, c, err);
out:
    json_decref(root);
    free(path);
    return ok;
}

/* A shape that comes without a file. */
static bool read_random(struct model_config *c, const char *dir, struct error *err) {
    char text[CHECKPOINT_CONFIG_BYTES];
    json_t *root = NULL;
    struct json_fields f;
    bool ok = checkpoint_random_config(dir, text, err) &&
              json_parse(&root, dir, text, strlen(text), 0, err) &&
              json_fields_init(&f, root, dir, "", "", ERROR_CONFIG, err) && read_config(&f, c, err);
    json_decref(root);
    return ok;
}

bool model_config_load(struct model_config *out, const char *dir, struct error *err) {
    struct model_config c = {.bos = -1,
                             .do_sample = true,
                             .temperature = -1,
                             .top_p = -1,
                             .min_p = -1,
                             .repetition_penalty = -1,
                             .top_k = -1};
    bool ok = checkpoint_is_random(dir)
                  ? read_random(&c, dir, err)
                  : read_file(&c, dir, "config.json", true, read_config, err) &&
                        read_file(&c, dir, "generation_config.json", false, read_generation, err);
    if (!ok) {
        return false;
    }
    *out = c;
    return true;
}
