/* Every operation on registers against C, on all pairs and triples of edge values. */
#include "test_ptx.h"

#include <fenv.h>
#include <math.h>

#define SIGN64 ((uint64_t)1 << 63)
__extension__ typedef unsigned __int128 wide_u;
__extension__ typedef __int128 wide_s;

/* ---- what the cases are written with; none of it is the interpreter's ---- */

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

/* ---- the cases ---- */

enum edges {
    INTS,
    INTS_NOT_0,
    SHIFTS,   /* b counts */
    SHIFTS_3, /* c counts */
    FIELDS,   /* b and c count */
    FIELDS_4, /* c counts */
    FLOATS,
    MEDIUM,
    DOUBLES,
    HALVES,
    PAIRS,
    BITS,
};

#define JOIN2(a, b) a##b
#define JOIN(a, b)  JOIN2(a, b)
#define CASE(mnemonic, operands, edges, tolerance, expr)                                           \
    static uint64_t JOIN(case_, __LINE__)(uint64_t a, uint64_t b, uint64_t c) {                    \
        (void)a;                                                                                   \
        (void)b;                                                                                   \
        (void)c;                                                                                   \
        return (uint64_t)(expr);                                                                   \
    }
#include "test_ptx_cases.h"
#undef CASE
static const struct test {
    const char *mnemonic;
    const char *operands;
    enum edges edges;
    double tolerance;
    uint64_t (*reference)(uint64_t a, uint64_t b, uint64_t c);
} TESTS[] = {
#define CASE(mnemonic, operands, edges, tolerance, expr)                                           \
    {mnemonic, operands, edges, tolerance, JOIN(case_, __LINE__)},
#include "test_ptx_cases.h"
};
#define N_TEST (sizeof(TESTS) / sizeof(TESTS[0]))

static const uint64_t INT_EDGES[] = {0,
                                     1,
                                     2,
                                     3,
                                     7,
                                     0x7f,
                                     0x80,
                                     0xff,
                                     0x7fff,
                                     0x8000,
                                     0xffff,
                                     0x12345678,
                                     0x7fffffff,
                                     0x80000000,
                                     0xffffffff,
                                     0x100000000,
                                     0x12345678,
                                     0xfffffffe,
                                     0xffff8000,
                                     0x123456789abcdef1,
                                     0xffffff80,
                                     SIGN64 - 1,
                                     SIGN64,
                                     SIGN64 + 1,
                                     ~(uint64_t)0,
                                     ~(uint64_t)1,
                                     0x3fffff80800001,
                                     0xdeadbeefcafebabe};
static const uint64_t COUNT_EDGES[] = {0,  1,  7,  8,  15, 16,  17,  24,
                                       31, 32, 33, 63, 64, 200, 255, 0xffffffff};
static const uint64_t FLOAT_EDGES[] = {
    0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007fffff, 0x00800000, 0x80800000, 0x3f800000,
    0xbf800000, 0x3f800001, 0x3effffff, 0x3f000000, 0x3fc00000, 0x40200000, 0xc0600000, 0x7f7fffff,
    0xff7fffff, 0x7f800000, 0xff800000, 0x7fc00000, 0x4f000000, 0xcf000000, 0x4effffff, 0x477fe000,
    0x477ff000, 0x33800000, 0x38800000, 0x3f808000, 0x3f818000, 0x3f801000, 0x40490fdb, 0x5f000000};
static const uint64_t MEDIUM_EDGES[] = {0x3f800000, 0xbf800000, 0x3f000000, 0x40490fdb, 0x3dcccccd,
                                        0xc0200000, 0x40a00000, 0x00000000, 0x42c80000, 0xbc23d70a};
