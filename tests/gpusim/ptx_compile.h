/* From text to operations: the state of a compilation, operands and mnemonics. */
#pragma once

#include "ptx_impl.h"
#include "ptx_lex.h"

enum ptx_symbol_kind {
    PTX_SYMBOL_REG,   /* value: slot; with count > 0 a range of registers name0, name1, ... */
    PTX_SYMBOL_LOCAL, /* value: offset in the thread's frame */
    PTX_SYMBOL_PARAM, /* value: offset in the kernel's parameters */
    PTX_SYMBOL_TABLE, /* of branch targets */
};

struct ptx_symbol {
    const char *name;
    size_t n_name;
    enum ptx_symbol_kind kind;
    uint32_t count;
    uint32_t bytes; /* of a register, 0: a predicate; of a variable; entries of a table */
    uint64_t value;
    uint32_t *table;
};

struct ptx_label {
    const char *name;
    size_t n_name;
    uint32_t at;
};

struct ptx_fixup { /* a use of a label, resolved at the end of its scope */
    const char *name;
    size_t n_name;
    uint32_t line;
    uint32_t op;
    uint32_t *entry; /* of a table of targets, or NULL: the operation's imm */
};

struct ptx_compiler {
    struct ptx_module *module;
    struct ptx_kernel *kernel;
    struct ptx_lexer lex;
    char *error;
    size_t error_size;
    struct ptx_symbol *symbols;
    size_t n_symbol;
    size_t first_symbol; /* of the function that is being compiled */
    struct ptx_label *labels;
    size_t n_label;
    struct ptx_fixup *fixups;
    size_t n_fixup;
    const struct ptx_function *calls[16]; /* that are being inlined */
    int n_call;
    const struct ptx_variable **shared; /* those that this kernel uses, with their offsets */
    size_t *shared_at;
    size_t n_shared;
    bool dynamic_shared;
    uint32_t statement_line; /* of the instruction that is being compiled */
    const char *statement;
    uint32_t guard;
    uint32_t flip;
};

enum ptx_operand_kind {
    PTX_OPERAND_REG,
    PTX_OPERAND_SINK, /* _ */
    PTX_OPERAND_INT,
    PTX_OPERAND_REAL,   /* bits of an f64 */
    PTX_OPERAND_SINGLE, /* 0f...: bits of an f32 */
};

struct ptx_operand {
    enum ptx_operand_kind kind;
    bool negated;
    uint32_t slot;
    uint32_t bytes;
    uint64_t bits;
};

struct ptx_address {
    enum ptx_space space; /* what the symbol says: PTX_GENERIC where there is none */
    bool is_constant;
    uint32_t slot;
    uint32_t bytes; /* of the register */
    int64_t offset;
};

struct ptx_mnemonic {
    char text[160];
    const char *root;
    const char *part[16]; /* behind the root, without the flags and, once taken, without them */
    int n_part;
    uint32_t flags;
};

