/* Matrices in a warp's registers: mma, ldmatrix, stmatrix, movmatrix. Lane 4 g + t is member t of
 * group g, as the ISA's figures of the fragments have it. */
#include "ptx_compile.h"
#include "ptx_float.h"
#include "ptx_warp.h"

enum { M = 16, N = 8, MAX_K = 16 };
enum { A_AT = 4, B_AT = 8, C_AT = 10, N_SLOT = 14 }; /* in v; d is first */

static bool whole_warp(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    if (w->present != PTX_ALL || w->exited != 0) {
        ptx_finding(w, o, __builtin_ctz(mask), "not all lanes of the warp take part");
        ptx_stop(w, PTX_FAILED);
        return false;
    }
    return ptx_warp_gather(w, o, mask, PTX_ALL);
}

/* ---- mma ---- */

/* Elements of A or B of 16 bits are two to a register, along k. */
static float element(const struct ptx_warp *w, uint32_t slot, uint32_t lane, uint32_t which,
                     enum ptx_format format) {
    const uint32_t u = PTX_REG(w, ptx_u32, slot)[lane];

    return format == PTX_TF32 ? ptx_bits_float(u & ~(uint32_t)0x1fff)
                              : ptx_from_half((uint16_t)(u >> 16 * which), format);
}

static void load_fragments(const struct ptx_warp *w, const struct ptx_op *o, float a[M][MAX_K],
                           float b[MAX_K][N]) {
    const enum ptx_format format = (enum ptx_format)o->sub;
    const uint32_t per = format == PTX_TF32 ? 1 : 2; /* elements of a register */
    const uint32_t n_b = o->count / (per * 4);       /* registers: steps of 4 per along k */

    for (uint32_t l = 0; l < PTX_LANES; l++) {
        const uint32_t g = l / 4;
        const uint32_t t = l % 4;

        for (uint32_t i = 0; i < n_b; i++) {
            for (uint32_t e = 0; e < per; e++) {
                const uint32_t k = i * 4 * per + t * per + e;

                a[g][k] = element(w, o->v[A_AT + 2 * i], l, e, format);
                a[g + 8][k] = element(w, o->v[A_AT + 2 * i + 1], l, e, format);
                b[k][g] = element(w, o->v[B_AT + i], l, e, format);
            }
        }
    }
}

static float accumulator(const struct ptx_warp *w, const struct ptx_op *o, uint32_t lane,
                         uint32_t i) {
    if (o->reg == PTX_F32) {
        return PTX_REG(w, ptx_f32, o->v[C_AT + i])[lane];
    }
    return ptx_from_f16((uint16_t)(PTX_REG(w, ptx_u32, o->v[C_AT + i / 2])[lane] >> 16 * (i & 1)));
}

static void store_results(struct ptx_warp *w, const struct ptx_op *o, float d[M][N]) {
    for (uint32_t l = 0; l < PTX_LANES; l++) {
        for (uint32_t i = 0; i < 4; i++) {
            const float x = ptx_canonical(d[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2]);

            if (o->reg == PTX_F32) {
                PTX_REG(w, ptx_f32, o->v[i])[l] = x;
            } else {
                const uint16_t h = ptx_to_half((double)x, PTX_F16, PTX_RN);

                memcpy(w->regs + o->v[i / 2] + (size_t)l * 4 + (i & 1) * 2, &h, 2);
            }
        }
    }
}

/* Products are exact in f32; they are added in the order of k (the hardware's is not known). */
static void run_mma(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    float a[M][MAX_K];
    float b[MAX_K][N];
    float d[M][N];

    if (!whole_warp(w, o, mask)) {
        return;
    }
    load_fragments(w, o, a, b);
    for (uint32_t l = 0; l < PTX_LANES; l++) {
        for (uint32_t i = 0; i < 4; i++) {
            d[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2] = accumulator(w, o, l, i);
        }
    }
    for (int i = 0; i < M; i++) {
        for (int k = 0; k < o->count; k++) {
            for (int j = 0; j < N; j++) {
                d[i][j] += a[i][k] * b[k][j];
            }
        }
    }
    store_results(w, o, d);
}

/* ---- matrices in shared memory ---- */

