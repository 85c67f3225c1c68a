/* Planted bugs: each must be found, with the kernel, block, thread and instruction named, and the
 * same kernel without the bug must not be reported. */
#include "test_ptx.h"

#define BEGIN                                                                                      \
    ".visible .entry k(.param .u64 out)\n{\n.reg .pred %p<8>; .reg .b16 %h<4>; .reg .b32 %r<20>, " \
    "%t, %s, %b; .reg .b64 %d<8>, %o, %base;\n.shared .align 16 .b8 mem[1024];\n"                  \
    "mov.u32 %t, %tid.x;\nmov.u32 %b, %ctaid.x;\nmov.u32 %s, mem;\nshl.b32 %r0, %t, 2;\nadd.u32 "  \
    "%s, %s, %r0;\n"                                                                               \
    "ld.param.u64 %base, [out];\nmul.wide.u32 %o, %t, 4;\nadd.u64 %o, %o, %base;\n"
#define END "ret;\n}\n"

struct planted {
    const char *name;
    unsigned threads;
    enum ptx_result result;
    const char *body;
    const char *words[6]; /* of one finding; none: nothing must be found */
};

static const struct planted TESTS[] = {
    /* ---- races on shared memory ---- */
    {"neighbour without barrier",
     64,
     PTX_OK,
     "st.shared.u32 [%s], %t;\nxor.b32 %r1, %s, 128;\nld.shared.u32 %r2, [%r1];\n"
     "st.global.u32 [%o], %r2;\n",
     {"race on shared memory: read", "thread (32,0,0)", "ld.shared.u32 %r2, [%r1]", "kernel k",
      "block (0,0,0)"}},
    {"neighbour with barrier",
     64,
     PTX_OK,
     "st.shared.u32 [%s], %t;\nbar.sync 0;\nxor.b32 %r1, %s, 128;\nld.shared.u32 %r2, [%r1];\n"
     "st.global.u32 [%o], %r2;\n",
     {NULL}},
    {"second barrier of a loop missing",
     64,
     PTX_OK,
     "mov.u32 %r3, 0;\nL: st.shared.u32 [%s], %r3;\nbar.sync 0;\nxor.b32 %r1, %s, 128;\n"
     "ld.shared.u32 %r2, [%r1];\nadd.u32 %r3, %r3, 1;\nsetp.lt.u32 %p0, %r3, 3;\n@%p0 bra L;\n",
     {"race on shared memory: write", "read with no barrier", "st.shared.u32 [%s], %r3"}},
    {"both barriers of a loop",
     64,
     PTX_OK,
     "mov.u32 %r3, 0;\nL: st.shared.u32 [%s], %r3;\nbar.sync 0;\nxor.b32 %r1, %s, 128;\n"
     "ld.shared.u32 %r2, [%r1];\nbar.sync 0;\nadd.u32 %r3, %r3, 1;\nsetp.lt.u32 %p0, %r3, 3;\n"
     "@%p0 bra L;\n",
     {NULL}},
    {"two warps write one word",
     64,
     PTX_OK,
     "setp.eq.u32 %p0, %r0, 4;\nsetp.eq.or.u32 %p0, %t, 40, %p0;\n@%p0 st.shared.u32 [mem], %t;\n",
     {"race on shared memory: write", "thread (1,0,0) wrote", "thread (40,0,0)"}},
    {"lanes of one store differ",
     32,
     PTX_OK,
     "st.shared.u32 [mem], %t;\n",
     {"lanes 0 and 1 of one instruction", "thread (1,0,0)"}},
    {"lanes of one store agree", 32, PTX_OK, "st.shared.u32 [mem], 5;\n", {NULL}},
    {"lanes without warp synchronisation",
     32,
     PTX_OK,
     "st.shared.u32 [%s], %t;\nxor.b32 %r1, %s, 4;\nld.shared.u32 %r2, [%r1];\n",
     {"race on shared memory: read"}},
    {"lanes with __syncwarp",
     32,
     PTX_OK,
     "st.shared.u32 [%s], %t;\nbar.warp.sync -1;\nxor.b32 %r1, %s, 4;\nld.shared.u32 %r2, [%r1];\n",
     {NULL}},
    {"lanes with a shuffle between",
     32,
     PTX_OK,
     "st.shared.u32 [%s], %t;\nshfl.sync.bfly.b32 %r4, %t, 1, 31, -1;\nxor.b32 %r1, %s, 4;\n"
     "ld.shared.u32 %r2, [%r1];\n",
     {NULL}},
    {"a warp's synchronisation is none for another",
     64,
     PTX_OK,
     "st.shared.u32 [%s], %t;\nbar.warp.sync -1;\nxor.b32 %r1, %s, 128;\n"
     "ld.shared.u32 %r2, [%r1];\n",
     {"race on shared memory: read"}},
    {"barrier of the other half of the block",
     128,
     PTX_OK,
     "st.shared.u32 [%s], %t;\nshr.u32 %r3, %t, 6;\nbar.sync %r3, 64;\nxor.b32 %r1, %s, 256;\n"
     "ld.shared.u32 %r2, [%r1];\n",
     {"race on shared memory: read", "wrote with no barrier"}},
    {"barrier of this half of the block",
     128,
     PTX_OK,
     "st.shared.u32 [%s], %t;\nshr.u32 %r3, %t, 6;\nbar.sync %r3, 64;\nxor.b32 %r1, %s, 128;\n"
     "ld.shared.u32 %r2, [%r1];\n",
     {NULL}},
    {"atomics do not race",
     64,
     PTX_OK,
     "setp.eq.u32 %p0, %t, 0;\n@%p0 st.shared.u32 [mem], 0;\nbar.sync 0;\n"
     "atom.shared.add.u32 %r1, [mem], 1;\n",
     {NULL}},
    {"atomics and a plain read do",
     64,
     PTX_OK,
     "setp.eq.u32 %p0, %t, 0;\n@%p0 st.shared.u32 [mem], 0;\nbar.sync 0;\n"
     "atom.shared.add.u32 %r1, [mem], 1;\nld.shared.u32 %r1, [mem];\n",
     {"race on shared memory: read"}},
    {"halves of a word are two threads'",
     64,
     PTX_OK,
     "mov.u32 %r1, mem;\nshl.b32 %r2, %t, 1;\nadd.u32 %r1, %r1, %r2;\ncvt.u16.u32 %h0, %t;\n"
     "st.shared.u16 [%r1], %h0;\n",
     {NULL}},
    {"generic addresses are watched, too",
     64,
     PTX_OK,
     "cvt.u64.u32 %d0, %s;\ncvta.shared.u64 %d0, %d0;\nst.u32 [%d0], %t;\nxor.b64 %d1, %d0, 128;\n"
     "ld.u32 %r2, [%d1];\n",
     {"race on shared memory: read"}},
    /* ---- memory never written ---- */
    {"unwritten shared",
     32,
     PTX_OK,
     "ld.shared.u32 %r1, [%s+512];\n",
     {"read of shared memory never written, at 0x200", "thread (0,0,0)"}},
    {"half written shared",
     32,
     PTX_OK,
     "st.shared.u16 [%s], 1;\nld.shared.u32 %r1, [%s];\n",
     {"shared memory never written, at 0x2"}},
    {"unwritten global",
     32,
     PTX_OK,
     "ld.global.u32 %r1, [%o+1024];\n",
     {"read of 4 bytes of global memory never written, at 0x100000400"}},
    {"global that the kernel wrote",
     32,
     PTX_OK,
     "st.global.u32 [%o+1024], 1;\nld.global.u32 %r1, [%o+1024];\n",
     {NULL}},
    {"unwritten local",
     32,
     PTX_OK,
     ".local .align 4 .b8 own[16];\nst.local.u32 [own+4], 1;\nld.local.u32 %r1, [own+8];\n",
     {"read of 4 bytes of local memory never written, at 0x8"}},
    {"atomic on unwritten shared",
     32,
     PTX_OK,
     "atom.shared.add.u32 %r1, [%s], 1;\n",
     {"shared memory never written"}},
    /* ---- bounds and alignment ---- */
    {"off by one",
     32,
     PTX_ILLEGAL_ADDRESS,
     "ld.global.u32 %r1, [%o+1924];\n",
     {"out of bounds: read of 4 bytes at global address 0x100000800", "thread (31,0,0)"}},
    {"last word", 32, PTX_OK, "st.global.u32 [%o+1920], 0;\n", {NULL}},
    {"write before the beginning",
     32,
     PTX_ILLEGAL_ADDRESS,
     "st.global.u32 [%o+-4], %t;\n",
     {"out of bounds: write of 4 bytes at global address 0xfffffffc", "thread (0,0,0)"}},
    {"vector over the end",
     1,
     PTX_ILLEGAL_ADDRESS,
     "ld.global.v4.u8 {%h0, %h1, %h2, %h3}, [%o+2048];\n",
     {"out of bounds"}},
    {"null pointer",
     1,
     PTX_ILLEGAL_ADDRESS,
     "mov.u64 %d0, 0;\nst.global.u32 [%d0], 1;\n",
     {"out of bounds: write", "address 0x0"}},
    {"shared over the end",
     32,
     PTX_ILLEGAL_ADDRESS,
     "st.shared.u32 [%s+904], %t;\n",
     {"out of bounds: write of 4 bytes at shared address 0x400", "thread (30,0,0)"}},
    {"local over the end",
     1,
     PTX_ILLEGAL_ADDRESS,
     ".local .align 16 .b8 own[16];\nst.local.u32 [own+16], 1;\n",
     {"at local address 0x10"}},
    {"parameter over the end",
     1,
     PTX_ILLEGAL_ADDRESS,
     "ld.param.u64 %d0, [out+8];\n",
     {"at parameter address 0x8"}},
    {"misaligned",
     32,
     PTX_MISALIGNED,
     "ld.global.u64 %d0, [%o];\n",
     {"misaligned: read of 8 bytes at address 0x100000004", "thread (1,0,0)"}},
    {"misaligned vector",
     1,
     PTX_MISALIGNED,
     "st.shared.v4.u32 [%s+8], {%r0, %r0, %r0, %r0};\n",
     {"misaligned: write of 16 bytes"}},
    {"cp.async over the end",
     1,
     PTX_ILLEGAL_ADDRESS,
     "cp.async.ca.shared.global [%s], [%o+2048], 4;\n",
     {"out of bounds: read"}},
    {"cp.async that reads nothing there",
     1,
     PTX_OK,
     "cp.async.ca.shared.global [%s], [%o+2048], 4, 0;\ncp.async.wait_all;\n",
     {NULL}},
    /* ---- cp.async ---- */
    {"stale: no wait",
     32,
     PTX_OK,
     "cp.async.ca.shared.global [%s], [%o], 4;\ncp.async.commit_group;\nld.shared.u32 %r1, [%s];\n",
     {"stale", "ld.shared.u32 %r1, [%s]"}},
    {"stale: waited for too few groups",
     32,
     PTX_OK,
     "cp.async.ca.shared.global [%s], [%o], 4;\ncp.async.commit_group;\ncp.async.wait_group 1;\n"
     "bar.sync 0;\nld.shared.u32 %r1, [%s];\n",
     {"stale"}},
    {"stale: not committed",
     32,
     PTX_OK,
     "cp.async.ca.shared.global [%s], [%o], 4;\ncp.async.wait_group 0;\nld.shared.u32 %r1, [%s];\n",
     {"stale"}},
    {"waited for",
     32,
     PTX_OK,
     "cp.async.ca.shared.global [%s], [%o], 4;\ncp.async.commit_group;\ncp.async.wait_group 0;\n"
     "ld.shared.u32 %r1, [%s];\nst.global.u32 [%o], %r1;\n",
     {NULL}},
    {"waited for, but only by its own thread",
     64,
     PTX_OK,
     "cp.async.ca.shared.global [%s], [%o], 4;\ncp.async.wait_all;\nxor.b32 %r1, %s, 128;\n"
     "ld.shared.u32 %r1, [%r1];\n",
     {"race on shared memory: read"}},
    {"waited for before the barrier",
     64,
     PTX_OK,
     "cp.async.ca.shared.global [%s], [%o], 4;\ncp.async.wait_all;\nbar.sync 0;\n"
     "xor.b32 %r1, %s, 128;\nld.shared.u32 %r1, [%r1];\n",
     {NULL}},
    {"waited for after the barrier",
     64,
     PTX_OK,
     "cp.async.ca.shared.global [%s], [%o], 4;\nbar.sync 0;\ncp.async.wait_all;\n"
     "xor.b32 %r1, %s, 128;\nld.shared.u32 %r1, [%r1];\n",
     {"shared", "ld.shared.u32 %r1, [%r1]"}},
    /* ---- barriers ---- */
    {"some threads end",
     64,
     PTX_FAILED,
     "setp.ge.u32 %p0, %t, 40;\n@%p0 ret;\nbar.sync 0;\n",
     {"divergent barrier: 40 threads wait at barrier 0 for 24", "bar.sync 0"}},
    {"two barriers",
     64,
     PTX_FAILED,
     "setp.ge.u32 %p0, %t, 40;\n@%p0 bra B;\nbar.sync 0;\nbra C;\nB: bar.sync 0;\nC:\n",
     {"divergent barrier: other threads of the block wait at the one of PTX line"}},
    {"barriers of different warps",
     64,
     PTX_FAILED,
     "setp.ge.u32 %p0, %t, 32;\n@%p0 bra B;\nbar.sync 0;\nbra C;\nB: bar.sync 0;\nC:\n",
     {"divergent barrier: other threads"}},
    {"different numbers of threads",
     64,
     PTX_FAILED,
     "setp.ge.u32 %p0, %t, 32;\nselp.u32 %r1, 64, 96, %p0;\nbar.sync 1, %r1;\n",
     {"divergent barrier: 64 threads expected here, 96"}},
    {"a guard that differs",
     64,
     PTX_FAILED,
     "setp.lt.u32 %p0, %t, 60;\n@%p0 bar.sync 0;\n",
     {"divergent barrier: 60 threads wait"}},
    {"a branch around it that all take",
     64,
     PTX_OK,
     "setp.lt.u32 %p0, %t, 100;\n@%p0 bra B;\nbar.sync 0;\nB:\n",
     {NULL}},
    /* ---- warps ---- */
    {"shuffle in a branch",
     32,
     PTX_FAILED,
     "setp.ge.u32 %p0, %t, 16;\n@%p0 bra B;\nshfl.sync.idx.b32 %r1, %t, 0, 31, -1;\n"
     "B: bar.sync 0;\n",
     {"deadlock", "0x0000ffff wait for lanes 0xffff0000", "shfl.sync"}},
    {"shuffle in a branch, with its mask",
     32,
     PTX_OK,
     "setp.ge.u32 %p0, %t, 16;\n@%p0 bra B;\nshfl.sync.idx.b32 %r1, %t, 0, 31, 0xffff;\n"
     "B: bar.sync 0;\n",
     {NULL}},
    {"shuffle from a lane outside",
     32,
     PTX_OK,
     "setp.ge.u32 %p0, %t, 16;\n@%p0 bra B;\nshfl.sync.idx.b32 %r1, %t, 20, 31, 0xffff;\n"
     "B: bar.sync 0;\n",
     {"shuffle from lane 20"}},
    {"a lane that its own mask leaves out",
     32,
     PTX_FAILED,
     "shfl.sync.idx.b32 %r1, %t, 0, 31, 0xffff;\n",
     {"thread (16,0,0)", "not in the mask 0x0000ffff"}},
    {"matrix of half a warp",
     16,
     PTX_FAILED,
     "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [mem];\n",
     {"not all lanes"}},
    /* ---- ends ---- */
    {"trap",
     64,
     PTX_FAILED,
     "setp.eq.u32 %p0, %t, 33;\n@%p0 trap;\n",
     {"the kernel trapped", "thread (33,0,0)", "@%p0 trap"}},
};

