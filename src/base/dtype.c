#include "base/dtype.h"

#include <string.h>

#include "base/widen.h"

static bool find(const char *word, enum dtype first, enum dtype *out) {
    for (enum dtype t = first; t < DTYPE_COUNT; t++) {
        if (strcmp(word, dtype_word(t)) == 0) {
            *out = t;
            return true;
        }
    }
    return false;
}

bool dtype_from_word(const char *word, enum dtype *out) {
    return find(word, DTYPE_F32, out);
}

bool dtype_from_quantized_word(const char *word, enum dtype *out) {
    return find(word, DTYPE_Q8_0, out);
}

void dtype_widen(float *dst, const void *src, enum dtype t, size_t n) {
    for (size_t i = 0; i < n; i++) {
        dst[i] = widen_at(t, src, i);
    }
}
