/* What the tests of the PTX interpreter share: memory of a device, launches, findings. */
#pragma once

#include "test.h"

#include "ptx_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PTX_HEAD ".version 9.0\n.target sm_80\n.address_size 64\n"

/* Every kernel here has one parameter, the address of its output, and begins with this: %t is the
 * thread, %l the lane, %o the address of the thread's word. */
#define PTX_BEGIN                                                                                  \
    ".visible .entry k(.param .u64 out)\n{\n.reg .pred %p<8>; .reg .b16 %h<16>; .reg .b32 "        \
    "%r<40>, "                                                                                     \
    "%t, %l; .reg .b64 %d<20>, %o, %base; .reg .f32 %f<20>;\n"                                     \
    "mov.u32 %t, %tid.x;\nmov.u32 %l, %laneid;\nld.param.u64 %base, [out];\n"                      \
    "mul.wide.u32 %o, %t, 4;\nadd.u64 %o, %o, %base;\n"
#define PTX_END      "ret;\n}\n"
#define KERNEL(body) PTX_HEAD PTX_BEGIN body PTX_END

struct device {
    struct ptx_block blocks[8];
    int n_block;
    char findings[32][768];
    int n_finding;
};

/* One thing for the whole program: which opcodes the modules had that it made. */
extern uint8_t *ptx_test_used;

/* Fails the test with the parser's error. */
struct ptx_module *make_module(const char *text);
/* Bytes of device memory, all of them zero; written: count as such. Returns its address. */
uint64_t device_alloc(struct device *, size_t bytes, bool written);
void *device_data(struct device *, uint64_t address);
void device_free(struct device *);
struct ptx_host device_host(struct device *);
enum ptx_result device_run(struct device *, const struct ptx_module *, const char *kernel,
                           unsigned grid, unsigned block, size_t dynamic_shared,
                           const void *params);
/* Makes a module of the text, runs its kernel "k", and forgets the module. */
enum ptx_result run_text(struct device *, const char *text, unsigned grid, unsigned block,
                         const void *params);
/* Whether a finding has all of these words (NULL ends them). */
bool found(const struct device *, const char *const *words);
void assert_no_findings(const struct device *);
/* Which of the programs has to test an opcode: each does, and asserts it. */
enum ptx_tested_by { PTX_BY_ROWS, PTX_BY_MEMORY, PTX_BY_CHECKS, PTX_BY_CONTROL };
/* Every opcode that is this program's has been in a module; prints those that have not. */
void assert_opcodes_used(enum ptx_tested_by);
/* Begin, the formatted body, end. */
void write_kernel(char *text, size_t size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Runs it with one block and returns a copy of the 1024 words at out, which were 3 i + 1. */
const uint32_t *run_kernel(const char *text, unsigned threads);