/* Row r of matrix i is at the address of lane 8 i + r: 8 elements of 16 bits. */
static bool map_rows(struct ptx_warp *w, const struct ptx_op *o, enum ptx_access access,
                     uint8_t **rows) {
    const bool narrow = (o->flags & PTX_ADDRESS32) != 0;

    for (uint32_t l = 0; l < (uint32_t)o->count * 8; l++) {
        const uint64_t at = (narrow ? PTX_REG(w, ptx_u32, o->a)[l] : PTX_REG(w, ptx_u64, o->a)[l]) +
                            (uint64_t)o->imm;

        rows[l] = ptx_map(w, o, (int)l, (enum ptx_space)o->space, at, 16, access);
        if (rows[l] == NULL) {
            return false;
        }
    }
    return true;
}

/* Row and column of element e of the lane's register. */
static void place(uint32_t lane, uint32_t e, bool transposed, uint32_t *row, uint32_t *column) {
    *row = transposed ? lane % 4 * 2 + e : lane / 4;
    *column = transposed ? lane / 4 : lane % 4 * 2 + e;
}

static void run_ldmatrix(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    uint8_t *rows[PTX_LANES];

    if (!whole_warp(w, o, mask) || !map_rows(w, o, PTX_READ, rows)) {
        return;
    }
    for (uint32_t i = 0; i < o->count; i++) {
        uint32_t r[PTX_LANES];

        for (uint32_t l = 0; l < PTX_LANES; l++) {
            uint16_t pair[2];

            for (uint32_t e = 0; e < 2; e++) {
                uint32_t row;
                uint32_t column;

                place(l, e, o->sub != 0, &row, &column);
                memcpy(&pair[e], rows[8 * i + row] + column * 2, 2);
            }
            r[l] = pair[0] | (uint32_t)pair[1] << 16;
        }
        ptx_put(w, o->v[i], r, sizeof(r[0]), mask);
    }
}

static void run_stmatrix(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    uint8_t *rows[PTX_LANES];

    if (!whole_warp(w, o, mask) || !map_rows(w, o, PTX_WRITE, rows)) {
        return;
    }
    for (uint32_t i = 0; i < o->count; i++) {
        uint16_t matrix[8][8];

        for (uint32_t l = 0; l < PTX_LANES; l++) {
            const uint32_t u = PTX_REG(w, ptx_u32, o->v[i])[l];

            for (uint32_t e = 0; e < 2; e++) {
                uint32_t row;
                uint32_t column;

                place(l, e, o->sub != 0, &row, &column);
                matrix[row][column] = (uint16_t)(u >> 16 * e);
            }
        }
        for (uint32_t r = 0; r < 8; r++) {
            ptx_store(w, o, (int)(8 * i + r), rows[8 * i + r], matrix[r], 16, false);
        }
    }
}

