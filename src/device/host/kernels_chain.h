/* The inner loop of what is not quantized: chains for a tile of T rows of x by P vectors of w, in
 * registers.
 *
 * acc[t][p] = fma(w[p][i], x[t][i], acc[t][p]) for i = 0 .. n-1 in order, lanes being independent
 * outputs. It serves linear (w = panels, not quantized), attention's scores (w = columns of K,
 * lanes = positions) and its weighted sum (w = columns of V, lanes = dimensions). Cutting i into
 * several calls, with the accumulators kept in memory between them, does not change a bit. */
#pragma once

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif
#define ALWAYS_INLINE static inline __attribute__((always_inline))

struct chain_args {
    float *acc;           /* [T][acc_step], of which P * VEC_WIDTH are used */
    size_t acc_step;      /* floats */
    const float *x;       /* linear: [n][T], or T groups n times; attention: T rows, x_step apart */
    size_t x_step;        /* floats; attention only */
    const void *const *w; /* P addresses */
    size_t ahead;         /* bytes from what is read to what is prefetched; wraps around */
    int n;
    bool resume; /* go on from acc, not from +0 */
};

typedef void chain_fn(const struct chain_args *);

ALWAYS_INLINE struct vec chain_load(enum dtype dtype, const unsigned char *w) {
    if (dtype == DTYPE_F32) {
        return vec_load((const float *)(const void *)w);
    }
    const uint16_t *h = (const uint16_t *)(const void *)w;
    return dtype == DTYPE_BF16 ? vec_load_bf16(h) : vec_load_f16(h);
}

/* Vector p of a column; the two of a pair have one address. */
ALWAYS_INLINE struct vec chain_load_paired(const int p, const unsigned char *w) {
    const uint16_t *h = (const uint16_t *)(const void *)w;
    return p % 2 == 0 ? vec_low_bf16(h) : vec_high_bf16(h);
}

/* T, P, dtype and paired (BF16 as kv_lane has it) are constants wherever this is
 * expanded; xt, xi are the steps of x by row and by i. */
ALWAYS_INLINE void chain_tile(const int T, const int P, const enum dtype dtype, const bool paired,
                              const struct chain_args *c, const size_t xt, const size_t xi,
                              const size_t w_step) {
    struct vec acc[24];
    const unsigned char *w[LINEAR_MAX_PANELS];
    const float *x = c->x;
    const size_t ahead = c->ahead;
    UNROLL for (int p = 0; p < P; p++) {
        w[p] = c->w[p];
    }
    UNROLL for (int t = 0; t < T; t++) {
        UNROLL for (int p = 0; p < P; p++) {
            const float *a = c->acc + t * c->acc_step + p * VEC_WIDTH;
            acc[t * P + p] = c->resume ? vec_load(a) : vec_zero();
        }
    }
    size_t at = 0;
    for (int i = 0; i < c->n; i++) {
        struct vec column[LINEAR_MAX_PANELS];
        UNROLL for (int p = 0; p < P; p++) {
            column[p] =
                paired ? chain_load_paired(p, w[p - p % 2] + at) : chain_load(dtype, w[p] + at);
            if (!paired || p % 2 == 0) {
                __builtin_prefetch((const void *)((uintptr_t)w[p] + at + ahead), 0, 2);
            }
        }
        UNROLL for (int t = 0; t < T; t++) {
            struct vec b = vec_set1(x[t * xt]);
            UNROLL for (int p = 0; p < P; p++) {
                acc[t * P + p] = vec_fma(column[p], b, acc[t * P + p]);
            }
        }
        x += xi;
        at += w_step;
    }
    UNROLL for (int t = 0; t < T; t++) {
        UNROLL for (int p = 0; p < P; p++) {
            vec_store(c->acc + t * c->acc_step + p * VEC_WIDTH, acc[t * P + p]);
        }
    }
}

#define LINEAR_CHAIN(T, P, D)                                                                      \
    static void linear_chain_##D##_##T(const struct chain_args *c) {                               \
        chain_tile(T, P, D, false, c, 1, T, VEC_WIDTH *(D == DTYPE_F32 ? 4 : 2));                  \
    }
#define LINEAR_CHAINS(T, P)                                                                        \
    LINEAR_CHAIN(T, P, DTYPE_F32)                                                                  \
    LINEAR_CHAIN(T, P, DTYPE_BF16)                                                                 \
    LINEAR_CHAIN(T, P, DTYPE_F16)
LINEAR_TILES(LINEAR_CHAINS)

/* Attention has tiles of up to ATTENTION_TILE rows by ATTENTION_VECS vectors, or by one panel of
 * its own: kernels.h. */
#define ATTENTION_CHAIN(T, P, D, name)                                                             \
    static void name##_##D##_##T(const struct chain_args *c) {                                     \
        chain_tile(T, P, D, D == DTYPE_BF16, c, c->x_step, 1,                                      \
                   KV_PANEL * (D == DTYPE_F32 ? 4 : 2));                                           \
    }
#define ATTENTION_CHAINS(T)                                                                        \
    ATTENTION_CHAIN(T, KV_PANEL_VECS, DTYPE_F32, attention_chain_panel)                            \
    ATTENTION_CHAIN(T, KV_PANEL_VECS, DTYPE_BF16, attention_chain_panel)                           \
    ATTENTION_CHAIN(T, ATTENTION_VECS, DTYPE_F32, attention_chain_wide)                            \
    ATTENTION_CHAIN(T, ATTENTION_VECS, DTYPE_BF16, attention_chain_wide)
ATTENTION_TILES(ATTENTION_CHAINS)

static chain_fn *const attention_chains[DTYPE_COUNT][2][ATTENTION_TILE + 1] = {
#define PANEL(T) [T] = attention_chain_panel_DTYPE_F32_##T,
#define WIDE(T)  [T] = attention_chain_wide_DTYPE_F32_##T,
    [DTYPE_F32] = {{ATTENTION_TILES(PANEL)}, {ATTENTION_TILES(WIDE)}},
#undef PANEL
#undef WIDE
#define PANEL(T) [T] = attention_chain_panel_DTYPE_BF16_##T,
#define WIDE(T)  [T] = attention_chain_wide_DTYPE_BF16_##T,
    [DTYPE_BF16] = {{ATTENTION_TILES(PANEL)}, {ATTENTION_TILES(WIDE)}},
#undef PANEL
#undef WIDE
};
