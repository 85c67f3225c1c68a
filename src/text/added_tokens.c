#include "text/added_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "text/unicode.h"
#include "text/utf8.h"

bool added_tokens_push(struct added_tokens *a, struct added_token t, struct error *err) {
    if (a->n == a->capacity) {
        size_t capacity = a->capacity ? 2 * a->capacity : 16;
        struct added_token *grown = realloc(a->token, capacity * sizeof *grown);
        if (!grown) {
            return error_set(err, ERROR_MEMORY, "cannot allocate %zu added tokens", capacity);
        }
        a->token = grown;
        a->capacity = capacity;
    }
    char *copy = malloc(t.length);
    if (!copy) {
        return error_set(err, ERROR_MEMORY, "cannot allocate an added token");
    }
    memcpy(copy, t.content, t.length);
    t.content = copy;
    a->token[a->n++] = t;
    a->starts[(unsigned char)copy[0]] = true;
    return true;
}

static int by_content(const void *pa, const void *pb) {
    const struct added_token *a = pa;
    const struct added_token *b = pb;
    int c = memcmp(a->content, b->content, a->length < b->length ? a->length : b->length);
    return c ? c : (a->length > b->length) - (a->length < b->length);
}

void added_tokens_sort(struct added_tokens *a) {
    if (a->n) {
        qsort(a->token, a->n, sizeof *a->token, by_content);
    }
}

/* First of token[low..high), which agree on their first `depth` bytes, whose next byte is at least
 * `byte`; one that ends there counts as less than any. */
static size_t lower_bound(const struct added_tokens *a, size_t low, size_t high, size_t depth,
                          int byte) {
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        const struct added_token *t = &a->token[mid];
        int next = t->length > depth ? (unsigned char)t->content[depth] : -1;
        if (next < byte) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

/* The longest token that text[0..n) starts with: the sorted list is narrowed byte by byte. */
static const struct added_token *longest_at(const struct added_tokens *a, const char *text,
                                            size_t n) {
    const struct added_token *best = NULL;
    size_t low = 0;
    size_t high = a->n;
    for (size_t depth = 0; depth < n; depth++) {
        int byte = (unsigned char)text[depth];
        low = lower_bound(a, low, high, depth, byte);
        high = lower_bound(a, low, high, depth, byte + 1);
        if (low == high) {
            break;
        }
        if (a->token[low].length == depth + 1) {
            best = &a->token[low];
        }
    }
    return best;
}

const struct added_token *added_tokens_find(const struct added_tokens *a, const char *text,
                                            size_t n, size_t from, size_t *start, size_t *end) {
    if (a->n == 0) {
        return NULL;
    }
    for (size_t i = from; i < n; i++) {
        if (!a->starts[(unsigned char)text[i]]) {
            continue;
        }
        const struct added_token *t = longest_at(a, text + i, n - i);
        if (!t) {
            continue;
        }
        *start = i;
        *end = i + t->length;
        if (t->lstrip) {
            *start = from + unicode_trim_end(text + from, i - from);
        }
        if (t->rstrip) {
            *end += unicode_trim_start(text + *end, n - *end);
        }
        return t;
    }
    return NULL;
}

const struct added_token *added_tokens_get(const struct added_tokens *a, const char *content,
                                           size_t n) {
    const struct added_token *t = n ? longest_at(a, content, n) : NULL;
    return t && t->length == n ? t : NULL;
}

void added_tokens_finish(struct added_tokens *a) {
    for (size_t i = 0; i < a->n; i++) {
        free(a->token[i].content);
    }
    free(a->token);
    *a = (struct added_tokens){0};
}
