/* Packing of weights: interleaving 16 rows, and counting what is not a number. Plain loops, which
 * the compiler turns into the shuffles of each instruction set. */
#pragma once

/* Interleaves 16 rows in four rounds of zipping two at a time: row r with row r + 8, what came of
 * it with what came of row r + 4, and so on, which leaves column by column. */
#define DEFINE_INTERLEAVE(TYPE)                                                                    \
    static void zip_##TYPE(TYPE *restrict to, const TYPE *restrict a, const TYPE *restrict b,      \
                           int n) {                                                                \
        for (int i = 0; i < n; i++) {                                                              \
            to[2 * i] = a[i];                                                                      \
            to[2 * i + 1] = b[i];                                                                  \
        }                                                                                          \
    }                                                                                              \
    static void interleave_##TYPE(TYPE *to, const unsigned char *const *rows, int n) {             \
        TYPE a[VEC_WIDTH * PACK_COLUMNS];                                                          \
        TYPE b[VEC_WIDTH * PACK_COLUMNS];                                                          \
        for (int r = 0; r < 16; r++) {                                                             \
            memcpy(a + r * n, rows[r], (size_t)n * sizeof(TYPE));                                  \
        }                                                                                          \
        for (int r = 0; r < 8; r++) {                                                              \
            zip_##TYPE(b + 2 * n * r, a + n * r, a + n * (r + 8), n);                              \
        }                                                                                          \
        for (int r = 0; r < 4; r++) {                                                              \
            zip_##TYPE(a + 4 * n * r, b + 2 * n * r, b + 2 * n * (r + 4), 2 * n);                  \
        }                                                                                          \
        for (int r = 0; r < 2; r++) {                                                              \
            zip_##TYPE(b + 8 * n * r, a + 4 * n * r, a + 4 * n * (r + 2), 4 * n);                  \
        }                                                                                          \
        zip_##TYPE(to, b, b + 8 * n, 8 * n);                                                       \
    }
DEFINE_INTERLEAVE(uint16_t)
DEFINE_INTERLEAVE(uint32_t)

static void kernel_interleave(void *to, const unsigned char *const *rows, int n, size_t element) {
    if (element == sizeof(uint16_t)) {
        interleave_uint16_t(to, rows, n);
    } else {
        interleave_uint32_t(to, rows, n);
    }
}

/* NaN and infinite values among n elements at any alignment: those whose exponent is all ones. */
static int kernel_count_nonfinite(enum dtype dtype, const unsigned char *p, int n) {
    int count = 0;
    if (dtype == DTYPE_F32) {
        for (int i = 0; i < n; i++) {
            uint32_t bits;
            memcpy(&bits, p + 4 * (size_t)i, sizeof bits);
            count += (bits & 0x7f800000) == 0x7f800000;
        }
        return count;
    }
    const uint16_t exponent = dtype == DTYPE_BF16 ? 0x7f80 : 0x7c00;
    for (int i = 0; i < n; i++) {
        uint16_t bits;
        memcpy(&bits, p + 2 * (size_t)i, sizeof bits);
        count += (bits & exponent) == exponent;
    }
    return count;
}
