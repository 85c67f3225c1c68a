/* What the cases of test_ptx_cases.h are written with: C's view of PTX's operations, on operands as
 * bits. None of it is the interpreter's. */
#pragma once

#include <fenv.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define SIGN64 ((uint64_t)1 << 63)
__extension__ typedef unsigned __int128 wide_u;
__extension__ typedef __int128 wide_s;

static float f(uint64_t a) {
    const uint32_t u = (uint32_t)a;
    float x;

    memcpy(&x, &u, 4);
    return x;
}

static uint64_t F(float x) {
    uint32_t u;

    memcpy(&u, &x, 4);
    return u;
}

static double d(uint64_t a) {
    double x;

    memcpy(&x, &a, 8);
    return x;
}

static uint64_t D(double x) {
    uint64_t u;

    memcpy(&u, &x, 8);
    return u;
}

static bool tiny(uint64_t a) {
    return (a & 0x7f800000) == 0;
}

static float fz(uint64_t a) {
    return tiny(a) ? f(a & 0x80000000) : f(a);
}

static uint64_t FZ(float x) {
    return F(fz(F(x)));
}

static float saturated(float x) {
    return isnan(x) || x < 0 ? 0 : x > 1 ? 1 : x == 0 ? 0 : x;
}

static uint64_t clamped(int64_t x) {
    return (uint64_t)(x > INT32_MAX ? INT32_MAX : x < INT32_MIN ? INT32_MIN : x);
}

static uint64_t pair(uint64_t low, uint64_t high) {
    return (low & 0xffff) | (high & 0xffff) << 16;
}

static uint64_t u24(uint64_t a) {
    return a & 0xffffff;
}

static int64_t s24(uint64_t a) {
    return (a & 0x800000) != 0 ? (int64_t)(a & 0xffffff) - 0x1000000 : (int64_t)(a & 0xffffff);
}

static uint64_t byte(uint64_t a, uint64_t i) {
    return a >> (8 * i) & 0xff;
}

static uint64_t dot4(uint64_t a, uint64_t b, uint64_t c, int sa, int sb) {
    for (uint64_t i = 0; i < 4; i++) {
        const int64_t x = sa ? (int8_t)byte(a, i) : (int64_t)byte(a, i);
        const int64_t y = sb ? (int8_t)byte(b, i) : (int64_t)byte(b, i);

        c += (uint64_t)(x * y);
    }
    return c;
}

static uint64_t field(uint64_t a, uint64_t pos, uint64_t len, int width, int is_signed) {
    const uint64_t p = pos & 0xff;
    const uint64_t n = len & 0xff;
    const int last = (int)(p + n) > width ? width - 1 : (int)(p + n) - 1;
    uint64_t r = p >= (uint64_t)width ? 0 : a >> p;

    if (n == 0) {
        return 0;
    }
    r &= n > 63 ? ~(uint64_t)0 : ((uint64_t)1 << n) - 1;
    if (is_signed && (a >> last & 1) != 0) {
        const int have = (int)p >= width ? 0 : last - (int)p + 1;

        r |= have > 63 ? 0 : ~(uint64_t)0 << have;
    }
    return r;
}

static uint64_t inserted(uint64_t a, uint64_t b, uint64_t pos, uint64_t len, int width) {
    const uint64_t p = pos & 0xff;
    uint64_t m = len > 63 ? ~(uint64_t)0 : ((uint64_t)1 << len) - 1;

    if (p >= (uint64_t)width) {
        return b;
    }
    m <<= p;
    return (b & ~m) | (a << p & m);
}

static uint64_t top_bit(uint64_t a) {
    uint64_t n = 0;

    while (a != 0) {
        a >>= 1;
        n++;
    }
    return n - 1; /* of 0: all ones */
}

static uint64_t ones(uint64_t a) {
    return a == 0 ? 0 : (a & 1) + ones(a >> 1);
}

static uint64_t reversed(uint64_t a, int width) {
    uint64_t r = 0;

    for (int i = 0; i < width; i++) {
        r |= (a >> i & 1) << (width - 1 - i);
    }
    return r;
}

static uint64_t permuted(uint64_t a, uint64_t b, uint64_t c) {
    uint64_t r = 0;

    for (uint64_t i = 0; i < 4; i++) {
        const uint64_t n = c >> (4 * i) & 15;
        const uint64_t x = byte(b << 32 | a, n % 8);

        r |= (n < 8 ? x : x > 127 ? 255 : 0) << (8 * i);
    }
    return r;
}

