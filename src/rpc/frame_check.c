#include "rpc/frame_check.h"

#include <stdint.h>

enum {
    MAX_DEPTH = 8,
    MAX_OBJECTS = 1 << 16, /* a step of STEP_MAX_SEQS sequences has a quarter of it */
};

struct head {
    size_t payload;  /* bytes that follow the head */
    size_t children; /* objects that follow it */
};

/* Big-endian number of `width` bytes at p. */
static size_t big_endian(const uint8_t *p, int width) {
    size_t v = 0;
    for (int i = 0; i < width; i++) {
        v = v << 8 | p[i];
    }
    return v;
}

/* Heads 0xc0 to 0xdf: how many bytes of length follow, what the length counts, and how many bytes
 * of payload come on top of it. */
static const struct {
    uint8_t length_bytes;
    uint8_t children; /* objects per unit of length; 0: bytes */
    uint8_t payload;
} long_heads[32] = {
    [0x04] = {1, 0, 0}, [0x05] = {2, 0, 0},  [0x06] = {4, 0, 0}, /* bin */
    [0x07] = {1, 0, 1}, [0x08] = {2, 0, 1},  [0x09] = {4, 0, 1}, /* ext, with its type byte */
    [0x0a] = {0, 0, 4}, [0x0b] = {0, 0, 8},                      /* float */
    [0x0c] = {0, 0, 1}, [0x0d] = {0, 0, 2},  [0x0e] = {0, 0, 4}, [0x0f] = {0, 0, 8}, /* uint */
    [0x10] = {0, 0, 1}, [0x11] = {0, 0, 2},  [0x12] = {0, 0, 4}, [0x13] = {0, 0, 8}, /* int */
    [0x14] = {0, 0, 2}, [0x15] = {0, 0, 3},  [0x16] = {0, 0, 5},                     /* fixext */
    [0x17] = {0, 0, 9}, [0x18] = {0, 0, 17}, [0x19] = {1, 0, 0}, [0x1a] = {2, 0, 0},
    [0x1b] = {4, 0, 0},                     /* str */
    [0x1c] = {2, 1, 0}, [0x1d] = {4, 1, 0}, /* array */
    [0x1e] = {2, 2, 0}, [0x1f] = {4, 2, 0}, /* map */
};

/* Reads the head at *at and moves past it; false when it is no valid head or is cut off. */
static bool read_head(const uint8_t *p, size_t n, size_t *at, struct head *h) {
    uint8_t b = p[(*at)++];
    *h = (struct head){0};
    if (b < 0x80 || b >= 0xe0) {
        return true;
    }
    if (b < 0xc0) {
        if (b >= 0xa0) {
            h->payload = b & 31u;
        } else {
            h->children = (b & 15u) * (b < 0x90 ? 2u : 1u);
        }
        return true;
    }
    int width = long_heads[b - 0xc0].length_bytes;
    if (b == 0xc1 || n - *at < (size_t)width) {
        return false;
    }
    size_t length = big_endian(p + *at, width);
    *at += (size_t)width;
    int per_unit = long_heads[b - 0xc0].children;
    h->children = length * (size_t)per_unit;
    h->payload = per_unit ? 0 : length + long_heads[b - 0xc0].payload;
    return true;
}

bool frame_check(const void *bytes, size_t n, struct error *err) {
    const uint8_t *p = bytes;
    size_t left[MAX_DEPTH] = {1}; /* objects still to come at each depth */
    int depth = 0;
    size_t at = 0, objects = 0;
    while (depth >= 0) {
        if (left[depth] == 0) {
            depth--;
            continue;
        }
        left[depth]--;
        struct head h;
        if (at >= n || !read_head(p, n, &at, &h) || h.payload > n - at) {
            return error_set(err, ERROR_PROTOCOL,
                             "frame of %zu bytes: cut off or invalid at byte %zu", n, at);
        }
        at += h.payload;
        objects += 1 + h.children;
        if (h.children > n - at || objects > MAX_OBJECTS) {
            return error_set(err, ERROR_PROTOCOL,
                             "frame of %zu bytes: claims %zu objects at byte %zu", n, h.children,
                             at);
        }
        if (h.children) {
            if (++depth == MAX_DEPTH) {
                return error_set(err, ERROR_PROTOCOL, "frame: nested more than %d deep", MAX_DEPTH);
            }
            left[depth] = h.children;
        }
    }
    if (at != n) {
        return error_set(err, ERROR_PROTOCOL, "frame: %zu bytes too many", n - at);
    }
    return true;
}
