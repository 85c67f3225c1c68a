/* The all-reduce in the order of the leaf tree between ranks of one host, through shared memory.
 * Two ways, one order of additions:
 *
 * flat    every rank adds up all ranks' pieces: one round.
 * slices  longer vectors of more than two ranks: rank r adds up slice r, then all collect the
 *         slices: two rounds, but each rank reads every piece's slice only.
 *
 * What is longer than a slot goes in several parts. NaNs keep their payloads alike for the reasons
 * given in mpi_tree.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/mpi_comm.h"
#include "comm/sum.h"

enum {
    /* Of all pieces together: about what a core reads from others in the time of a second round. */
    FLAT_BYTES = 32 * 1024,
};

/* ---- set-up ---- */

/* What the ranks tell each other of their memory. */
struct offer {
    struct shm_address address;
    char why_not[96]; /* "": it is there */
};

static void decline(struct offer *mine, const char *why) {
    snprintf(mine->why_not, sizeof(mine->why_not), "%.*s", (int)sizeof(mine->why_not) - 1, why);
}

/* Tells the others; false in *agreed where one of them declines. */
static bool exchange(struct comm_mpi *c, const struct offer *mine, struct offer **all, bool *agreed,
                     struct error *err) {
    void *memory;
    size_t world = (size_t)c->base.world;
    if (!mpi_comm_scratch(c, world * sizeof(**all), &memory, err)) {
        return false;
    }
    *all = memory;
    (*all)[c->base.rank] = *mine;
    if (!mpi_gather_direct(c, memory, sizeof(**all), err)) {
        return false;
    }
    int r = 0;
    while (r < c->base.world && !*(*all)[r].why_not) {
        r++;
    }
    *agreed = r == c->base.world;
    if (!*agreed) {
        snprintf(c->base.why_not_shared, sizeof(c->base.why_not_shared), "rank %d: %s", r,
                 (*all)[r].why_not);
    }
    return true;
}

bool mpi_shm_set_up(struct comm_mpi *c, uint64_t token, bool crowded, struct error *err) {
    struct offer mine = {0}, *all;
    struct error why;
    bool agreed = false;
    const char *disabled = getenv("LOCKSTEP_SHM_DISABLE");
    if (disabled && *disabled && strcmp(disabled, "0") != 0) {
        decline(&mine, "LOCKSTEP_SHM_DISABLE is set");
    } else if (!shm_init(&c->shm, &c->wire, token, &mine.address, &why)) {
        decline(&mine, why.message);
    }
    c->shm.crowded = crowded;
    bool ok = exchange(c, &mine, &all, &agreed, err);
    if (ok && agreed) {
        for (int r = 0; r < c->base.world && !*mine.why_not; r++) {
            if (r != c->base.rank && !shm_map(&c->shm, r, &all[r].address, &why)) {
                decline(&mine, why.message);
            }
        }
        ok = exchange(c, &mine, &all, &agreed, err);
    }
    if (ok && agreed) {
        shm_mapped(&c->shm);
        c->base.shares_memory = true;
    } else {
        shm_finish(&c->shm);
    }
    return ok;
}

/* ---- the sum ---- */

/* A part of the vector, [at, at + m) of n floats. */
struct part {
    const float *pieces; /* this rank's, n floats apart */
    size_t n, at, m;
};

/* How far apart a rank's pieces of a part lie in its slot. */
static size_t stride_of(size_t m) {
    return (m + MPI_TREE_LINE - 1) / MPI_TREE_LINE * MPI_TREE_LINE;
}

/* Puts this rank's pieces where the others see them, and waits for theirs. */
static bool show_pieces(struct comm_mpi *c, const struct part *p, struct error *err) {
    size_t n_piece = (size_t)mpi_tree_pieces_of(c->plan, c->base.rank);
    float *slot = shm_slot(&c->shm);
    for (size_t k = 0; k < n_piece; k++) {
        memcpy(slot + k * stride_of(p->m), p->pieces + k * p->n + p->at, p->m * sizeof(float));
    }
    c->base.stats.bytes += n_piece * p->m * sizeof(float);
    return shm_round(&c->shm, p->n, c->plan->n_leaf, err);
}

/* out [m] = the sum of [start, start + m) of all ranks' pieces of a part. */
static void add_up(struct comm_mpi *c, const struct part *p, size_t start, size_t m, float *out) {
    struct mpi_tree_plan *plan = c->plan;
    for (int r = 0, k = 0; r < c->base.world; r++) {
        bool is_own = r == c->base.rank;
        const float *first = is_own ? p->pieces + p->at : shm_of(&c->shm, r);
        size_t apart = is_own ? p->n : stride_of(p->m);
        for (; k < plan->first_piece[r + 1]; k++) {
            plan->piece[k] = first + (size_t)(k - plan->first_piece[r]) * apart + start;
        }
    }
    sum_tree(out, plan->piece, plan->adds, plan->n_add, m);
}

static bool reduce_flat(struct comm_mpi *c, float *out, const struct part *p, struct error *err) {
    if (!show_pieces(c, p, err)) {
        return false;
    }
    add_up(c, p, 0, p->m, out);
    return true;
}

static bool reduce_by_slices(struct comm_mpi *c, float *out, const struct part *p,
                             struct error *err) {
    int rank = c->base.rank, world = c->base.world;
    if (!show_pieces(c, p, err)) {
        return false;
    }
    size_t own = mpi_tree_slice_start(p->m, world, rank);
    size_t own_bytes = (mpi_tree_slice_start(p->m, world, rank + 1) - own) * sizeof(float);
    add_up(c, p, own, own_bytes / sizeof(float), out + own);
    memcpy(shm_slot(&c->shm), out + own, own_bytes);
    c->base.stats.bytes += own_bytes;
    if (!shm_round(&c->shm, p->n, c->plan->n_leaf, err)) {
        return false;
    }
    for (int i = 1; i < world; i++) {
        int r = (rank + i) % world;
        size_t start = mpi_tree_slice_start(p->m, world, r);
        size_t bytes = (mpi_tree_slice_start(p->m, world, r + 1) - start) * sizeof(float);
        memcpy(out + start, shm_of(&c->shm, r), bytes);
    }
    return true;
}

bool mpi_shm_reduce(struct comm_mpi *c, float *out, const float *pieces, size_t n,
                    struct error *err) {
    size_t most = SHM_SLOT_BYTES / sizeof(float) / (size_t)c->plan->most_pieces / MPI_TREE_LINE *
                  MPI_TREE_LINE;
    bool flat =
        c->base.world == 2 || n * (size_t)(c->plan->n_add + 1) <= FLAT_BYTES / sizeof(float);
    for (size_t at = 0; at < n; at += most) {
        const struct part p = {pieces, n, at, n - at < most ? n - at : most};
        if (!(flat ? reduce_flat : reduce_by_slices)(c, out + at, &p, err)) {
            return false;
        }
    }
    return true;
}
