/* A running block. A warp's lanes run in lock step where they agree; where they do not, each group
 * of lanes has its own pc, the group with the least pc runs, and groups that meet at a pc become
 * one again: lanes that part at a branch meet at its end, as the code is laid out. */
#pragma once

#include "ptx_impl.h"

#include <string.h>

enum ptx_wait { PTX_RUN, PTX_WAIT_LANES, PTX_WAIT_WARP, PTX_WAIT_BARRIER };

struct ptx_group {
    uint32_t mask;
    uint32_t pc;
    enum ptx_wait wait;
    uint32_t need;    /* WAIT_LANES, WAIT_WARP: lanes that have to come */
    uint32_t barrier; /* WAIT_BARRIER: its number */
    uint32_t at;      /* WAIT_BARRIER: the operation that waits */
};

/* A copy of cp.async on its way. */
struct ptx_copy {
    uint32_t dst;
    uint32_t lane;
    uint32_t group; /* number of groups that its thread had committed before */
    uint32_t bytes;
    uint8_t data[16];
};

struct ptx_cta;

struct ptx_warp {
    uint8_t *regs;
    uint32_t active; /* lanes of the running group; 0: none runs */
    uint32_t pc;
    uint32_t meet;    /* the least pc at which another group waits to be met; or UINT32_MAX */
    uint32_t present; /* lanes that the block has at all */
    uint32_t exited;
    bool event; /* look at the groups before the next operation */
    struct ptx_group groups[PTX_LANES];
    int n_group;
    uint32_t turns; /* jumps backwards since others had a turn */
    uint32_t carry; /* add.cc: a bit per lane */
    uint32_t index;
    uint8_t *local; /* [32][local_bytes] */
    uint8_t *local_written;
    struct ptx_copy *copies;
    size_t n_copy;
    uint32_t committed[PTX_LANES];
    /* Happens-before: this warp's clock, which every synchronisation moves on, and the clock of
     * each warp up to which all that it did is known to have been before. */
    uint32_t clock;
    uint32_t seen[PTX_MAX_WARPS];
    struct ptx_cta *cta;
};

/* An allocation, and which block of the grid (counted from 1) wrote each granule in this launch. */
struct ptx_region {
    const struct ptx_block *block;
    uint32_t *writer; /* NULL: not watched */
};

struct ptx_barrier {
    uint32_t arrived; /* threads */
    uint32_t at;      /* the operation of the first */
    uint32_t expected;
    uint32_t warps; /* that have arrived, also by bar.arrive */
    uint32_t n_true;
    bool all;
};

/* Per granule of shared memory: who wrote it last, and two who read it since. A stamp holds clock,
 * PTX_STAMP_STRONG and the thread; 0: nobody. */
struct ptx_shadow {
    uint32_t writer;
    uint32_t reader[2];
    uint32_t pending; /* copies of cp.async that have not landed */
};
#define PTX_STAMP_STRONG (1u << 10)
#define PTX_STAMP_THREAD (PTX_STAMP_STRONG - 1)
#define PTX_STAMP_CLOCK  11
#define PTX_MAX_CLOCK    ((1u << (32 - PTX_STAMP_CLOCK)) - 1)

#define PTX_MAX_FINDINGS 20

struct ptx_cta {
    const struct ptx_kernel *kernel;
    const struct ptx_launch *launch;
    const struct ptx_host *host;
    uint32_t at[3]; /* blockIdx */
    uint32_t n_thread;
    uint32_t n_warp;
    struct ptx_warp *warps;
    struct ptx_barrier barriers[PTX_N_BARRIER];
    uint8_t *shared;
    size_t n_shared;
    struct ptx_shadow *shadow; /* [n_shared / granule], or NULL: not watched (any more) */
    struct ptx_shadow *shadow_memory;
    struct ptx_region *regions; /* the allocations that were found in this launch */
    size_t n_region;
    struct ptx_region *last; /* that was accessed */
    bool acquired;           /* this block has seen an atomic or the like of another, perhaps */
    enum ptx_result result;  /* not OK: everything stops */
    uint64_t clock;
    uint64_t grid_id;
    struct {
        uint32_t op;
        const char *what;
    } found[PTX_MAX_FINDINGS];
    int n_found;
};

enum ptx_access { PTX_READ, PTX_WRITE, PTX_STRONG_READ, PTX_STRONG_WRITE };

/* ptx_launch.c */
/* One line about what the operation does in this lane. Each operation is told about once per kind
 * (`what` up to its first '%'), and at most PTX_MAX_FINDINGS times per launch. */
void ptx_finding(struct ptx_warp *, const struct ptx_op *, int lane, const char *what, ...)
    __attribute__((format(printf, 4, 5)));
/* The same, and the launch ends with this result. */
void ptx_stop(struct ptx_warp *, enum ptx_result);

/* ptx_schedule.c */
/* Runs the warp until it has to wait, ends, or has had its turn. */
void ptx_warp_run(struct ptx_warp *);
bool ptx_warp_can_run(const struct ptx_warp *);
/* Takes the lanes out of the running group, to wait at pc. */
struct ptx_group *ptx_warp_wait(struct ptx_warp *, uint32_t lanes, uint32_t pc, enum ptx_wait);
/* Whether the lanes `need` all run this operation now; else those in mask wait for them. */
bool ptx_warp_gather(struct ptx_warp *, const struct ptx_op *, uint32_t mask, uint32_t need);
/* All the lanes of this warp that synchronise know of each other's accesses from here on. */
void ptx_warp_ordered(struct ptx_warp *);
void ptx_jump(struct ptx_warp *, uint32_t lanes, uint32_t target);
void ptx_lanes_exit(struct ptx_warp *, uint32_t lanes);