static const uint64_t DOUBLE_EDGES[] = {0,
                                        SIGN64,
                                        1,
                                        0x000fffffffffffff,
                                        0x0010000000000000,
                                        0x3ff0000000000000,
                                        0xbff0000000000000,
                                        0x3ff0000000000001,
                                        0x3fe0000000000000,
                                        0x400921fb54442d18,
                                        0xc004000000000000,
                                        0x47efffffe0000000,
                                        0x47efffffefffffff,
                                        0x47f0000000000000,
                                        0x36a0000000000000,
                                        0x3690000000000001,
                                        0x3ff0000010000000,
                                        0x3ff0000030000000,
                                        0x43e0000000000000,
                                        0xc3e0000000000000,
                                        0x7fefffffffffffff,
                                        0x7ff0000000000000,
                                        0xfff0000000000000,
                                        0x7ff8000000000000};
static const uint64_t HALF_EDGES[] = {0x0000, 0x8000, 0x0001, 0x8001, 0x03ff, 0x0400, 0x007f,
                                      0x0080, 0x3c00, 0xbc00, 0x3c01, 0x3f80, 0xbf81, 0x4040,
                                      0x4248, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7f7f, 0xff7f,
                                      0x7f80, 0xff80, 0x7fff, 0x7e00};

static size_t size_of(char kind) {
    return kind == '2' ? 2 : kind == '8' ? 8 : 4;
}

static uint64_t masked(uint64_t x, char kind) {
    return kind == 'p' ? x & 1 : kind == '8' ? x : x & (((uint64_t)1 << size_of(kind) * 8) - 1);
}

/* The values of operand i, into out; how many. */
static size_t edge_values(const struct test *t, int i, char kind, uint64_t *out) {
    const bool counts = (t->edges == SHIFTS && i == 1) || (t->edges == SHIFTS_3 && i == 2) ||
                        (t->edges == FIELDS && i > 0) || (t->edges == FIELDS_4 && i == 2);
    const uint64_t *from = INT_EDGES;
    size_t n = sizeof(INT_EDGES) / 8;
    size_t kept = 0;

    if (kind == 'p') {
        out[0] = 0;
        out[1] = 1;
        return 2;
    }
#define USE(list) (from = (list), n = sizeof(list) / 8)
    if (counts) {
        USE(COUNT_EDGES);
    } else if (t->edges == FLOATS) {
        USE(FLOAT_EDGES);
    } else if (t->edges == MEDIUM) {
        USE(MEDIUM_EDGES);
    } else if (t->edges == DOUBLES) {
        USE(DOUBLE_EDGES);
    } else if (t->edges == HALVES || t->edges == PAIRS) {
        USE(HALF_EDGES);
    }
    for (size_t j = 0; j < n; j++) {
        const uint64_t other = from[(j * 7 + 3) % n];
        const uint64_t x = masked(t->edges == PAIRS ? from[j] | other << 16 : from[j], kind);

        if (t->edges != INTS_NOT_0 || i != 1 || x != 0) {
            out[kept++] = x;
        }
    }
    return kept;
}

