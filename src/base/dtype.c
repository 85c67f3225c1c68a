#include "base/dtype.h"

#include <string.h>

#include "base/widen.h"

bool dtype_parse_quantized(enum dtype *out, const char *option) {
    for (enum dtype t = DTYPE_Q8_0; t <= DTYPE_Q4_0; t++) {
        if (strcmp(option, dtype_option(t)) == 0) {
            *out = t;
            return true;
        }
    }
    return false;
}

void dtype_widen(float *dst, const void *src, enum dtype t, size_t n) {
    for (size_t i = 0; i < n; i++) {
        dst[i] = widen_at(t, src, i);
    }
}
