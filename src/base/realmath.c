#include "base/realmath.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

/* Splitting a constant into parts of few bits makes the products with small integers exact; each
 * part below is the leading bits of what the parts before it left over (Cody and Waite, "Software
 * Manual for the Elementary Functions", 1980). */
static const double ln2_high = 0x1.62e42feep-1; /* 32 bits */
static const double ln2_low = 0x1.a39ef35793c76p-33;
static const double half_pi_1 = 0x1.921fb5p+0;  /* 25 bits */
static const double half_pi_2 = 0x1.110b46p-26; /* 24 bits */
static const double half_pi_3 = 0x1.1a62633145c07p-54;

static double double_from_bits(uint64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint64_t bits_of_double(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* 2^k for -1022 <= k <= 1023. */
static double power_of_two(int k) {
    return double_from_bits((uint64_t)(k + 1023) << 52);
}

/* The nearest integer; |x| < 2^62. */
static int64_t nearest(double x) {
    return (int64_t)(x < 0 ? x - 0.5 : x + 0.5);
}

double realmath_exp(double x) {
    if (x != x) {
        return x;
    }
    if (x > 709.782712893384) {
        return (double)INFINITY;
    }
    if (x < -745.1332191019412) {
        return 0;
    }
    /* x = k ln 2 + r, |r| <= ln(2) / 2. */
    int k = (int)nearest(x * 1.4426950408889634);
    double r = (x - k * ln2_high) - k * ln2_low;

    /* Taylor: the first term left out, r^14 / 14!, is below 2^-57. */
    double p = 1.0 / 6227020800;
    p = p * r + 1.0 / 479001600;
    p = p * r + 1.0 / 39916800;
    p = p * r + 1.0 / 3628800;
    p = p * r + 1.0 / 362880;
    p = p * r + 1.0 / 40320;
    p = p * r + 1.0 / 5040;
    p = p * r + 1.0 / 720;
    p = p * r + 1.0 / 120;
    p = p * r + 1.0 / 24;
    p = p * r + 1.0 / 6;
    p = p * r + 0.5;
    p = p * r * r + r;
    double e = 1 + p;

    /* In two steps, because 2^k alone may overflow or be subnormal. */
    int half = k / 2;
    return e * power_of_two(half) * power_of_two(k - half);
}

double realmath_log(double x) {
    if (x != x || x < 0) {
        return (double)NAN;
    }
    if (x == 0) {
        return -(double)INFINITY;
    }
    if (x > 0x1.fffffffffffffp1023) {
        return x;
    }
    int e = 0;
    if (x < 0x1p-1022) {
        x *= 0x1p54;
        e = -54;
    }
    /* x = m 2^e with m in [sqrt(1/2), sqrt(2)). */
    uint64_t bits = bits_of_double(x);
    e += (int)(bits >> 52) - 1023;
    double m = double_from_bits((bits & 0xfffffffffffff) | (uint64_t)1023 << 52);
    if (m >= 1.4142135623730951) {
        m *= 0.5;
        e += 1;
    }
    /* log m = 2 artanh s = 2 (s + s^3/3 + s^5/5 + ...), |s| <= 0.1716; the first term left out is
     * below 2^-59 of the sum. Written as f - s (f - r), which rounds f = m - 1 only once. */
    double f = m - 1;
    double s = f / (2 + f);
    double z = s * s;
    double p = 2.0 / 21;
    p = p * z + 2.0 / 19;
    p = p * z + 2.0 / 17;
    p = p * z + 2.0 / 15;
    p = p * z + 2.0 / 13;
    p = p * z + 2.0 / 11;
    p = p * z + 2.0 / 9;
    p = p * z + 2.0 / 7;
    p = p * z + 2.0 / 5;
    p = p * z + 2.0 / 3;
    double tail = s * (f - p * z);
    return e * ln2_high + ((e * ln2_low - tail) + f);
}

/* sin and cos on |r| <= pi/4; the first terms left out are below 2^-60. */
static double sin_poly(double r) {
    double z = r * r;
    double p = 1.0 / 355687428096000;
    p = p * z - 1.0 / 1307674368000;
    p = p * z + 1.0 / 6227020800;
    p = p * z - 1.0 / 39916800;
    p = p * z + 1.0 / 362880;
    p = p * z - 1.0 / 5040;
    p = p * z + 1.0 / 120;
    p = p * z - 1.0 / 6;
    return p * z * r + r;
}

static double cos_poly(double r) {
    double z = r * r;
    double p = 1.0 / 20922789888000;
    p = p * z - 1.0 / 87178291200;
    p = p * z + 1.0 / 479001600;
    p = p * z - 1.0 / 3628800;
    p = p * z + 1.0 / 40320;
    p = p * z - 1.0 / 720;
    p = p * z + 1.0 / 24;
    p = p * z - 0.5;
    return p * z + 1;
}

void realmath_sincos(double x, double *s, double *c) {
    /* x = n pi/2 + r + r_low. n has at most 27 bits, so n * half_pi_1 and n * half_pi_2 are exact;
     * so is the first difference, and what the second one rounds away goes to r_low. */
    int64_t n = nearest(x * 0.6366197723675814);
    double k = (double)n;
    double a = x - k * half_pi_1;
    double b = k * half_pi_2;
    double t = a - b;
    double v = a - t;
    double lost = (a - (t + v)) + (v - b);
    double low = lost - k * half_pi_3;
    double r = t + low;
    double r_low = (t - r) + low;

    double sin_r = sin_poly(r);
    double cos_r = cos_poly(r);
    double sin_x = sin_r + r_low * cos_r;
    double cos_x = cos_r - r_low * sin_r;
    switch (n & 3) {
    case 0:
        *s = sin_x;
        *c = cos_x;
        break;
    case 1:
        *s = cos_x;
        *c = -sin_x;
        break;
    case 2:
        *s = -sin_x;
        *c = -cos_x;
        break;
    default:
        *s = -cos_x;
        *c = sin_x;
    }
}
