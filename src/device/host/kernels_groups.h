/* Chains over groups of quantized weights, for a tile of T tokens by P panels, and what quantizes
 * tokens and weights.
 *
 * acc[t][p] = fma(d_w * d_x, sum of q_w * q_x, acc[t][p]), group by group. */
#pragma once

enum { GROUP_SCALES = VEC_WIDTH * 2 }; /* bytes of a panel's scales of one group */

/* What is added to weights before they are stored. */
ALWAYS_INLINE int group_offset(enum dtype dtype) {
    return dtype == DTYPE_Q8_0 ? 128 : 8;
}

/* sum[t][p] = start + the products of one group of I panels. x: the tile's int8 of the group. */
ALWAYS_INLINE void group_dot(const int T, const int I, const enum dtype dtype, struct ivec *sum,
                             const unsigned char *const *w, size_t at, const unsigned char *x) {
    const int n_vector = dtype == DTYPE_Q8_0 ? DTYPE_GROUP / 4 : DTYPE_GROUP / 8;
    UNROLL for (int v = 0; v < n_vector; v++) {
        struct bytes b[2];
        UNROLL for (int p = 0; p < I; p++) {
            b[p] = bytes_load(w[p] + at + GROUP_SCALES + v * 64);
        }
        UNROLL for (int t = 0; t < T; t++) {
            const unsigned char *low = x + (v * T + t) * 4;
            const unsigned char *high = x + ((v + n_vector) * T + t) * 4;
            UNROLL for (int p = 0; p < I; p++) {
                struct ivec *s = &sum[t * I + p];
                if (dtype == DTYPE_Q8_0) {
                    *s = ivec_dot8(*s, b[p], low);
                } else {
                    *s = ivec_dot4(*s, bytes_low(b[p]), low);
                    *s = ivec_dot4(*s, bytes_high(b[p]), high);
                }
            }
        }
    }
}

/* T, P, I (the panels whose sums are in registers at a time; 1 or 2) and dtype are constants
 * wherever this is expanded. */
ALWAYS_INLINE void group_tile(const int T, const int P, const int I, const enum dtype dtype,
                              const struct chain_args *c) {
    struct vec acc[LINEAR_MAX_TILE * LINEAR_MAX_PANELS];
    const unsigned char *w[LINEAR_MAX_PANELS];
    const unsigned char *x = (const unsigned char *)c->x;
    const size_t step = GROUP_SCALES + VEC_WIDTH * (dtype == DTYPE_Q8_0 ? 32 : 16);
    UNROLL for (int p = 0; p < P; p++) {
        w[p] = c->w[p];
        UNROLL for (int t = 0; t < T; t++) {
            const float *a = c->acc + t * c->acc_step + p * VEC_WIDTH;
            acc[t * P + p] = c->resume ? vec_load(a) : vec_zero();
        }
    }
    size_t at = 0;
    for (int g = 0; g < c->n; g++) {
        float scale[LINEAR_MAX_TILE];
        int32_t start[LINEAR_MAX_TILE];
        memcpy(scale, x, T * sizeof *scale);
        memcpy(start, x + T * sizeof *scale, T * sizeof *start);
        UNROLL for (int p = 0; p < P; p += I) {
            struct ivec sum[LINEAR_MAX_TILE * 2];
            UNROLL for (int i = 0; i < T * I; i++) {
                int32_t s = start[i / I];
                sum[i] = dtype == DTYPE_Q8_0 ? ivec_start8(s) : ivec_set1(s);
            }
            UNROLL for (int i = 0; i < I; i++) {
                UNROLL for (size_t line = 0; line < step; line += 64) {
                    __builtin_prefetch(w[p + i] + at + c->ahead + line, 0, 2);
                }
            }
            group_dot(T, I, dtype, sum, w + p, at, x + T * (sizeof *scale + sizeof *start));
            UNROLL for (int i = 0; i < I; i++) {
                struct vec d = vec_load_f16((const uint16_t *)(const void *)(w[p + i] + at));
                UNROLL for (int t = 0; t < T; t++) {
                    struct vec *a = &acc[t * P + p + i];
                    *a = vec_fma(vec_mul(d, vec_set1(scale[t])), vec_from_ivec(sum[t * I + i]), *a);
                }
            }
        }
        x += T * TOKEN_GROUP_BYTES;
        at += step;
    }
    UNROLL for (int t = 0; t < T; t++) {
        UNROLL for (int p = 0; p < P; p++) {
            vec_store(c->acc + t * c->acc_step + p * VEC_WIDTH, acc[t * P + p]);
        }
    }
}

#define GROUP_CHAINS(T, P, I)                                                                      \
    static void group_chain_DTYPE_Q8_0_##T(const struct chain_args *c) {                           \
        group_tile(T, P, I, DTYPE_Q8_0, c);                                                        \
    }                                                                                              \
    static void group_chain_DTYPE_Q4_0_##T(const struct chain_args *c) {                           \
        group_tile(T, P, I, DTYPE_Q4_0, c);                                                        \
    }
GROUP_TILES(GROUP_CHAINS)

/* ---- quantizing ---- */

/* The largest magnitude of a group, as bits, which are in the order of the magnitudes, and where
 * infinite and NaN are 0x7f800000 or more. */
