/* Memory, atomics, branches, calls, barriers, what warps do together, cp.async, matrices. */
#include "test_ptx.h"

#include <math.h>

/* Every kernel here has one parameter, the address of its output, and begins with this: %t is the
 * thread, %l the lane, %o the address of the thread's word. */
#define BEGIN                                                                                      \
    ".visible .entry k(.param .u64 out)\n{\n.reg .pred %p<8>; .reg .b16 %h<16>; .reg .b32 "        \
    "%r<40>, "                                                                                     \
    "%t, %l; .reg .b64 %d<20>, %o, %base; .reg .f32 %f<20>;\n"                                     \
    "mov.u32 %t, %tid.x;\nmov.u32 %l, %laneid;\nld.param.u64 %base, [out];\n"                      \
    "mul.wide.u32 %o, %t, 4;\nadd.u64 %o, %o, %base;\n"
#define END          "ret;\n}\n"
#define KERNEL(body) PTX_HEAD BEGIN body END

/* Begin, the formatted body, end. */
static void __attribute__((format(printf, 3, 4)))
write_text(char *text, size_t size, const char *format, ...) {
    static const char begin[] = PTX_HEAD BEGIN;
    const size_t n = sizeof(begin) - 1;
    va_list args;
    int added;

    memcpy(text, begin, n);
    va_start(args, format);
    added = vsnprintf(text + n, size - n, format, args);
    va_end(args);
    assert_true(n + (size_t)added + sizeof(END) <= size);
    strcpy(text + n + added, END);
}

/* Runs it with one block and returns a copy of the words that each thread left in out. */
static const uint32_t *run(const char *text, unsigned threads) {
    static uint32_t words[1024];
    struct device dev = {0};
    const uint64_t out = device_alloc(&dev, 4096, true);
    uint32_t *data = device_data(&dev, out);

    for (uint32_t i = 0; i < 1024; i++) {
        data[i] = i * 3 + 1;
    }
    assert_int_equal(run_text(&dev, text, 1, threads, &out), PTX_OK);
    assert_no_findings(&dev);
    memcpy(words, data, sizeof(words));
    device_free(&dev);
    return words;
}

/* ---- memory ---- */

