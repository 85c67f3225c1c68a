#include "serve/api_impl.h"

#include <math.h>
#include <string.h>

#include "text/utf8.h"

static bool put_character(struct buffer *out, const char *p, size_t n, struct error *err) {
    static const char named[] = "\"\\\b\f\n\r\t", as[] = "\"\\bfnrt";
    const char *at = n == 1 ? memchr(named, *p, sizeof named - 1) : NULL;
    if (at) {
        char escape[2] = {'\\', as[at - named]};
        return buffer_append(out, escape, 2, err);
    }
    if (n == 1 && ((unsigned char)*p < 0x20 || *p == 0x7f)) {
        return buffer_printf(out, err, "\\u%04x", (unsigned)*p);
    }
    return buffer_append(out, p, n, err);
}

bool api_put_string(struct buffer *out, const char *text, size_t n, struct error *err) {
    bool ok = buffer_append(out, "\"", 1, err);
    for (size_t i = 0; ok && i < n;) {
        uint32_t cp;
        size_t length = utf8_decode(text + i, n - i, &cp);
        ok = length ? put_character(out, text + i, length, err)
                    : buffer_append(out, "\xef\xbf\xbd", 3, err);
        i += length ? length : 1;
    }
    return ok && buffer_append(out, "\"", 1, err);
}

bool api_put_text(struct buffer *out, const char *text, struct error *err) {
    return api_put_string(out, text, strlen(text), err);
}

bool api_put_real(struct buffer *out, double x, struct error *err) {
    return isfinite(x) ? buffer_printf(out, err, "%.9g", x) : buffer_append(out, "null", 4, err);
}
