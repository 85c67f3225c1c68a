#include "text/pretokenizer.h"

#include <stdio.h>
#include <string.h>

#include "format/show.h"
#include "text/json_field.h"

/* What ByteLevel cuts by when use_regex is true. */
static const char gpt2_regex[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

struct builder {
    struct pretokenizer *p;
    bool byte_level; /* seen; nothing may follow it */
};

static bool build(struct builder *b, const json_t *json, const char *path, int depth,
                  struct error *err);

static bool add_step(struct builder *b, const char *regex, size_t n, bool literal, const char *path,
                     struct error *err) {
    struct pretokenizer *p = b->p;
    if (p->n_step == PRETOKENIZER_MAX_STEPS) {
        return error_set(err, ERROR_UNSUPPORTED, "%s: more than %d steps", path,
                         PRETOKENIZER_MAX_STEPS);
    }
    if (!pattern_create(&p->step[p->n_step], regex, n, literal, err)) {
        return error_wrap(err, "%s", path);
    }
    p->n_step++;
    return true;
}

static bool build_split(struct builder *b, const json_t *json, const char *path,
                        struct error *err) {
    json_t *pattern;
    json_t *behavior;
    bool invert;
    if (!json_field_get(json, path, "pattern", JSON_OBJECT, false, &pattern, err) ||
        !json_field_get(json, path, "behavior", JSON_STRING, false, &behavior, err) ||
        !json_field_bool(json, path, "invert", false, &invert, err)) {
        return false;
    }
    if (strcmp(json_string_value(behavior), "Isolated") != 0) {
        return error_set(err, ERROR_UNSUPPORTED, "%s.behavior: \"%s\" (Isolated is supported)",
                         path, show_text(json_string_value(behavior)).text);
    }
    if (invert) {
        return error_set(err, ERROR_UNSUPPORTED, "%s.invert: true", path);
    }
    bool literal = json_object_get(pattern, "String") != NULL;
    char inner[160];
    json_t *text;
    snprintf(inner, sizeof inner, "%s.pattern", path);
    return json_field_get(pattern, inner, literal ? "String" : "Regex", JSON_STRING, false, &text,
                          err) &&
           add_step(b, json_string_value(text), json_string_length(text), literal, inner, err);
}

static bool build_digits(struct builder *b, const json_t *json, const char *path,
                         struct error *err) {
    bool each;
    if (!json_field_bool(json, path, "individual_digits", false, &each, err)) {
        return false;
    }
    const char *regex = each ? "\\p{N}" : "\\p{N}+";
    return add_step(b, regex, strlen(regex), false, path, err);
}

static bool build_byte_level(struct builder *b, const json_t *json, const char *path,
                             struct error *err) {
    bool prefix, use_regex;
    if (!json_field_bool(json, path, "add_prefix_space", true, &prefix, err) ||
        !json_field_bool(json, path, "use_regex", true, &use_regex, err)) {
        return false;
    }
    if (prefix) {
        return error_set(err, ERROR_UNSUPPORTED, "%s.add_prefix_space: true", path);
    }
    b->byte_level = true;
    return !use_regex || add_step(b, gpt2_regex, sizeof gpt2_regex - 1, false, path, err);
}

static bool build_sequence(struct builder *b, const json_t *json, const char *path, int depth,
                           struct error *err) {
    json_t *list;
    if (!json_field_get(json, path, "pretokenizers", JSON_ARRAY, false, &list, err)) {
        return false;
    }
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item) {
        char inner[160];
        snprintf(inner, sizeof inner, "%s.pretokenizers[%zu]", path, i);
        if (!build(b, item, inner, depth + 1, err)) {
            return false;
        }
    }
    return true;
}

static bool build(struct builder *b, const json_t *json, const char *path, int depth,
                  struct error *err) {
    const char *type;
    if (depth > 3) {
        return error_set(err, ERROR_UNSUPPORTED, "%s: nested too deep", path);
    }
    if (!json_field_tag(json, path, &type, err)) {
        return false;
    }
    if (b->byte_level) {
        return error_set(err, ERROR_UNSUPPORTED, "%s: \"%s\" after ByteLevel", path,
                         show_text(type).text);
    }
    if (strcmp(type, "Sequence") == 0) {
        return build_sequence(b, json, path, depth, err);
    }
    if (strcmp(type, "Split") == 0) {
        return build_split(b, json, path, err);
    }
    if (strcmp(type, "Digits") == 0) {
        return build_digits(b, json, path, err);
    }
    if (strcmp(type, "ByteLevel") == 0) {
        return build_byte_level(b, json, path, err);
    }
    return error_set(err, ERROR_UNSUPPORTED,
                     "%s: \"%s\" (Sequence, Split, Digits and ByteLevel are supported)", path,
                     show_text(type).text);
}

bool pretokenizer_init(struct pretokenizer *p, const json_t *json, const char *path,
                       struct error *err) {
    *p = (struct pretokenizer){0};
    struct builder b = {.p = p};
    bool ok = build(&b, json, path, 0, err);
    if (ok && !b.byte_level) {
        ok = error_set(err, ERROR_UNSUPPORTED, "%s: not byte-level (ByteLevel is missing)", path);
    }
    if (!ok) {
        pretokenizer_finish(p);
    }
    return ok;
}

struct run {
    const struct pretokenizer *p;
    struct pattern_scratch *scratch;
    pretokenizer_word *word;
    void *ctx;
};

/* Hands text[0..n) to step `step`, whose pieces go to the next one, and so on. */
static bool run_step(const struct run *r, int step, const char *text, size_t n, struct error *err) {
    if (n == 0) {
        return true;
    }
    if (step == r->p->n_step) {
        return r->word(r->ctx, text, n, err);
    }
    size_t done = 0;   /* pieces before this are handed on */
    size_t search = 0; /* where to look for the next match */
    while (done < n) {
        size_t start, end;
        if (!pattern_find(r->p->step[step], r->scratch, text, n, search, &start, &end, err)) {
            return false;
        }
        if (start > n) {
            start = n;
            end = n;
        }
        if (!run_step(r, step + 1, text + done, start - done, err) ||
            !run_step(r, step + 1, text + start, end - start, err)) {
            return false;
        }
        done = end;
        search = end;
        if (start == end && search < n) { /* an empty match cuts, and must not be found again */
            do {
                search++;
            } while (search < n && ((unsigned char)text[search] & 0xc0) == 0x80);
        }
    }
    return true;
}

bool pretokenizer_run(const struct pretokenizer *p, struct pattern_scratch *scratch,
                      const char *text, size_t n, pretokenizer_word *word, void *ctx,
                      struct error *err) {
    struct run r = {.p = p, .scratch = scratch, .word = word, .ctx = ctx};
    return run_step(&r, 0, text, n, err);
}

void pretokenizer_finish(struct pretokenizer *p) {
    for (int i = 0; i < p->n_step; i++) {
        pattern_destroy(p->step[i]);
    }
    *p = (struct pretokenizer){0};
}
