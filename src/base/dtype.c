#include "base/dtype.h"

#include "base/widen.h"

void dtype_widen(float *dst, const void *src, enum dtype t, size_t n) {
    for (size_t i = 0; i < n; i++) {
        dst[i] = widen_at(t, src, i);
    }
}
