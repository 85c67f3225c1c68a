/* Which lanes of a warp run next. */
#include "ptx_warp.h"

/* Jumps backwards after which the others of the warp, and other warps, have a turn: they may be
 * what a loop waits for. */
#define TURNS_OF_GROUP 1000
#define TURNS_OF_WARP  20000

struct ptx_group *ptx_warp_wait(struct ptx_warp *w, uint32_t lanes, uint32_t pc,
                                enum ptx_wait wait) {
    struct ptx_group *g = &w->groups[w->n_group++];

    *g = (struct ptx_group){.mask = lanes, .pc = pc, .wait = wait};
    w->active &= ~lanes;
    w->event = true;
    return g;
}

/* Groups at one pc become one; those that waited for lanes try again when some come. */
static void merge(struct ptx_warp *w) {
    for (int i = 0; i < w->n_group; i++) {
        struct ptx_group *a = &w->groups[i];

        for (int j = i + 1; j < w->n_group;) {
            const struct ptx_group *b = &w->groups[j];

            if (a->pc == b->pc && a->wait <= PTX_WAIT_LANES && b->wait <= PTX_WAIT_LANES) {
                a->mask |= b->mask;
                a->wait = PTX_RUN;
                w->groups[j] = w->groups[--w->n_group];
            } else {
                j++;
            }
        }
    }
}

/* bar.warp.sync: lanes that wait for each other, wherever they do, go on when all have come. */
static void release_warp_syncs(struct ptx_warp *w) {
    for (int i = 0; i < w->n_group; i++) {
        uint32_t here = 0;
        uint32_t need;

        if (w->groups[i].wait != PTX_WAIT_WARP) {
            continue;
        }
        need = w->groups[i].need & ~w->exited;
        for (int j = 0; j < w->n_group; j++) {
            here |= w->groups[j].wait == PTX_WAIT_WARP ? w->groups[j].mask : 0;
        }
        if ((need & ~here) != 0) {
            continue;
        }
        ptx_warp_ordered(w);
        for (int j = 0; j < w->n_group; j++) {
            if (w->groups[j].wait == PTX_WAIT_WARP && (w->groups[j].mask & need) != 0) {
                w->groups[j].wait = PTX_RUN;
            }
        }
    }
}

/* The group with the least pc; when lanes have been jumping back for long, one of the others. */
static int choose(struct ptx_warp *w) {
    int best = -1;
    int other = -1;

    for (int i = 0; i < w->n_group; i++) {
        if (w->groups[i].wait != PTX_RUN) {
            continue;
        }
        if (best < 0 || w->groups[i].pc < w->groups[best].pc) {
            other = best;
            best = i;
        } else {
            other = i;
        }
    }
    if (other >= 0 && w->turns % TURNS_OF_GROUP == TURNS_OF_GROUP - 1) {
        w->turns++;
        return other;
    }
    return best;
}

/* Chooses the group that runs; false: none can. */
static bool reschedule(struct ptx_warp *w) {
    int i;

    w->event = false;
    if (w->n_group == 0) {
        w->meet = UINT32_MAX;
        return w->active != 0;
    }
    if (w->active != 0) {
        ptx_warp_wait(w, w->active, w->pc, PTX_RUN);
        w->event = false;
    }
    release_warp_syncs(w);
    merge(w);
    i = choose(w);
    if (i < 0) {
        return false;
    }
    w->active = w->groups[i].mask;
    w->pc = w->groups[i].pc;
    w->groups[i] = w->groups[--w->n_group];
    w->meet = UINT32_MAX;
    for (i = 0; i < w->n_group; i++) {
        if (w->groups[i].wait <= PTX_WAIT_LANES && w->groups[i].pc > w->pc &&
            w->groups[i].pc < w->meet) {
            w->meet = w->groups[i].pc;
        }
    }
    return true;
}

bool ptx_warp_can_run(const struct ptx_warp *w) {
    bool can = w->active != 0;

    for (int i = 0; i < w->n_group; i++) {
        can = can || w->groups[i].wait == PTX_RUN;
    }
    return can;
}

void ptx_warp_run(struct ptx_warp *w) {
    const struct ptx_op *code = w->cta->kernel->ops;
    uint64_t n = 0;

    w->turns = 0;
    w->event = true;
    for (;;) {
        const struct ptx_op *o;
        uint32_t mask;

        if (w->event || w->pc >= w->meet) {
            if (w->cta->result != PTX_OK || !reschedule(w) || w->turns >= TURNS_OF_WARP) {
                break;
            }
        }
        o = &code[w->pc++];
        mask = w->active & (ptx_pred(w, o->guard) ^ o->flip);
        n++;
        if (mask != 0) {
            o->run(w, o, mask);
        }
    }
    w->cta->clock += n;
}

bool ptx_warp_gather(struct ptx_warp *w, const struct ptx_op *o, uint32_t mask, uint32_t need) {
    const uint32_t missing = need & w->present & ~w->exited & ~mask;

    if (missing == 0) {
        ptx_warp_ordered(w);
        return true;
    }
    ptx_warp_wait(w, mask, (uint32_t)(o - w->cta->kernel->ops), PTX_WAIT_LANES)->need = need;
    return false;
}

void ptx_warp_ordered(struct ptx_warp *w) {
    if (w->clock == PTX_MAX_CLOCK) { /* two million times: no more room for it in a stamp */
        w->cta->shadow = NULL;
        return;
    }
    w->clock++;
    w->seen[w->index] = w->clock;
}

void ptx_jump(struct ptx_warp *w, uint32_t lanes, uint32_t target) {
    const bool back = target < w->pc;

    if (lanes == w->active) {
        w->pc = target;
    } else {
        ptx_warp_wait(w, lanes, target, PTX_RUN);
    }
    if (back) {
        w->turns++;
        w->event = w->event || w->n_group > 0 || w->turns >= TURNS_OF_WARP;
    }
}

void ptx_lanes_exit(struct ptx_warp *w, uint32_t lanes) {
    w->exited |= lanes;
    w->active &= ~lanes;
    w->event = true;
    for (int i = 0; i < w->n_group; i++) { /* whom did they wait for? */
        if (w->groups[i].wait == PTX_WAIT_LANES) {
            w->groups[i].wait = PTX_RUN;
        }
    }
}
