/* From an address to bytes, with every check that an access has to pass. */
#include "ptx_warp.h"

#include <stdlib.h>

static const char *verb(enum ptx_access access) {
    return access == PTX_READ || access == PTX_STRONG_READ ? "read" : "write";
}

static uint8_t *fail(struct ptx_warp *w, const struct ptx_op *o, int lane, uint64_t address,
                     uint32_t bytes, enum ptx_access access, const char *space) {
    ptx_finding(w, o, lane, "out of bounds: %s of %u bytes at %s address 0x%llx", verb(access),
                bytes, space, (unsigned long long)address);
    ptx_stop(w, PTX_ILLEGAL_ADDRESS);
    return NULL;
}

static bool all_written(const uint8_t *written, uint32_t bytes) {
    uint32_t word;

    if (bytes == 4) { /* what most accesses are */
        memcpy(&word, written, 4);
        if (word == 0x01010101) {
            return true;
        }
    }
    for (uint32_t i = 0; i < bytes; i++) {
        if (written[i] == 0) {
            return false;
        }
    }
    return true;
}

/* The allocation that holds the address, and what this launch knows about it; NULL: there is none.
 */
static struct ptx_region *find_region(struct ptx_cta *cta, uint64_t address) {
    const uint32_t *n = cta->launch->grid;
    struct ptx_region *r;
    const struct ptx_block *b;

    for (size_t i = 0; i < cta->n_region; i++) {
        r = &cta->regions[i];
        if (address - r->block->address < r->block->bytes) {
            return r;
        }
    }
    b = cta->host->find != NULL ? cta->host->find(cta->host->user, address) : NULL;
    if (b == NULL) {
        return NULL;
    }
    cta->regions = ptx_grow(cta->regions, cta->n_region, sizeof(cta->regions[0]));
    r = &cta->regions[cta->n_region++];
    *r = (struct ptx_region){.block = b};
    if (cta->launch->check && (uint64_t)n[0] * n[1] * n[2] > 1) {
        /* Large, but only the pages that are written cost anything. */
        r->writer = calloc(b->bytes / cta->kernel->global_granule + 1, sizeof(r->writer[0]));
    }
    return r;
}

/* Blocks of a grid run in no order: what one writes, another must not touch, but by atomics. A
 * block that has itself used an atomic may know from it that the other is done. */
static void check_blocks(struct ptx_warp *w, const struct ptx_op *o, int lane, uint64_t at,
                         const struct ptx_region *r, uint32_t bytes, enum ptx_access access) {
    struct ptx_cta *cta = w->cta;
    const uint32_t *n = cta->launch->grid;
    const uint32_t me = (cta->at[2] * n[1] + cta->at[1]) * n[0] + cta->at[0] + 1;
    const uint32_t granule = cta->kernel->global_granule;
    const bool writes = access == PTX_WRITE || access == PTX_STRONG_WRITE;

    if (access == PTX_STRONG_READ || access == PTX_STRONG_WRITE) {
        cta->acquired = true;
        return;
    }
    for (uint64_t i = at / granule; i <= (at + bytes - 1) / granule; i++) {
        const uint32_t other = r->writer[i];

        if (other != 0 && other != me && !cta->acquired) {
            ptx_finding(w, o, lane,
                        "race on global memory: %s of address 0x%llx, which block (%u,%u,%u) wrote",
                        verb(access), (unsigned long long)(r->block->address + i * granule),
                        (other - 1) % n[0], (other - 1) / n[0] % n[1], (other - 1) / n[0] / n[1]);
        }
        r->writer[i] = writes ? me : other;
    }
}

static uint8_t *map_global(struct ptx_warp *w, const struct ptx_op *o, int lane, uint64_t address,
                           uint32_t bytes, enum ptx_access access) {
    struct ptx_cta *cta = w->cta;
    const bool writes = access == PTX_WRITE || access == PTX_STRONG_WRITE;
    const struct ptx_block *b;
    uint64_t at;

    if (cta->last == NULL || address - cta->last->block->address >= cta->last->block->bytes) {
        cta->last = find_region(cta, address);
        if (cta->last == NULL) {
            return fail(w, o, lane, address, bytes, access, "global");
        }
    }
    b = cta->last->block;
    at = address - b->address;
    if (b->bytes - at < bytes) {
        return fail(w, o, lane, address, bytes, access, "global");
    }
    if (b->written != NULL) {
        if (writes) {
            memset(b->written + at, 1, bytes);
        } else if (cta->launch->check && !all_written(b->written + at, bytes)) {
            ptx_finding(w, o, lane, "read of %u bytes of global memory never written, at 0x%llx",
                        bytes, (unsigned long long)address);
        }
    }
    if (cta->last->writer != NULL) {
        check_blocks(w, o, lane, at, cta->last, bytes, access);
    }
    return b->data + at;
}

