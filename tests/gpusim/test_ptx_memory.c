/* Memory, atomics, cp.async, matrices. */
#include "test_ptx.h"

#include <math.h>

/* ---- memory ---- */

static void test_widths(void **state) {
    const uint32_t *r = run_kernel(
        KERNEL(
            "shl.b32 %r0, %t, 5;\ncvt.u64.u32 %d0, %r0;\nadd.u64 %d0, %d0, %base;\n"
            "mov.u32 %r1, 0x89abcdef;\nst.global.u32 [%d0], %r1;\n"
            "ld.global.s8 %r2, [%d0];\nst.global.u32 [%d0+4], %r2;\n"
            "ld.global.u8 %h0, [%d0+1];\ncvt.u32.u16 %r3, %h0;\nst.u32 [%d0+8], %r3;\n"
            "ld.s16 %d1, [%d0+2];\nst.u64 [%d0+16], %d1;\n"
            "ldu.global.b16 %h1, [%d0];\nst.u8 [%d0+12], %h1;\nst.global.b16 [%d0+14], %h1;\n"
            "st.global.b8 [%d0+13], 7;\nld.global.nc.L1::no_allocate.v2.u32 {%r4, _}, [%d0+16];\n"
            "st.volatile.global.u32 [%d0+24], %r4;\nld.relaxed.gpu.global.u32 %r5, [%d0+24];\n"
            "st.global.u32 [%d0+28], %r5;\n"),
        4);

    (void)state;
    for (int i = 0; i < 4; i++, r += 8) {
        assert_int_equal(r[1], 0xffffffef);
        assert_int_equal(r[2], 0xcd);
        assert_int_equal(r[3], 0xcdef07ef);
        assert_int_equal(r[4], 0xffff89ab);
        assert_int_equal(r[5], 0xffffffff);
        assert_int_equal(r[6], 0xffff89ab);
        assert_int_equal(r[7], 0xffff89ab);
    }
}

static void test_vectors(void **state) {
    const uint32_t *r =
        run_kernel(KERNEL("shl.b32 %r0, %t, 4;\ncvt.u64.u32 %d0, %r0;\nadd.u64 %d0, %d0, %base;\n"
                          "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%d0];\n"
                          "mov.b64 %d1, {%r1, %r2};\nmov.b64 {%r5, %r6}, %d1;\n"
                          "mov.b32 {%h0, %h1}, %r3;\nmov.b32 %r7, {%h1, %h0};\n"
                          "mov.b64 %d2, {%h0, %h1, %h1, %h0};\nmov.b64 {%h2, %h3, %h4, %h5}, %d2;\n"
                          "mov.b32 %r8, {%h4, %h2};\n"
                          "st.global.v4.b32 [%d0], {%r6, %r5, %r7, %r8};\n"),
                   2);

    (void)state;
    for (uint32_t i = 0; i < 2; i++, r += 4) {
        assert_int_equal(r[0], (i * 4 + 1) * 3 + 1);
        assert_int_equal(r[1], i * 4 * 3 + 1);
        assert_int_equal(r[2], ((i * 4 + 2) * 3 + 1) << 16);
        assert_int_equal(r[3], ((i * 4 + 2) * 3 + 1) << 16);
    }
}

