/* Branches, calls, barriers, what warps do together; what is no kernel. */
#include "test_ptx.h"

/* ---- control ---- */

static void test_divergence(void **state) {
    /* A loop of as many rounds as the lane says, with a branch inside, and all meet behind it: the
     * vote sees all 32 of them. */
    const uint32_t *r = run_kernel(KERNEL("mov.u32 %r0, 0;\nmov.u32 %r1, 0;\n"
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
    const uint32_t *r = run_kernel(KERNEL("rem.u32 %r0, %t, 3;\n"
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
    const uint32_t *r = run_kernel(
        PTX_HEAD
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
        ".func nothing()\n{\nret;\n}\n" PTX_BEGIN
        "mov.u32 %r1, 77;\nsetp.lt.u32 %p0, %t, 20;\ncall nothing;\n"
        "{ .param .b32 p0; .param .align 8 .b8 p1[8]; .param .b32 r0;\n"
        "st.param.b32 [p0], %t;\nst.param.b64 [p1], 100;\n"
        "@%p0 call (r0), add_or_not, (p0, p1);\n@%p0 ld.param.b32 %r1, [r0]; }\n"
        "st.global.u32 [%o], %r1;\n" PTX_END,
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
    const uint32_t *r = run_kernel(
        KERNEL(".shared .align 4 .b8 s[1024];\nmov.u32 %r0, s;\nshl.b32 %r1, %t, 2;\n"
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
        run_kernel(KERNEL(".shared .align 4 .b8 s[128];\nmov.u32 %r0, s;\nshl.b32 %r1, %l, 2;\n"
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
    const uint32_t *r = run_kernel(
        KERNEL("st.relaxed.gpu.global.u32 [%o], 0;\nbar.sync 1, 64;\n"
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

        write_kernel(text, sizeof(text),
                     ("add.u32 %%r0, %%t, 100;\nshfl.sync.%s %%r1|%%p0, %%r0, 3, %s, -1;\n"
                      "@%%p0 add.u32 %%r1, %%r1, 1000;\nst.global.u32 [%%o], %%r1;\n"),
                     tests[i].op, tests[i].c);
        r = run_kernel(text, 32);
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
        run_kernel(KERNEL("setp.lt.u32 %p0, %l, 7;\nvote.sync.ballot.b32 %r0, %p0, -1;\n"
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

        write_kernel(text, sizeof(text),
                     ("sub.u32 %%r0, %%l, 16;\nmov.u32 %%r1, 5;\nsetp.lt.u32 %%p0, %%l, 3;\n"
                      "setp.gt.or.u32 %%p0, %%l, 20, %%p0;\n@%%p0 bra OUT;\n"
                      "redux.sync.%s %%r1, %%r0, 0x1ffff8;\nOUT: st.global.u32 [%%o], %%r1;\n"),
                     tests[i].op);
        r = run_kernel(text, 32);
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
    const uint32_t *r = run_kernel(
        KERNEL(".shared .align 4 .b8 s[128];\nmov.u32 %r0, s;\nshl.b32 %r1, %l, 2;\n"
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

        snprintf(text, sizeof(text), "%s%s%s", PTX_HEAD PTX_BEGIN, tests[i].body, PTX_END);
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
    static const char text[] = PTX_HEAD
        ".const .align 4 .b8 t[4] = {1, 2};\n.func (.param .b32 r) f(.param .b32 x)\n{\n"
        "ret;\n}\n" PTX_BEGIN "@!%p0 bra L;\n{ .param .b32 a; .param .b32 b; call (a), f, (b); }\n"
        "TS: .branchtargets L, M;\nbrx.idx %r0, TS;\nL: mov.b64 {%r1, %r2}, %d0;\n"
        "M: ld.global.v2.f32 {%f0, %f1}, [%d0+-8];\nsetp.lt.and.f32 %p0|%p1, %f0, "
        "0f3F800000, !%p2;\n" PTX_END;
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

/* Last: what the interpreter knows of these is what was tested. */
static void test_all_covered(void **state) {
    (void)state;
    assert_opcodes_used(PTX_BY_CONTROL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_divergence),    cmocka_unit_test(test_table_of_targets),
        cmocka_unit_test(test_calls),         cmocka_unit_test(test_special_registers),
        cmocka_unit_test(test_barriers),      cmocka_unit_test(test_arrive),
        cmocka_unit_test(test_exit_and_spin), cmocka_unit_test(test_shuffles),
        cmocka_unit_test(test_votes),         cmocka_unit_test(test_redux),
        cmocka_unit_test(test_warp_sync),     cmocka_unit_test(test_errors),
        cmocka_unit_test(test_cut_short),     cmocka_unit_test(test_kernel_facts),
        cmocka_unit_test(test_all_covered),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
