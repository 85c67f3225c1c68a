/* White space and normalisation. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"

/* Unicode's White_Space. */
bool unicode_is_space(uint32_t cp);

/* Bytes of white space at the start of the UTF-8 text. */
size_t unicode_trim_start(const char *text, size_t n);
/* Bytes that are left when white space at the end is taken off. */
size_t unicode_trim_end(const char *text, size_t n);

/* True when the valid UTF-8 text is its own NFC at a glance; most text is. */
bool unicode_is_surely_nfc(const char *text, size_t n);

/* Appends the NFC of valid UTF-8 text. Errors: MEMORY. */
bool unicode_nfc(const char *text, size_t n, struct buffer *out, struct error *err);