static void test_spaces(void **state) {
    const uint32_t *r = run_kernel(
        PTX_HEAD
        ".const .align 4 .b8 table[12] = {1, 0, 0, 0, 2, 0, 0, 0, 0xff, 1};\n"
        ".global .align 4 .f32 half_of[2] = {0f3F000000, 2.5};\n"
        ".global .u64 pointer = generic(half_of)+4;\n.global .align 4 .u32 counter;\n" PTX_BEGIN
        ".local .align 16 .b8 own[64];\n.shared .align 4 .b8 all[512];\n"
        /* local, by its own address and by a generic one */
        "mov.u64 %d0, own;\nst.local.u32 [%d0+8], %t;\ncvta.local.u64 %d1, %d0;\n"
        "ld.u32 %r0, [%d1+8];\nst.local.u32 [own+12], %r0;\nld.local.u32 %r1, [own+12];\n"
        /* shared, likewise */
        "mov.u32 %r2, all;\nshl.b32 %r3, %t, 2;\nadd.u32 %r2, %r2, %r3;\nst.shared.u32 [%r2], "
        "%r1;\n"
        "cvt.u64.u32 %d2, %r2;\ncvta.shared.u64 %d2, %d2;\nld.u32 %r4, [%d2];\n"
        "isspacep.shared %p0, %d2;\nisspacep.global %p1, %d2;\nisspacep.local %p2, %d1;\n"
        "isspacep.global %p3, %o;\nselp.u32 %r5, 1000, 0, %p0;\n@%p1 add.u32 %r5, %r5, 1;\n"
        "@%p2 add.u32 %r5, %r5, 2000;\n@%p3 add.u32 %r5, %r5, 4000;\n"
        "cvta.to.shared.u64 %d3, %d2;\nld.shared.u32 %r6, [%d3];\nadd.u32 %r4, %r4, %r6;\n"
        /* constants and variables */
        "mov.u64 %d4, table;\nld.const.u32 %r7, [%d4+4];\nld.const.u16 %r8, [table+8];\n"
        "ld.global.u64 %d5, [pointer];\nld.global.f32 %f0, [%d5];\ncvt.rzi.u32.f32 %r9, %f0;\n"
        "atom.global.add.u32 %r10, [counter], 1;\n"
        "add.u32 %r4, %r4, %r5;\nadd.u32 %r4, %r4, %r7;\nadd.u32 %r4, %r4, %r8;\n"
        "add.u32 %r4, %r4, %r9;\nadd.u32 %r4, %r4, %r10;\nst.global.u32 [%o], %r4;\n" PTX_END,
        40);

    (void)state;
    for (uint32_t i = 0; i < 40; i++) {
        assert_int_equal(r[i], 2 * i + 7000 + 2 + 0x1ff + 2 + i);
    }
}

struct atomic {
    const char *op;
    uint64_t start;
    uint64_t operand;
    uint64_t end; /* after 32 lanes */
};

static void test_atomics(void **state) {
    static const struct atomic tests[] = {
        {"add.u32", 5, 3, 5 + 96},
        {"add.s32", 5, (uint32_t)-3, (uint32_t)(5 - 96)},
        {"add.u64", (uint64_t)1 << 40, 1, ((uint64_t)1 << 40) + 32},
        {"add.f32", 0x3f800000, 0x3f000000, 0x41880000}, /* 17 */
        {"add.f64", 0x3ff0000000000000, 0x3fe0000000000000, 0x4031000000000000},
        {"add.noftz.f16", 0x3c00, 0x3800, 0x4c40},
        {"add.noftz.bf16", 0x3f80, 0x3f00, 0x4188},
        {"add.noftz.f16x2", 0x3c000000, 0x38000000, 0x4c400000},
        {"add.noftz.bf16x2", 0x00003f80, 0x00003f00, 0x00004188},
        {"min.s32", 5, (uint32_t)-3, (uint32_t)-3},
        {"min.u32", 5, (uint32_t)-3, 5},
        {"max.s32", 5, (uint32_t)-3, 5},
        {"max.u32", 5, (uint32_t)-3, (uint32_t)-3},
        {"min.s64", 5, (uint64_t)-3, (uint64_t)-3},
        {"max.u64", 5, (uint64_t)-3, (uint64_t)-3},
        {"and.b32", 0xff, 0x3c, 0x3c},
        {"or.b64", 0xf0, 0xf, 0xff},
        {"xor.b32", 0xf0, 0xff, 0xf0},
        {"exch.b32", 1, 2, 2},
        {"exch.b64", 1, 2, 2},
        {"inc.u32", 0, 5, 2}, /* 0 .. 5 and again */
        {"dec.u32", 0, 5, 4},
    };
    static const char *const spaces[] = {"global", "shared"};

    (void)state;
    for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]) * 4; i++) {
        const struct atomic *t = &tests[i / 4];
        const char *space = spaces[i % 2];
        const bool red = i % 4 >= 2 && strncmp(t->op, "exch", 4) != 0; /* there is no red.exch */
        const char *type = strrchr(t->op, '.') + 1;
        const int bits = strstr(type, "64") != NULL                              ? 64
                         : strcmp(type, "f16") == 0 || strcmp(type, "bf16") == 0 ? 16
                                                                                 : 32;
        const char reg = bits == 64 ? 'd' : bits == 16 ? 'h' : 'r';
        char text[4096];
        const uint32_t *r;

        write_kernel(
            text, sizeof(text),
            (".shared .align 8 .b8 s[8];\nsetp.eq.u32 %%p0, %%t, 0;\n"
             "mov.b%d %%%c1, 0x%llx;\n@%%p0 st.%s.b%d [%s], %%%c1;\nbar.warp.sync -1;\n"
             "mov.b%d %%%c2, 0x%llx;\n%s.%s.%s %s[%s], %%%c2;\nbar.warp.sync "
             "-1;\nld.%s.b%d %%%c3, [%s];\n@%%p0 st.global.b64 [%%base], 0;\n"
             "@%%p0 st.global.b%d [%%base], %%%c3;\n"),
            bits, reg, (unsigned long long)t->start, space, bits, i % 2 ? "s" : "%base", reg, bits,
            reg, (unsigned long long)t->operand, red ? "red" : "atom", space, t->op,
            red          ? ""
            : reg == 'd' ? "%d4, "
            : reg == 'h' ? "%h4, "
                         : "%r4, ",
            i % 2 ? "s" : "%base", reg, space, bits, reg, i % 2 ? "s" : "%base", bits, reg);
        r = run_kernel(text, 32);
        if ((r[0] | (uint64_t)r[1] << 32) != t->end) {
            fail_msg("%s.%s: 0x%08x%08x", space, t->op, r[1], r[0]);
        }
    }
}

