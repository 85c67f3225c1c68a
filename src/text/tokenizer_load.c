#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/json.h"
#include "format/show.h"
#include "text/json_field.h"
#include "text/tokenizer_impl.h"
#include "text/unicode.h"

enum { MAX_FILE_BYTES = 256 << 20 };

static bool push_added(struct tokenizer *t, const json_t *content, int32_t id, bool lstrip,
                       bool rstrip, bool normalized, struct error *err) {
    struct buffer nfc = {0};
    struct added_token a = {.content = (char *)json_string_value(content),
                            .length = json_string_length(content),
                            .id = id,
                            .lstrip = lstrip,
                            .rstrip = rstrip};
    bool ok = true;
    if (normalized && t->nfc) {
        ok = unicode_nfc(a.content, a.length, &nfc, err);
        a.content = (char *)nfc.data;
        a.length = nfc.size;
    }
    ok = ok && added_tokens_push(normalized ? &t->normalized : &t->raw, a, err);
    buffer_finish(&nfc);
    return ok;
}

static bool load_added_token(struct tokenizer *t, const json_t *item, const char *path,
                             struct error *err) {
    json_t *content;
    bool single_word, lstrip, rstrip, normalized, special;
    if (!json_field_get(item, path, "content", JSON_STRING, false, &content, err) ||
        !json_field_bool(item, path, "single_word", false, &single_word, err) ||
        !json_field_bool(item, path, "lstrip", false, &lstrip, err) ||
        !json_field_bool(item, path, "rstrip", false, &rstrip, err) ||
        !json_field_bool(item, path, "special", false, &special, err) ||
        !json_field_bool(item, path, "normalized", !special, &normalized, err)) {
        return false;
    }
    size_t n = json_string_length(content);
    if (n == 0 || n > ADDED_TOKEN_MAX_BYTES) {
        return error_set(err, ERROR_TOKENIZER, "%s.content: %zu bytes, outside [1, %d]", path, n,
                         ADDED_TOKEN_MAX_BYTES);
    }
    if (single_word) {
        return error_set(err, ERROR_UNSUPPORTED, "%s.single_word: true", path);
    }
    int32_t id = (int32_t)json_integer_value(json_object_get(item, "id"));
    unsigned flags = VOCAB_ADDED | (special ? VOCAB_SPECIAL : 0u);
    return (vocab_add(&t->vocab, id, json_string_value(content), n, flags, err) &&
            push_added(t, content, id, lstrip, rstrip, normalized, err)) ||
           error_wrap(err, "%s", path);
}

static bool check_distinct(const struct added_tokens *a, struct error *err) {
    for (size_t i = 1; i < a->n; i++) {
        const struct added_token *x = &a->token[i - 1];
        const struct added_token *y = &a->token[i];
        if (x->length == y->length && memcmp(x->content, y->content, x->length) == 0) {
            return error_set(err, ERROR_TOKENIZER,
                             "added_tokens: ids %d and %d have the same content", (int)x->id,
                             (int)y->id);
        }
    }
    return true;
}

static bool load_added(struct tokenizer *t, const json_t *added, struct error *err) {
    for (size_t i = 0; i < json_array_size(added); i++) {
        char path[48];
        snprintf(path, sizeof path, "added_tokens[%zu]", i);
        if (!load_added_token(t, json_array_get(added, i), path, err)) {
            return false;
        }
    }
    added_tokens_sort(&t->raw);
    added_tokens_sort(&t->normalized);
    return check_distinct(&t->raw, err) && check_distinct(&t->normalized, err);
}

static bool load_normalizer(struct tokenizer *t, const json_t *n, const char *path, int depth,
                            struct error *err) {
    const char *type;
    if (!json_field_tag(n, path, &type, err)) {
        return false;
    }
    if (strcmp(type, "NFC") == 0) {
        t->nfc = true;
        return true;
    }
    if (strcmp(type, "Sequence") != 0 || depth > 3) {
        return error_set(err, ERROR_UNSUPPORTED, "%s: \"%s\" (NFC is supported)", path,
                         show_text(type).text);
    }
    json_t *list;
    if (!json_field_get(n, path, "normalizers", JSON_ARRAY, false, &list, err)) {
        return false;
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        char inner[160];
        snprintf(inner, sizeof inner, "%s.normalizers[%zu]", path, i);
        if (!load_normalizer(t, json_array_get(list, i), inner, depth + 1, err)) {
            return false;
        }
    }
    return true;
}

/* Appends the ids of one {"SpecialToken": {"id": name}} of a template. */
static bool push_template_token(struct tokenizer *t, const json_t *processor, const json_t *name,
                                const char *path, struct token_list *out, struct error *err) {
    const json_t *special = json_object_get(processor, "special_tokens");
    const json_t *entry = json_object_get(special, json_string_value(name));
    json_t *ids;
    if (!entry) {
        return error_set(err, ERROR_TOKENIZER, "%s: \"%s\" is not in special_tokens", path,
                         show_text(json_string_value(name)).text);
    }
    if (!json_field_get(entry, path, "ids", JSON_ARRAY, false, &ids, err)) {
        return false;
    }
    for (size_t i = 0; i < json_array_size(ids); i++) {
        int32_t id;
        if (!tokenizer_read_id(json_array_get(ids, i), path, t->vocab.size, &id, err) ||
            !token_list_push(out, id, err)) {
            return false;
        }
    }
    return true;
}