/* ptx_access.c */
/* The bytes that an access touches, checked; NULL: it was reported and the launch stops. */
uint8_t *ptx_map(struct ptx_warp *, const struct ptx_op *, int lane, enum ptx_space,
                 uint64_t address, uint32_t bytes, enum ptx_access);
/* ptx_shadow.c: checks of an access to shared memory, before it happens; report only. */
void ptx_shadow_access(struct ptx_warp *, const struct ptx_op *, int lane, uint32_t offset,
                       uint32_t bytes, enum ptx_access);
/* A store that is happening: another lane of the same instruction must not have stored other bytes
 * there. */
void ptx_shadow_store(struct ptx_warp *, const struct ptx_op *, int lane, uint32_t offset,
                      const void *data, uint32_t bytes, bool strong);
/* cp.async: +1 or -1 copy on its way to these bytes. */
void ptx_shadow_pending(struct ptx_warp *, uint32_t offset, uint32_t bytes, int change);
ptx_run_fn ptx_run_exit;

/* Registers may be seen as any type of their size. */
typedef uint16_t __attribute__((may_alias)) ptx_u16;
typedef int16_t __attribute__((may_alias)) ptx_s16;
typedef uint32_t __attribute__((may_alias)) ptx_u32;
typedef int32_t __attribute__((may_alias)) ptx_s32;
typedef uint64_t __attribute__((may_alias)) ptx_u64;
typedef int64_t __attribute__((may_alias)) ptx_s64;
typedef float __attribute__((may_alias)) ptx_f32;
typedef double __attribute__((may_alias)) ptx_f64;

#define PTX_ALL                ~(uint32_t)0
#define PTX_REG(w, type, slot) ((type *)(void *)((w)->regs + (slot)))
#define PTX_FOR_LANES(l, mask)                                                                     \
    for (uint32_t l##_rest = (mask), l = 0;                                                        \
         l##_rest != 0 && (l = (uint32_t)__builtin_ctz(l##_rest), true); l##_rest &= l##_rest - 1)

static inline uint32_t ptx_pred(const struct ptx_warp *w, uint32_t slot) {
    return *PTX_REG(w, ptx_u32, slot);
}

static inline void ptx_set_pred(struct ptx_warp *w, uint32_t slot, uint32_t bits, uint32_t mask) {
    ptx_u32 *p = PTX_REG(w, ptx_u32, slot);

    *p = (*p & ~mask) | (bits & mask);
}

/* Writes lanes r to a register; size is a constant, so that whole warps are one copy. */
static inline __attribute__((always_inline)) void
ptx_put(struct ptx_warp *w, uint32_t slot, const void *r, size_t size, uint32_t mask) {
    uint8_t *d = w->regs + slot;

    if (mask == PTX_ALL) {
        memcpy(d, r, size * PTX_LANES);
        return;
    }
    PTX_FOR_LANES(l, mask) {
        memcpy(d + l * size, (const uint8_t *)r + l * size, size);
    }
}

/* An operation lane by lane: `expr` of a, b, c is computed in all lanes (that has no effects) and
 * kept in those of the mask. */
#define PTX_LANEWISE(name, D, T, operands, expr)                                                   \
    static void name(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask) {                  \
        D r[PTX_LANES];                                                                            \
        operands(T);                                                                               \
        for (int l = 0; l < PTX_LANES; l++) {                                                      \
            operands##_lane(T);                                                                    \
            r[l] = (D)(expr);                                                                      \
        }                                                                                          \
        ptx_put(w, o->d, r, sizeof(r[0]), mask);                                                   \
    }
#define PTX_A(T)      const T *pa = PTX_REG(w, T, o->a)
#define PTX_A_lane(T) const T a = pa[l]
#define PTX_AB(T)                                                                                  \
    const T *pa = PTX_REG(w, T, o->a);                                                             \
    const T *pb = PTX_REG(w, T, o->b)
#define PTX_AB_lane(T)                                                                             \
    const T a = pa[l];                                                                             \
    const T b = pb[l]
#define PTX_ABC(T)                                                                                 \
    const T *pa = PTX_REG(w, T, o->a);                                                             \
    const T *pb = PTX_REG(w, T, o->b);                                                             \
    const T *pc = PTX_REG(w, T, o->c)
#define PTX_ABC_lane(T)                                                                            \
    const T a = pa[l];                                                                             \
    const T b = pb[l];                                                                             \
    const T c = pc[l]

/* Copies data [bytes] to where ptx_map() put it for PTX_WRITE or PTX_STRONG_WRITE. */
static inline void ptx_store(struct ptx_warp *w, const struct ptx_op *o, int lane, uint8_t *to,
                             const void *data, uint32_t bytes, bool strong) {
    const size_t at = (size_t)((uintptr_t)to - (uintptr_t)w->cta->shared);

    if (w->cta->shadow != NULL && at < w->cta->n_shared) {
        ptx_shadow_store(w, o, lane, (uint32_t)at, data, bytes, strong);
    }
    memcpy(to, data, bytes);
}