static void test_cas(void **state) {
    const uint32_t *r = run_kernel(KERNEL("atom.global.cas.b32 %r0, [%o], 4, 99;\n"
                                          "st.global.u32 [%o+2048], %r0;\n"
                                          "atom.global.exch.b32 %r1, [%o+1024], %t;\n"
                                          "st.global.u32 [%o+3072], %r1;\n"
                                          "mov.b64 %d0, 0;\nmov.b64 %d1, 5;\nand.b64 %d2, %o, -8;\n"
                                          "atom.cas.b64 %d3, [%d2+1536], %d0, %d1;\n"),
                                   8);

    (void)state;
    for (uint32_t i = 0; i < 8; i++) {
        assert_int_equal(r[i], i == 1 ? 99 : i * 3 + 1);
        assert_int_equal(r[i + 512], i * 3 + 1);
        assert_int_equal(r[i + 256], i);
        assert_int_equal(r[i + 768], (i + 256) * 3 + 1);
    }
}

/* ---- cp.async and matrices ---- */

static void test_async(void **state) {
    /* Two groups; the second has zeros behind its source's bytes. */
    const uint32_t *r = run_kernel(
        KERNEL(".shared .align 16 .b8 s[2048];\nmov.u32 %r0, s;\nshl.b32 %r1, %t, 4;\n"
               "add.u32 %r1, %r1, %r0;\ncvt.u64.u32 %d1, %r1;\nshl.b64 %d0, %d1, 0;\n"
               "mul.wide.u32 %d2, %t, 16;\nadd.u64 %d2, %d2, %base;\n"
               "cp.async.cg.shared.global.L2::128B [%r1], [%d2], 16;\ncp.async.commit_group;\n"
               "mov.u32 %r2, 4;\ncp.async.ca.shared.global [%r1+1024], [%d2+8], 8, %r2;\n"
               "setp.eq.u32 %p0, %t, %t;\n"
               "cp.async.ca.shared.global [%r1+1032], [%d2], 4, %p0;\n"
               "cp.async.ca.shared.global [%r1+1036], [%d2], 4;\ncp.async.commit_group;\n"
               "cp.async.wait_group 1;\nld.shared.v4.u32 {%r4, %r5, %r6, %r7}, [%r1];\n"
               "cp.async.wait_all;\nld.shared.v4.u32 {%r8, %r9, %r10, %r11}, [%r1+1024];\n"
               "add.u32 %r5, %r5, %r9;\nadd.u32 %r6, %r6, %r10;\nadd.u32 %r4, %r4, %r8;\n"
               "add.u32 %r7, %r7, %r11;\nst.global.v4.u32 [%d2], {%r4, %r5, %r6, %r7};\n"),
        32);

    (void)state;
    for (uint32_t i = 0; i < 32; i++) {
        const uint32_t x = i * 12 + 1; /* the thread's first word */

        assert_int_equal(r[i * 4], x + x + 6);
        assert_int_equal(r[i * 4 + 1], x + 3);
        assert_int_equal(r[i * 4 + 2], x + 6);
        assert_int_equal(r[i * 4 + 3], x + 9 + x);
    }
}

/* Numbers that every format here has exactly, small enough that the sums are exact, too. */
static float value_at(uint32_t i, uint32_t j) {
    return (float)((i * 5 + j * 3 + i * j) % 7) - 3.0f;
}

static uint32_t bits_of(float x, const char *type) {
    uint32_t u;

    if (strcmp(type, "f16") == 0) { /* exact: a small integer */
        const _Bool negative = x < 0;
        const int n = (int)fabsf(x);
        const uint32_t h[] = {0, 0x3c00, 0x4000, 0x4200, 0x4400};

        return h[n] | (negative ? 0x8000u : 0);
    }
    memcpy(&u, &x, 4);
    return strcmp(type, "bf16") == 0 ? u >> 16 : u;
}

