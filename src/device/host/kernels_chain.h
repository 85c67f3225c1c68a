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
    size_t w_step;        /* bytes from one i to the next; attention only */
    size_t ahead;         /* bytes from what is read to what is prefetched */
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

/* T, P and dtype are constants wherever this is expanded; xt, xi are the steps of x by row and by
 * i. */
ALWAYS_INLINE void chain_tile(const int T, const int P, const enum dtype dtype,
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
            column[p] = chain_load(dtype, w[p] + at);
            __builtin_prefetch(w[p] + at + ahead, 0, 2);
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
        chain_tile(T, P, D, c, 1, T, VEC_WIDTH *(D == DTYPE_F32 ? 4 : 2));                         \
    }
#define LINEAR_CHAINS(T, P)                                                                        \
    LINEAR_CHAIN(T, P, DTYPE_F32)                                                                  \
    LINEAR_CHAIN(T, P, DTYPE_BF16)                                                                 \
    LINEAR_CHAIN(T, P, DTYPE_F16)
LINEAR_TILES(LINEAR_CHAINS)

/* Attention has tiles of up to ATTENTION_TILE rows by ATTENTION_VECS or 1 vectors. */
#define ATTENTION_CHAIN(T)                                                                         \
    static void attention_chain_wide_##T(const struct chain_args *c) {                             \
        chain_tile(T, ATTENTION_VECS, DTYPE_F32, c, c->x_step, 1, c->w_step);                      \
    }                                                                                              \
    static void attention_chain_one_##T(const struct chain_args *c) {                              \
        chain_tile(T, 1, DTYPE_F32, c, c->x_step, 1, c->w_step);                                   \
    }
ATTENTION_TILES(ATTENTION_CHAIN)

static chain_fn *const attention_chains[2][ATTENTION_TILE + 1] = {
#define ENTRY(T) [T] = attention_chain_one_##T,
    {ATTENTION_TILES(ENTRY)},
#undef ENTRY
#define ENTRY(T) [T] = attention_chain_wide_##T,
    {ATTENTION_TILES(ENTRY)},
#undef ENTRY
};