static void test_widths(void **state) {
    const uint32_t *r = run(
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
        run(KERNEL("shl.b32 %r0, %t, 4;\ncvt.u64.u32 %d0, %r0;\nadd.u64 %d0, %d0, %base;\n"
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
    const uint32_t *r =
        run(PTX_HEAD
            ".const .align 4 .b8 table[12] = {1, 0, 0, 0, 2, 0, 0, 0, 0xff, 1};\n"
            ".global .align 4 .f32 half_of[2] = {0f3F000000, 2.5};\n"
            ".global .u64 pointer = generic(half_of)+4;\n.global .align 4 .u32 counter;\n" BEGIN
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
            "add.u32 %r4, %r4, %r9;\nadd.u32 %r4, %r4, %r10;\nst.global.u32 [%o], %r4;\n" END,
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

        write_text(text, sizeof(text),
                   (".shared .align 8 .b8 s[8];\nsetp.eq.u32 %%p0, %%t, 0;\n"
                    "mov.b%d %%%c1, 0x%llx;\n@%%p0 st.%s.b%d [%s], %%%c1;\nbar.warp.sync -1;\n"
                    "mov.b%d %%%c2, 0x%llx;\n%s.%s.%s %s[%s], %%%c2;\nbar.warp.sync "
                    "-1;\nld.%s.b%d %%%c3, [%s];\n@%%p0 st.global.b64 [%%base], 0;\n"
                    "@%%p0 st.global.b%d [%%base], %%%c3;\n"),
                   bits, reg, (unsigned long long)t->start, space, bits, i % 2 ? "s" : "%base", reg,
                   bits, reg, (unsigned long long)t->operand, red ? "red" : "atom", space, t->op,
                   red          ? ""
                   : reg == 'd' ? "%d4, "
                   : reg == 'h' ? "%h4, "
                                : "%r4, ",
                   i % 2 ? "s" : "%base", reg, space, bits, reg, i % 2 ? "s" : "%base", bits, reg);
        r = run(text, 32);
        if ((r[0] | (uint64_t)r[1] << 32) != t->end) {
            fail_msg("%s.%s: 0x%08x%08x", space, t->op, r[1], r[0]);
        }
    }
}

static void test_cas(void **state) {
    const uint32_t *r = run(KERNEL("atom.global.cas.b32 %r0, [%o], 4, 99;\n"
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

/* ---- control ---- */

static void test_divergence(void **state) {
    /* A loop of as many rounds as the lane says, with a branch inside, and all meet behind it: the
     * vote sees all 32 of them. */
    const uint32_t *r = run(KERNEL("mov.u32 %r0, 0;\nmov.u32 %r1, 0;\n"
                                   "LOOP: setp.ge.u32 %p0, %r0, %l;\n@%p0 bra.uni DONE;\n"
                                   "and.b32 %r2, %r0, 1;\nsetp.eq.u32 %p1, %r2, 0;\n"
                                   "@!%p1 bra ODD;\nadd.u32 %r1, %r1, 10;\nbra NEXT;\n"
                                   "ODD: add.u32 %r1, %r1, 1;\n"
                                   "NEXT: add.u32 %r0, %r0, 1;\nbra LOOP;\n"
                                   "DONE: activemask.b32 %r3;\npopc.b32 %r3, %r3;\n"
                                   "mul.lo.u32 %r3, %r3, 1000;\nadd.u32 %r1, %r1, %r3;\n"
                                   "st.global.u32 [%o], %r1;\n"),
                            64);

    (void)state;
    for (uint32_t i = 0; i < 64; i++) {
        const uint32_t l = i % 32;

        assert_int_equal(r[i], 32000 + (l + 1) / 2 * 10 + l / 2);
    }
}

static void test_table_of_targets(void **state) {
    const uint32_t *r = run(KERNEL("rem.u32 %r0, %t, 3;\n"
                                   "TS: .branchtargets L0,\n L1, L2;\n"
                                   "brx.idx %r0, TS;\n"
                                   "L0: mov.u32 %r1, 10;\nbra OUT;\nL1: mov.u32 %r1, 11;\n"
                                   "bra OUT;\nL2: mov.u32 %r1, 12;\n"
                                   "OUT: st.global.u32 [%o], %r1;\n"),
                            64);

    (void)state;
    for (uint32_t i = 0; i < 64; i++) {
        assert_int_equal(r[i], 10 + i % 3);
    }
}

static void test_calls(void **state) {
    const uint32_t *r =
        run(PTX_HEAD
            ".func (.param .b32 result) twice(.param .b32 x);\n"
            ".func (.param .b32 result) add_or_not(.param .b32 x, .param .align 8 .b8 y[8])\n{\n"
            ".reg .pred %p; .reg .b32 %a, %b; .reg .b64 %q;\nld.param.u32 %a, [x];\n"
            "ld.param.b64 %q, [y];\ncvt.u32.u64 %b, %q;\nsetp.gt.u32 %p, %a, 5;\n@%p bra OVER;\n"
            "{ .param .b32 in; .param .b32 back;\nst.param.b32 [in], %b;\n"
            "call.uni (back), twice, (in);\nld.param.b32 %b, [back]; }\n"
            "add.u32 %a, %a, %b;\nst.param.b32 [result], %a;\nret;\n"
            "OVER: st.param.b32 [result+0], %a;\nret;\n}\n"
            ".func (.param .b32 result) twice(.param .b32 x)\n{\n.reg .b32 %a;\n"
            "ld.param.u32 %a, [x];\nadd.u32 %a, %a, %a;\nst.param.b32 [result], %a;\nret;\n}\n"
            ".func nothing()\n{\nret;\n}\n" BEGIN
            "mov.u32 %r1, 77;\nsetp.lt.u32 %p0, %t, 20;\ncall nothing;\n"
            "{ .param .b32 p0; .param .align 8 .b8 p1[8]; .param .b32 r0;\n"
            "st.param.b32 [p0], %t;\nst.param.b64 [p1], 100;\n"
            "@%p0 call (r0), add_or_not, (p0, p1);\n@%p0 ld.param.b32 %r1, [r0]; }\n"
            "st.global.u32 [%o], %r1;\n" END,
            40);

    (void)state;
    for (uint32_t i = 0; i < 40; i++) {
        assert_int_equal(r[i], i >= 20 ? 77 : i > 5 ? i : i + 200);
    }
}

static void test_special_registers(void **state) {
    static const char text[] =
        KERNEL("mov.u32 %r0, %ctaid.x;\nmov.u32 %r1, %ntid.x;\nmov.u32 %r2, %nctaid.x;\n"
               "mov.u32 %r3, %warpid;\nmov.u32 %r4, %lanemask_lt;\nmov.u32 %r5, %lanemask_ge;\n"
               "mov.u32 %r6, %clock;\nmov.u32 %r7, %clock;\nsetp.lt.u32 %p0, %r6, %r7;\n"
               "mov.u64 %d0, %clock64;\nmov.u32 %r8, %tid.y;\nadd.u32 %r8, %r8, %ntid.y;\n"
               "mad.lo.u32 %r9, %r0, %r1, %t;\nmul.wide.u32 %d1, %r9, 4;\n"
               "add.u64 %d1, %d1, %base;\nnot.b32 %r5, %r5;\nsub.u32 %r5, %r5, %r4;\n"
               "add.u32 %r5, %r5, %r2;\nmad.lo.u32 %r5, %r3, 100, %r5;\nadd.u32 %r5, %r5, %r8;\n"
               "@!%p0 mov.u32 %r5, 0;\nst.global.u32 [%d1], %r5;\n");
    struct device dev = {0};
    const uint64_t out = device_alloc(&dev, 4096, false);
    const uint32_t *r = device_data(&dev, out);

    (void)state;
    assert_int_equal(run_text(&dev, text, 3, 64, &out), PTX_OK);
    for (uint32_t i = 0; i < 192; i++) {
        assert_int_equal(r[i], 3 + i % 64 / 32 * 100 + 1);
    }
    device_free(&dev);
}

/* Warps wait for each other: each adds what the one before it left. */
static void test_barriers(void **state) {
    const uint32_t *r =
        run(KERNEL(".shared .align 4 .b8 s[1024];\nmov.u32 %r0, s;\nshl.b32 %r1, %t, 2;\n"
                   "add.u32 %r1, %r1, %r0;\nst.shared.u32 [%r1], %t;\nbar.sync 0;\n"
                   "xor.b32 %r2, %r1, 128;\nld.shared.u32 %r3, [%r2];\nbarrier.sync.aligned 0;\n"
                   "st.shared.u32 [%r1], %r3;\nbarrier.cta.sync 1, 128;\n"
                   "xor.b32 %r2, %r1, 256;\nld.shared.u32 %r3, [%r2];\n"
                   "setp.lt.u32 %p0, %t, 5;\nbar.red.popc.u32 %r4, 2, %p0;\n"
                   "barrier.red.and.pred %p1, 3, %p0;\nbarrier.red.or.pred %p2, 3, !%p0;\n"
                   "selp.u32 %r5, 1000, 0, %p1;\nselp.u32 %r6, 2000, 0, %p2;\n"
                   "mad.lo.u32 %r3, %r4, 10000, %r3;\nadd.u32 %r3, %r3, %r5;\n"
                   "add.u32 %r3, %r3, %r6;\nmembar.cta;\nfence.acq_rel.gpu;\n"
                   "prefetch.global.L2 [%o];\nprefetchu.L1 [%o];\nnanosleep.u32 20;\n"
                   "griddepcontrol.wait;\nst.global.u32 [%o], %r3;\n"),
            128);

    (void)state;
    for (uint32_t i = 0; i < 128; i++) {
        assert_int_equal(r[i], 50000 + 2000 + (i ^ 64 ^ 32));
    }
}

/* The first warp produces, the second waits at the same barrier for it. */
static void test_arrive(void **state) {
    const uint32_t *r =
        run(KERNEL(".shared .align 4 .b8 s[128];\nmov.u32 %r0, s;\nshl.b32 %r1, %l, 2;\n"
                   "add.u32 %r1, %r1, %r0;\nsetp.ge.u32 %p0, %t, 32;\n@%p0 bra CONSUME;\n"
                   "st.shared.u32 [%r1], %t;\nbar.arrive 1, 64;\nbra DONE;\n"
                   "CONSUME: bar.sync 1, 64;\nld.shared.u32 %r2, [%r1];\n"
                   "st.global.u32 [%o], %r2;\nDONE:\n"),
            64);

    (void)state;
    for (uint32_t i = 32; i < 64; i++) {
        assert_int_equal(r[i], i - 32);
    }
}

static void test_exit_and_spin(void **state) {
    /* A lane spins for what a lane of the same warp, and one of another, writes. */
    const uint32_t *r =
        run(KERNEL("st.relaxed.gpu.global.u32 [%o], 0;\nbar.sync 1, 64;\n"
                   "setp.ge.u32 %p3, %t, 40;\nmad.lo.u32 %r3, %t, 3, 1;\n"
                   "@%p3 st.global.u32 [%o], %r3;\n@%p3 exit;\nsetp.eq.u32 %p0, %t, 0;\n@%p0 bra "
                   "WAIT;\nbra GIVE;\n"
                   "WAIT: ld.relaxed.gpu.global.u32 %r0, [%base+16];\n"
                   "ld.relaxed.gpu.global.u32 %r1, [%base+140];\nmul.lo.u32 %r2, %r0, %r1;\n"
                   "setp.eq.u32 %p1, %r2, 0;\n@%p1 bra WAIT;\nst.global.u32 [%o], %r2;\nbra OUT;\n"
                   "GIVE: st.relaxed.gpu.global.u32 [%o], %t;\nOUT:\n"),
            64);

    (void)state;
    for (uint32_t i = 0; i < 64; i++) {
        assert_int_equal(r[i], i == 0 ? 4 * 35 : i >= 40 ? i * 3 + 1 : i);
    }
}

/* ---- warps ---- */

static void test_shuffles(void **state) {
    static const struct {
        const char *op;
        const char *c;
    } tests[] = {{"up.b32", "0"},        {"down.b32", "0x1f"}, {"bfly.b32", "0x1f"},
                 {"idx.b32", "0x1f"},    {"up.b32", "0x1800"}, {"down.b32", "0x181f"},
                 {"bfly.b32", "0x180f"}, {"idx.b32", "0x1807"}};

    (void)state;
    for (uint32_t i = 0; i < 8; i++) {
        const uint32_t segment = i < 4 ? 32 : 8; /* lanes */
        char text[2048];
        const uint32_t *r;

        write_text(text, sizeof(text),
                   ("add.u32 %%r0, %%t, 100;\nshfl.sync.%s %%r1|%%p0, %%r0, 3, %s, -1;\n"
                    "@%%p0 add.u32 %%r1, %%r1, 1000;\nst.global.u32 [%%o], %%r1;\n"),
                   tests[i].op, tests[i].c);
        r = run(text, 32);
        for (uint32_t l = 0; l < 32; l++) {
            const uint32_t in = l % segment;
            const uint32_t first = l - in;
            const bool ok = i % 4 == 0 ? in >= 3 : i % 4 == 1 ? in + 3 < segment : true;
            const uint32_t from = !ok          ? l
                                  : i % 4 == 0 ? l - 3
                                  : i % 4 == 1 ? l + 3
                                  : i % 4 == 2 ? (l ^ 3)
                                               : first + 3;

            assert_int_equal(r[l], from + 100 + (ok ? 1000 : 0));
        }
    }
}

static void test_votes(void **state) {
    const uint32_t *r =
        run(KERNEL("setp.lt.u32 %p0, %l, 7;\nvote.sync.ballot.b32 %r0, %p0, -1;\n"
                   "vote.sync.any.pred %p1, %p0, -1;\nvote.sync.all.pred %p2, !%p0, -1;\n"
                   "vote.sync.uni.pred %p3, %p0, -1;\nselp.u32 %r1, 0x10000, 0, %p1;\n"
                   "@%p2 add.u32 %r1, %r1, 0x20000;\n@%p3 add.u32 %r1, %r1, 0x40000;\n"
                   "and.b32 %r2, %l, 3;\nmatch.any.sync.b32 %r3, %r2, -1;\n"
                   "match.all.sync.b32 %r4|%p4, %r2, -1;\n@%p4 add.u32 %r1, %r1, 0x80000;\n"
                   "mov.u64 %d0, 5;\nmatch.all.sync.b64 %r5|%p5, %d0, -1;\n"
                   "@%p5 add.u32 %r1, %r1, 0x100000;\npopc.b32 %r5, %r5;\n"
                   "elect.sync %r6|%p6, -1;\n@%p6 add.u32 %r1, %r1, 0x200000;\n"
                   "shl.b32 %r6, %r6, 28;\nadd.u32 %r1, %r1, %r0;\nadd.u32 %r1, %r1, %r4;\n"
                   "add.u32 %r1, %r1, %r6;\nshl.b32 %r5, %r5, 8;\nadd.u32 %r1, %r1, %r5;\n"
                   "st.global.u32 [%o], %r1;\nst.global.u32 [%o+128], %r3;\n"),
            32);

    (void)state;
    for (uint32_t l = 0; l < 32; l++) {
        assert_int_equal(r[l], 0x7f + 0x10000 + 0x100000 + 0x2000 + (l == 0 ? 0x200000 : 0));
        assert_int_equal(r[l + 32], 0x11111111u << l % 4);
    }
}

static void test_redux(void **state) {
    static const struct {
        const char *op;
        uint32_t result; /* of lane - 16 in lanes 3 to 20 */
    } tests[] = {{"add.s32", (uint32_t)(-13 - 12 - 11 - 10 - 9 - 8 - 7 - 6 - 5)},
                 {"add.u32", (uint32_t)-81},
                 {"min.s32", (uint32_t)-13},
                 {"max.s32", 4},
                 {"min.u32", 0},
                 {"max.u32", (uint32_t)-1},
                 {"and.b32", 0},
                 {"or.b32", (uint32_t)-1},
                 {"xor.b32", 0}};

    (void)state;
    for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        char text[2048];
        uint32_t expected = tests[i].result;
        const uint32_t *r;

        write_text(text, sizeof(text),
                   ("sub.u32 %%r0, %%l, 16;\nmov.u32 %%r1, 5;\nsetp.lt.u32 %%p0, %%l, 3;\n"
                    "setp.gt.or.u32 %%p0, %%l, 20, %%p0;\n@%%p0 bra OUT;\n"
                    "redux.sync.%s %%r1, %%r0, 0x1ffff8;\nOUT: st.global.u32 [%%o], %%r1;\n"),
                   tests[i].op);
        r = run(text, 32);
        if (strcmp(tests[i].op, "xor.b32") == 0) {
            for (uint32_t l = 3; l < 21; l++) {
                expected ^= l - 16;
            }
        }
        for (uint32_t l = 0; l < 32; l++) {
            assert_int_equal(r[l], l < 3 || l > 20 ? 5 : expected);
        }
    }
}

/* Both sides of a branch synchronise, each at an instruction of its own. */
static void test_warp_sync(void **state) {
    const uint32_t *r =
        run(KERNEL(".shared .align 4 .b8 s[128];\nmov.u32 %r0, s;\nshl.b32 %r1, %l, 2;\n"
                   "add.u32 %r1, %r1, %r0;\nxor.b32 %r2, %r1, 64;\nst.shared.u32 [%r1], %t;\n"
                   "setp.lt.u32 %p0, %l, 16;\n@%p0 bra LOW;\nbar.warp.sync 0xffffffff;\n"
                   "ld.shared.u32 %r3, [%r2];\nbra OUT;\nLOW: bar.warp.sync 0xffffffff;\n"
                   "ld.shared.u32 %r3, [%r2];\nadd.u32 %r3, %r3, 100;\n"
                   "OUT: st.global.u32 [%o], %r3;\n"),
            32);

    (void)state;
    for (uint32_t l = 0; l < 32; l++) {
        assert_int_equal(r[l], (l ^ 16) + (l < 16 ? 100 : 0));
    }
}

/* ---- cp.async and matrices ---- */

static void test_async(void **state) {
    /* Two groups; the second has zeros behind its source's bytes. */
    const uint32_t *r =
        run(KERNEL(".shared .align 16 .b8 s[2048];\nmov.u32 %r0, s;\nshl.b32 %r1, %t, 4;\n"
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
    write_text(text, sizeof(text),
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
    check_mma(8, "tf32", "f32");
    check_mma(4, "tf32", "f32");
}

/* Four matrices of 8 x 8 whose element is 64 matrix + 8 row + column. */
static void check_ldmatrix(int count, bool transposed) {
    static const char *const regs[] = {"{%r4}", "{%r4, %r5}", "{%r4, %r5, %r6, %r7}"};
    char text[4096];
    const uint32_t *r;

    write_text(text, sizeof(text),
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
    r = run(text, 32);
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
    const uint32_t *r = run(
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

/* ---- what is no kernel ---- */

static void test_errors(void **state) {
    static const struct {
        const char *body;
        const char *words[3];
    } tests[] = {
        {"frobnicate.u32 %r0, %r1;\n", {"unknown instruction", "frobnicate.u32 %r0, %r1", NULL}},
        {"add.f32.u32 %r0, %r1, %r2;\n", {"unknown instruction", NULL}},
        {"add.sat.u32 %r0, %r1, %r2;\n", {"not supported", NULL}},
        {"add.u32 %r0, %r1;\n", {"',' expected", NULL}},
        {"add.u32 %d0, %r1, %r2;\n", {"64 bits, where 32", NULL}},
        {"add.u32 %r0, %r99, %r2;\n", {"unknown name '%r99'", NULL}},
        {".reg .b33 %x;\n", {"unknown type '.b33'", NULL}},
        {"bra NOWHERE;\n", {"no label 'NOWHERE'", NULL}},
        {"call missing;\n", {"'missing'", NULL}},
        {"ld.global.u32 %h0, [%d0];\n", {"do not fit", NULL}},
        {"wmma.load.a.sync %r0, [%d0];\n", {"unknown instruction", NULL}},
        {"shfl.down.b32 %r0, %r0, 1, 31;\n", {"without .sync", NULL}},
        {"mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32 {%r0}, {%r0}, {%r0}, {%r0};\n",
         {"mma", NULL}},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        struct ptx_module *m = NULL;
        char text[2048];
        char error[512] = "";

        snprintf(text, sizeof(text), "%s%s%s", PTX_HEAD BEGIN, tests[i].body, END);
        assert_false(ptx_module_create(&m, text, strlen(text), error, sizeof(error)));
        assert_null(m);
        assert_non_null(strstr(error, "line 12"));
        for (int j = 0; tests[i].words[j] != NULL; j++) {
            if (strstr(error, tests[i].words[j]) == NULL) {
                fail_msg("no '%s' in: %s", tests[i].words[j], error);
            }
        }
    }
}

/* Every prefix of a module is refused, or is a module; none is a crash. */
static void test_cut_short(void **state) {
    static const char text[] =
        PTX_HEAD ".const .align 4 .b8 t[4] = {1, 2};\n.func (.param .b32 r) f(.param .b32 x)\n{\n"
                 "ret;\n}\n" BEGIN "@!%p0 bra L;\n{ .param .b32 a; .param .b32 b; call (a), f, (b); }\n"
                 "TS: .branchtargets L, M;\nbrx.idx %r0, TS;\nL: mov.b64 {%r1, %r2}, %d0;\n"
                 "M: ld.global.v2.f32 {%f0, %f1}, [%d0+-8];\nsetp.lt.and.f32 %p0|%p1, %f0, "
                 "0f3F800000, !%p2;\n" END;
    const size_t n = strlen(text);

    (void)state;
    for (size_t i = 0; i <= n; i++) {
        struct ptx_module *m = NULL;
        char error[512];
        char *copy = malloc(i + 1); /* exact, for ASan */

        memcpy(copy, text, i);
        if (ptx_module_create(&m, copy, i, error, sizeof(error))) {
            ptx_module_destroy(m);
        } else {
            if (i == n) {
                fail_msg("%s", error);
            }
        }
        free(copy);
    }
}

static void test_kernel_facts(void **state) {
    struct ptx_module *m = make_module(
        PTX_HEAD ".visible .entry a(.param .u64 .ptr .global .align 16 p, .param .u32 n, .param "
                 ".align 8 .b8 s[24], .param .u8 c)\n.maxntid 64, 2, 1\n.minnctapersm 2\n{\n"
                 ".shared .align 16 .b8 x[100];\n.reg .b32 %r;\nmov.u32 %r, x;\nret;\n}\n"
                 ".visible .entry b()\n{\nret;\n}\n");
    const struct ptx_kernel *k = ptx_module_find(m, "a");

    (void)state;
    assert_non_null(k);
    assert_null(ptx_module_find(m, "c"));
    assert_string_equal(ptx_kernel_name(k), "a");
    assert_int_equal(ptx_kernel_n_param(k), 4);
    assert_int_equal(ptx_kernel_param_offset(k, 1), 8);
    assert_int_equal(ptx_kernel_param_bytes(k, 1), 4);
    assert_int_equal(ptx_kernel_param_offset(k, 2), 16);
    assert_int_equal(ptx_kernel_param_bytes(k, 2), 24);
    assert_int_equal(ptx_kernel_param_offset(k, 3), 40);
    assert_int_equal(ptx_kernel_shared_bytes(k), 100);
    assert_int_equal(ptx_kernel_max_threads(k), 128);
    assert_int_equal(ptx_kernel_max_threads(ptx_module_find(m, "b")), 1024);
    ptx_module_destroy(m);
}

static bool is_tested_here(const char *name) {
    static const char *const elsewhere[] = {"mov", "setp", "set", "selp", "slct", "cvt", "trap"};

    for (size_t i = 0; i < sizeof(elsewhere) / sizeof(elsewhere[0]); i++) {
        if (strcmp(name, elsewhere[i]) == 0) {
            return false; /* test_ptx_rows.c, test_ptx_checks.c */
        }
    }
    return strchr(name, '.') == NULL;
}

static void test_all_covered(void **state) {
    (void)state;
    assert_opcodes_used(is_tested_here);
    free(ptx_test_used);
    ptx_test_used = NULL;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_widths),
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_spaces),
        cmocka_unit_test(test_atomics),
        cmocka_unit_test(test_cas),
        cmocka_unit_test(test_divergence),
        cmocka_unit_test(test_table_of_targets),
        cmocka_unit_test(test_calls),
        cmocka_unit_test(test_special_registers),
        cmocka_unit_test(test_barriers),
        cmocka_unit_test(test_arrive),
        cmocka_unit_test(test_exit_and_spin),
        cmocka_unit_test(test_shuffles),
        cmocka_unit_test(test_votes),
        cmocka_unit_test(test_redux),
        cmocka_unit_test(test_warp_sync),
        cmocka_unit_test(test_async),
        cmocka_unit_test(test_mma),
        cmocka_unit_test(test_ldmatrix),
        cmocka_unit_test(test_other_matrices),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_cut_short),
        cmocka_unit_test(test_kernel_facts),
        cmocka_unit_test(test_all_covered),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
