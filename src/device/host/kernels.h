/* The host device's inner loops: one table per instruction set, all compiled from the same source
 * (kernels_body.h) over a vector of 16 f32 lanes, vec_*.h. What a table computes has the same bits
 * as every other table; only sizes of tiles differ.
 *
 * A packed matrix is a run of panels. Panel p holds rows [16 p, 16 p + 16), interleaved: its
 * element (row r, column i) is at i * 16 + r % 16, in the stored dtype. The last one is padded with
 * zeros. So a column of a panel is one vector, and a lane of it is one output.
 *
 * Of a quantized matrix, a panel is a run of groups, each with the f16 scales of the 16 rows and
 * then vectors of 64 bytes, of 4 columns: bytes [4 r, 4 r + 4) are row r's. Q8_0: vector v holds
 * columns 4 v + (0 .. 3), as q + 128. Q4_0: vector v holds those in its low nibbles and columns
 * 16 + 4 v + (0 .. 3) in its high ones, as q + 8. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "device/device.h"

enum {
    VEC_WIDTH = 16,         /* lanes, and rows of a panel */
    LINEAR_MAX_TILE = 8,    /* tokens of a tile, at most */
    LINEAR_MAX_PANELS = 8,  /* panels of a tile, at most */
    LINEAR_CHUNK = 96,      /* tokens of a work item, about */
    TOKEN_GROUP_BYTES = 40, /* of one token's quantized group */
    PACK_COLUMNS = 128,     /* columns that are packed at a time */
    KV_PANEL_VECS = 2,      /* vectors side by side in a panel of the KV cache */
    KV_PANEL = KV_PANEL_VECS * VEC_WIDTH,
    ATTENTION_MAX_ROWS = 24, /* query rows (token, head) of a work item */
};

/* ---- the KV cache ----
 * K of a (block, head) is two panels, positions 0 to 31 and 32 to 63, each [pad][KV_PANEL]: a row
 * is a dimension, so that a lane is a position. V is pad / KV_PANEL panels of dimensions, each
 * [KV_BLOCK][KV_PANEL]: a row is a position. pad: the head dimension in whole panels. So attention
 * reads each panel from its beginning to its end. */
static inline int kv_dim_pad(int head_dim) {
    return (head_dim + KV_PANEL - 1) / KV_PANEL * KV_PANEL;
}

/* Where lane i of a panel's row is. BF16 has the row's two vectors in one of 32-bit words, the
 * first in the low halves: a shift or a mask widens either. */
static inline int kv_lane(enum dtype kv, int i) {
    return kv == DTYPE_BF16 ? 2 * (i % VEC_WIDTH) + i / VEC_WIDTH : i;
}

/* Of K and of V, counted in values from where the (block, head) begins. */
static inline size_t kv_k_at(enum dtype kv, int pad, int dim, int position) {
    size_t row = (size_t)(position / KV_PANEL) * pad + dim;
    return row * KV_PANEL + kv_lane(kv, position % KV_PANEL);
}

static inline size_t kv_v_at(enum dtype kv, int dim, int position) {
    size_t row = (size_t)(dim / KV_PANEL) * KV_BLOCK + position;
    return row * KV_PANEL + kv_lane(kv, dim % KV_PANEL);
}

/* One call of linear(), shared by its threads. */
struct linear_job {
    float *y;               /* [n_piece][n_tok][rows] */
    const unsigned char *x; /* tiles of tile_tok tokens, each [n_unit][x_unit]; the last padded */
    size_t x_unit; /* bytes of a unit of all tokens of a tile: tile_tok floats, or groups */
    const unsigned char *w;
    size_t panel_bytes;
    enum dtype dtype;
    int rows;
    int n_unit; /* a row's columns or, quantized, groups */
    int n_tok;
    int tile_tok;
    const struct leaf_plan *plan;
    const int *bounds; /* the plan's, in units */
};

/* How large the tiles of a product are. */
struct linear_tiles {
    int max_tok;                     /* tokens that one pass over the weights serves */
    int panels[LINEAR_MAX_TILE + 1]; /* of a tile of so many tokens */
};

struct range {
    int first;
    int end;
};

/* One call of attention(), shared by its threads. */
struct attention_job {
    float *out;
    const float *qkv;
    const struct attention_shape *shape;
    const struct seq_run *seqs;
    struct kv_layer kv; /* [block][n_kv_head] */
};

/* Query rows that share K and V: tokens [tok, tok + n_tok) of one sequence, heads
 * [head, head + n_head) of this rank, all with KV head kv. n_tok * n_head <= ATTENTION_MAX_ROWS. */
struct attention_item {
    int seq;
    int kv;
    int head;
    int n_head;
    int tok;
    int n_tok;
    struct range blocks; /* of the sequence's KV blocks */
    /* Where several items share the rows, each with some of the blocks: every block's part,
     * [block][row][attention_part_floats]. NULL: this one has them all, and merges as it goes. */
    float *parts;
};

