/* What the kernels share on top of vec. The operations of vec_*.h are, lane by lane:
 * load, store, load_n (lanes from n on are +0), store_n, load_bf16 and load_f16 (exact widening),
 * low_bf16 and high_bf16 (the same of the even and of the odd ones of 32),
 * set1, zero, add, sub, mul, div, fma(a, b, c) = a*b + c rounded once,
 * max(a, b) = a > b ? a : b and min(a, b) = a < b ? a : b (b where either is NaN),
 * first(a, n, b) = lanes below n of a, the others of b,
 * keep_gt(a, b) = a > b ? a : +0 and count_gt(a, b) = lanes with a > b (none where either is NaN),
 * sum (0+8.., 0+4.., 0+2.., 0+1) and max_lane, and
 * ldexp(p, VEC_ROUND + k) = p * 2^floor(k/2) * 2^ceil(k/2), k a whole number in [-250, 250].
 *
 * ivec is 16 lanes of int32, bytes 64 stored weights, lane l's being 4 l + (0 .. 3): low and high
 * are their nibbles; dot4(acc, w, x) and dot8(acc, w, x) add to each lane what its four weights and
 * the four int8 at x come to, w at most 15 for dot4, any byte for dot8. dot8 counts a byte w as
 * w - 128, in one of two ways: either start8(-128 times the sum of all x) is where the sum begins
 * and dot8 adds w * x, or start8 is 0. All is exact. bytes_of_ivec are the bits of lanes, for the
 * int8 peak alone: with such weights dot4 may saturate, and what it comes to is not compared. */
#pragma once

#define VEC_ROUND 0x1.8p23f /* x + VEC_ROUND - VEC_ROUND is x to the nearest whole number */

/* e^x, the one exponential of all host kernels; error below 1.1 ulp, gradual underflow,
 * NaN -> NaN, exp(0) = 1.
 *   t = fma(x, log2 e, VEC_ROUND); k = t - VEC_ROUND; r = x - k ln 2, in two fma;
 *   p = 1 + r + r^2 (c2 + r (c3 + r (c4 + r (c5 + r c6)))), every step an fma; p * 2^k.
 * c: least maximal relative error on |r| <= ln 2 / 2 (3.1e-9), by Remez' exchange. */
static inline struct vec vec_exp(struct vec x) {
    const struct vec round = vec_set1(VEC_ROUND);
    x = vec_max(vec_set1(-105.0f), x);
    x = vec_min(vec_set1(89.0f), x);
    struct vec t = vec_fma(x, vec_set1(0x1.715476p+0f), round);
    struct vec k = vec_sub(t, round);
    struct vec r = vec_fma(k, vec_set1(-0x1.62e4p-1f), x);
    r = vec_fma(k, vec_set1(-0x1.7f7d1cp-20f), r);
    struct vec p = vec_set1(0x1.6a242cp-10f);
    p = vec_fma(p, r, vec_set1(0x1.1239e8p-7f));
    p = vec_fma(p, r, vec_set1(0x1.5558f2p-5f));
    p = vec_fma(p, r, vec_set1(0x1.555492p-3f));
    p = vec_fma(p, r, vec_set1(0x1.fffffcp-2f));
    p = vec_fma(p, r, vec_set1(1));
    p = vec_fma(p, r, vec_set1(1));
    return vec_ldexp(p, t);
}

/* e^x of one number, with the same bits. */
static inline float vec_exp1(float x) {
    float e[16];
    vec_store(e, vec_exp(vec_set1(x)));
    return e[0];
}