/* A [16, k] and B [k, 8] in the lanes' registers, as the ISA's figures have them; d = A B + C. */
static void check_mma(int k, const char *type, const char *sum) {
    const bool wide = strcmp(type, "tf32") == 0;
    const int n_b = wide ? k / 4 : k / 8;
    struct device dev = {0};
    const uint64_t out = device_alloc(&dev, 32 * 64, true);
    uint32_t *p = device_data(&dev, out);
    char text[4096];

    for (uint32_t l = 0; l < 32; l++) {
        const uint32_t g = l / 4;
        const uint32_t t = l % 4;

        for (uint32_t i = 0; i < (uint32_t)n_b; i++) {
            const uint32_t c = wide ? i * 4 + t : i * 8 + t * 2;

            p[l * 16 + 2 * i] = bits_of(value_at(g, c), type);
            p[l * 16 + 2 * i + 1] = bits_of(value_at(g + 8, c), type);
            p[l * 16 + 4 + i] = bits_of(value_at(c + 20, g), type);
            if (!wide) {
                p[l * 16 + 2 * i] |= bits_of(value_at(g, c + 1), type) << 16;
                p[l * 16 + 2 * i + 1] |= bits_of(value_at(g + 8, c + 1), type) << 16;
                p[l * 16 + 4 + i] |= bits_of(value_at(c + 21, g), type) << 16;
            }
        }
        for (uint32_t i = 0; i < 4; i++) {
            const float c = value_at(g + i / 2 * 8 + 40, t * 2 + i % 2);
            const uint32_t bits = bits_of(c, sum[1] == '3' ? "f32" : "f16");

            if (sum[1] == '3') {
                p[l * 16 + 8 + i] = bits;
            } else {
                p[l * 16 + 8 + i / 2] |= bits << 16 * (i % 2);
            }
        }
    }
    write_kernel(
        text, sizeof(text),
        ("shl.b32 %%r30, %%t, 6;\ncvt.u64.u32 %%d0, %%r30;\n"
         "add.u64 %%d0, %%d0, %%base;\n"
         "ld.global.v4.u32 {%%r0, %%r1, %%r2, %%r3}, [%%d0];\n"
         "ld.global.v2.u32 {%%r4, %%r5}, [%%d0+16];\n"
         "ld.global.v4.u32 {%%r8, %%r9, %%r10, %%r11}, [%%d0+32];\n"
         "mma.sync.aligned.m16n8k%d.row.col.%s.%s.%s.%s %s, %s, %s, %s;\n"
         "st.global.v4.u32 [%%d0], {%%r12, %%r13, %%r14, %%r15};\n"),
        k, sum, type, type, sum, sum[1] == '3' ? "{%r12, %r13, %r14, %r15}" : "{%r12, %r13}",
        n_b == 2 ? "{%r0, %r1, %r2, %r3}" : "{%r0, %r1}", n_b == 2 ? "{%r4, %r5}" : "{%r4}",
        sum[1] == '3' ? "{%r8, %r9, %r10, %r11}" : "{%r8, %r9}");
    assert_int_equal(run_text(&dev, text, 1, 32, &out), PTX_OK);
    assert_no_findings(&dev);
    for (uint32_t l = 0; l < 32; l++) {
        for (uint32_t i = 0; i < 4; i++) {
            const uint32_t row = l / 4 + i / 2 * 8;
            const uint32_t column = l % 4 * 2 + i % 2;
            float expected = value_at(row + 40, column);
            float got;

            for (uint32_t j = 0; j < (uint32_t)k; j++) {
                expected += value_at(row, j) * value_at(j + 20, column);
            }
            if (sum[1] == '3') {
                memcpy(&got, &p[l * 16 + i], 4);
            } else {
                const uint32_t h = p[l * 16 + i / 2] >> 16 * (i % 2) & 0xffff;

                got = (h & 0x7fff) == 0
                          ? 0
                          : ldexpf((float)((h & 0x3ff) + 0x400), (int)(h >> 10 & 31) - 25);
                got = (h & 0x8000) != 0 ? -got : got;
            }
            assert_true(got == expected);
        }
    }
    device_free(&dev);
}

static void test_mma(void **state) {
    (void)state;
    check_mma(16, "bf16", "f32");
    check_mma(8, "bf16", "f32");
    check_mma(16, "f16", "f32");
    check_mma(8, "f16", "f32");
    check_mma(16, "f16", "f16");
    check_mma(8, "f16", "f16");
    check_mma(8, "tf32", "f32");
    check_mma(4, "tf32", "f32");
}

