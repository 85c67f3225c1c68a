/* openapi.json against the reader of requests: what that asks a body for, the document has, and the
 * other way round; and the bounds that the document states hold. */
#include "test.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "serve/api.h"
#include "serve/embedded.h"
#include "text_data.h"

/* ---- what the reader asks for: the linker puts these before jansson's own ---- */

json_t *__real_json_object_get(const json_t *object, const char *key);
json_t *__real_json_array_get(const json_t *array, size_t index);
json_t *__wrap_json_object_get(const json_t *object, const char *key);
json_t *__wrap_json_array_get(const json_t *array, size_t index);

enum { MAX_NODES = 200, MAX_PATH = 120 };

struct node {
    const json_t *json;
    char path[MAX_PATH]; /* "messages[].content" */
};

static struct node nodes[MAX_NODES]; /* objects and lists seen, newest last */
static char asked[MAX_NODES][MAX_PATH];
static int n_node, n_asked;
static bool watching;

/* The first object that is asked for anything is the body. NULL: none of the body's. */
static const char *path_of(const json_t *json) {
    if (n_node == 0) {
        nodes[n_node++] = (struct node){.json = json};
    }
    for (int i = n_node; i-- > 0;) {
        if (nodes[i].json == json) {
            return nodes[i].path;
        }
    }
    return NULL;
}

static void note_node(const json_t *json, const char *path) {
    if (json_is_object(json) || json_is_array(json)) {
        assert_true(n_node < MAX_NODES);
        nodes[n_node].json = json;
        snprintf(nodes[n_node++].path, MAX_PATH, "%s", path);
    }
}

json_t *__wrap_json_object_get(const json_t *object, const char *key) {
    json_t *found = __real_json_object_get(object, key);
    const char *parent = watching && object ? path_of(object) : NULL;
    char path[MAX_PATH];
    if (!parent) {
        return found;
    }
    snprintf(path, sizeof path, "%.90s%s%.25s", parent, *parent ? "." : "", key);
    note_node(found, path);
    for (int i = 0; i < n_asked; i++) {
        if (strcmp(asked[i], path) == 0) {
            return found;
        }
    }
    assert_true(n_asked < MAX_NODES);
    snprintf(asked[n_asked++], MAX_PATH, "%s", path);
    return found;
}

json_t *__wrap_json_array_get(const json_t *array, size_t index) {
    json_t *found = __real_json_array_get(array, index);
    const char *parent = watching && array ? path_of(array) : NULL;
    char path[MAX_PATH];
    if (parent) {
        snprintf(path, sizeof path, "%.110s[]", parent);
        note_node(found, path);
    }
    return found;
}

/* ---- the document ---- */

static json_t *document;

static const json_t *get(const json_t *object, const char *key) {
    return __real_json_object_get(object, key);
}

/* Through $ref. */
static const json_t *resolve(const json_t *schema) {
    static const char prefix[] = "#/components/schemas/";
    const char *ref = json_string_value(get(schema, "$ref"));
    if (!ref) {
        return schema;
    }
    assert_memory_equal(ref, prefix, sizeof prefix - 1);
    const json_t *schemas = get(get(document, "components"), "schemas");
    const json_t *found = get(schemas, ref + sizeof prefix - 1);
    assert_non_null(found);
    return found;
}

/* Whether the schema has what the rest of the path leads to. */
static bool has(const json_t *schema, const char *path) {
    schema = resolve(schema);
    const json_t *choices = get(schema, "oneOf");
    for (size_t i = 0; i < json_array_size(choices); i++) {
        if (has(__real_json_array_get(choices, i), path)) {
            return true;
        }
    }
    if (!*path) {
        return schema != NULL;
    }
    if (strncmp(path, "[]", 2) == 0) {
        const json_t *items = get(schema, "items");
        return items && has(items, path + 2);
    }
    char key[MAX_PATH];
    path += *path == '.';
    size_t n = strcspn(path, ".[");
    snprintf(key, sizeof key, "%.*s", (int)n, path);
    const json_t *property = get(get(schema, "properties"), key);
    return property && has(property, path + n);
}

/* ---- the tests ---- */

static struct tokenizer *qwen;
static struct api_model model = {
    .name = "tiny", .sampling = {.temperature = 1, .top_p = 1, .repetition_penalty = 1}};

