#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "format/json.h"
#include "format/show.h"
#include "text/json_field.h"
#include "text/tokenizer_impl.h"

enum { MAX_CONFIG_BYTES = 16 << 20 };

static bool copy_string(const json_t *s, char **out, struct error *err) {
    free(*out);
    *out = strdup(json_string_value(s));
    return *out || error_set(err, ERROR_MEMORY, "cannot allocate a string");
}

/* A string, or a list of {name, template} of which "default" counts. */
static bool load_chat_template(struct tokenizer *t, const json_t *v, struct error *err) {
    if (json_is_array(v)) {
        const json_t *found = NULL;
        for (size_t i = 0; i < json_array_size(v); i++) {
            const json_t *item = json_array_get(v, i);
            const char *name = json_string_value(json_object_get(item, "name"));
            if (name && strcmp(name, "default") == 0) {
                found = json_object_get(item, "template");
            }
        }
        v = found;
    }
    if (!v || json_is_null(v)) {
        return true;
    }
    if (!json_is_string(v)) {
        return error_set(err, ERROR_TOKENIZER, "chat_template: must be a string, not %s",
                         json_field_type_name(json_typeof(v)));
    }
    return copy_string(v, &t->chat_template, err);
}

/* A string, or an added token's object. */
static bool load_bos(struct tokenizer *t, const json_t *v, struct error *err) {
    if (json_is_object(v)) {
        v = json_object_get(v, "content");
    }
    if (!v || json_is_null(v)) {
        return true;
    }
    if (!json_is_string(v)) {
        return error_set(err, ERROR_TOKENIZER, "bos_token: must be a string, not %s",
                         json_field_type_name(json_typeof(v)));
    }
    return copy_string(v, &t->bos_token, err);
}

static bool load_config(struct tokenizer *t, const char *path, struct error *err) {
    json_t *config;
    if (!json_read_file(&config, path, MAX_CONFIG_BYTES, JSON_ALLOW_NUL, err)) {
        return false;
    }
    bool ok = json_is_object(config) ||
              error_set(err, ERROR_TOKENIZER, "the whole file: must be an object");
    ok = ok && load_chat_template(t, json_object_get(config, "chat_template"), err) &&
         load_bos(t, json_object_get(config, "bos_token"), err);
    json_decref(config);
    return ok || error_wrap(err, "%s", show_path(path).text);
}

/* Newer checkpoints keep the template in a file of its own, which then counts. */
static bool load_template_file(struct tokenizer *t, const char *path, struct error *err) {
    struct buffer text = {0};
    if (!buffer_read_file(&text, path, MAX_CONFIG_BYTES, err)) {
        return false;
    }
    free(t->chat_template);
    t->chat_template = (char *)text.data; /* moves; a NUL follows the text */
    return true;
}

/* Loads DIR/name, which need not be there. */
static bool load_optional(struct tokenizer *t, const char *dir, const char *name,
                          bool (*load)(struct tokenizer *, const char *, struct error *),
                          struct error *err) {
    struct buffer path = {0};
    bool ok = buffer_printf(&path, err, "%s/%s", dir, name) &&
              (access((const char *)path.data, F_OK) != 0 || load(t, (const char *)path.data, err));
    buffer_finish(&path);
    return ok;
}

bool tokenizer_load_config(struct tokenizer *t, const char *dir, struct error *err) {
    return load_optional(t, dir, "tokenizer_config.json", load_config, err) &&
           load_optional(t, dir, "chat_template.jinja", load_template_file, err);
}
