#include "model/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"

static const struct shape {
    const char *name;
    int hidden, n_layer, n_head, n_kv_head, head_dim, intermediate, vocab;
    bool tied;
} shapes[] = {
    {"qwen3-0.6b", 1024, 28, 16, 8, 128, 3072, 151936, true},
    {"qwen3-1.7b", 2048, 28, 16, 8, 128, 6144, 151936, true},
    {"qwen3-4b", 2560, 36, 32, 8, 128, 9728, 151936, true},
    {"qwen3-8b", 4096, 36, 32, 8, 128, 12288, 151936, false},
    {"qwen3-14b", 5120, 40, 40, 8, 128, 17408, 151936, false},
    {"qwen3-32b", 5120, 64, 64, 8, 128, 25600, 151936, false},
};

enum { NAME_BYTES = 80, LAYER_TENSORS = 11, OTHER_TENSORS = 3 };

bool checkpoint_is_random(const char *dir) {
    return strncmp(dir, CHECKPOINT_RANDOM, strlen(CHECKPOINT_RANDOM)) == 0;
}

static const struct shape *find_shape(const char *dir, struct error *err) {
    const char *name = dir + strlen(CHECKPOINT_RANDOM);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        if (strcmp(shapes[i].name, name) == 0) {
            return &shapes[i];
        }
    }
    error_set(err, ERROR_CONFIG, "%.60s: there is no such shape, but " CHECKPOINT_SHAPES, dir);
    return NULL;
}

bool checkpoint_random_config(const char *dir, char *out, struct error *err) {
    const struct shape *s = find_shape(dir, err);
    if (!s) {
        return false;
    }
    snprintf(out, CHECKPOINT_CONFIG_BYTES,
             "{\"architectures\": [\"Qwen3ForCausalLM\"], \"model_type\": \"qwen3\", "
             "\"hidden_size\": %d, \"num_hidden_layers\": %d, \"num_attention_heads\": %d, "
             "\"num_key_value_heads\": %d, \"head_dim\": %d, \"intermediate_size\": %d, "
             "\"vocab_size\": %d, \"tie_word_embeddings\": %s, \"hidden_act\": \"silu\", "
             "\"attention_bias\": false, \"max_position_embeddings\": 40960, "
             "\"rms_norm_eps\": 1e-06, \"rope_theta\": 1e6, \"torch_dtype\": \"bfloat16\"}",
             s->hidden, s->n_layer, s->n_head, s->n_kv_head, s->head_dim, s->intermediate, s->vocab,
             s->tied ? "true" : "false");
    return true;
}

/* ---- the weights ---- */

/* Four BF16 numbers: the sign, the lowest bit of the exponent and the mantissa are random. */
static uint64_t words_at(uint64_t i, bool is_norm) {
    static const uint64_t one = 0x3f803f803f803f80u, keep = 0x80ff80ff80ff80ffu,
                          set = 0x3c003c003c003c00u;
    return is_norm ? one : (random_at(i) & keep) | set;
}

static void make_weights(const struct st_tensor *t, uint64_t begin, void *dst, size_t n) {
    unsigned char *to = dst;
    uint64_t at = t->offset + begin;
    bool is_norm = t->n_dim == 1;
    while (n > 0) {
        uint64_t words = words_at(at / 8, is_norm);
        size_t skip = at % 8, take = n < 8 - skip ? n : 8 - skip;
        memcpy(to, (unsigned char *)&words + skip, take);
        to += take;
        at += take;
        n -= take;
    }
}

/* The tensors as they would follow each other in a file. */
struct listing {
    struct st_tensor *tensors; /* owns */
    char (*names)[NAME_BYTES]; /* owns */
    int n;
    uint64_t end; /* bytes so far */
};

/* cols 0: a vector. */
static void list(struct listing *l, int layer, const char *name, int rows, int cols) {
    char *text = l->names[l->n];
    if (layer < 0) {
        snprintf(text, NAME_BYTES, "%s.weight", name);
    } else {
        snprintf(text, NAME_BYTES, "model.layers.%d.%s.weight", layer, name);
    }
    struct st_tensor t = {.name = text,
                          .dtype_name = "BF16",
                          .supported = true,
                          .dtype = DTYPE_BF16,
                          .n_dim = cols ? 2 : 1,
                          .shape = {rows, cols},
                          .offset = l->end,
                          .bytes = (uint64_t)rows * (uint64_t)(cols ? cols : 1) * 2};
    l->end += t.bytes;
    l->tensors[l->n++] = t;
}

static void list_layer(struct listing *l, int layer, const struct shape *s) {
    int q = s->n_head * s->head_dim, kv = s->n_kv_head * s->head_dim;
    list(l, layer, "input_layernorm", s->hidden, 0);
    list(l, layer, "self_attn.q_proj", q, s->hidden);
    list(l, layer, "self_attn.k_proj", kv, s->hidden);
    list(l, layer, "self_attn.v_proj", kv, s->hidden);
    list(l, layer, "self_attn.q_norm", s->head_dim, 0);
    list(l, layer, "self_attn.k_norm", s->head_dim, 0);
    list(l, layer, "self_attn.o_proj", s->hidden, q);
    list(l, layer, "post_attention_layernorm", s->hidden, 0);
    list(l, layer, "mlp.gate_proj", s->intermediate, s->hidden);
    list(l, layer, "mlp.up_proj", s->intermediate, s->hidden);
    list(l, layer, "mlp.down_proj", s->hidden, s->intermediate);
}

static bool open_random(struct st_set **out, const char *dir, struct error *err) {
    const struct shape *s = find_shape(dir, err);
    if (!s) {
        return false;
    }
    size_t most = (size_t)s->n_layer * LAYER_TENSORS + OTHER_TENSORS;
    struct listing l = {.tensors = calloc(most, sizeof *l.tensors),
                        .names = calloc(most, sizeof *l.names)};
    bool ok = (l.tensors && l.names) ||
              error_set(err, ERROR_MEMORY, "no memory for the names of %zu tensors", most);
    if (ok) {
        list(&l, -1, "model.embed_tokens", s->vocab, s->hidden);
        for (int i = 0; i < s->n_layer; i++) {
            list_layer(&l, i, s);
        }
        list(&l, -1, "model.norm", s->hidden, 0);
        if (!s->tied) {
            list(&l, -1, "lm_head", s->vocab, s->hidden);
        }
        ok = st_make(out, dir, l.tensors, l.n, make_weights, err);
    }
    free(l.tensors);
    free(l.names);
    return ok;
}

bool checkpoint_open(struct st_set **out, const char *dir, struct error *err) {
    return checkpoint_is_random(dir) ? open_random(out, dir, err) : st_open(out, dir, err);
}