/* An error in the statement that is being compiled; returns false. */
bool ptx_error(struct ptx_compiler *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool ptx_expect(struct ptx_compiler *, const char *punct);

/* ptx_module.c: declarations that modules and functions share. */
bool ptx_parse_integer(struct ptx_compiler *, uint64_t *out);
const struct ptx_type *ptx_type_find(const char *name, size_t n);
bool ptx_parse_type(struct ptx_compiler *, const struct ptx_type **out);
bool ptx_parse_variable(struct ptx_compiler *, enum ptx_space space, bool external);
/* .align n .type name[n]...: behind the space. */
bool ptx_parse_declarator(struct ptx_compiler *, struct ptx_variable *out);
struct ptx_variable *ptx_variable_find(const struct ptx_compiler *, const char *s, size_t n);
struct ptx_function *ptx_function_find(const struct ptx_module *, const char *s, size_t n);

/* ptx_compile.c */
bool ptx_compile_kernel(struct ptx_compiler *, const struct ptx_function *);
struct ptx_op *ptx_emit(struct ptx_compiler *, ptx_run_fn *run);
/* args, returns: where the caller's .param variables lie in the thread's frame. */
bool ptx_inline_call(struct ptx_compiler *, const struct ptx_function *, const uint64_t *args,
                     const uint64_t *returns);
/* slot: of the register, for a range the one that the name's number says. NULL: none. */
const struct ptx_symbol *ptx_symbol_find(const struct ptx_compiler *, const struct ptx_token *,
                                         uint32_t *slot);
struct ptx_symbol *ptx_symbol_add(struct ptx_compiler *, enum ptx_symbol_kind, const char *name,
                                  size_t n_name, uint64_t value);
/* Where operation `op` (or the table's entry) jumps to the label that is the current token. */
bool ptx_use_label(struct ptx_compiler *, uint32_t op, uint32_t *entry);
/* A jump behind the end of the function that is being inlined. */
void ptx_use_return(struct ptx_compiler *, uint32_t op);
/* Where a variable in shared memory lies, which gets its place with the first use. */
uint64_t ptx_shared_offset(struct ptx_compiler *, const struct ptx_variable *);

/* ptx_operand.c */
uint32_t ptx_new_slot(struct ptx_compiler *, uint32_t bytes, uint32_t count);
uint32_t ptx_constant_slot(struct ptx_compiler *, uint64_t bits, uint32_t bytes);
bool ptx_parse_operand(struct ptx_compiler *, struct ptx_operand *);
bool ptx_parse_address(struct ptx_compiler *, struct ptx_address *);
/* Parses one operand into a slot: kind is '2', '4', '8': register or constant of as many bytes;
 * 'f', 'd': the same, and real constants are of that float; 'p': predicate. flip: all
 * ones for !p; NULL where that is not allowed. */
bool ptx_parse_slot(struct ptx_compiler *, char kind, uint32_t *slot, uint32_t *flip);
bool ptx_parse_destination(struct ptx_compiler *, char kind, uint32_t *slot);
/* Slot of any register or constant, and the register's size (constants: `bytes`). */
bool ptx_operand_slot(struct ptx_compiler *, const struct ptx_operand *, uint32_t bytes,
                      uint32_t *slot, uint32_t *reg_bytes);
/* {a, b, ...} or a: count slots of registers of reg_bytes (0: any, written there). */
bool ptx_parse_vector(struct ptx_compiler *, uint32_t *slots, int *count, int max, uint32_t bytes,
                      uint32_t *reg_bytes);

/* ptx_mnemonic.c */
bool ptx_parse_mnemonic(struct ptx_compiler *, struct ptx_mnemonic *);
/* Removes part i or the part with this name. */
void ptx_part_remove(struct ptx_mnemonic *, int i);
bool ptx_part_take(struct ptx_mnemonic *, const char *name);
bool ptx_part_type(struct ptx_mnemonic *, const struct ptx_type **out); /* the first part */
/* Index of the first part in names (NULL ends them), removed; -1: none of them. */
int ptx_part_choice(struct ptx_mnemonic *, const char *const *names);
bool ptx_mnemonic_done(struct ptx_compiler *, const struct ptx_mnemonic *, uint32_t allowed);

/* Decoders: a root's operands behind its mnemonic, up to the ';'. */
typedef bool ptx_decode_fn(struct ptx_compiler *, struct ptx_mnemonic *);
struct ptx_decoder {
    const char *root;
    ptx_decode_fn *decode;
};
extern const struct ptx_decoder ptx_decode_memory[];
extern const struct ptx_decoder ptx_decode_warp[];
extern const struct ptx_decoder ptx_decode_control[];
extern const struct ptx_decoder ptx_decode_data[];
extern const struct ptx_decoder ptx_decode_async[];
extern const struct ptx_decoder ptx_decode_mma[];

/* Rows: "root.type..." -> one function, operands by a signature of the kinds above: "4=44". The
 * operands fill d, a, b, c; destinations stand before '='. */
struct ptx_row {
    const char *name;
    ptx_run_fn *run;
    const char *operands;
    uint32_t allowed; /* flags */
};
extern const struct ptx_row ptx_rows_integer[];
extern const struct ptx_row ptx_rows_bits[];
extern const struct ptx_row ptx_rows_real[];
extern const struct ptx_row ptx_rows_half[];
bool ptx_decode(struct ptx_compiler *);

/* ptx_launch.c: special registers by name, -1: none of them. */
enum ptx_special {
    PTX_TID_X,
    PTX_TID_Y,
    PTX_TID_Z,
    PTX_NTID_X,
    PTX_NTID_Y,
    PTX_NTID_Z,
    PTX_CTAID_X,
    PTX_CTAID_Y,
    PTX_CTAID_Z,
    PTX_NCTAID_X,
    PTX_NCTAID_Y,
    PTX_NCTAID_Z,
    PTX_LANEID,
    PTX_WARPID,
    PTX_NWARPID,
    PTX_SMID,
    PTX_NSMID,
    PTX_GRIDID,
    PTX_LANEMASK_EQ,
    PTX_LANEMASK_LT,
    PTX_LANEMASK_LE,
    PTX_LANEMASK_GT,
    PTX_LANEMASK_GE,
    PTX_DYNAMIC_SMEM_SIZE,
    PTX_TOTAL_SMEM_SIZE,
    PTX_CLOCK,
    PTX_CLOCK_HI,
    PTX_CLOCK64,
    PTX_GLOBALTIMER,
    PTX_SPECIAL_COUNT,
};
int ptx_special_find(const char *s, size_t n);
uint32_t ptx_special_bytes(enum ptx_special);
