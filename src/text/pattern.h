/* A regular expression of a tokenizer.json, written for Oniguruma, run by PCRE2 with its JIT. Where
 * the two read the same text differently, the pattern is rewritten or refused. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

struct pattern;         /* opaque, immutable */
struct pattern_scratch; /* opaque; one per thread that matches */

/* Compiles `regex`, or the text itself when literal. Errors (without the field): TOKENIZER (not a
 * regular expression), UNSUPPORTED (a construct that PCRE2 reads differently), MEMORY. */
bool pattern_create(struct pattern **out, const char *regex, size_t n, bool literal,
                    struct error *err);
void pattern_destroy(struct pattern *p);

bool pattern_scratch_create(struct pattern_scratch **out, struct error *err);
void pattern_scratch_destroy(struct pattern_scratch *s);

/* First match in the valid UTF-8 text[0..n) at or after `from`, as [*start, *end); *start = n + 1
 * when there is none. Errors: TOKENIZER (a pattern that takes too long). */
bool pattern_find(const struct pattern *p, struct pattern_scratch *s, const char *text, size_t n,
                  size_t from, size_t *start, size_t *end, struct error *err);
