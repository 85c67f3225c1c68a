/* Number formats of stored weights. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

enum dtype { DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_COUNT };

static inline size_t dtype_size(enum dtype t) {
    return t == DTYPE_F32 ? 4 : 2;
}

static inline const char *dtype_name(enum dtype t) {
    return t == DTYPE_F32 ? "F32" : t == DTYPE_BF16 ? "BF16" : "F16";
}

/* As options and messages have it: "bf16". */
static inline const char *dtype_word(enum dtype t) {
    return t == DTYPE_F32 ? "f32" : t == DTYPE_BF16 ? "bf16" : "f16";
}

/* False, with *out untouched, where it is no such word. */
static inline bool dtype_from_word(const char *word, enum dtype *out) {
    for (enum dtype t = DTYPE_F32; t < DTYPE_COUNT; t++) {
        if (strcmp(word, dtype_word(t)) == 0) {
            *out = t;
            return true;
        }
    }
    return false;
}

/* dst[i] = src[i] as f32, exactly, for n numbers at any alignment. */
void dtype_widen(float *dst, const void *src, enum dtype t, size_t n);