/* Of a grid of two blocks; each has %b, its number. */
static const struct planted OF_BLOCKS[] = {
    {"two blocks write a word",
     32,
     PTX_OK,
     "st.global.u32 [%o], %t;\n",
     {"race on global memory: write of address 0x100000000", "block (1,0,0)",
      "block (0,0,0) wrote"}},
    {"one reads what the other wrote",
     32,
     PTX_OK,
     "setp.eq.u32 %p0, %b, 0;\n@%p0 st.global.u32 [%o], %t;\nld.global.u32 %r1, [%o];\n",
     {"race on global memory: read", "block (0,0,0) wrote"}},
    {"each its own half of a word",
     32,
     PTX_OK,
     "mul.wide.u32 %d0, %b, 2;\nadd.u64 %o, %o, %d0;\nst.global.u16 [%o], 1;\n",
     {NULL}},
    {"atomics", 32, PTX_OK, "red.global.add.u32 [%base], 1;\n", {NULL}},
    {"the last block reads after an atomic",
     32,
     PTX_OK,
     "mul.wide.u32 %d0, %b, 128;\nadd.u64 %o, %o, %d0;\nst.global.u32 [%o], %t;\nmembar.gl;\n"
     "atom.global.add.u32 %r1, [%base+1000], 1;\nld.global.u32 %r2, [%base];\n",
     {NULL}},
    {"waits for the block behind it",
     32,
     PTX_FAILED,
     "setp.eq.u32 %p0, %b, 1;\n@%p0 st.relaxed.gpu.global.u32 [%base], 77;\n"
     "L: ld.relaxed.gpu.global.u32 %r1, [%base];\nsetp.ne.u32 %p1, %r1, 77;\n@%p1 bra L;\n",
     {"endless loop", "block (0,0,0)"}},
};

