/* Number formats of stored weights. */
#pragma once

#include <stddef.h>

enum dtype { DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_COUNT };

static inline size_t dtype_size(enum dtype t) {
    return t == DTYPE_F32 ? 4 : 2;
}

static inline const char *dtype_name(enum dtype t) {
    return t == DTYPE_F32 ? "F32" : t == DTYPE_BF16 ? "BF16" : "F16";
}

/* dst[i] = src[i] as f32, exactly, for n numbers at any alignment. */
void dtype_widen(float *dst, const void *src, enum dtype t, size_t n);
