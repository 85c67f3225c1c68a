/* A launch: its blocks one after another, their warps in turns. */
#include "ptx_compile.h"
#include "ptx_warp.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

uint64_t ptx_max_block_ops = (uint64_t)2000 * 1000 * 1000;

static const struct {
    const char *name;
    enum ptx_special special;
} SPECIALS[] = {
    {"%tid.x", PTX_TID_X},
    {"%tid.y", PTX_TID_Y},
    {"%tid.z", PTX_TID_Z},
    {"%ntid.x", PTX_NTID_X},
    {"%ntid.y", PTX_NTID_Y},
    {"%ntid.z", PTX_NTID_Z},
    {"%ctaid.x", PTX_CTAID_X},
    {"%ctaid.y", PTX_CTAID_Y},
    {"%ctaid.z", PTX_CTAID_Z},
    {"%nctaid.x", PTX_NCTAID_X},
    {"%nctaid.y", PTX_NCTAID_Y},
    {"%nctaid.z", PTX_NCTAID_Z},
    {"%laneid", PTX_LANEID},
    {"%warpid", PTX_WARPID},
    {"%nwarpid", PTX_NWARPID},
    {"%smid", PTX_SMID},
    {"%nsmid", PTX_NSMID},
    {"%gridid", PTX_GRIDID},
    {"%lanemask_eq", PTX_LANEMASK_EQ},
    {"%lanemask_lt", PTX_LANEMASK_LT},
    {"%lanemask_le", PTX_LANEMASK_LE},
    {"%lanemask_gt", PTX_LANEMASK_GT},
    {"%lanemask_ge", PTX_LANEMASK_GE},
    {"%dynamic_smem_size", PTX_DYNAMIC_SMEM_SIZE},
    {"%total_smem_size", PTX_TOTAL_SMEM_SIZE},
    {"%clock", PTX_CLOCK},
    {"%clock_hi", PTX_CLOCK_HI},
    {"%clock64", PTX_CLOCK64},
    {"%globaltimer", PTX_GLOBALTIMER},
};

int ptx_special_find(const char *s, size_t n) {
    for (size_t i = 0; i < sizeof(SPECIALS) / sizeof(SPECIALS[0]); i++) {
        if (strlen(SPECIALS[i].name) == n && memcmp(SPECIALS[i].name, s, n) == 0) {
            return (int)SPECIALS[i].special;
        }
    }
    return -1;
}

uint32_t ptx_special_bytes(enum ptx_special special) {
    return special == PTX_CLOCK64 || special == PTX_GLOBALTIMER || special == PTX_GRIDID ? 8 : 4;
}

/* ---- findings ---- */

static void thread_index(const struct ptx_warp *w, int lane, uint32_t tid[3]) {
    const uint32_t *n = w->cta->launch->block;
    const uint32_t i = w->index * PTX_LANES + (uint32_t)lane;

    tid[0] = i % n[0];
    tid[1] = i / n[0] % n[1];
    tid[2] = i / n[0] / n[1];
}

static bool told(struct ptx_cta *cta, uint32_t op, const char *what) {
    for (int i = 0; i < cta->n_found; i++) {
        if (cta->found[i].op == op && cta->found[i].what == what) {
            return true;
        }
    }
    if (cta->n_found == PTX_MAX_FINDINGS) {
        return true;
    }
    cta->found[cta->n_found].op = op;
    cta->found[cta->n_found++].what = what;
    return false;
}

void ptx_finding(struct ptx_warp *w, const struct ptx_op *o, int lane, const char *what, ...) {
    struct ptx_cta *cta = w->cta;
    const uint32_t op = (uint32_t)(o - cta->kernel->ops);
    const struct ptx_source *source = &cta->kernel->sources[op];
    uint32_t tid[3];
    char message[256];
    char line[768];
    va_list args;

    if (told(cta, op, what)) {
        return;
    }
    va_start(args, what);
    vsnprintf(message, sizeof(message), what, args);
    va_end(args);
    thread_index(w, lane, tid);
    snprintf(line, sizeof(line),
             "kernel %s, block (%u,%u,%u), thread (%u,%u,%u): %s; PTX line %u: `%.*s`%s",
             cta->kernel->name, cta->at[0], cta->at[1], cta->at[2], tid[0], tid[1], tid[2], message,
             source->line, (int)source->n, cta->kernel->module->text + source->at,
             cta->n_found == PTX_MAX_FINDINGS ? " (no more findings of this launch are shown)"
                                              : "");
    if (cta->host->finding != NULL) {
        cta->host->finding(cta->host->user, line);
    }
}

void ptx_stop(struct ptx_warp *w, enum ptx_result result) {
    if (w->cta->result == PTX_OK) {
        w->cta->result = result;
    }
    w->event = true;
}

/* ---- registers ---- */

