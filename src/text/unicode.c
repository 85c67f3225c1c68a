#include "text/unicode.h"

#include <stdlib.h>
#include <utf8proc.h>

#include "text/utf8.h"

bool unicode_is_space(uint32_t cp) {
    return (cp >= 0x9 && cp <= 0xd) || cp == 0x20 || cp == 0x85 || cp == 0xa0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 || cp == 0x202f ||
           cp == 0x205f || cp == 0x3000;
}

size_t unicode_trim_start(const char *text, size_t n) {
    size_t i = 0;
    while (i < n) {
        uint32_t cp;
        size_t len = utf8_decode(text + i, n - i, &cp);
        if (len == 0 || !unicode_is_space(cp)) {
            break;
        }
        i += len;
    }
    return i;
}

size_t unicode_trim_end(const char *text, size_t n) {
    while (n > 0) {
        size_t i = n - 1;
        while (i > 0 && ((unsigned char)text[i] & 0xc0) == 0x80) {
            i--;
        }
        uint32_t cp;
        if (utf8_decode(text + i, n - i, &cp) != n - i || !unicode_is_space(cp)) {
            break;
        }
        n = i;
    }
    return n;
}

bool unicode_is_surely_nfc(const char *text, size_t n) {
    /* Nothing below U+0300, whose first byte is 0xcc, ever composes or decomposes under NFC. */
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)text[i] >= 0xcc) {
            return false;
        }
    }
    return true;
}

bool unicode_nfc(const char *text, size_t n, struct buffer *out, struct error *err) {
    utf8proc_uint8_t *composed = NULL;
    utf8proc_ssize_t size = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)n,
                                         &composed, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (size < 0) {
        return error_set(err, ERROR_MEMORY, "NFC: %s", utf8proc_errmsg(size));
    }
    bool ok = buffer_append(out, composed, (size_t)size, err);
    free(composed);
    return ok;
}
