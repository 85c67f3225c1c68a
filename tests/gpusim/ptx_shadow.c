/* Races on shared memory, reads of what was never written there, and of what cp.async has not yet
 * delivered. Two accesses race unless one is known to be before the other: by a barrier that both
 * warps passed, or, inside a warp, by an instruction that synchronises it. */
#include "ptx_warp.h"

static uint32_t stamp_of(const struct ptx_warp *w, int lane) {
    return w->clock << PTX_STAMP_CLOCK | (w->index * PTX_LANES + (uint32_t)lane);
}

/* Whether the access with this stamp was before all that this lane does now. */
static inline bool before(const struct ptx_warp *w, uint32_t stamp, uint32_t thread) {
    const uint32_t other = stamp & PTX_STAMP_THREAD;

    return stamp == 0 || other == thread || w->seen[other / PTX_LANES] > stamp >> PTX_STAMP_CLOCK;
}

static void race(struct ptx_warp *w, const struct ptx_op *o, int lane, uint32_t at, uint32_t stamp,
                 const char *what) {
    const uint32_t *n = w->cta->launch->block;
    const uint32_t other = stamp & PTX_STAMP_THREAD;

    if (what[0] == 'r') {
        ptx_finding(w, o, lane,
                    "race on shared memory: read of address 0x%x, which thread (%u,%u,%u) wrote "
                    "with no barrier between",
                    at, other % n[0], other / n[0] % n[1], other / n[0] / n[1]);
    } else {
        ptx_finding(w, o, lane,
                    "race on shared memory: write of address 0x%x, which thread (%u,%u,%u) %s "
                    "with no barrier between",
                    at, other % n[0], other / n[0] % n[1], other / n[0] / n[1],
                    what[1] == 'w' ? "wrote" : "read");
    }
}

static void read_granule(struct ptx_warp *w, const struct ptx_op *o, int lane, uint32_t at,
                         struct ptx_shadow *s, uint32_t stamp, uint32_t thread) {
    uint32_t *r = s->reader;

    if (s->writer == 0) {
        ptx_finding(w, o, lane, "read of shared memory never written, at 0x%x", at);
    } else if (!before(w, s->writer, thread) && (s->writer & stamp & PTX_STAMP_STRONG) == 0) {
        race(w, o, lane, at, s->writer, "r");
    }
    if (r[0] == stamp || r[1] == stamp) {
        return;
    }
    if (before(w, r[0], thread)) {
        r[0] = stamp;
    } else if (before(w, r[1], thread) ||
               (r[0] & PTX_STAMP_THREAD) / PTX_LANES == (r[1] & PTX_STAMP_THREAD) / PTX_LANES) {
        r[1] = stamp; /* of two warps rather than of one: a writer is in at most one */
    }
}

static void write_granule(struct ptx_warp *w, const struct ptx_op *o, int lane, uint32_t at,
                          struct ptx_shadow *s, uint32_t stamp, uint32_t thread) {
    if (!before(w, s->writer, thread) && (s->writer & stamp & PTX_STAMP_STRONG) == 0) {
        race(w, o, lane, at, s->writer, "ww");
    }
    for (int i = 0; i < 2; i++) {
        if (!before(w, s->reader[i], thread) && (s->reader[i] & stamp & PTX_STAMP_STRONG) == 0) {
            race(w, o, lane, at, s->reader[i], "wr");
        }
    }
}

void ptx_shadow_access(struct ptx_warp *w, const struct ptx_op *o, int lane, uint32_t offset,
                       uint32_t bytes, enum ptx_access access) {
    const uint32_t granule = w->cta->kernel->granule;
    const uint32_t thread = w->index * PTX_LANES + (uint32_t)lane;
    const bool strong = access == PTX_STRONG_READ || access == PTX_STRONG_WRITE;
    const uint32_t stamp = stamp_of(w, lane) | (strong ? PTX_STAMP_STRONG : 0);
    struct ptx_shadow *s = &w->cta->shadow[offset / granule];

    for (uint32_t at = offset; at < offset + bytes; at += granule, s++) {
        if (s->pending != 0) {
            ptx_finding(w, o, lane,
                        "stale: access to shared address 0x%x, to which a cp.async is on its way "
                        "that nobody has waited for",
                        at);
        }
        if (access == PTX_READ || access == PTX_STRONG_READ) {
            read_granule(w, o, lane, at, s, stamp, thread);
        } else {
            write_granule(w, o, lane, at, s, stamp, thread);
        }
    }
}

void ptx_shadow_store(struct ptx_warp *w, const struct ptx_op *o, int lane, uint32_t offset,
                      const void *data, uint32_t bytes, bool strong) {
    const uint32_t granule = w->cta->kernel->granule;
    const uint32_t stamp = stamp_of(w, lane);
    struct ptx_shadow *s = &w->cta->shadow[offset / granule];

    for (uint32_t i = 0; i < bytes; i += granule, s++) {
        const uint32_t other = s->writer;

        /* Had it been an earlier instruction, that would have been found as a race already. */
        if (other != stamp && !strong && (other ^ stamp) >> 5 == 0 &&
            memcmp(w->cta->shared + offset + i, (const uint8_t *)data + i, granule) != 0) {
            ptx_finding(w, o, lane,
                        "race on shared memory: lanes %u and %d of one instruction write "
                        "different values to address 0x%x",
                        other % PTX_LANES, lane, offset + i);
        }
        s->writer = stamp | (strong ? PTX_STAMP_STRONG : 0);
        s->reader[0] = 0;
        s->reader[1] = 0;
    }
}

void ptx_shadow_pending(struct ptx_warp *w, uint32_t offset, uint32_t bytes, int change) {
    const uint32_t granule = w->cta->kernel->granule;

    for (uint32_t i = 0; w->cta->shadow != NULL && i < bytes / granule; i++) {
        w->cta->shadow[offset / granule + i].pending += (uint32_t)change;
    }
}
