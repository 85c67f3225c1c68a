/* What the tests of the PTX interpreter share: memory of a device, launches, findings. */
#pragma once

#include "test.h"

#include "ptx_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PTX_HEAD ".version 9.0\n.target sm_80\n.address_size 64\n"

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
/* Every opcode for which wanted() is true has been in a module; prints those that have not. */
void assert_opcodes_used(bool (*wanted)(const char *name));