static uint8_t *map_module(struct ptx_warp *w, const struct ptx_op *o, int lane, uint64_t address,
                           uint32_t bytes, enum ptx_access access) {
    const struct ptx_module *m = w->cta->kernel->module;
    const uint64_t at = PTX_OFFSET(address);

    for (const struct ptx_variable *v = m->variables; v != NULL; v = v->next) {
        if (v->space != PTX_SHARED && at - v->offset < v->bytes &&
            v->bytes - (at - v->offset) >= bytes && (v->space != PTX_CONST || access == PTX_READ)) {
            return m->data + at;
        }
    }
    return fail(w, o, lane, address, bytes, access, "module");
}

static uint8_t *map_shared(struct ptx_warp *w, const struct ptx_op *o, int lane, uint64_t address,
                           uint32_t bytes, enum ptx_access access) {
    struct ptx_cta *cta = w->cta;

    if (address >= cta->n_shared || cta->n_shared - address < bytes) {
        return fail(w, o, lane, address, bytes, access, "shared");
    }
    if (cta->shadow != NULL) {
        ptx_shadow_access(w, o, lane, (uint32_t)address, bytes, access);
    }
    return cta->shared + address;
}

static uint8_t *map_local(struct ptx_warp *w, const struct ptx_op *o, int lane, uint64_t address,
                          uint32_t bytes, enum ptx_access access) {
    const size_t n = w->cta->kernel->local_bytes;
    const size_t at = (size_t)lane * n + address;

    if (address >= n || n - address < bytes) {
        return fail(w, o, lane, address, bytes, access, "local");
    }
    if (access == PTX_WRITE || access == PTX_STRONG_WRITE) {
        memset(w->local_written + at, 1, bytes);
    } else if (w->cta->launch->check && !all_written(w->local_written + at, bytes)) {
        ptx_finding(w, o, lane, "read of %u bytes of local memory never written, at 0x%llx", bytes,
                    (unsigned long long)address);
    }
    return w->local + at;
}

static uint8_t *map_param(struct ptx_warp *w, const struct ptx_op *o, int lane, uint64_t address,
                          uint32_t bytes, enum ptx_access access) {
    const size_t n = w->cta->kernel->param_bytes;

    if (address >= n || n - address < bytes || access != PTX_READ) {
        return fail(w, o, lane, address, bytes, access, "parameter");
    }
    return (uint8_t *)(uintptr_t)w->cta->launch->params + address; /* only read */
}

uint8_t *ptx_map(struct ptx_warp *w, const struct ptx_op *o, int lane, enum ptx_space space,
                 uint64_t address, uint32_t bytes, enum ptx_access access) {
    if (address % bytes != 0) {
        ptx_finding(w, o, lane, "misaligned: %s of %u bytes at address 0x%llx", verb(access), bytes,
                    (unsigned long long)address);
        ptx_stop(w, PTX_MISALIGNED);
        return NULL;
    }
    if (space == PTX_GENERIC) {
        static const uint8_t spaces[] = {
            [PTX_WINDOW_GLOBAL] = PTX_GLOBAL, [PTX_WINDOW_SHARED] = PTX_SHARED,
            [PTX_WINDOW_LOCAL] = PTX_LOCAL,   [PTX_WINDOW_PARAM] = PTX_PARAM,
            [PTX_WINDOW_MODULE] = PTX_GLOBAL,
        };
        const unsigned window = PTX_WINDOW(address);

        space = window < sizeof(spaces) ? (enum ptx_space)spaces[window] : PTX_GLOBAL;
        address = space == PTX_GLOBAL ? address : PTX_OFFSET(address);
    }
    switch (space) {
    case PTX_SHARED:
        return map_shared(w, o, lane, address, bytes, access);
    case PTX_LOCAL:
        return map_local(w, o, lane, address, bytes, access);
    case PTX_PARAM:
        return map_param(w, o, lane, address, bytes, access);
    default:
        break;
    }
    if (PTX_WINDOW(address) == PTX_WINDOW_MODULE) {
        return map_module(w, o, lane, address, bytes, access);
    }
    return map_global(w, o, lane, address, bytes, access);
}
