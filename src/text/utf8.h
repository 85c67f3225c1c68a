/* UTF-8, read strictly: no surrogates, nothing overlong, nothing above U+10FFFF. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the character at p[0..n), n >= 1, and its code point in *cp; 0 when p does not start
 * with a whole valid character. */
size_t utf8_decode(const char *p, size_t n, uint32_t *cp);

/* Writes the character's 1 to 4 bytes; returns how many. */
size_t utf8_encode(uint32_t cp, char out[4]);

/* Offset of the first byte that is not part of a valid character; n when all are. */
size_t utf8_valid_prefix(const char *p, size_t n);

/* Bytes that the character with this first byte has: 1 to 4; 0 for a byte that starts none. */
size_t utf8_length(unsigned char first);

/* True when c can follow the first n bytes of p on the way to a valid character. */
bool utf8_continues(const unsigned char *p, size_t n, unsigned char c);
