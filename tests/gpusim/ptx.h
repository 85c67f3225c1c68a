/* Parser and interpreter of the PTX that nvcc embeds, from NVIDIA's "PTX ISA" (version 9.0).
 * Threads of a block run in turns, a warp in lock step where its threads agree; blocks one after
 * another. An instruction that is not known is an error with its text, when it is parsed. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ptx_module; /* opaque */
struct ptx_kernel; /* opaque, owned by its module */

/* text [n]: copied where needed. error [error_size]: one line with the line's number and text. */
bool ptx_module_create(struct ptx_module **out, const char *text, size_t n, char *error,
                       size_t error_size);
void ptx_module_destroy(struct ptx_module *);
const struct ptx_kernel *ptx_module_find(const struct ptx_module *, const char *name);

const char *ptx_kernel_name(const struct ptx_kernel *);
int ptx_kernel_n_param(const struct ptx_kernel *);
/* Bytes of parameter i, and where it lies in the parameter space. */
size_t ptx_kernel_param_bytes(const struct ptx_kernel *, int i);
size_t ptx_kernel_param_offset(const struct ptx_kernel *, int i);
size_t ptx_kernel_shared_bytes(const struct ptx_kernel *); /* static */
int ptx_kernel_max_threads(const struct ptx_kernel *);     /* .maxntid, or 1024 */

/* A live allocation. written: one byte per byte of it, 0 = never written; or NULL: not tracked. */
struct ptx_block {
    uint64_t address;
    size_t bytes;
    uint8_t *data;
    uint8_t *written;
};

struct ptx_host {
    void *user;
    /* The allocation that holds `address`, or NULL. */
    const struct ptx_block *(*find)(void *user, uint64_t address);
    /* What is wrong, as one line that names kernel, block, thread, address and the instruction. */
    void (*finding)(void *user, const char *line);
};

struct ptx_launch {
    uint32_t grid[3];
    uint32_t block[3];
    size_t dynamic_shared;
    const void *params; /* the parameter space */
    bool check;         /* races on shared memory, and reads of what was never written */
};

enum ptx_result {
    PTX_OK,
    PTX_ILLEGAL_ADDRESS, /* out of bounds or freed: error 700 */
    PTX_MISALIGNED,      /* error 716 */
    PTX_FAILED,          /* trap, divergent barrier, deadlock, ...: error 719 */
};

/* Runs the kernel to its end. Findings go to host->finding; races, and reads of memory never
 * written, are findings that do not stop the kernel. */
enum ptx_result ptx_run(const struct ptx_kernel *, const struct ptx_launch *,
                        const struct ptx_host *host);
