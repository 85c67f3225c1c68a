#include <stdio.h>
#include <string.h>

#include "format/show.h"
#include "text/json_field.h"
#include "text/tokenizer_impl.h"

enum { MAX_GAPS = 65536 }; /* ids that no token has; bounds what a huge id makes us allocate */

bool tokenizer_read_id(const json_t *v, const char *path, int limit, int32_t *out,
                       struct error *err) {
    if (!json_is_integer(v)) {
        return error_set(err, ERROR_TOKENIZER, "%s: must be an integer, not %s", path,
                         v ? json_field_type_name(json_typeof(v)) : "missing");
    }
    json_int_t id = json_integer_value(v);
    if (id < 0 || id >= limit) {
        return error_set(err, ERROR_TOKENIZER, "%s: id %" JSON_INTEGER_FORMAT " is outside [0, %d)",
                         path, id, limit);
    }
    *out = (int32_t)id;
    return true;
}

/* Refuses the variants of BPE that are not byte-level. */
static bool check_model(const json_t *model, struct error *err) {
    json_t *type; /* files of old converters leave it out */
    if (!json_field_get(model, "model", "type", JSON_STRING, true, &type, err)) {
        return false;
    }
    if (type && strcmp(json_string_value(type), "BPE") != 0) {
        return error_set(err, ERROR_UNSUPPORTED, "model.type: \"%s\" (BPE is supported)",
                         show_text(json_string_value(type)).text);
    }
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (int i = 0; i < 2; i++) {
        json_t *affix;
        if (!json_field_get(model, "model", affixes[i], JSON_STRING, true, &affix, err)) {
            return false;
        }
        if (json_string_length(affix) > 0) {
            return error_set(err, ERROR_UNSUPPORTED, "model.%s: \"%s\"", affixes[i],
                             show_text(json_string_value(affix)).text);
        }
    }
    bool byte_fallback;
    if (!json_field_bool(model, "model", "byte_fallback", false, &byte_fallback, err)) {
        return false;
    }
    if (byte_fallback) {
        return error_set(err, ERROR_UNSUPPORTED, "model.byte_fallback: true");
    }
    const json_t *dropout = json_object_get(model, "dropout");
    if (dropout && !json_is_null(dropout) && json_number_value(dropout) != 0) {
        return error_set(err, ERROR_UNSUPPORTED, "model.dropout: must be null or 0");
    }
    return true;
}

/* Sizes the vocabulary by the largest id of `vocab` and `added`. */
static bool init_vocab(struct tokenizer *t, json_t *vocab, const json_t *added, int limit,
                       struct error *err) {
    size_t n = json_object_size(vocab) + json_array_size(added);
    if (limit == 0) {
        limit = n < INT32_MAX - MAX_GAPS ? (int)n + MAX_GAPS : INT32_MAX;
    }
    char path[96];
    int32_t largest = -1;
    int32_t id;
    const char *key;
    json_t *value;
    json_object_foreach(vocab, key, value) {
        if (!tokenizer_read_id(value, "model.vocab", limit, &id, err)) {
            return error_wrap(err, "token \"%s\"", show_text(key).text);
        }
        largest = id > largest ? id : largest;
    }
    for (size_t i = 0; i < json_array_size(added); i++) {
        snprintf(path, sizeof path, "added_tokens[%zu].id", i);
        if (!tokenizer_read_id(json_object_get(json_array_get(added, i), "id"), path, limit, &id,
                               err)) {
            return false;
        }
        largest = id > largest ? id : largest;
    }
    if ((size_t)largest + 1 > n + MAX_GAPS) {
        return error_set(err, ERROR_TOKENIZER, "model.vocab: the largest id is %d for %zu tokens",
                         (int)largest, n);
    }
    return vocab_init(&t->vocab, largest + 1, err);
}

static bool fill_vocab(struct tokenizer *t, json_t *vocab, struct error *err) {
    bool ok = true;
    struct buffer bytes = {0};
    const char *key;
    json_t *value;
    json_object_foreach(vocab, key, value) {
        bool inside;
        size_t n = strlen(key);
        buffer_clear(&bytes);
        ok = vocab_alphabet_decode(key, n, &bytes, &inside, err);
        if (!ok) {
            break;
        }
        /* Text that is not of the alphabet can only be an added token that is listed here too. */
        ok = vocab_add(&t->vocab, (int32_t)json_integer_value(value),
                       inside ? (char *)bytes.data : key, inside ? bytes.size : n,
                       inside ? VOCAB_MODEL : 0, err);
        if (!ok) {
            error_wrap(err, "model.vocab: token \"%s\"", show_text(key).text);
            break;
        }
    }
    buffer_finish(&bytes);
    return ok;
}