static void fill(struct ptx_warp *w, uint32_t slot, uint32_t bytes, uint64_t bits) {
    for (uint32_t l = 0; l < PTX_LANES; l++) {
        memcpy(w->regs + slot + (size_t)l * bytes, &bits, bytes); /* little-endian */
    }
}

static void set_constants(struct ptx_warp *w) {
    const struct ptx_kernel *k = w->cta->kernel;

    *PTX_REG(w, ptx_u32, 0) = PTX_ALL;
    for (uint32_t i = 0; i < k->n_constant; i++) {
        const struct ptx_constant *c = &k->constants[i];

        if (c->bytes == 0) {
            *PTX_REG(w, ptx_u32, c->slot) = (uint32_t)c->bits;
        } else {
            fill(w, c->slot, c->bytes, c->bits);
        }
    }
}

static uint64_t special_value(const struct ptx_warp *w, int special, uint32_t lane) {
    const struct ptx_cta *cta = w->cta;
    const uint64_t bit = (uint64_t)1 << lane;
    uint32_t tid[3];

    thread_index(w, (int)lane, tid);
    switch (special) {
    case PTX_LANEID:
        return lane;
    case PTX_WARPID:
        return w->index;
    case PTX_NWARPID:
        return cta->n_warp;
    case PTX_NSMID:
        return 1;
    case PTX_GRIDID:
        return cta->grid_id;
    case PTX_LANEMASK_EQ:
        return bit;
    case PTX_LANEMASK_LT:
        return bit - 1;
    case PTX_LANEMASK_LE:
        return bit * 2 - 1;
    case PTX_LANEMASK_GT:
        return ~(bit * 2 - 1);
    case PTX_LANEMASK_GE:
        return ~(bit - 1);
    case PTX_DYNAMIC_SMEM_SIZE:
        return cta->launch->dynamic_shared;
    case PTX_TOTAL_SMEM_SIZE:
        return cta->n_shared;
    case PTX_SMID:
    case PTX_CLOCK: /* these move: ptx_data.c */
    case PTX_CLOCK_HI:
    case PTX_CLOCK64:
    case PTX_GLOBALTIMER:
        return 0;
    default:
        break;
    }
    if (special >= PTX_NCTAID_X) {
        return cta->launch->grid[special - PTX_NCTAID_X];
    }
    if (special >= PTX_CTAID_X) {
        return cta->at[special - PTX_CTAID_X];
    }
    return special >= PTX_NTID_X ? cta->launch->block[special - PTX_NTID_X] : tid[special];
}

static void set_specials(struct ptx_warp *w) {
    const struct ptx_kernel *k = w->cta->kernel;

    for (int i = 0; i < PTX_SPECIAL_COUNT; i++) {
        const uint32_t bytes = ptx_special_bytes((enum ptx_special)i);

        for (uint32_t l = 0; k->specials[i] != 0 && l < PTX_LANES; l++) {
            const uint64_t bits = special_value(w, i, l);

            memcpy(w->regs + k->specials[i] + (size_t)l * bytes, &bits, bytes);
        }
    }
}

/* ---- blocks ---- */

static void start_block(struct ptx_cta *cta) {
    const size_t n_local = cta->kernel->local_bytes * PTX_LANES;

    memset(cta->barriers, 0, sizeof(cta->barriers));
    cta->clock = 0;
    cta->acquired = false;
    cta->shadow = cta->shadow_memory;
    if (cta->shadow != NULL) {
        memset(cta->shadow, 0, cta->n_shared / cta->kernel->granule * sizeof(cta->shadow[0]));
    }
    for (uint32_t i = 0; i < cta->n_warp; i++) {
        struct ptx_warp *w = &cta->warps[i];
        const uint32_t left = cta->n_thread - i * PTX_LANES;

        w->present = left >= PTX_LANES ? PTX_ALL : ((uint32_t)1 << left) - 1;
        w->active = w->present;
        w->exited = 0;
        w->pc = 0;
        w->meet = UINT32_MAX;
        w->n_group = 0;
        w->n_copy = 0;
        w->clock = 1;
        memset(w->committed, 0, sizeof(w->committed));
        memset(w->seen, 0, sizeof(w->seen));
        w->seen[i] = w->clock;
        if (n_local > 0) {
            memset(w->local_written, 0, n_local);
        }
        set_specials(w);
    }
}

