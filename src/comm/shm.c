#include "comm/shm.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory_file.h"

#define MEMORY_NAME "lockstep-shm"

enum {
    SHM_LINES = 128,        /* bytes that processors fetch at a time */
    SHM_LOOKS = 64,         /* at the others, between two at the clock ... */
    SHM_LOOKS_CROWDED = 32, /* ... and two sched_yield, where ranks share cores: about 1 us, as
                             * CROWDED_SPINS_PER_YIELD of mpi.c takes */
};

static const double attend_s = 10e-6;
/* See wire.c, where they are numbers of spins. */
static const double first_yield_s = 60e-6, yield_s = 2e-3;

/* What a rank is in, for the others to compare. */
struct shm_call {
    uint64_t sequence, n, n_leaf;
};

struct shm_memory {
    uint64_t token;
    _Alignas(SHM_LINES) _Atomic uint64_t round; /* the last one that there is a slot of */
    struct shm_call call[2];                    /* beside it: who reads one has the other */
    _Alignas(4096) float slot[2][SHM_SLOT_BYTES / sizeof(float)];
};

bool shm_init(struct shm *s, struct wire *w, uint64_t token, struct shm_address *out,
              struct error *err) {
    *s = (struct shm){.wire = w, .fd = -1};
    s->all = calloc((size_t)w->comm->world, sizeof(*s->all));
    s->own = memory_file_create(MEMORY_NAME, sizeof(*s->own), &s->fd);
    if (s->all == NULL || s->own == NULL) {
        return error_set(err, ERROR_MEMORY, "no memory to share: %s", strerror(errno));
    }
    memset(s->own, 0, sizeof(*s->own)); /* there from now on, and near this rank's core */
    s->own->token = token;
    s->all[w->comm->rank] = s->own;
    *out = (struct shm_address){(int32_t)getpid(), s->fd, token};
    return true;
}

bool shm_map(struct shm *s, int rank, const struct shm_address *a, struct error *err) {
    const struct shm_memory *m = memory_file_map(MEMORY_NAME, sizeof(*m), a->pid, a->fd);
    if (m == NULL && errno != 0) {
        return error_set(err, ERROR_MEMORY, "cannot map rank %d's memory: %s", rank,
                         strerror(errno));
    }
    s->all[rank] = m;
    return (m != NULL && m->token == a->token) ||
           error_set(err, ERROR_MEMORY, "process %d here is not rank %d", (int)a->pid, rank);
}

void shm_mapped(struct shm *s) {
    close(s->fd);
    s->fd = -1;
}

void shm_finish(struct shm *s) {
    for (int r = 0; s->all != NULL && r < s->wire->comm->world; r++) {
        if (s->all[r] != NULL && s->all[r] != s->own) {
            munmap((void *)s->all[r], sizeof(*s->own));
        }
    }
    free(s->all);
    if (s->own != NULL) {
        munmap(s->own, sizeof(*s->own));
        if (s->fd >= 0) {
            close(s->fd);
        }
    }
    *s = (struct shm){0};
}

float *shm_slot(struct shm *s) {
    return s->own->slot[(s->round + 1) % 2];
}

const float *shm_of(const struct shm *s, int rank) {
    return s->all[rank]->slot[s->round % 2];
}

/* ---- a round ---- */

static bool is_here(const struct shm *s, int rank) {
    return atomic_load_explicit(&s->all[rank]->round, memory_order_acquire) >= s->round;
}

/* *from: all before that rank are. */
static bool all_are_here(const struct shm *s, int *from) {
    while (*from < s->wire->comm->world && is_here(s, *from)) {
        (*from)++;
    }
    return *from == s->wire->comm->world;
}

/* True if all came after all. */
static bool too_late(struct shm *s, struct error *err) {
    int missing[WIRE_NAMES], n = 0;
    for (int r = 0; r < s->wire->comm->world && n < WIRE_NAMES; r++) {
        if (!is_here(s, r)) {
            missing[n++] = r;
        }
    }
    return n == 0 || wire_late(s->wire, missing, n, err);
}

static bool await_all(struct shm *s, struct error *err) {
    int from = 0;
    if (all_are_here(s, &from)) { /* who comes last needs no clock */
        return true;
    }
    double start = clock_now(), attend_at = start + attend_s;
    double yield_at = s->crowded ? start : start + first_yield_s;
    for (unsigned look = 1; !all_are_here(s, &from); look++) {
        clock_relax();
        if (look % (s->crowded ? SHM_LOOKS_CROWDED : SHM_LOOKS) != 0) {
            continue;
        }
        double now = clock_now();
        if (now >= yield_at) {
            sched_yield();
            yield_at = s->crowded ? now : now + yield_s;
        }
        if (now >= attend_at) {
            if (!wire_attend(s->wire, now, err)) {
                return false;
            }
            if (now > s->wire->deadline) {
                return too_late(s, err);
            }
            attend_at = now + attend_s;
        }
    }
    s->wire->waited += clock_now() - start;
    return true;
}

/* What a rank writes that is somewhere else is not to be taken for what it means here. */
static bool all_mean_the_same(const struct shm *s, struct error *err) {
    const struct shm_call *own = &s->own->call[s->round % 2];
    for (int r = 0; r < s->wire->comm->world; r++) {
        const struct shm_call *c = &s->all[r]->call[s->round % 2];
        if (c->sequence != own->sequence || c->n != own->n || c->n_leaf != own->n_leaf) {
            return error_set(err, ERROR_COMM,
                             "%s #%llu of %llu floats: rank %d is in #%llu of %llu", s->wire->name,
                             (unsigned long long)own->sequence, (unsigned long long)own->n, r,
                             (unsigned long long)c->sequence, (unsigned long long)c->n);
        }
    }
    return true;
}

bool shm_round(struct shm *s, size_t n, int n_leaf, struct error *err) {
    s->round++;
    s->own->call[s->round % 2] = (struct shm_call){s->wire->sequence, n, (uint64_t)n_leaf};
    atomic_store_explicit(&s->own->round, s->round, memory_order_release);
    return await_all(s, err) && all_mean_the_same(s, err);
}