ALWAYS_INLINE uint32_t group_largest(const float *x) {
    uint32_t bits[DTYPE_GROUP], largest = 0;
    memcpy(bits, x, sizeof bits);
    for (int i = 0; i < DTYPE_GROUP; i++) {
        uint32_t magnitude = bits[i] & 0x7fffffff;
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest;
}

enum { INFINITE_BITS = 0x7f800000 };

/* Quantizes x; returns d_x. */
ALWAYS_INLINE float quantize_x(int8_t q[DTYPE_GROUP], const float x[DTYPE_GROUP]) {
    uint32_t largest = group_largest(x);
    float a = widen_bits(largest);
    if (largest >= INFINITE_BITS || a < 0x1p-100f) {
        memset(q, 0, DTYPE_GROUP);
        return largest >= INFINITE_BITS ? NAN : 0;
    }
    float per = 127 / a;
    for (int i = 0; i < DTYPE_GROUP; i++) {
        float whole = (x[i] * per + VEC_ROUND) - VEC_ROUND;
        q[i] = (int8_t)(int)whole;
    }
    return a / 127;
}

static void kernel_quantize_token(unsigned char *to, const float *x, int n, int tile_tok,
                                  enum dtype dtype) {
    for (int first = 0; first < n; first += DTYPE_GROUP) {
        float group[DTYPE_GROUP] = {0};
        int8_t q[DTYPE_GROUP];
        int count = n - first < DTYPE_GROUP ? n - first : DTYPE_GROUP;
        memcpy(group, x + first, (size_t)count * sizeof *group);
        float d = quantize_x(q, group);
        int32_t sum = 0;
        for (int i = 0; i < DTYPE_GROUP; i++) {
            sum += q[i];
        }
        int32_t start = -group_offset(dtype) * sum;
        memcpy(to, &d, 4);
        memcpy(to + 4 * (size_t)tile_tok, &start, 4);
        for (int v = 0; v < DTYPE_GROUP / 4; v++) {
            memcpy(to + (2 + (size_t)v) * 4 * tile_tok, q + 4 * v, 4);
        }
        to += (size_t)tile_tok * TOKEN_GROUP_BYTES;
    }
}

/* What is stored for each of a group's weights; returns d. */
ALWAYS_INLINE float quantize_q8_0(uint8_t stored[DTYPE_GROUP], const float w[DTYPE_GROUP],
                                  uint32_t largest) {
    float d = widen_bits(largest) / 127;
    float per = narrow_f16(d) ? 1 / d : 0;
    for (int i = 0; i < DTYPE_GROUP; i++) {
        float v = w[i] * per;
        int whole = (int)v;
        float rest = v - (float)whole;
        stored[i] = (uint8_t)(128 + whole + (rest >= 0.5f) - (rest <= -0.5f));
    }
    return d;
}

ALWAYS_INLINE float quantize_q4_0(uint8_t stored[DTYPE_GROUP], const float w[DTYPE_GROUP],
                                  uint32_t largest) {
    float top = widen_bits(largest);
    int first = 0;
    while (w[first] != top && w[first] != -top) {
        first++;
    }
    float d = w[first] / -8;
    float per = narrow_f16(d) & 0x7fff ? 1 / d : 0;
    for (int i = 0; i < DTYPE_GROUP; i++) {
        int q = (int)(w[i] * per + 8.5f);
        stored[i] = (uint8_t)(q < 15 ? q : 15);
    }
    return d;
}

/* 32 stored weights as a row of a panel's group. */
ALWAYS_INLINE void store_group(unsigned char *to, int row, const uint8_t *stored,
                               enum dtype dtype) {
    unsigned char *at = to + GROUP_SCALES + 4 * row;
    if (dtype == DTYPE_Q8_0) {
        for (int v = 0; v < DTYPE_GROUP / 4; v++) {
            memcpy(at + 64 * v, stored + 4 * v, 4);
        }
        return;
    }
    uint8_t pairs[DTYPE_GROUP / 2];
    for (int i = 0; i < DTYPE_GROUP / 2; i++) {
        pairs[i] = (uint8_t)(stored[i] | stored[i + DTYPE_GROUP / 2] << 4);
    }
    for (int v = 0; v < DTYPE_GROUP / 8; v++) {
        memcpy(at + 64 * v, pairs + 4 * v, 4);
    }
}

static void kernel_quantize_row(unsigned char *to, int row, const unsigned char *from, int n,
                                enum dtype from_dtype, enum dtype dtype) {
    size_t size = dtype_size(from_dtype);
    for (int first = 0; first < n; first += DTYPE_GROUP) {
        _Alignas(float) unsigned char raw[DTYPE_GROUP * sizeof(float)] = {0};
        float w[DTYPE_GROUP];
        uint8_t stored[DTYPE_GROUP];
        int count = n - first < DTYPE_GROUP ? n - first : DTYPE_GROUP;
        memcpy(raw, from + (size_t)first * size, (size_t)count * size);
        vec_store(w, chain_load(from_dtype, raw));
        vec_store(w + VEC_WIDTH, chain_load(from_dtype, raw + VEC_WIDTH * size));
        uint32_t largest = group_largest(w);
        float d;
        if (largest >= INFINITE_BITS) {
            memset(stored, group_offset(dtype), sizeof stored);
            d = NAN;
        } else if (dtype == DTYPE_Q8_0) {
            d = quantize_q8_0(stored, w, largest);
        } else {
            d = quantize_q4_0(stored, w, largest);
        }
        uint16_t scale = narrow_f16(d);
        memcpy(to + row * sizeof scale, &scale, sizeof scale);
        store_group(to, row, stored, dtype);
        to += VEC_WIDTH * dtype_size(dtype);
    }
}
