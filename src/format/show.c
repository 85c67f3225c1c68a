#include "format/show.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum { MAX_TEXT = 90, MAX_PATH_TEXT = 160 };

/* Bytes of the control character at s[0..n); 0: there is none. U+0080 to U+009F are such, too: some
 * terminals obey them. */
static size_t control(const char *s, size_t n) {
    unsigned char c = (unsigned char)s[0];
    if (c == 0xc2 && n > 1 && (unsigned char)s[1] >= 0x80 && (unsigned char)s[1] < 0xa0) {
        return 2;
    }
    return c < 0x20 || c == 0x7f ? 1 : 0;
}

static void append(struct shown *out, const char *s, size_t n) {
    size_t used = strlen(out->text);
    for (size_t i = 0; i < n && used + 1 < sizeof out->text;) {
        size_t skip = control(s + i, n - i);
        out->text[used++] = skip ? '?' : s[i];
        i += skip ? skip : 1;
    }
    out->text[used] = 0;
}

void show_in_place(char *text) {
    char *to = text;
    for (size_t i = 0, n = strlen(text); i < n;) {
        size_t skip = control(text + i, n - i);
        *to++ = skip ? '?' : text[i];
        i += skip ? skip : 1;
    }
    *to = 0;
}

static int is_continuation(char c) {
    return ((unsigned char)c & 0xc0) == 0x80;
}

struct shown show_text(const char *s) {
    struct shown out = {{0}};
    size_t n = s ? strlen(s) : 0;
    size_t keep = n;
    if (n > MAX_TEXT) {
        keep = MAX_TEXT;
        while (keep > 0 && is_continuation(s[keep])) {
            keep--;
        }
    }
    append(&out, s, keep);
    if (keep < n) {
        append(&out, "...", 3);
    }
    return out;
}

struct shown show_path(const char *path) {
    struct shown out = {{0}};
    size_t n = strlen(path);
    if (n > MAX_PATH_TEXT) {
        path += n - MAX_PATH_TEXT;
        while (is_continuation(*path)) {
            path++;
        }
        append(&out, "...", 3);
    }
    append(&out, path, strlen(path));
    return out;
}

struct shown show_bytes(uint64_t bytes) {
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    struct shown out;
    double value = (double)bytes;
    int unit = -1;
    while (value >= 1024 && unit < 5) {
        value /= 1024;
        unit++;
    }
    if (unit < 0) {
        snprintf(out.text, sizeof out.text, "%d B", (int)bytes);
    } else {
        snprintf(out.text, sizeof out.text, "%.1f %s", value, units[unit]);
    }
    return out;
}
