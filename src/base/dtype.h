/* Number formats of stored weights. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* Q8_0 and Q4_0 are quantized, in groups of DTYPE_GROUP neighbours of a row, as llama.cpp defines
 * them: an f16 scale d and whole numbers q in [-127, 127] or [-8, 7], which stand for d * q.
 *   Q8_0: d = max |w| / 127, q = w / d to the nearest, halves away from zero
 *   Q4_0: d = m / -8, m the first w of largest magnitude, q = min(15, floor(w / d + 8.5)) - 8
 * where w / d is w times the reciprocal of the d that has not been rounded to f16. A d that f16
 * takes for 0 makes zeros; a w that is NaN or infinite makes d NaN, and with it the whole group. */
enum dtype { DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_Q8_0, DTYPE_Q4_0, DTYPE_COUNT };

enum { DTYPE_GROUP = 32 };

static inline bool dtype_is_quantized(enum dtype t) {
    return t == DTYPE_Q8_0 || t == DTYPE_Q4_0;
}

/* Bytes of what an array of t consists of: of a number or, quantized, of a group. */
static inline size_t dtype_size(enum dtype t) {
    static const unsigned char size[DTYPE_COUNT] = {[DTYPE_F32] = 4,
                                                    [DTYPE_BF16] = 2,
                                                    [DTYPE_F16] = 2,
                                                    [DTYPE_Q8_0] = 2 + DTYPE_GROUP,
                                                    [DTYPE_Q4_0] = 2 + DTYPE_GROUP / 2};
    return size[t];
}

static inline const char *dtype_name(enum dtype t) {
    static const char *const name[DTYPE_COUNT] = {[DTYPE_F32] = "F32",
                                                  [DTYPE_BF16] = "BF16",
                                                  [DTYPE_F16] = "F16",
                                                  [DTYPE_Q8_0] = "Q8_0",
                                                  [DTYPE_Q4_0] = "Q4_0"};
    return name[t];
}

/* As options and messages have it: "bf16". */
static inline const char *dtype_word(enum dtype t) {
    static const char *const word[DTYPE_COUNT] = {[DTYPE_F32] = "f32",
                                                  [DTYPE_BF16] = "bf16",
                                                  [DTYPE_F16] = "f16",
                                                  [DTYPE_Q8_0] = "q8_0",
                                                  [DTYPE_Q4_0] = "q4_0"};
    return word[t];
}

/* False, with *out untouched, where it is no such word. */
bool dtype_from_word(const char *word, enum dtype *out);

/* The same of those that are quantized. */
bool dtype_from_quantized_word(const char *word, enum dtype *out);

/* How many of them a row of cols numbers takes; so the index of the one that begins at column cols
 * of a longer row. Groups start anew every leaf_cols columns (0: at none but the first), so that
 * none crosses from one leaf of a row-parallel linear into another; one that is cut short is
 * padded.
 */
static inline int dtype_units(enum dtype t, int cols, int leaf_cols) {
    if (!dtype_is_quantized(t)) {
        return cols;
    }
    int leaf = leaf_cols > 0 ? leaf_cols : cols;
    int whole = leaf > 0 ? cols / leaf : 0;
    int rest = cols - whole * leaf;
    return whole * ((leaf + DTYPE_GROUP - 1) / DTYPE_GROUP) +
           (rest + DTYPE_GROUP - 1) / DTYPE_GROUP;
}

/* dst[i] = src[i] as f32, exactly, for n numbers at any alignment; t is not quantized. */
void dtype_widen(float *dst, const void *src, enum dtype t, size_t n);
