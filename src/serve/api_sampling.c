#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "format/show.h"
#include "serve/api_impl.h"

enum { MAX_BIASES = 300 /* OpenAI's limit */ };

static bool read_seed(const json_t *body, uint64_t *out, struct api_error *e) {
    int64_t seed = 0;
    if (!api_field(body, "seed") && getrandom(&seed, sizeof seed, 0) != sizeof seed) {
        return api_refuse(e, 503, "internal", NULL, NULL, "cannot get random bytes for a seed");
    }
    if (!api_get_int(body, "seed", INT64_MIN, INT64_MAX, &seed, e)) {
        return false;
    }
    *out = (uint64_t)seed;
    return true;
}

/* A token's id as a key: decimal, so that no two keys are one token. */
static bool read_id(const char *key, const struct api_model *model, int32_t *out,
                    struct api_error *e) {
    size_t n = strspn(key, "0123456789");
    struct error why;
    if (n == 0 || n > 9 || key[n] || (key[0] == '0' && n > 1)) {
        return API_REFUSE(e, "logit_bias", "logit_bias: expected token ids as keys, got \"%s\"",
                          show_text(key).text);
    }
    *out = (int32_t)atol(key);
    return tokenizer_check_id(model->tokenizer, *out, &why) ||
           API_REFUSE(e, "logit_bias", "logit_bias: %s", why.message);
}

static bool read_biases(struct api_request *out, json_t *map, const struct api_model *model,
                        struct api_error *e) {
    struct sampling *s = &out->generate.sampling;
    size_t n = json_object_size(map);
    const char *key;
    json_t *value;
    if (n == 0) {
        return true;
    }
    if (n > MAX_BIASES) {
        return API_REFUSE(e, "logit_bias", "logit_bias: expected at most %d tokens, got %zu",
                          MAX_BIASES, n);
    }
    out->biases = calloc(n, sizeof *out->biases);
    if (!out->biases) {
        return api_refuse_memory(e);
    }
    json_object_foreach(map, key, value) {
        struct logit_bias *b = &out->biases[s->n_bias];
        double bias = json_number_value(value);
        if (!read_id(key, model, &b->id, e)) {
            return false;
        }
        if (!json_is_number(value) || bias < -100 || bias > 100) {
            return API_REFUSE(e, "logit_bias",
                              "logit_bias: expected a number from -100 to 100 for token %s", key);
        }
        b->bias = bias;
        s->n_bias++;
    }
    s->biases = out->biases;
    return true;
}

bool api_read_sampling(struct api_request *out, const json_t *body, const struct api_model *model,
                       struct api_error *e) {
    struct sampling *s = &out->generate.sampling;
    json_t *biases = NULL;
    struct error why;
    *s = model->sampling;
    const struct {
        const char *name;
        double *to;
    } numbers[] = {
        {"temperature", &s->temperature},
        {"top_p", &s->top_p},
        {"min_p", &s->min_p},
        {"repetition_penalty", &s->repetition_penalty},
        {"presence_penalty", &s->presence_penalty},
        {"frequency_penalty", &s->frequency_penalty},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        if (!api_get_number(body, numbers[i].name, numbers[i].to, e)) {
            return false;
        }
    }
    int64_t top_k = s->top_k;
    if (!api_get_int(body, "top_k", -1, INT_MAX, &top_k, e) || !read_seed(body, &s->seed, e) ||
        !api_get_object(body, "logit_bias", &biases, e)) {
        return false;
    }
    s->top_k = top_k > 0 ? (int)top_k : 0; /* -1 is vLLM's way to say off */
    return (sampling_validate(s, &why) || api_refuse_failure(e, NULL, &why)) &&
           read_biases(out, biases, model, e);
}
