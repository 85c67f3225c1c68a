/* Every operation on registers against C, on all pairs and triples of edge values. */
#include "test_ptx.h"

#include "test_ptx_reference.h"

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
static void write_case(const struct test *t, char *s, size_t size) {
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
    write_case(t, text, sizeof(text));
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

/* Last: what the interpreter knows is what the cases have. */
static void test_all_covered(void **state) {
    (void)state;
    assert_opcodes_used(PTX_BY_ROWS);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_guards),
        cmocka_unit_test(test_all_covered),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