/* Text of the kernel that does the operation for each element. */
static void write_kernel(const struct test *t, char *s, size_t size) {
    static const char *const regs[] = {"%a", "%b", "%c"};
    const char *type = strrchr(t->mnemonic, '.') + 1;
    const char *kind = t->operands + 2;
    char list[64] = "";
    size_t n;

    n = (size_t)snprintf(
        s, size,
        PTX_HEAD ".visible .entry k(.param .u64 d, .param .u64 a, .param .u64 b, .param .u64 c)\n"
                 "{\n.reg .pred %%p, %%ap, %%bp, %%cp, %%dp;\n.reg .b32 %%i, %%n, %%t;\n"
                 ".reg .b64 %%o, %%x;\n.reg .b16 %%a2, %%b2, %%c2, %%d2;\n"
                 ".reg .b32 %%a4, %%b4, %%c4, %%d4;\n.reg .b64 %%a8, %%b8, %%c8, %%d8;\n"
                 "mov.u32 %%i, %%ctaid.x;\nmov.u32 %%n, %%ntid.x;\nmov.u32 %%t, %%tid.x;\n"
                 "mad.lo.u32 %%i, %%i, %%n, %%t;\nmul.wide.u32 %%o, %%i, 8;\n");
    for (int i = 0; i < 3 && kind[i] != '\0' && strchr("248p", kind[i]) != NULL; i++) {
        const int bits = kind[i] == '2' ? 16 : kind[i] == '8' ? 64 : 32;

        n += (size_t)snprintf(s + n, size - n,
                              "ld.param.u64 %%x, [%s];\nadd.u64 %%x, %%x, %%o;\n"
                              "ld.global.b%d %s%c, [%%x];\n",
                              regs[i] + 1, bits, regs[i], kind[i] == 'p' ? '4' : kind[i]);
        if (kind[i] == 'p') {
            n += (size_t)snprintf(s + n, size - n, "setp.ne.u32 %sp, %s4, 0;\n", regs[i], regs[i]);
        }
        snprintf(list + strlen(list), sizeof(list) - strlen(list), ", %s%c", regs[i], kind[i]);
    }
    if (strpbrk(kind, "+-") != NULL) { /* sets the carry first */
        n += (size_t)snprintf(s + n, size - n, "%s.cc.%s %%d%c, %%a%c, %%b%c;\n",
                              strchr(kind, '+') != NULL ? "add" : "sub", type, kind[0], kind[0],
                              kind[0]);
    }
    if (strpbrk(kind, "dD<") != NULL) { /* a number as the last operand */
        snprintf(list + strlen(list), sizeof(list) - strlen(list), ", %ld",
                 strchr(kind, 'd') != NULL   ? 7
                 : strchr(kind, 'D') != NULL ? 70
                                             : strtol(strchr(kind, '<') + 1, NULL, 0));
    }
    n += (size_t)snprintf(s + n, size - n, "%s %%d%c%s;\n", t->mnemonic, t->operands[0], list);
    if (t->operands[0] == 'p') {
        n += (size_t)snprintf(s + n, size - n, "selp.u32 %%d4, 1, 0, %%dp;\n");
    }
    n +=
        (size_t)snprintf(s + n, size - n,
                         "ld.param.u64 %%x, [d];\nadd.u64 %%x, %%x, %%o;\n"
                         "st.global.b%zu [%%x], %%d%c;\nret;\n}\n",
                         size_of(t->operands[0]) * 8, t->operands[0] == 'p' ? '4' : t->operands[0]);
    assert_true(n < size);
}

static bool same(const struct test *t, uint64_t got, uint64_t expected) {
    const char kind = t->operands[0];
    const bool real = t->edges == FLOATS || t->edges == DOUBLES || t->edges == MEDIUM ||
                      strncmp(t->mnemonic, "cvt.f", 5) == 0;
    double x;
    double y;

    if (got == expected) {
        return true;
    }
    if (!real || kind == 'p' || kind == '2') {
        return false;
    }
    x = kind == '8' ? d(got) : (double)f(got);
    y = kind == '8' ? d(expected) : (double)f(expected);
    return (isnan(x) && isnan(y)) || fabs(x - y) <= t->tolerance * fabs(y);
}

static bool check_results(const struct test *t, const uint64_t *const v[3], const uint64_t *got,
                          size_t n) {
    for (size_t i = 0; i < n; i++) {
        const uint64_t expected = masked(t->reference(v[0][i], v[1][i], v[2][i]), t->operands[0]);

        if (!same(t, masked(got[i], t->operands[0]), expected)) {
            print_error("%s (%s) of 0x%llx, 0x%llx, 0x%llx: 0x%llx, not 0x%llx\n", t->mnemonic,
                        t->operands, (unsigned long long)v[0][i], (unsigned long long)v[1][i],
                        (unsigned long long)v[2][i], (unsigned long long)got[i],
                        (unsigned long long)expected);
            return false;
        }
    }
    return true;
}