/* The two halves of a merge, "a b" or ["a", "b"]. */
static bool merge_halves(const json_t *merge, const char *half[2], size_t n[2], struct error *err) {
    if (json_is_array(merge) && json_array_size(merge) == 2) {
        for (size_t i = 0; i < 2; i++) {
            const json_t *h = json_array_get(merge, i);
            half[i] = json_string_value(h);
            n[i] = json_string_length(h);
            if (!half[i]) {
                return error_set(err, ERROR_TOKENIZER, "must hold two strings");
            }
        }
        return true;
    }
    const char *text = json_string_value(merge);
    if (!text) {
        return error_set(err, ERROR_TOKENIZER, "must be a string or two strings");
    }
    const char *space = strchr(text, ' ');
    if (!space || strchr(space + 1, ' ')) {
        return error_set(err, ERROR_TOKENIZER, "\"%s\" is not two parts with a space between",
                         show_text(text).text);
    }
    half[0] = text;
    n[0] = (size_t)(space - text);
    half[1] = space + 1;
    n[1] = json_string_length(merge) - n[0] - 1;
    return true;
}

static bool add_merge(struct tokenizer *t, const json_t *merge, uint32_t rank,
                      struct buffer *scratch, struct error *err) {
    const char *half[2];
    size_t n[2];
    if (!merge_halves(merge, half, n, err)) {
        return false;
    }
    size_t cut = 0;
    buffer_clear(scratch);
    for (int i = 0; i < 2; i++) {
        bool inside;
        if (!vocab_alphabet_decode(half[i], n[i], scratch, &inside, err)) {
            return false;
        }
        if (!inside || scratch->size == cut) {
            return error_set(err, ERROR_TOKENIZER, "its %s part \"%s\" is not in model.vocab",
                             i == 0 ? "first" : "second", show_text(half[i]).text);
        }
        cut = i == 0 ? scratch->size : cut;
    }
    return bpe_add_merge(&t->bpe, rank, scratch->data, cut, scratch->data + cut,
                         scratch->size - cut, err);
}

static bool load_merges(struct tokenizer *t, const json_t *merges, struct error *err) {
    bool ok = bpe_init(&t->bpe, &t->vocab, json_array_size(merges), err);
    struct buffer scratch = {0};
    for (size_t i = 0; ok && i < json_array_size(merges); i++) {
        const json_t *merge = json_array_get(merges, i);
        const char *text = json_string_value(merge);
        if (text && strncmp(text, "#version", 8) == 0) {
            continue; /* the first line of a merges.txt, kept by old converters */
        }
        ok = add_merge(t, merge, (uint32_t)i, &scratch, err) ||
             error_wrap(err, "model.merges[%zu]", i);
    }
    buffer_finish(&scratch);
    return ok;
}

bool tokenizer_load_model(struct tokenizer *t, const json_t *root, const json_t *added, int limit,
                          struct error *err) {
    json_t *model, *vocab, *merges, *unk;
    if (!json_field_get(root, "", "model", JSON_OBJECT, false, &model, err) ||
        !check_model(model, err) ||
        !json_field_get(model, "model", "vocab", JSON_OBJECT, false, &vocab, err) ||
        !json_field_get(model, "model", "merges", JSON_ARRAY, false, &merges, err) ||
        !json_field_get(model, "model", "unk_token", JSON_STRING, true, &unk, err) ||
        !init_vocab(t, vocab, added, limit, err) || !fill_vocab(t, vocab, err) ||
        !load_merges(t, merges, err) ||
        !json_field_bool(model, "model", "fuse_unk", false, &t->bpe.fuse_unk, err) ||
        !json_field_bool(model, "model", "ignore_merges", false, &t->bpe.ignore_merges, err)) {
        return false;
    }
    if (unk) {
        const json_t *id = json_object_get(vocab, json_string_value(unk));
        if (!id) {
            return error_set(err, ERROR_TOKENIZER, "model.unk_token: \"%s\" is not in model.vocab",
                             show_text(json_string_value(unk)).text);
        }
        t->bpe.unk_id = (int32_t)json_integer_value(id);
    }
    return true;
}
