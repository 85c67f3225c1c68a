/* config.json and generation_config.json of a Hugging Face checkpoint, checked field by field. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/error.h"

enum model_arch { MODEL_ARCH_QWEN3, MODEL_ARCH_QWEN2, MODEL_ARCH_LLAMA, MODEL_ARCH_COUNT };

enum {
    MODEL_MAX_EOS = 16,
    MODEL_MAX_LAYERS = 1024,
    MODEL_MAX_HIDDEN = 1 << 20,
    MODEL_MAX_INTERMEDIATE = 1 << 22,
    MODEL_MAX_VOCAB = 1 << 24,
    MODEL_MAX_POSITIONS = 1 << 26,
};

enum rope_kind { ROPE_PLAIN, ROPE_LLAMA3 };

struct rope_config {
    enum rope_kind kind;
    double theta;
    /* ROPE_LLAMA3 */
    double factor;
    double low_freq_factor;
    double high_freq_factor;
    double original_positions;
};

struct model_config {
    enum model_arch arch;
    char arch_name[64]; /* "Qwen3ForCausalLM" */
    int hidden;
    int intermediate;
    int n_layer;
    int n_head;
    int n_kv_head;
    int head_dim;
    int vocab;
    int max_positions;
    float rms_eps;
    struct rope_config rope;
    bool tied;     /* the head is the embedding table */
    bool qk_norm;  /* per-head RMSNorm of q and k (Qwen3) */
    bool qkv_bias; /* q_proj.bias, k_proj.bias, v_proj.bias exist */
    bool o_bias;
    bool mlp_bias;    /* gate, up and down have biases */
    enum dtype dtype; /* torch_dtype or dtype, BF16 where it says none of ours; what the weights'
                       * files say is what counts */
    int n_eos;
    int32_t eos[MODEL_MAX_EOS]; /* config.json's and generation_config.json's, united */
    int32_t bos;                /* -1: none */
    /* generation_config.json's sampling defaults, in the sampler's ranges; unset fields are
     * negative (top_k: or off) */
    bool do_sample; /* true where it does not say */
    double temperature, top_p, min_p, repetition_penalty;
    int top_k;
};

/* Reads DIR/config.json and, where there is one, DIR/generation_config.json; or makes up that of a
 * random model (checkpoint.h).
 * Errors (all name the file and the field): IO, JSON, CONFIG, UNSUPPORTED (architecture, quantized
 * checkpoint, activation, rope type, sliding window, ...). */
bool model_config_load(struct model_config *out, const char *dir, struct error *err);