static bool run_case(const struct test *t) {
    struct device dev = {0};
    uint64_t edges[3][64] = {{0}, {0}, {0}};
    size_t n_edge[3] = {1, 1, 1};
    const uint64_t *v[3];
    uint64_t params[4];
    char text[4096];
    size_t n;
    size_t padded;
    bool ok;

    for (int i = 0; i < 3 && t->operands[2 + i] != '\0'; i++) {
        if (strchr("248p", t->operands[2 + i]) == NULL) {
            break;
        }
        n_edge[i] = edge_values(t, i, t->operands[2 + i], edges[i]);
    }
    n = n_edge[0] * n_edge[1] * n_edge[2];
    padded = (n + 127) / 128 * 128;
    for (int i = 0; i < 4; i++) {
        params[i] = device_alloc(&dev, padded * 8, i > 0);
    }
    for (int i = 0; i < 3; i++) {
        uint64_t *p = device_data(&dev, params[i + 1]);
        const size_t step = i == 0 ? 1 : i == 1 ? n_edge[0] : n_edge[0] * n_edge[1];

        v[i] = p;
        for (size_t j = 0; j < padded; j++) {
            p[j] = edges[i][j / step % n_edge[i]];
        }
    }
    write_kernel(t, text, sizeof(text));
    assert_int_equal(run_text(&dev, text, (unsigned)(padded / 128), 128, params), PTX_OK);
    assert_no_findings(&dev);
    ok = check_results(t, v, device_data(&dev, params[0]), n);
    device_free(&dev);
    return ok;
}

static void test_cases(void **state) {
    int n_wrong = 0;

    (void)state;
    for (size_t i = 0; i < N_TEST; i++) {
        n_wrong += run_case(&TESTS[i]) ? 0 : 1;
    }
    assert_int_equal(n_wrong, 0);
}

/* An operation on a part of the warp leaves the other lanes alone, with either sign of the guard.
 */
static void test_guards(void **state) {
    static const char text[] =
        PTX_HEAD ".visible .entry k(.param .u64 d)\n{\n.reg .pred %p; .reg .b32 %r<4>; .reg .b64 "
                 "%rd<3>;\nmov.u32 %r0, %tid.x;\nmul.wide.u32 %rd0, %r0, 4;\nld.param.u64 %rd1, "
                 "[d];\nadd.u64 %rd1, %rd1, %rd0;\nsetp.lt.u32 %p, %r0, 5;\nmov.u32 %r1, 1;\n"
                 "@%p add.u32 %r1, %r1, 10;\n@!%p add.u32 %r1, %r1, 100;\n"
                 "@%p mul.lo.u32 %r1, %r1, %r0;\nst.global.u32 [%rd1], %r1;\nret;\n}\n";
    struct device dev = {0};
    const uint64_t d0 = device_alloc(&dev, 40 * 4, false);
    const uint32_t *r = device_data(&dev, d0);

    (void)state;
    assert_int_equal(run_text(&dev, text, 1, 40, &d0), PTX_OK);
    for (uint32_t i = 0; i < 40; i++) {
        assert_int_equal(r[i], i < 5 ? 11 * i : 101);
    }
    device_free(&dev);
}

static bool is_tested_here(const char *name) {
    static const char *const roots[] = {"mov", "setp", "set", "selp", "slct", "cvt"};

    for (size_t i = 0; i < sizeof(roots) / sizeof(roots[0]); i++) {
        if (strcmp(name, roots[i]) == 0) {
            return true;
        }
    }
    return strchr(name, '.') != NULL;
}

/* Last: what the interpreter knows is what the cases have. */
static void test_all_covered(void **state) {
    (void)state;
    assert_opcodes_used(is_tested_here);
    free(ptx_test_used);
    ptx_test_used = NULL;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_guards),
        cmocka_unit_test(test_all_covered),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
