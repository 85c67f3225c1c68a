/* What the parts of the PTX interpreter share. A kernel is compiled once, when its module is made:
 * every operand becomes a slot of the warp's register file (constants and special registers too),
 * every instruction a function that works on the 32 lanes of a warp at once. Calls are inlined. */
#pragma once

#include "ptx.h"

#define PTX_LANES       32
#define PTX_MAX_THREADS 1024
#define PTX_MAX_WARPS   (PTX_MAX_THREADS / PTX_LANES)
#define PTX_N_BARRIER   16

/* Generic addresses carry their space in the top four bits: no host address looks like that. */
enum {
    PTX_WINDOW_GLOBAL,
    PTX_WINDOW_SHARED,
    PTX_WINDOW_LOCAL,
    PTX_WINDOW_PARAM,
    PTX_WINDOW_MODULE
};
#define PTX_WINDOW_SHIFT    60
#define PTX_WINDOW(address) ((unsigned)((address) >> PTX_WINDOW_SHIFT))
#define PTX_OFFSET(address) ((address) & (((uint64_t)1 << PTX_WINDOW_SHIFT) - 1))
#define PTX_BASE(window)    ((uint64_t)(window) << PTX_WINDOW_SHIFT)

enum ptx_space {
    PTX_GENERIC,
    PTX_GLOBAL,
    PTX_SHARED,
    PTX_LOCAL,
    PTX_PARAM,
    PTX_CONST,
};

enum ptx_class { PTX_BITS, PTX_UNSIGNED, PTX_SIGNED, PTX_FLOAT };

/* An element type: its name without the dot, bytes, class. */
struct ptx_type {
    const char *name;
    uint8_t bytes; /* 0: a predicate */
    uint8_t class;
};

/* Modifiers of a mnemonic that only change how its operation is done. */
enum ptx_flag {
    PTX_FTZ = 1 << 0,
    PTX_SAT = 1 << 1,
    PTX_RN = 1 << 2,
    PTX_RZ = 1 << 3,
    PTX_RM = 1 << 4,
    PTX_RP = 1 << 5,
    PTX_RNA = 1 << 6,
    PTX_INTEGER = 1 << 7, /* rni, rzi, rmi, rpi: with the direction's flag */
    PTX_APPROX = 1 << 8,
    PTX_FULL = 1 << 9,
    PTX_UNI = 1 << 10,
    PTX_RELU = 1 << 11,
    PTX_NAN = 1 << 12,
    PTX_XORSIGN = 1 << 13,
    PTX_NOFTZ = 1 << 14,
    PTX_SYNC = 1 << 15,
    PTX_ALIGNED = 1 << 16,
    PTX_CACHE = 1 << 18,  /* nc, ca, cg, L1::..., L2::...: no meaning here */
    PTX_STRONG = 1 << 19, /* volatile, relaxed, acquire, release, ... */
    PTX_SCOPE = 1 << 20,  /* cta, cluster, gpu, sys, gl */
    PTX_HINT = 1 << 21,   /* L2::cache_hint: one operand more */
    PTX_ABS = 1 << 22,
    PTX_SATFINITE = 1 << 24,
    PTX_ADDRESS32 = 1 << 23, /* no modifier: the address is in a register of 32 bits */
    PTX_ROUND = PTX_RN | PTX_RZ | PTX_RM | PTX_RP,
};

struct ptx_warp;
struct ptx_op;
typedef void ptx_run_fn(struct ptx_warp *, const struct ptx_op *, uint32_t mask);

/* Slots are byte offsets into the register file: 32 lanes of 2, 4 or 8 bytes; a predicate is one
 * word with a bit per lane. Slot 0 is the predicate that is always true. */
struct ptx_op {
    ptx_run_fn *run;
    uint32_t guard;
    uint32_t flip; /* all ones: @!p */
    uint32_t d, a, b, c;
    int64_t imm; /* address offset, branch target, number of a barrier, ... */
    uint32_t *v; /* further slots, owned by the module */
    uint32_t flags;
    uint8_t space;
    uint8_t bytes; /* of one element */
    uint8_t count; /* elements of a vector */
    uint8_t sub;   /* which of the operation's variants */
    uint8_t class; /* enum ptx_class of the elements */
    uint8_t reg;   /* bytes of the registers where they differ from the elements */
};

struct ptx_source { /* of an operation: in the module's text */
    uint32_t line;
    uint32_t at;
    uint32_t n;
};

struct ptx_parameter {
    char *name;
    size_t bytes;
    size_t offset;
};

struct ptx_constant {
    uint32_t slot;
    uint32_t bytes;
    uint64_t bits;
};

struct ptx_kernel {
    char *name;
    struct ptx_module *module;
    struct ptx_parameter *params;
    int n_param;
    size_t param_bytes;
    int max_threads;
    struct ptx_op *ops;
    struct ptx_source *sources;
    uint32_t n_op;
    struct ptx_constant *constants;
    uint32_t n_constant;
    uint32_t *specials;  /* slot of each special register, 0: not used */
    uint32_t reg_bytes;  /* of a warp's register file */
    size_t local_bytes;  /* of a thread */
    size_t shared_bytes; /* static */
    size_t dynamic_at;   /* where dynamic shared memory begins, if it is used */
    uint32_t granule;    /* the smallest access to shared memory: what races are told apart by */
    uint32_t global_granule; /* the same of global memory */
    struct ptx_kernel *next;
};

/* A .global or .const variable: its bytes lie in the module's window. */
struct ptx_variable {
    char *name;
    uint8_t space;
    bool external; /* of unknown size: extern .shared */
    size_t align;
    size_t bytes;
    size_t offset;     /* in the module's data; a shared one's is each kernel's own affair */
    const void *owner; /* the function it is declared in, or NULL */
    struct ptx_variable *next;
};

struct ptx_function {
    char *name;
    struct ptx_parameter *params;
    int n_param;
    struct ptx_parameter *returns;
    int n_return;
    size_t body; /* in the text, just behind its brace; 0: only declared */
    uint32_t body_line;
    struct ptx_function *next;
};

struct ptx_memory { /* an allocation of the module */
    struct ptx_memory *next;
};

struct ptx_module {
    char *text;
    size_t n_text;
    struct ptx_memory *memory;
    struct ptx_variable *variables;
    uint8_t *data; /* of .global and .const variables */
    size_t n_data;
    struct ptx_function *functions;
    struct ptx_kernel *kernels;
    uint8_t *used; /* [ptx_opcode_count()]: which opcodes its kernels have */
};

/* Operations of all warps of a block after which it is taken to run for ever. */
extern uint64_t ptx_max_block_ops;

/* Zeroed memory that lives as long as the module. */
void *ptx_alloc(struct ptx_module *, size_t bytes);
char *ptx_name(struct ptx_module *, const char *s, size_t n);
/* realloc() to room for one more than n elements, doubling; never NULL. */
void *ptx_grow(void *p, size_t n, size_t size);

/* Every opcode that is understood, as "root" or "root.type", for the tests' account of them. */
int ptx_opcode_count(void);
const char *ptx_opcode_name(int i);
