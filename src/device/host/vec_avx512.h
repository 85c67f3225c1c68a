/* vec in one AVX-512 register; dot products of bytes by VNNI where the compiler may use it. */
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

struct vec {
    __m512 v;
};

static inline struct vec vec_load(const float *p) {
    return (struct vec){_mm512_loadu_ps(p)};
}

static inline void vec_store(float *p, struct vec a) {
    _mm512_storeu_ps(p, a.v);
}

static inline struct vec vec_set1(float x) {
    return (struct vec){_mm512_set1_ps(x)};
}

static inline struct vec vec_zero(void) {
    return (struct vec){_mm512_setzero_ps()};
}

static inline __mmask16 vec_mask(int n) {
    return (__mmask16)((1u << n) - 1);
}

static inline struct vec vec_load_n(const float *p, int n) {
    return (struct vec){_mm512_maskz_loadu_ps(vec_mask(n), p)};
}

static inline void vec_store_n(float *p, struct vec a, int n) {
    _mm512_mask_storeu_ps(p, vec_mask(n), a.v);
}

static inline struct vec vec_load_bf16(const uint16_t *p) {
    __m512i w = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i_u *)p));
    return (struct vec){_mm512_castsi512_ps(_mm512_slli_epi32(w, 16))};
}

static inline struct vec vec_low_bf16(const uint16_t *p) {
    return (struct vec){_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16))};
}

static inline struct vec vec_high_bf16(const uint16_t *p) {
    const __m512i high = _mm512_set1_epi32((int)0xffff0000);
    return (struct vec){_mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), high))};
}

static inline struct vec vec_load_f16(const uint16_t *p) {
    return (struct vec){_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i_u *)p))};
}

static inline struct vec vec_add(struct vec a, struct vec b) {
    return (struct vec){_mm512_add_ps(a.v, b.v)};
}

static inline struct vec vec_sub(struct vec a, struct vec b) {
    return (struct vec){_mm512_sub_ps(a.v, b.v)};
}

static inline struct vec vec_mul(struct vec a, struct vec b) {
    return (struct vec){_mm512_mul_ps(a.v, b.v)};
}

static inline struct vec vec_div(struct vec a, struct vec b) {
    return (struct vec){_mm512_div_ps(a.v, b.v)};
}

static inline struct vec vec_fma(struct vec a, struct vec b, struct vec c) {
    return (struct vec){_mm512_fmadd_ps(a.v, b.v, c.v)};
}

static inline struct vec vec_max(struct vec a, struct vec b) {
    return (struct vec){_mm512_max_ps(a.v, b.v)};
}

static inline struct vec vec_min(struct vec a, struct vec b) {
    return (struct vec){_mm512_min_ps(a.v, b.v)};
}

static inline int vec_count_gt(struct vec a, struct vec b) {
    return __builtin_popcount(_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ));
}

static inline struct vec vec_keep_gt(struct vec a, struct vec b) {
    return (struct vec){_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ), a.v)};
}

static inline struct vec vec_first(struct vec a, int n, struct vec b) {
    return (struct vec){_mm512_mask_blend_ps(vec_mask(n), b.v, a.v)};
}

static inline struct vec vec_ldexp(struct vec p, struct vec n) {
    __m512i k = _mm512_sub_epi32(_mm512_castps_si512(n.v), _mm512_set1_epi32(0x4b400000));
    __m512i half = _mm512_srai_epi32(k, 1);
    __m512i bias = _mm512_set1_epi32(127);
    __m512i a = _mm512_slli_epi32(_mm512_add_epi32(half, bias), 23);
    __m512i b = _mm512_slli_epi32(_mm512_add_epi32(_mm512_sub_epi32(k, half), bias), 23);
    __m512 r = _mm512_mul_ps(p.v, _mm512_castsi512_ps(a));
    return (struct vec){_mm512_mul_ps(r, _mm512_castsi512_ps(b))};
}

static inline __m256 vec_high(struct vec a) {
    return _mm512_extractf32x8_ps(a.v, 1);
}

static inline float vec_sum(struct vec a) {
    __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(a.v), vec_high(a));
    __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}

static inline float vec_max_lane(struct vec a) {
    __m256 s8 = _mm256_max_ps(_mm512_castps512_ps256(a.v), vec_high(a));
    __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_max_ss(s2, _mm_movehdup_ps(s2)));
}

/* ---- quantized groups ---- */

struct ivec {
    __m512i v;
};

struct bytes {
    __m512i v;
};

static inline struct bytes bytes_load(const unsigned char *p) {
    return (struct bytes){_mm512_loadu_si512(p)};
}

static inline struct bytes bytes_low(struct bytes b) {
    return (struct bytes){_mm512_and_si512(b.v, _mm512_set1_epi8(15))};
}

static inline struct bytes bytes_high(struct bytes b) {
    return bytes_low((struct bytes){_mm512_srli_epi16(b.v, 4)});
}

static inline struct ivec ivec_set1(int32_t x) {
    return (struct ivec){_mm512_set1_epi32(x)};
}

static inline __m512i ivec_four(const unsigned char *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    return _mm512_set1_epi32(four);
}

#ifdef __AVX512VNNI__

static inline struct ivec ivec_start8(int32_t start) {
    return ivec_set1(start);
}

static inline struct ivec ivec_dot4(struct ivec acc, struct bytes w, const unsigned char *x) {
    return (struct ivec){_mm512_dpbusd_epi32(acc.v, w.v, ivec_four(x))};
}

static inline struct ivec ivec_dot8(struct ivec acc, struct bytes w, const unsigned char *x) {
    return ivec_dot4(acc, w, x);
}

#else

static inline struct ivec ivec_start8(int32_t start) {
    (void)start; /* ivec_dot8 takes the 128 off the weights */
    return ivec_set1(0);
}

/* w unsigned, x signed. Sums of two products stay within 16 bits: 15 * 127 * 2, 128 * 127 * 2. */
static inline __m512i ivec_dot(__m512i acc, __m512i w, __m512i x) {
    __m512i pairs = _mm512_maddubs_epi16(w, x);
    return _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}

static inline struct ivec ivec_dot4(struct ivec acc, struct bytes w, const unsigned char *x) {
    return (struct ivec){ivec_dot(acc.v, w.v, ivec_four(x))};
}

/* |w| times x with the sign of w. */
static inline struct ivec ivec_dot8(struct ivec acc, struct bytes b, const unsigned char *x) {
    __m512i w = _mm512_xor_si512(b.v, _mm512_set1_epi8(-128));
    __m512i v = ivec_four(x);
    v = _mm512_mask_sub_epi8(v, _mm512_movepi8_mask(w), _mm512_setzero_si512(), v);
    return (struct ivec){ivec_dot(acc.v, _mm512_abs_epi8(w), v)};
}

#endif

static inline struct vec vec_from_ivec(struct ivec a) {
    return (struct vec){_mm512_cvtepi32_ps(a.v)};
}

/* The bits of sums as bytes: what the int8 peak multiplies. */
static inline struct bytes bytes_of_ivec(struct ivec a) {
    return (struct bytes){a.v};
}