/* No warp can go on: says who waits for whom. */
static void report_stuck(struct ptx_cta *cta) {
    for (uint32_t i = 0; i < cta->n_warp; i++) {
        struct ptx_warp *w = &cta->warps[i];

        for (int j = 0; j < w->n_group; j++) {
            const struct ptx_group *g = &w->groups[j];
            const int lane = __builtin_ctz(g->mask);

            if (g->wait == PTX_WAIT_BARRIER) {
                const struct ptx_barrier *b = &cta->barriers[g->barrier];

                ptx_finding(w, &cta->kernel->ops[g->at], lane,
                            "divergent barrier: %u threads wait at barrier %u for %u that have "
                            "ended or wait elsewhere",
                            b->arrived, g->barrier, b->expected - b->arrived);
            } else {
                ptx_finding(w, &cta->kernel->ops[g->wait == PTX_WAIT_WARP ? g->at : g->pc], lane,
                            "deadlock: lanes 0x%08x wait for lanes 0x%08x, which never come",
                            g->mask, g->need & ~g->mask & ~w->exited);
            }
            ptx_stop(w, PTX_FAILED);
        }
    }
}

static void run_block(struct ptx_cta *cta) {
    bool any = true;

    start_block(cta);
    while (any && cta->result == PTX_OK) {
        any = false;
        for (uint32_t i = 0; i < cta->n_warp && cta->result == PTX_OK; i++) {
            if (ptx_warp_can_run(&cta->warps[i])) {
                any = true;
                ptx_warp_run(&cta->warps[i]);
            }
        }
        if (cta->clock > ptx_max_block_ops) {
            struct ptx_warp *w = cta->warps;

            while (!ptx_warp_can_run(w) && w < cta->warps + cta->n_warp - 1) {
                w++;
            }
            ptx_finding(w, &cta->kernel->ops[w->pc], 0,
                        "endless loop: the block has run for %llu warp instructions (blocks run "
                        "one after another, and can't wait for each other)",
                        (unsigned long long)cta->clock);
            ptx_stop(w, PTX_FAILED);
        }
    }
    if (cta->result == PTX_OK) {
        report_stuck(cta);
    }
}

static void *allocate(size_t n, size_t size) {
    void *p = calloc(n == 0 ? 1 : n, size == 0 ? 1 : size);

    if (p == NULL) {
        abort();
    }
    return p;
}

static void start_launch(struct ptx_cta *cta, const struct ptx_kernel *k,
                         const struct ptx_launch *launch) {
    const size_t n_local = k->local_bytes * PTX_LANES;
    size_t n_shared = k->shared_bytes;

    if (launch->dynamic_shared > 0) {
        n_shared = (n_shared + 15) / 16 * 16 + launch->dynamic_shared;
    }
    cta->n_thread = launch->block[0] * launch->block[1] * launch->block[2];
    cta->n_warp = (cta->n_thread + PTX_LANES - 1) / PTX_LANES;
    cta->n_shared = (n_shared + 3) / 4 * 4;
    cta->shared = allocate(cta->n_shared, 1);
    if (launch->check) {
        cta->shadow_memory = allocate(cta->n_shared / k->granule, sizeof(cta->shadow[0]));
    }
    cta->warps = allocate(cta->n_warp, sizeof(cta->warps[0]));
    for (uint32_t i = 0; i < cta->n_warp; i++) {
        struct ptx_warp *w = &cta->warps[i];

        w->cta = cta;
        w->index = i;
        w->regs = aligned_alloc(64, k->reg_bytes);
        if (w->regs == NULL) {
            abort();
        }
        memset(w->regs, 0, k->reg_bytes);
        w->local = allocate(n_local, 1);
        w->local_written = allocate(n_local, 1);
        set_constants(w);
    }
}

static void finish_launch(struct ptx_cta *cta) {
    for (uint32_t i = 0; i < cta->n_warp; i++) {
        free(cta->warps[i].regs);
        free(cta->warps[i].local);
        free(cta->warps[i].local_written);
        free(cta->warps[i].copies);
    }
    for (size_t i = 0; i < cta->n_region; i++) {
        free(cta->regions[i].writer);
    }
    free(cta->regions);
    free(cta->warps);
    free(cta->shared);
    free(cta->shadow_memory);
}

enum ptx_result ptx_run(const struct ptx_kernel *k, const struct ptx_launch *launch,
                        const struct ptx_host *host) {
    static uint64_t grid_id;
    struct ptx_cta cta = {.kernel = k, .launch = launch, .host = host, .grid_id = ++grid_id};
    const uint64_t n_thread = (uint64_t)launch->block[0] * launch->block[1] * launch->block[2];

    if (n_thread == 0 || n_thread > PTX_MAX_THREADS) {
        return PTX_FAILED; /* the host refuses such a launch itself */
    }
    start_launch(&cta, k, launch);
    for (cta.at[2] = 0; cta.at[2] < launch->grid[2]; cta.at[2]++) {
        for (cta.at[1] = 0; cta.at[1] < launch->grid[1]; cta.at[1]++) {
            for (cta.at[0] = 0; cta.at[0] < launch->grid[0] && cta.result == PTX_OK; cta.at[0]++) {
                run_block(&cta);
            }
        }
    }
    finish_launch(&cta);
    return cta.result;
}