static bool load_template(struct tokenizer *t, const json_t *p, const char *path,
                          struct error *err) {
    json_t *single;
    if (!json_field_get(p, path, "single", JSON_ARRAY, false, &single, err)) {
        return false;
    }
    int sequences = 0;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i);
        const json_t *token = json_object_get(item, "SpecialToken");
        char inner[200];
        snprintf(inner, sizeof inner, "%s.single[%zu]", path, i);
        if (json_object_get(item, "Sequence")) {
            sequences++;
        } else if (!token) {
            return error_set(err, ERROR_TOKENIZER, "%s: neither SpecialToken nor Sequence", inner);
        } else {
            json_t *name;
            if (!json_field_get(token, inner, "id", JSON_STRING, false, &name, err) ||
                !push_template_token(t, p, name, inner, sequences ? &t->suffix : &t->prefix, err)) {
                return false;
            }
        }
    }
    return sequences == 1 ||
           error_set(err, ERROR_TOKENIZER, "%s.single: holds the text %d times, not once", path,
                     sequences);
}

static bool load_post_processor(struct tokenizer *t, const json_t *p, const char *path, int depth,
                                struct error *err) {
    const char *type;
    if (!json_field_tag(p, path, &type, err)) {
        return false;
    }
    if (strcmp(type, "ByteLevel") == 0) {
        return true; /* moves offsets only */
    }
    if (strcmp(type, "TemplateProcessing") == 0) {
        if (t->prefix.n || t->suffix.n) {
            return error_set(err, ERROR_UNSUPPORTED, "%s: a second TemplateProcessing", path);
        }
        return load_template(t, p, path, err);
    }
    if (strcmp(type, "Sequence") != 0 || depth > 3) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "%s: \"%s\" (ByteLevel and TemplateProcessing are supported)", path,
                         show_text(type).text);
    }
    json_t *list;
    if (!json_field_get(p, path, "processors", JSON_ARRAY, false, &list, err)) {
        return false;
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        char inner[160];
        snprintf(inner, sizeof inner, "%s.processors[%zu]", path, i);
        if (!load_post_processor(t, json_array_get(list, i), inner, depth + 1, err)) {
            return false;
        }
    }
    return true;
}

static bool check_decoder(const json_t *root, struct error *err) {
    json_t *decoder;
    const char *type;
    if (!json_field_get(root, "", "decoder", JSON_OBJECT, false, &decoder, err) ||
        !json_field_tag(decoder, "decoder", &type, err)) {
        return false;
    }
    return strcmp(type, "ByteLevel") == 0 ||
           error_set(err, ERROR_UNSUPPORTED, "decoder: \"%s\" (ByteLevel is supported)",
                     show_text(type).text);
}

static bool load_root(struct tokenizer *t, const json_t *root, int vocab, struct error *err) {
    json_t *added, *normalizer, *pre, *post;
    return json_field_get(root, "", "added_tokens", JSON_ARRAY, true, &added, err) &&
           json_field_get(root, "", "normalizer", JSON_OBJECT, true, &normalizer, err) &&
           json_field_get(root, "", "pre_tokenizer", JSON_OBJECT, false, &pre, err) &&
           json_field_get(root, "", "post_processor", JSON_OBJECT, true, &post, err) &&
           check_decoder(root, err) &&
           (!normalizer || load_normalizer(t, normalizer, "normalizer", 0, err)) &&
           tokenizer_load_model(t, root, added, vocab, err) && load_added(t, added, err) &&
           pretokenizer_init(&t->pretokenizer, pre, "pre_tokenizer", err) &&
           (!post || load_post_processor(t, post, "post_processor", 0, err));
}

bool tokenizer_load(struct tokenizer **out, const char *dir, int vocab, struct error *err) {
    bool ok = false;
    json_t *root = NULL;
    struct buffer path = {0};
    struct tokenizer *t = calloc(1, sizeof *t);

    if (!t) {
        error_set(err, ERROR_MEMORY, "cannot allocate a tokenizer");
        goto out;
    }
    if (!buffer_printf(&path, err, "%s/tokenizer.json", dir) ||
        !json_read_file(&root, (const char *)path.data, MAX_FILE_BYTES, JSON_ALLOW_NUL, err)) {
        goto out;
    }
    if (!load_root(t, root, vocab, err)) {
        error_wrap(err, "%s", show_path((const char *)path.data).text);
        goto out;
    }
    if (!tokenizer_load_config(t, dir, err)) {
        goto out;
    }
    t->n_id = vocab ? vocab : t->vocab.size;
    *out = t; /* moves */
    t = NULL;
    ok = true;
out:
    json_decref(root);
    malloc_trim(0); /* the parsed file was many times larger than what is kept */
    tokenizer_destroy(t);
    buffer_finish(&path);
    return ok;
}
