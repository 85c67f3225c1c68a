#include "serve/tool_call.h"

#include <string.h>

static const char *skip_space(const char *p, const char *end) {
    while (p < end && strchr(" \t\r\n", *p)) {
        p++;
    }
    return p;
}

/* From a string's quote to behind its other one. */
static const char *skip_string(const char *p, const char *end) {
    for (p++; p < end && *p != '"'; p++) {
        p += *p == '\\';
    }
    return p < end ? p + 1 : end;
}

/* To what follows a member's value, the comma or the brace. */
static const char *skip_value(const char *p, const char *end) {
    for (int depth = 0; p < end;) {
        if (*p == '"') {
            p = skip_string(p, end);
            continue;
        }
        if (depth == 0 && (*p == ',' || *p == '}')) {
            return p;
        }
        depth += (*p == '{' || *p == '[') - (*p == '}' || *p == ']');
        p++;
    }
    return end;
}

/* The arguments of an object that is known to be JSON, as they are written: read and written again,
 * 0.1 would become 0.10000000000000001. The last where there are several, as for any reader. */
static bool find_arguments(struct tool_call *out, const char *text, const char *end) {
    static const char key[] = "\"arguments\"";
    bool found = false;
    const char *p = skip_space(text, end);
    while (p < end && *p != '}') {
        const char *name = skip_space(p + 1, end); /* after the brace, or the comma */
        const char *after = name < end ? skip_string(name, end) : end;
        const char *colon = skip_space(after, end);
        const char *value = skip_space(colon < end ? colon + 1 : end, end);
        p = skip_value(value, end);
        if ((size_t)(after - name) == sizeof key - 1 && memcmp(name, key, sizeof key - 1) == 0) {
            const char *last = p;
            while (last > value && strchr(" \t\r\n", last[-1])) {
                last--;
            }
            out->arguments = value;
            out->n_arguments = (size_t)(last - value);
            found = true;
        }
    }
    return found;
}

bool tool_call_parse(struct tool_call *out, const char *text, size_t n) {
    struct tool_call c = {.json = json_loadb(text, n, 0, NULL)};
    const json_t *arguments = json_object_get(c.json, "arguments");
    bool ok = true;
    c.name = json_string_value(json_object_get(c.json, "name"));
    if (json_is_string(arguments)) { /* some write them as OpenAI does */
        c.arguments = json_string_value(arguments);
        c.n_arguments = json_string_length(arguments);
    } else if (json_is_object(arguments)) {
        ok = find_arguments(&c, text, text + n);
    } else { /* a function that takes none */
        ok = !arguments || json_is_null(arguments);
        c.arguments = "{}";
        c.n_arguments = 2;
    }
    if (!ok || !c.name || !*c.name) {
        tool_call_finish(&c);
        return false;
    }
    *out = c; /* moves */
    return true;
}

void tool_call_finish(struct tool_call *c) {
    json_decref(c->json);
    *c = (struct tool_call){0};
}