static struct device run(const char *body, unsigned grid, unsigned threads,
                         enum ptx_result *result) {
    struct device dev = {0};
    const uint64_t out = device_alloc(&dev, 2048, false);
    char text[4096];

    snprintf(text, sizeof(text), "%s%s%s", PTX_HEAD BEGIN, body, END);
    memset(dev.blocks[0].written, 1, 1024);
    *result = run_text(&dev, text, grid, threads, &out);
    return dev;
}

static void check(const struct planted *t, size_t n, unsigned grid) {
    for (size_t i = 0; i < n; i++, t++) {
        enum ptx_result result;
        struct device dev = run(t->body, grid, t->threads, &result);

        if (result != t->result) {
            fail_msg("%s: result %d, not %d", t->name, (int)result, (int)t->result);
        }
        if (t->words[0] == NULL && dev.n_finding > 0) {
            fail_msg("%s: %s", t->name, dev.findings[0]);
        }
        if (t->words[0] != NULL && !found(&dev, t->words)) {
            fail_msg("%s: not found, but: %s", t->name,
                     dev.n_finding > 0 ? dev.findings[0] : "nothing");
        }
        device_free(&dev);
    }
}

static void test_planted(void **state) {
    (void)state;
    check(TESTS, sizeof(TESTS) / sizeof(TESTS[0]), 1);
}