static uint64_t bytes_by_mode(uint64_t a, uint64_t b, uint64_t c, int mode) {
    uint64_t r = 0;

    for (uint64_t i = 0; i < 4; i++) {
        const uint64_t n = c & 3;
        const uint64_t from[] = {n + i,         (n - i) & 7,   n,
                                 i < n ? n : i, i > n ? n : i, n % 2 * 2 + i % 2};

        r |= byte(b << 32 | a, from[mode]) << (8 * i);
    }
    return r;
}

static uint64_t looked_up(uint64_t a, uint64_t b, uint64_t c, unsigned table) {
    uint64_t r = 0;

    for (int i = 0; i < 32; i++) {
        r |= (uint64_t)(table >> ((a >> i & 1) * 4 + (b >> i & 1) * 2 + (c >> i & 1)) & 1) << i;
    }
    return r;
}

static uint64_t bit_mask(uint64_t pos, uint64_t len) {
    uint64_t r = 0;

    for (uint64_t i = pos; i < pos + len && i < 32; i++) {
        r |= (uint64_t)1 << i;
    }
    return r;
}

static int rounding(char mode) {
    return mode == 'z'   ? FE_TOWARDZERO
           : mode == 'm' ? FE_DOWNWARD
           : mode == 'p' ? FE_UPWARD
                         : FE_TONEAREST;
}

static uint64_t directed(float a, float b, float c, char op, char mode) {
    volatile float x = a;
    volatile float y = b;
    volatile float z = c;
    volatile float r;

    fesetround(rounding(mode));
    r = op == '+' ? x + y : op == '-' ? x - y : op == '*' ? x * y : op == '/' ? x / y : 0;
    r = op == 'f' ? fmaf(x, y, z) : op == 'r' ? sqrtf(x) : r;
    fesetround(FE_TONEAREST);
    return F(r);
}

static uint64_t directed_d(double a, double b, char op, char mode) {
    volatile double x = a;
    volatile double y = b;
    volatile double r;

    fesetround(rounding(mode));
    r = op == '+' ? x + y : op == '-' ? x - y : op == '*' ? x * y : x / y;
    fesetround(FE_TONEAREST);
    return D(r);
}

#define EXTREME(name, T, op, other)                                                                \
    static T name(T a, T b) {                                                                      \
        if (isnan(a) || isnan(b)) {                                                                \
            return isnan(a) ? b : a;                                                               \
        }                                                                                          \
        return a op b || (a == b && other) ? a : b;                                                \
    }
EXTREME(minimum, float, <, signbit(a))
EXTREME(maximum, float, >, signbit(b))
EXTREME(minimum_d, double, <, signbit(a))
EXTREME(maximum_d, double, >, signbit(b))

static bool nan_of(uint64_t a, uint64_t b) {
    return isnan(f(a)) || isnan(f(b));
}

/* A format of floats: bits of exponent and mantissa. */
struct format {
    int exponent;
    int mantissa;
};
static const struct format H = {5, 10};
static const struct format B = {8, 7};
static const struct format SINGLE = {8, 23};
static const struct format DOUBLE = {11, 52};

/* The value of a pattern without sign; that of infinity is the power of two it stands for. */
static long double value(uint64_t bits, struct format g) {
    const int e = (int)(bits >> g.mantissa);
    const int bias = (1 << (g.exponent - 1)) - 1;
    const uint64_t m = bits & (((uint64_t)1 << g.mantissa) - 1);

    return e == 0 ? ldexpl((long double)m, 1 - bias - g.mantissa)
                  : ldexpl((long double)(m + ((uint64_t)1 << g.mantissa)), e - bias - g.mantissa);
}

/* The pattern nearest to x in the mode's direction, by bisection among all of them. */
static uint64_t rounded(long double x, struct format g, char mode) {
    const uint64_t infinity = (((uint64_t)1 << g.exponent) - 1) << g.mantissa;
    const uint64_t sign = signbit(x) ? (uint64_t)1 << (g.exponent + g.mantissa) : 0;
    const long double y = fabsl(x);
    uint64_t low = 0;
    uint64_t high = infinity;
    bool up;

    if (isnan(x)) {
        return g.mantissa == 52 ? 0x7fffffffffffffff : g.mantissa == 23 ? 0x7fffffff : 0x7fff;
    }
    if (isinf(x)) {
        return sign | infinity;
    }
    while (high - low > 1) {
        const uint64_t middle = low + (high - low) / 2;

        if (value(middle, g) <= y) {
            low = middle;
        } else {
            high = middle;
        }
    }
    if (value(low, g) == y) {
        return sign | low;
    }
    if (mode == 'n') {
        const long double to_low = y - value(low, g);
        const long double to_high = value(high, g) - y;

        up = to_low > to_high || (to_low == to_high && (low & 1) != 0);
    } else {
        up = mode == (sign != 0 ? 'm' : 'p');
    }
    return sign | (up ? high : low);
}

