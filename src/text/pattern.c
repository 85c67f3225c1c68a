#include "text/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"

/* Unicode's White_Space, which is Oniguruma's \s. PCRE2's has U+180E as well. */
#define WHITE_SPACE                                                                                \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"    \
    "\\x{205f}\\x{3000}"

struct pattern {
    pcre2_code *code;
};

struct pattern_scratch {
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

enum { PATTERN_MAX_BYTES = 8192, JIT_STACK_BYTES = 1 << 20 };

static bool append(struct buffer *out, const char *text, struct error *err) {
    return buffer_append(out, text, strlen(text), err);
}

/* Rewrites one escape, regex[0] = '\\'. */
static bool translate_escape(const char *regex, bool in_class, struct buffer *out,
                             struct error *err) {
    switch (regex[1]) {
    case 's':
        return append(out, in_class ? WHITE_SPACE : "[" WHITE_SPACE "]", err);
    case 'S':
        if (!in_class) {
            return append(out, "[^" WHITE_SPACE "]", err);
        }
        return error_set(err, ERROR_UNSUPPORTED, "\\S inside [...]");
    case 'h': /* a hexadecimal digit there, a blank here; the others have other members */
    case 'H':
    case 'w':
    case 'W':
    case 'b':
    case 'B':
    case 'R':
    case 'X':
    case 'K':
        return error_set(err, ERROR_UNSUPPORTED, "\\%c in a regular expression", regex[1]);
    default:
        return buffer_append(out, regex, regex[1] ? 2 : 1, err);
    }
}

static bool translate(const char *regex, size_t n, struct buffer *out, struct error *err) {
    bool in_class = false;
    for (size_t i = 0; i < n; i++) {
        char c = regex[i];
        if (c == '\\') {
            if (!translate_escape(regex + i, in_class, out, err)) {
                return false;
            }
            i++;
            continue;
        }
        if (in_class && (c == '[' || (c == '&' && regex[i + 1] == '&'))) {
            return error_set(err, ERROR_UNSUPPORTED, "nested or intersected [...]");
        }
        if (!buffer_append(out, &c, 1, err)) {
            return false;
        }
        if (c == '[') {
            in_class = true;
            if (regex[i + 1] == '^') {
                i++;
                if (!buffer_append(out, "^", 1, err)) {
                    return false;
                }
            }
            if (regex[i + 1] == ']') { /* a member there, not the end */
                return error_set(err, ERROR_UNSUPPORTED, "] as the first of [...]");
            }
        } else if (c == ']') {
            in_class = false;
        }
    }
    return true;
}

static bool compile(struct pattern *p, const char *regex, size_t n, bool literal,
                    struct error *err) {
    int code = 0;
    size_t offset = 0;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context) {
        return error_set(err, ERROR_MEMORY, "cannot allocate a regular expression");
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(context, 50);
    uint32_t options =
        PCRE2_UTF |
        (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C);
    p->code = pcre2_compile((PCRE2_SPTR)regex, n, options, &code, &offset, context);
    pcre2_compile_context_free(context);
    if (!p->code) {
        char message[120] = "";
        pcre2_get_error_message(code, (PCRE2_UCHAR *)message, sizeof message);
        return error_set(err, ERROR_TOKENIZER, "not a regular expression: %s", message);
    }
    /* Where the system forbids writable code, matching goes on without the JIT. */
    pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE);
    return true;
}

bool pattern_create(struct pattern **out, const char *regex, size_t n, bool literal,
                    struct error *err) {
    struct buffer translated = {0};
    struct pattern *p = calloc(1, sizeof *p);
    bool ok = false;

    if (!p) {
        error_set(err, ERROR_MEMORY, "cannot allocate a regular expression");
        goto out;
    }
    if (n > PATTERN_MAX_BYTES) {
        error_set(err, ERROR_TOKENIZER, "a regular expression of %zu bytes, more than %d", n,
                  PATTERN_MAX_BYTES);
        goto out;
    }
    if (literal ? !compile(p, regex, n, true, err)
                : !translate(regex, n, &translated, err) ||
                      !compile(p, (const char *)translated.data, translated.size, false, err)) {
        goto out;
    }
    *out = p; /* moves */
    p = NULL;
    ok = true;
out:
    pattern_destroy(p);
    buffer_finish(&translated);
    return ok;
}

void pattern_destroy(struct pattern *p) {
    if (p) {
        pcre2_code_free(p->code);
        free(p);
    }
}

bool pattern_scratch_create(struct pattern_scratch **out, struct error *err) {
    struct pattern_scratch *s = calloc(1, sizeof *s);
    if (s) {
        s->match = pcre2_match_data_create(1, NULL);
        s->context = pcre2_match_context_create(NULL);
        s->stack = pcre2_jit_stack_create(32 * 1024, JIT_STACK_BYTES, NULL);
    }
    if (!s || !s->match || !s->context) {
        pattern_scratch_destroy(s);
        return error_set(err, ERROR_MEMORY, "cannot allocate room for matching");
    }
    pcre2_jit_stack_assign(s->context, NULL, s->stack); /* NULL: the machine's stack */
    *out = s;
    return true;
}

void pattern_scratch_destroy(struct pattern_scratch *s) {
    if (s) {
        pcre2_match_data_free(s->match);
        pcre2_match_context_free(s->context);
        pcre2_jit_stack_free(s->stack);
        free(s);
    }
}

bool pattern_find(const struct pattern *p, struct pattern_scratch *s, const char *text, size_t n,
                  size_t from, size_t *start, size_t *end, struct error *err) {
    int rc =
        pcre2_match(p->code, (PCRE2_SPTR)text, n, from, PCRE2_NO_UTF_CHECK, s->match, s->context);
    if (rc == PCRE2_ERROR_NOMATCH) {
        *start = n + 1;
        *end = n + 1;
        return true;
    }
    if (rc < 0) {
        char message[120] = "";
        pcre2_get_error_message(rc, (PCRE2_UCHAR *)message, sizeof message);
        return error_set(err, ERROR_TOKENIZER, "the pre-tokenizer's regular expression: %s",
                         message);
    }
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(s->match);
    *start = span[0];
    *end = span[1];
    return true;
}