static void test_blocks(void **state) {
    const uint64_t usual = ptx_max_block_ops;

    (void)state;
    ptx_max_block_ops = 1000000;
    check(OF_BLOCKS, sizeof(OF_BLOCKS) / sizeof(OF_BLOCKS[0]), 2);
    ptx_max_block_ops = usual;
}

/* The whole line, once. */
static void test_line(void **state) {
    enum ptx_result result;
    struct device dev = run("ld.global.u32 %r1, [%o+1924];\n", 1, 32, &result);

    (void)state;
    assert_int_equal(dev.n_finding, 1 + 1); /* the words between 1024 and 2048, too */
    assert_string_equal(dev.findings[1],
                        "kernel k, block (0,0,0), thread (31,0,0): out of bounds: read of 4 bytes "
                        "at global address 0x100000800; PTX line 16: `ld.global.u32 %r1, "
                        "[%o+1924]`");
    device_free(&dev);
}

/* 20 of a launch are told, and the last one says so. */
static void test_limit(void **state) {
    char body[4096] = "";
    enum ptx_result result;
    struct device dev;

    (void)state;
    for (int i = 0; i < 30; i++) {
        strcat(body, "ld.global.u32 %r1, [%o+1024];\n");
    }
    dev = run(body, 1, 32, &result);
    assert_int_equal(result, PTX_OK);
    assert_int_equal(dev.n_finding, 20);
    assert_non_null(strstr(dev.findings[19], "no more findings"));
    device_free(&dev);
}

/* Without checks the same kernels run, and only what stops a kernel is told. */
static void test_unchecked(void **state) {
    struct device dev = {0};
    const struct ptx_host host = device_host(&dev);
    struct ptx_module *m =
        make_module(PTX_HEAD ".visible .entry k()\n{\n.shared .align 4 .b8 s[4];\n.reg .b32 "
                             "%r;\nld.shared.u32 %r, [s];\nst.shared.u32 [s], %r;\nret;\n}\n");
    const struct ptx_launch launch = {.grid = {1, 1, 1}, .block = {64, 1, 1}};

    (void)state;
    assert_int_equal(ptx_run(ptx_module_find(m, "k"), &launch, &host), PTX_OK);
    assert_int_equal(dev.n_finding, 0);
    ptx_module_destroy(m);
    assert_opcodes_used(PTX_BY_CHECKS);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_planted),   cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_line),      cmocka_unit_test(test_limit),
        cmocka_unit_test(test_unchecked),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