/* Four matrices of 8 x 8 whose element is 64 matrix + 8 row + column. */
static void check_ldmatrix(int count, bool transposed) {
    static const char *const regs[] = {"{%r4}", "{%r4, %r5}", "{%r4, %r5, %r6, %r7}"};
    char text[4096];
    const uint32_t *r;

    write_kernel(text, sizeof(text),
                 (".shared .align 16 .b8 s[512];\nmov.u32 %%r0, s;\nshl.b32 %%r1, %%t, 4;\n"
                  "add.u32 %%r0, %%r0, %%r1;\nmov.u32 %%r5, 0;\nmov.u32 %%r6, 0;\n"
                  "mov.u32 %%r7, 0;\nshl.b32 %%r2, %%t, 3;\n"
                  "mad.lo.u32 %%r2, %%r2, 0x10001, 0x10000;\nadd.u32 %%r3, %%r2, 0x20002;\n"
                  "add.u32 %%r8, %%r2, 0x40004;\nadd.u32 %%r9, %%r2, 0x60006;\n"
                  "st.shared.v4.u32 [%%r0], {%%r2, %%r3, %%r8, %%r9};\nbar.warp.sync -1;\n"
                  "ldmatrix.sync.aligned.m8n8.x%d%s.shared.b16 %s, [%%r0];\n"
                  "cvt.u64.u32 %%d0, %%r1;\nadd.u64 %%d0, %%d0, %%base;\n"
                  "st.global.v4.u32 [%%d0], {%%r4, %%r5, %%r6, %%r7};\n"),
                 count, transposed ? ".trans" : "", regs[count / 2]);
    r = run_kernel(text, 32);
    for (uint32_t l = 0; l < 32; l++) {
        for (uint32_t i = 0; i < (uint32_t)count; i++) {
            const uint32_t first = transposed ? l % 4 * 16 + l / 4 : l / 4 * 8 + l % 4 * 2;
            const uint32_t second = first + (transposed ? 8 : 1);

            assert_int_equal(r[l * 4 + i], (64 * i + first) | (64 * i + second) << 16);
        }
    }
}

static void test_ldmatrix(void **state) {
    (void)state;
    for (int count = 1; count <= 4; count *= 2) {
        check_ldmatrix(count, false);
        check_ldmatrix(count, true);
    }
}

/* stmatrix undoes ldmatrix; movmatrix is ldmatrix.trans of what ldmatrix read. */
static void test_other_matrices(void **state) {
    const uint32_t *r = run_kernel(
        KERNEL(
            ".shared .align 16 .b8 s[256];\nmov.u32 %r0, s;\nand.b32 %r1, %t, 15;\n"
            "shl.b32 %r1, %r1, 4;\nadd.u32 %r0, %r0, %r1;\nmad.lo.u32 %r2, %t, 0x20002, 0x10000;\n"
            "add.u32 %r3, %r2, 0x400040;\n"
            "stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%r0], {%r2, %r3};\n"
            "bar.warp.sync -1;\nldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r4, %r5}, [%r0];\n"
            "movmatrix.sync.aligned.m8n8.trans.b16 %r6, %r4;\nsub.u32 %r6, %r6, %r2;\n"
            "movmatrix.sync.aligned.m8n8.trans.b16 %r7, %r5;\nsub.u32 %r7, %r7, %r3;\n"
            "st.global.u32 [%o], %r6;\nst.global.u32 [%o+128], %r7;\nst.global.u32 [%o+256], "
            "%r4;\n"),
        32);

    (void)state;
    for (uint32_t i = 0; i < 64; i++) {
        assert_int_equal(r[i], 0);
    }
    for (uint32_t l = 0; l < 32; l++) { /* element (row, column) was at (column, row) */
        const uint32_t e = l % 4 * 16 + l / 4;

        assert_int_equal(r[l + 64], e | (e + 8) << 16);
    }
}

/* Last: what the interpreter knows of these is what was tested. */
static void test_all_covered(void **state) {
    (void)state;
    assert_opcodes_used(PTX_BY_MEMORY);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_widths),
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_spaces),
        cmocka_unit_test(test_atomics),
        cmocka_unit_test(test_cas),
        cmocka_unit_test(test_async),
        cmocka_unit_test(test_mma),
        cmocka_unit_test(test_ldmatrix),
        cmocka_unit_test(test_other_matrices),
        cmocka_unit_test(test_all_covered),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