/* What attention keeps of a block, or of several merged: the maximum, the sum, 14 unused, then the
 * weighted sum of V. */
static inline size_t attention_part_floats(int head_dim) {
    return VEC_WIDTH + (size_t)kv_dim_pad(head_dim);
}

/* Of each row of an item: q, the scores of a block, and two parts. */
static inline size_t attention_scratch_floats(int head_dim) {
    return KV_BLOCK + 3 * attention_part_floats(head_dim);
}

/* One call of rope_append(), shared by its threads. */
struct rope_job {
    float *qkv;
    const struct attention_shape *shape;
    const float *q_norm; /* or NULL */
    const float *k_norm; /* or NULL */
    float eps;
    const float *rope;
    const struct seq_run *seqs;
    int n_seq;
    struct kv_layer kv;
};

struct host_kernels {
    const char *name;
    const struct linear_tiles *plain;     /* of weights that are not quantized */
    const struct linear_tiles *quantized; /* of those that are */

    /* One token's n columns, in groups of 32 of which the last is padded, as a group of a tile of
     * tile_tok tokens is laid out: d_x f32 [tile_tok], start int32 [tile_tok], then, of every 4
     * columns, int8 [tile_tok][4]; to: where the token's d_x is. start is what the sum of a group
     * begins with, as weights of that dtype are stored with something added. */
    void (*quantize_token)(unsigned char *to, const float *x, int n, int tile_tok,
                           enum dtype dtype);
    /* Computes y for the given panels and tiles. scratch: one block of n_tile * tile_tok *
     * LINEAR_MAX_PANELS * VEC_WIDTH floats for every level of the plan's deepest tree. */
    void (*linear)(const struct linear_job *, struct range panels, struct range tiles,
                   float *scratch);
    /* scratch: attention_scratch_floats for every row. */
    void (*attention)(const struct attention_job *, const struct attention_item *, float *scratch);
    /* Row r of an item whose parts are there: merges them, in order, into the first. */
    void (*attention_merge)(const struct attention_job *, const struct attention_item *, int r);
    /* Head h of every token: h counts query heads, then KV heads. */
    void (*rope)(const struct rope_job *, int h);
    void (*rmsnorm)(float *y, const float *x, const float *w, int dim, float eps); /* one row */
    void (*add)(float *x, const float *y, size_t n);
    void (*silu_mul)(float *y, const float *gate, const float *up, int n);

    /* ---- logits ---- */
    /* The first i in [first, n) with x[i] > limit, rounded down to a multiple of 16 after first;
     * n where there is none. */
    int (*skip_until_above)(const float *x, int first, int n, float limit);
    /* The largest, NaN left out; -inf where there is none. */
    float (*max)(const float *x, int n);
    /* y[i] = exp((x[i] - max) * scale), y NULL or perhaps x; returns the sum of them: lane l holds
     * the sum over i = l, l + 16, ... in order, lanes are added as in rmsnorm. */
    float (*exp_sum)(float *y, const float *x, int n, float max, float scale);
    /* The sum, in the same order, of the x[i] above limit, +0 for the others. */
    float (*sum_above)(const float *x, int n, float limit);
    int (*count_above)(const float *x, int n, float limit);

    /* ---- packing ---- */
    /* to[i][r] = rows[r][i] for 16 rows of n <= PACK_COLUMNS elements of 2 or 4 bytes each; rows at
     * any alignment. */
    void (*interleave)(void *to, const unsigned char *const *rows, int n, size_t element);
    /* Quantizes n columns of one row of a panel to whole groups, the last padded. to: the panel's
     * first of these groups. */
    void (*quantize_row)(unsigned char *to, int row, const unsigned char *from, int n,
                         enum dtype from_dtype, enum dtype dtype);
    /* NaN and infinite values among n elements at any alignment. */
    int (*count_nonfinite)(enum dtype dtype, const unsigned char *p, int n);

    /* ---- for the probe ---- */
    /* Reads every byte of n_stream equal parts side by side; bytes: a multiple of
     * n_stream * 4096. */
    float (*stream)(const void *p, size_t bytes, int n_stream, size_t ahead);
    /* Runs fused multiply-adds in registers; returns how many were done per round. */
    int (*fma_peak)(long rounds, float *sink);
    /* The same of products of bytes that are added up in 32 bits. */
    int (*int8_peak)(long rounds, float *sink);
};

/* Those of the best instruction set that this CPU has. */
const struct host_kernels *host_kernels_best(void);

extern const struct host_kernels host_kernels_generic;
extern const struct host_kernels host_kernels_avx2;
extern const struct host_kernels host_kernels_avx512;
extern const struct host_kernels host_kernels_avx512vnni;
