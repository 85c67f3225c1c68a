#include "text/utf8.h"

#include <string.h>

size_t utf8_length(unsigned char first) {
    return first < 0x80                    ? 1
           : first >= 0xc2 && first < 0xe0 ? 2
           : first >= 0xe0 && first < 0xf0 ? 3
           : first >= 0xf0 && first < 0xf5 ? 4
                                           : 0;
}

bool utf8_continues(const unsigned char *p, size_t n, unsigned char c) {
    if (n == 0) {
        return utf8_length(c) > 0;
    }
    if (n >= utf8_length(p[0]) || (c & 0xc0) != 0x80) {
        return false;
    }
    if (n > 1) {
        return true;
    }
    switch (p[0]) { /* Unicode, table 3-7: well-formed UTF-8 byte sequences */
    case 0xe0:
        return c >= 0xa0;
    case 0xed:
        return c < 0xa0;
    case 0xf0:
        return c >= 0x90;
    case 0xf4:
        return c < 0x90;
    default:
        return true;
    }
}

size_t utf8_decode(const char *p, size_t n, uint32_t *cp) {
    const unsigned char *b = (const unsigned char *)p;
    size_t len = utf8_length(b[0]);
    if (len == 0 || len > n) {
        return 0;
    }
    for (size_t i = 1; i < len; i++) {
        if (!utf8_continues(b, i, b[i])) {
            return 0;
        }
    }
    static const unsigned char first_bits[5] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    uint32_t v = b[0] & first_bits[len];
    for (size_t i = 1; i < len; i++) {
        v = v << 6 | (b[i] & 0x3f);
    }
    *cp = v;
    return len;
}

size_t utf8_encode(uint32_t cp, char out[4]) {
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    size_t n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (cp & 0x3f));
        cp >>= 6;
    }
    out[0] = (char)((0xf00 >> n & 0xff) | cp);
    return n;
}

size_t utf8_valid_prefix(const char *p, size_t n) {
    size_t i = 0;
    while (i < n) {
        uint64_t eight;
        if (n - i >= 8 && (memcpy(&eight, p + i, 8), (eight & 0x8080808080808080u) == 0)) {
            i += 8;
            continue;
        }
        uint32_t cp;
        size_t len = utf8_decode(p + i, n - i, &cp);
        if (len == 0) {
            break;
        }
        i += len;
    }
    return i;
}
