/* Rounds through shared memory, between ranks that all run on one host. In a round every rank
 * writes what it has into a slot of its own memory, which the others map for reading, and waits
 * until all have written theirs.
 *
 * Two slots in turn are enough: whoever writes a slot again has seen every other rank in the round
 * between, which none enters before it is done with what it read of the one before that. */
#pragma once

#include "comm/wire.h"

enum { SHM_SLOT_BYTES = 256 * 1024 };

struct shm_memory;

/* Where a rank's memory is, for the others to map it. */
struct shm_address {
    int32_t pid, fd;
    uint64_t token;
};

struct shm {
    struct wire *wire; /* borrows: the ranks, the collective under way, its deadline */
    bool crowded;      /* ranks share cores: who waits gives way at once */
    uint64_t round;    /* the last one */
    struct shm_memory *own;
    const struct shm_memory **all; /* owns [world] */
    int fd;                        /* until the others have mapped it; then -1 */
};

/* Makes this rank's memory. `token` is one that no other job's memory has. Errors: MEMORY. */
bool shm_init(struct shm *s, struct wire *w, uint64_t token, struct shm_address *out,
              struct error *err);

/* Maps another rank's. Errors: MEMORY. */
bool shm_map(struct shm *s, int rank, const struct shm_address *a, struct error *err);

/* Every rank has mapped every other's. */
void shm_mapped(struct shm *s);

void shm_finish(struct shm *s);

/* This rank's slot of the round to come: SHM_SLOT_BYTES, 64-byte aligned. */
float *shm_slot(struct shm *s);

/* Shows it to the others and waits for theirs. n and n_leaf are what all ranks must have called the
 * collective with. Errors: DEADLINE; COMM, where a rank is in another one; those of wire_attend. */
bool shm_round(struct shm *s, size_t n, int n_leaf, struct error *err);

/* What that rank wrote in the last round; to be read before the next. */
const float *shm_of(const struct shm *s, int rank);