static double half(uint64_t a, struct format g) {
    const uint64_t bits = a & 0x7fff;
    const uint64_t infinity = (((uint64_t)1 << g.exponent) - 1) << g.mantissa;
    const double x = bits > infinity    ? (double)NAN
                     : bits == infinity ? (double)INFINITY
                                        : (double)value(bits, g);

    return (a & 0x8000) != 0 ? -x : x;
}

static uint64_t round_half(double x, struct format g, char mode) {
    return rounded((long double)x, g, mode);
}

static uint64_t round_single(double x, char mode) {
    return rounded((long double)x, SINGLE, mode);
}

/* a b + c, moved a little off a tie if something was lost below it. */
static long double fused(long double a, long double b, long double c) {
    const long double p = a * b;
    const long double s = p + c;
    const long double large = fabsl(p) > fabsl(c) ? p : c;
    const long double small = fabsl(p) > fabsl(c) ? c : p;
    const long double lost = small - (s - large);

    if (!isfinite(s) || lost == 0) {
        return s;
    }
    return nextafterl(s, lost > 0 ? (long double)INFINITY : -(long double)INFINITY);
}

static uint64_t ref_half(char op, uint64_t a, uint64_t b, uint64_t c, struct format g) {
    const double x = half(a, g);
    const double y = half(b, g);

    switch (op) {
    case 'n':
        return a ^ 0x8000;
    case '|':
        return a & 0x7fff;
    case 'a':
        return round_half(x + y, g, 'n');
    case 's':
        return round_half(x - y, g, 'n');
    case '*':
        return round_half(x * y, g, 'n');
    case '<':
        return round_half(minimum_d(x, y), g, 'n');
    case '>':
        return round_half(maximum_d(x, y), g, 'n');
    case 'f':
        return rounded(fused((long double)x, (long double)y, (long double)half(c, g)), g, 'n');
    case 't':
        return round_half(tanh(x), g, 'n');
    default:
        return round_half(exp2(x), g, 'n');
    }
}

static uint64_t ref_pair(char op, uint64_t a, uint64_t b, uint64_t c, struct format g) {
    return pair(ref_half(op, a & 0xffff, b & 0xffff, c & 0xffff, g),
                ref_half(op, a >> 16, b >> 16, c >> 16, g));
}

static uint64_t positive(uint64_t h) {
    return (h & 0x8000) != 0 ? 0 : h;
}

static uint64_t flush_half(uint64_t h) {
    return (h & 0x7c00) == 0 ? h & 0x8000 : h;
}

static uint64_t finite_half(uint64_t h) {
    return (h & 0x7fff) == 0x7c00 ? h - 1 : h;
}

static int64_t power(int n) {
    return (int64_t)((uint64_t)1 << n);
}

/* x within an integer type of `bits`. */
static wide_s bounded(wide_s x, int bits, int is_signed) {
    const wide_s most = ((wide_s)1 << (bits - is_signed)) - 1;
    const wide_s least = is_signed ? -most - 1 : 0;

    return x > most ? most : x < least ? least : x;
}

static wide_s to_integer(double x, int bits, int is_signed) {
    if (isnan(x)) {
        return 0;
    }
    return bounded(x > 1e30    ? (wide_s)power(62) * 16
                   : x < -1e30 ? -(wide_s)power(62) * 16
                               : (wide_s)x,
                   bits, is_signed);
}

static uint64_t from_integer(wide_s x, const char *format, char mode) {
    const struct format g = format[0] == 'b'   ? B
                            : format[1] == '1' ? H
                            : format[1] == '3' ? SINGLE
                                               : DOUBLE;

    return rounded((long double)x, g, mode); /* exact: 64 bits */
}

static uint64_t rounded_tf32(uint64_t a) {
    const double x = (double)f(a);
    double unit;

    if (!isfinite(x)) {
        return a;
    }
    unit = ldexp(1.0, (tiny(a) ? -126 : ilogb(x)) - 10);
    return F((float)(round(x / unit) * unit));
}
