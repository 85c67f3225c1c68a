#include "text/unicode.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/checked.h"
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

static int combining_class(utf8proc_int32_t cp) {
    return utf8proc_get_property(cp)->combining_class;
}

/* Orders cp[0..n), none of class 0, by combining class, equals as they are. `scratch` has room for
 * n. One pass per class, so that a hostile run of a million marks costs no square. */
static void order_marks(utf8proc_int32_t *cp, size_t n, utf8proc_int32_t *scratch) {
    size_t sorted = 1;
    while (sorted < n && combining_class(cp[sorted - 1]) <= combining_class(cp[sorted])) {
        sorted++;
    }
    if (sorted >= n) {
        return;
    }
    memcpy(scratch, cp, n * sizeof *cp);
    size_t filled = 0;
    for (int class = 1; class < 256 && filled < n; class ++) {
        for (size_t i = 0; i < n; i++) {
            if (combining_class(scratch[i]) == class) {
                cp[filled++] = scratch[i];
            }
        }
    }
}

/* Canonical ordering (Unicode, D109). */
static void order_all(utf8proc_int32_t *cp, size_t n, utf8proc_int32_t *scratch) {
    for (size_t i = 0; i < n;) {
        size_t end = i;
        while (end < n && combining_class(cp[end]) > 0) {
            end++;
        }
        order_marks(cp + i, end - i, scratch);
        i = end + 1;
    }
}

enum { MAX_DECOMPOSITION = 4 }; /* code points that one character can become under NFD */

bool unicode_nfc(const char *text, size_t n, struct buffer *out, struct error *err) {
    bool ok = false;
    size_t bytes;
    utf8proc_int32_t *cp = NULL;
    utf8proc_int32_t *scratch = NULL;
    utf8proc_ssize_t count = 0;
    int boundary = 0;

    if (checked_mul(n, MAX_DECOMPOSITION * sizeof *cp, &bytes)) {
        cp = malloc(bytes + 1);
        scratch = malloc(bytes + 1);
    }
    if (!cp || !scratch || !buffer_reserve(out, n, err)) {
        error_set(err, ERROR_MEMORY, "cannot allocate room to normalise %zu bytes", n);
        goto out;
    }
    for (size_t i = 0; i < n;) {
        uint32_t c = 0;
        size_t len = utf8_decode(text + i, n - i, &c);
        count += utf8proc_decompose_char((utf8proc_int32_t)c, cp + count, MAX_DECOMPOSITION,
                                         UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, &boundary);
        i += len;
    }
    order_all(cp, (size_t)count, scratch);
    count = utf8proc_normalize_utf32(cp, count, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    for (utf8proc_ssize_t i = 0; i < count; i++) {
        char encoded[4];
        if (!buffer_append(out, encoded, utf8_encode((uint32_t)cp[i], encoded), err)) {
            goto out;
        }
    }
    ok = true;
out:
    free(cp);
    free(scratch);
    return ok;
}
