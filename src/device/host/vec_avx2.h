/* vec in two AVX2 registers, lanes 0..7 in lo. */
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

struct vec {
    __m256 lo, hi;
};

static inline struct vec vec_load(const float *p) {
    return (struct vec){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}

static inline void vec_store(float *p, struct vec a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}

static inline struct vec vec_set1(float x) {
    __m256 v = _mm256_set1_ps(x);
    return (struct vec){v, v};
}

static inline struct vec vec_zero(void) {
    return vec_set1(0);
}

static inline struct vec vec_load_n(const float *p, int n) {
    float whole[16] = {0};
    memcpy(whole, p, (size_t)n * sizeof *p);
    return vec_load(whole);
}

static inline void vec_store_n(float *p, struct vec a, int n) {
    float whole[16];
    vec_store(whole, a);
    memcpy(p, whole, (size_t)n * sizeof *p);
}

static inline __m256 vec_widen8_bf16(const uint16_t *p) {
    __m256i w = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i_u *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
}

static inline struct vec vec_load_bf16(const uint16_t *p) {
    return (struct vec){vec_widen8_bf16(p), vec_widen8_bf16(p + 8)};
}

static inline __m256 vec_low8_bf16(const uint16_t *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256((const __m256i_u *)p), 16));
}

static inline struct vec vec_low_bf16(const uint16_t *p) {
    return (struct vec){vec_low8_bf16(p), vec_low8_bf16(p + 16)};
}

static inline __m256 vec_high8_bf16(const uint16_t *p) {
    const __m256i high = _mm256_set1_epi32((int)0xffff0000);
    return _mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256((const __m256i_u *)p), high));
}

static inline struct vec vec_high_bf16(const uint16_t *p) {
    return (struct vec){vec_high8_bf16(p), vec_high8_bf16(p + 16)};
}

static inline struct vec vec_load_f16(const uint16_t *p) {
    return (struct vec){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i_u *)p)),
                        _mm256_cvtph_ps(_mm_loadu_si128((const __m128i_u *)(p + 8)))};
}

static inline struct vec vec_add(struct vec a, struct vec b) {
    return (struct vec){_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}

static inline struct vec vec_sub(struct vec a, struct vec b) {
    return (struct vec){_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}

static inline struct vec vec_mul(struct vec a, struct vec b) {
    return (struct vec){_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}

static inline struct vec vec_div(struct vec a, struct vec b) {
    return (struct vec){_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}

static inline struct vec vec_fma(struct vec a, struct vec b, struct vec c) {
    return (struct vec){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}

static inline struct vec vec_max(struct vec a, struct vec b) {
    return (struct vec){_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}

static inline struct vec vec_min(struct vec a, struct vec b) {
    return (struct vec){_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}

static inline int vec_count_gt(struct vec a, struct vec b) {
    int lo = _mm256_movemask_ps(_mm256_cmp_ps(a.lo, b.lo, _CMP_GT_OQ));
    int hi = _mm256_movemask_ps(_mm256_cmp_ps(a.hi, b.hi, _CMP_GT_OQ));
    return __builtin_popcount((unsigned)(lo | hi << 8));
}

static inline struct vec vec_keep_gt(struct vec a, struct vec b) {
    return (struct vec){_mm256_and_ps(_mm256_cmp_ps(a.lo, b.lo, _CMP_GT_OQ), a.lo),
                        _mm256_and_ps(_mm256_cmp_ps(a.hi, b.hi, _CMP_GT_OQ), a.hi)};
}

static inline struct vec vec_first(struct vec a, int n, struct vec b) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i lo = _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane);
    __m256i hi = _mm256_cmpgt_epi32(_mm256_set1_epi32(n - 8), lane);
    return (struct vec){_mm256_blendv_ps(b.lo, a.lo, _mm256_castsi256_ps(lo)),
                        _mm256_blendv_ps(b.hi, a.hi, _mm256_castsi256_ps(hi))};
}

static inline __m256 vec_ldexp8(__m256 p, __m256 n) {
    __m256i k = _mm256_sub_epi32(_mm256_castps_si256(n), _mm256_set1_epi32(0x4b400000));
    __m256i half = _mm256_srai_epi32(k, 1);
    __m256i bias = _mm256_set1_epi32(127);
    __m256i a = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    __m256i b = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(k, half), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(a)), _mm256_castsi256_ps(b));
}

static inline struct vec vec_ldexp(struct vec p, struct vec n) {
    return (struct vec){vec_ldexp8(p.lo, n.lo), vec_ldexp8(p.hi, n.hi)};
}

static inline float vec_sum(struct vec a) {
    __m256 s8 = _mm256_add_ps(a.lo, a.hi);
    __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}

static inline float vec_max_lane(struct vec a) {
    __m256 s8 = _mm256_max_ps(a.lo, a.hi);
    __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_max_ss(s2, _mm_movehdup_ps(s2)));
}

/* ---- quantized groups ---- */

struct ivec {
    __m256i lo, hi;
};

struct bytes {
    __m256i lo, hi; /* rows 0..7 in lo */
};

static inline struct bytes bytes_load(const unsigned char *p) {
    return (struct bytes){_mm256_loadu_si256((const __m256i_u *)p),
                          _mm256_loadu_si256((const __m256i_u *)(p + 32))};
}

static inline struct bytes bytes_low(struct bytes b) {
    const __m256i nibble = _mm256_set1_epi8(15);
    return (struct bytes){_mm256_and_si256(b.lo, nibble), _mm256_and_si256(b.hi, nibble)};
}

static inline struct bytes bytes_high(struct bytes b) {
    return bytes_low((struct bytes){_mm256_srli_epi16(b.lo, 4), _mm256_srli_epi16(b.hi, 4)});
}

static inline struct ivec ivec_set1(int32_t x) {
    __m256i v = _mm256_set1_epi32(x);
    return (struct ivec){v, v};
}

static inline struct ivec ivec_start8(int32_t start) {
    (void)start; /* ivec_dot8 takes the 128 off the weights */
    return ivec_set1(0);
}

/* w unsigned, x signed. Sums of two products stay within 16 bits: 15 * 127 * 2, 128 * 127 * 2. */
static inline __m256i ivec_dot(__m256i acc, __m256i w, __m256i x) {
    __m256i pairs = _mm256_maddubs_epi16(w, x);
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

static inline __m256i ivec_four(const unsigned char *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    return _mm256_set1_epi32(four);
}

static inline struct ivec ivec_dot4(struct ivec acc, struct bytes w, const unsigned char *x) {
    __m256i v = ivec_four(x);
    return (struct ivec){ivec_dot(acc.lo, w.lo, v), ivec_dot(acc.hi, w.hi, v)};
}

/* |w| times x with the sign of w. */
static inline __m256i ivec_dot_signed(__m256i acc, __m256i stored, __m256i x) {
    __m256i w = _mm256_xor_si256(stored, _mm256_set1_epi8(-128));
    return ivec_dot(acc, _mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
}

static inline struct ivec ivec_dot8(struct ivec acc, struct bytes w, const unsigned char *x) {
    __m256i v = ivec_four(x);
    return (struct ivec){ivec_dot_signed(acc.lo, w.lo, v), ivec_dot_signed(acc.hi, w.hi, v)};
}

static inline struct vec vec_from_ivec(struct ivec a) {
    return (struct vec){_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)};
}

/* The bits of sums as bytes: what the int8 peak multiplies. */
static inline struct bytes bytes_of_ivec(struct ivec a) {
    return (struct bytes){a.lo, a.hi};
}