static void run_movmatrix(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {
    uint32_t r[PTX_LANES];
    uint16_t matrix[8][8];
    PTX_A(ptx_u32);

    if (!whole_warp(w, o, mask)) {
        return;
    }
    for (uint32_t l = 0; l < PTX_LANES; l++) {
        matrix[l / 4][l % 4 * 2] = (uint16_t)pa[l];
        matrix[l / 4][l % 4 * 2 + 1] = (uint16_t)(pa[l] >> 16);
    }
    for (uint32_t l = 0; l < PTX_LANES; l++) {
        r[l] = matrix[l % 4 * 2][l / 4] | (uint32_t)matrix[l % 4 * 2 + 1][l / 4] << 16;
    }
    ptx_put(w, o->d, r, sizeof(r[0]), mask);
}

/* ---- decoding ---- */

static bool parse_registers(struct ptx_compiler *c, uint32_t *slots, int n, uint32_t bytes) {
    uint32_t reg;
    int count;

    if (!ptx_parse_vector(c, slots, &count, 8, bytes, &reg)) {
        return false;
    }
    return (count == n && reg == bytes) ||
           ptx_error(c, "a fragment has %d registers of 32 bits", n);
}

static bool decode_mma(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    static const char *const shapes[] = {"m16n8k4", "m16n8k8", "m16n8k16", NULL};
    const int shape = ptx_part_choice(m, shapes);
    const bool layout = ptx_part_take(m, "row") && ptx_part_take(m, "col");
    const struct ptx_type *types[4] = {0};
    enum ptx_format format;
    struct ptx_op *o;
    uint32_t slots[8];
    int n;

    for (int i = 0; i < 4 && ptx_part_type(m, &types[i]); i++) {
    }
    format = types[3] != NULL ? ptx_format_of(types[1]) : PTX_NO_FLOAT;
    if (shape < 0 || !layout || types[3] == NULL || types[1] != types[2] || types[0] != types[3] ||
        (format == PTX_TF32 ? shape > 1 : shape < 1 || (format != PTX_BF16 && format != PTX_F16)) ||
        (ptx_format_of(types[0]) != PTX_F32 &&
         (ptx_format_of(types[0]) != PTX_F16 || format != PTX_F16)) ||
        !ptx_mnemonic_done(c, m, PTX_SYNC | PTX_ALIGNED)) {
        return ptx_error(c, "unknown instruction: mma of this shape or type");
    }
    o = ptx_emit(c, run_mma);
    o->v = ptx_alloc(c->module, N_SLOT * sizeof(o->v[0]));
    o->count = (uint8_t)(4 << shape);
    o->sub = (uint8_t)format;
    o->reg = (uint8_t)ptx_format_of(types[0]);
    n = o->count / (format == PTX_TF32 ? 4 : 8); /* registers of B; A has twice as many */
    if (!parse_registers(c, slots, o->reg == PTX_F32 ? 4 : 2, 4)) {
        return false;
    }
    memcpy(o->v, slots, 4 * sizeof(slots[0]));
    if (!ptx_expect(c, ",") || !parse_registers(c, slots, 2 * n, 4)) {
        return false;
    }
    memcpy(o->v + A_AT, slots, 4 * sizeof(slots[0]));
    if (!ptx_expect(c, ",") || !parse_registers(c, slots, n, 4)) {
        return false;
    }
    memcpy(o->v + B_AT, slots, 2 * sizeof(slots[0]));
    if (!ptx_expect(c, ",") || !parse_registers(c, slots, o->reg == PTX_F32 ? 4 : 2, 4)) {
        return false;
    }
    memcpy(o->v + C_AT, slots, 4 * sizeof(slots[0]));
    return true;
}

static bool parse_row_address(struct ptx_compiler *c, struct ptx_op *o) {
    struct ptx_address a;

    if (!ptx_parse_address(c, &a)) {
        return false;
    }
    o->a = a.slot;
    o->imm = a.offset;
    o->flags |= a.bytes == 4 ? PTX_ADDRESS32 : 0;
    return true;
}

static bool decode_matrix(struct ptx_compiler *c, struct ptx_mnemonic *m, ptx_run_fn *run,
                          bool load) {
    static const char *const counts[] = {"x1", "x2", "x4", NULL};
    const bool shape = ptx_part_take(m, "m8n8");
    const int count = ptx_part_choice(m, counts);
    const bool transposed = ptx_part_take(m, "trans");
    const bool shared = ptx_part_take(m, "shared") || ptx_part_take(m, "shared::cta");
    struct ptx_op *o;

    if (!shape || count < 0 || !ptx_part_take(m, "b16") ||
        !ptx_mnemonic_done(c, m, PTX_SYNC | PTX_ALIGNED)) {
        return ptx_error(c, "unknown instruction: %s of this kind", m->root);
    }
    o = ptx_emit(c, run);
    o->count = (uint8_t)(1 << count);
    o->sub = transposed;
    o->space = shared ? PTX_SHARED : PTX_GENERIC;
    o->v = ptx_alloc(c->module, 8 * sizeof(o->v[0]));
    return load ? parse_registers(c, o->v, o->count, 4) && ptx_expect(c, ",") &&
                      parse_row_address(c, o)
                : parse_row_address(c, o) && ptx_expect(c, ",") &&
                      parse_registers(c, o->v, o->count, 4);
}

static bool decode_ldmatrix(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    return decode_matrix(c, m, run_ldmatrix, true);
}

static bool decode_stmatrix(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    return decode_matrix(c, m, run_stmatrix, false);
}

static bool decode_movmatrix(struct ptx_compiler *c, struct ptx_mnemonic *m) {
    struct ptx_op *o = ptx_emit(c, run_movmatrix);

    return (ptx_part_take(m, "m8n8") && ptx_part_take(m, "trans") && ptx_part_take(m, "b16") &&
            ptx_mnemonic_done(c, m, PTX_SYNC | PTX_ALIGNED) &&
            ptx_parse_destination(c, '4', &o->d) && ptx_expect(c, ",") &&
            ptx_parse_slot(c, '4', &o->a, NULL)) ||
           ptx_error(c, "unknown instruction: movmatrix of this kind");
}

const struct ptx_decoder ptx_decode_mma[] = {{"mma", decode_mma},
                                             {"ldmatrix", decode_ldmatrix},
                                             {"stmatrix", decode_stmatrix},
                                             {"movmatrix", decode_movmatrix},
                                             {NULL, NULL}};
