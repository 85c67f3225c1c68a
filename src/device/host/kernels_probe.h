/* The limits of this machine that measurements compare with. */
#pragma once

static float kernel_stream(const void *p, size_t bytes, int n_stream, size_t ahead) {
    const float *base = p;
    size_t part = bytes / n_stream / sizeof *base;
    enum { STEP = 4 * VEC_WIDTH };
    struct vec top[4] = {vec_zero(), vec_zero(), vec_zero(), vec_zero()};
    for (size_t i = 0; i < part; i += STEP) {
        for (int s = 0; s < n_stream; s++) {
            const float *at = base + s * part + i;
            UNROLL for (int k = 0; k < 4; k++) {
                if (ahead) {
                    __builtin_prefetch((const char *)(at + k * VEC_WIDTH) + ahead, 0, 2);
                }
                top[k] = vec_max(vec_load(at + k * VEC_WIDTH), top[k]);
            }
        }
    }
    return vec_max_lane(vec_max(vec_max(top[0], top[1]), vec_max(top[2], top[3])));
}

static int kernel_fma_peak(long rounds, float *sink) {
    struct vec acc[PEAK_CHAINS];
    const struct vec x = vec_set1(0.999f);
    const struct vec y = vec_set1(1e-3f);
    float start[PEAK_CHAINS * VEC_WIDTH]; /* all different, or the compiler computes one for all */
    for (int i = 0; i < PEAK_CHAINS * VEC_WIDTH; i++) {
        start[i] = (float)i;
    }
    UNROLL for (int i = 0; i < PEAK_CHAINS; i++) {
        acc[i] = vec_load(start + i * VEC_WIDTH);
    }
    for (long r = 0; r < rounds; r++) {
        UNROLL for (int i = 0; i < PEAK_CHAINS; i++) {
            acc[i] = vec_fma(acc[i], x, y);
        }
    }
    struct vec sum = acc[0];
    UNROLL for (int i = 1; i < PEAK_CHAINS; i++) {
        sum = vec_add(sum, acc[i]);
    }
    *sink = vec_sum(sum);
    return PEAK_CHAINS * VEC_WIDTH;
}

/* What is added up is also what is multiplied, or a compiler would multiply once for all. */
static int kernel_int8_peak(long rounds, float *sink) {
    struct ivec acc[PEAK_CHAINS];
    static const unsigned char x[4] = {1, 2, 3, 4};
    UNROLL for (int i = 0; i < PEAK_CHAINS; i++) {
        acc[i] = ivec_set1(0x01010101 * (i + 1));
    }
    for (long r = 0; r < rounds; r++) {
        UNROLL for (int i = 0; i < PEAK_CHAINS; i++) {
            acc[i] = ivec_dot4(acc[i], bytes_of_ivec(acc[i]), x);
        }
    }
    struct vec sum = vec_from_ivec(acc[0]);
    UNROLL for (int i = 1; i < PEAK_CHAINS; i++) {
        sum = vec_add(sum, vec_from_ivec(acc[i]));
    }
    *sink = vec_sum(sum);
    return 4 * PEAK_CHAINS * VEC_WIDTH;
}