static const struct {
    enum api_kind kind;
    const char *schema, *body;
} kinds[] = {
    {API_CHAT, "ChatCompletionRequest",
     "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"Hi\"}]},"
     "{\"role\":\"assistant\",\"reasoning_content\":\"hm\",\"tool_calls\":[{\"function\":{\"name\":"
     "\"f\",\"arguments\":\"{}\"}}]},{\"role\":\"tool\",\"content\":\"1\"}],"
     "\"tools\":[{\"type\":\"function\"}],\"chat_template_kwargs\":{},\"stream\":true,"
     "\"stream_options\":{},\"response_format\":{\"type\":\"text\"},\"logprobs\":true}"},
    {API_COMPLETION, "CompletionRequest",
     "{\"prompt\":\"Hi\",\"stream\":true,\"stream_options\":{},\"response_format\":{\"type\":"
     "\"text\"}}"},
};

static const json_t *schema_of(size_t kind) {
    return get(get(get(document, "components"), "schemas"), kinds[kind].schema);
}

static void watch(size_t kind) {
    struct api_request q;
    struct api_error e;
    n_node = n_asked = 0;
    watching = true;
    bool ok = api_request_parse(&q, kinds[kind].kind, kinds[kind].body, strlen(kinds[kind].body),
                                &model, &e);
    watching = false;
    if (!ok) {
        fail_msg("%s: %s", e.param, e.message);
    }
    api_request_finish(&q);
}

static void all_that_is_read_is_documented(void **state) {
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        watch(k);
        assert_true(n_asked > 25);
        for (int i = 0; i < n_asked; i++) {
            if (!has(schema_of(k), asked[i])) {
                fail_msg("%s lacks %s", kinds[k].schema, asked[i]);
            }
        }
    }
}

static void all_that_is_documented_is_read(void **state) {
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        const char *name;
        json_t *ignored;
        watch(k);
        json_object_foreach((json_t *)(uintptr_t)get(schema_of(k), "properties"), name, ignored) {
            bool found = false;
            for (int i = 0; i < n_asked; i++) {
                found = found || strcmp(asked[i], name) == 0;
            }
            if (!found) {
                fail_msg("nobody reads %s of %s", name, kinds[k].schema);
            }
        }
    }
}

/* The body with one member more; "" for a message: it is fine. */
static void try_value(size_t kind, const char *name, double value, bool integer, bool good) {
    struct api_request q;
    struct api_error e;
    json_t *body = json_loads(kinds[kind].body, 0, NULL);
    json_object_set_new(body, name, integer ? json_integer((json_int_t)value) : json_real(value));
    char *text = json_dumps(body, 0);
    bool ok = api_request_parse(&q, kinds[kind].kind, text, strlen(text), &model, &e);
    if (ok != good) {
        fail_msg("%s: %g: %s", name, value, ok ? "accepted" : e.message);
    }
    if (ok) {
        api_request_finish(&q);
    } else {
        assert_string_equal(e.param, name);
    }
    free(text);
    json_decref(body);
}

static bool is_type(const json_t *schema, const char *type) {
    const json_t *types = get(schema, "type");
    for (size_t i = 0; i < json_array_size(types); i++) {
        if (strcmp(json_string_value(__real_json_array_get(types, i)), type) == 0) {
            return true;
        }
    }
    return false;
}

static void bounds_hold(void **state) {
    (void)state;
    int n = 0;
    for (size_t k = 0; k < 2; k++) {
        const char *name;
        json_t *schema;
        json_object_foreach((json_t *)(uintptr_t)get(schema_of(k), "properties"), name, schema) {
            bool integer = is_type(schema, "integer");
            double step = integer ? 1 : 1e-3;
            if (get(schema, "minimum")) {
                double min = json_number_value(get(schema, "minimum"));
                try_value(k, name, min, integer, true);
                try_value(k, name, min - step, integer, false);
                n++;
            }
            if (get(schema, "exclusiveMinimum")) {
                double min = json_number_value(get(schema, "exclusiveMinimum"));
                try_value(k, name, min, integer, false);
                try_value(k, name, min + step, integer, true);
                n++;
            }
            if (get(schema, "maximum")) {
                double max = json_number_value(get(schema, "maximum"));
                try_value(k, name, max, integer, true);
                try_value(k, name, max + step, integer, false);
                n++;
            } else if (integer || is_type(schema, "number")) {
                assert_string_equal(name, "seed"); /* the only one without bounds */
            }
        }
    }
    assert_true(n > 40);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_that_is_read_is_documented),
        cmocka_unit_test(all_that_is_documented_is_read),
        cmocka_unit_test(bounds_hold),
    };
    json_error_t where;
    document =
        json_loadb((const char *)openapi_json, openapi_json_size, JSON_REJECT_DUPLICATES, &where);
    if (!document) {
        fprintf(stderr, "openapi.json:%d: %s\n", where.line, where.text);
        return 1;
    }
    qwen = text_data_tokenizer("tiny-qwen3");
    model.tokenizer = qwen;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    tokenizer_destroy(qwen);
    json_decref(document);
    return failed;
}
