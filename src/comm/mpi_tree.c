/* The all-reduce in the order of the leaf tree, by messages (mpi_shm.c has another way, for ranks
 * of one host). Three ways to exchange, one order of additions:
 *
 * levels  every rank holds one subtree: partners at distance 1, 2, 4, ... swap their sums.
 * pieces  otherwise, short vectors: everybody gets all subtrees and adds them up.
 * slices  long vectors: rank r adds up slice r of the vector, then the slices are gathered.
 *
 * Each element's sum is the same expression of the leaves in all three. In slices one rank computes
 * an element for all; in the other two all ranks run the same code on the same operands, with left
 * and right kept apart, so that even the payloads of NaNs agree. */
#include <stdlib.h>
#include <string.h>

#include "comm/mpi_comm.h"
#include "comm/sum.h"

enum {
    TREE_SLICES_BYTES = 16 * 1024,       /* vectors from here on go by slices; measured */
    TREE_SLICES_BYTES_OF_2 = 128 * 1024, /* two ranks: slices save additions, not messages */
};

void mpi_tree_plan_finish(struct mpi_tree_plan *plan) {
    free(plan->first_piece);
    free(plan->adds);
    free(plan->piece);
    *plan = (struct mpi_tree_plan){0};
}

static bool plan_for(struct comm_mpi *c, int n_leaf, struct error *err) {
    bool ok = false;
    int world = c->base.world;
    struct mpi_tree_plan plan = {.n_leaf = n_leaf};
    struct leaf_run *pieces = NULL;

    for (int i = 0; i < MPI_TREE_PLANS; i++) {
        if (c->plans[i].n_leaf == n_leaf) {
            c->plan = &c->plans[i];
            return true;
        }
    }
    pieces = malloc((size_t)(n_leaf + LEAF_TREE_MAX_PIECES) * sizeof(*pieces));
    plan.first_piece = malloc((size_t)(world + 1) * sizeof(*plan.first_piece));
    plan.adds = malloc((size_t)n_leaf * sizeof(*plan.adds));
    plan.piece = malloc((size_t)n_leaf * sizeof(*plan.piece));
    if (pieces == NULL || plan.first_piece == NULL || plan.adds == NULL || plan.piece == NULL) {
        error_set(err, ERROR_MEMORY, "out of memory for a tree of %d leaves", n_leaf);
        goto out;
    }
    int n = 0;
    for (int r = 0; r < world; r++) {
        plan.first_piece[r] = n;
        int own = leaf_tree_pieces(n_leaf, leaf_run_of_rank(n_leaf, world, r), pieces + n);
        plan.most_pieces = own > plan.most_pieces ? own : plan.most_pieces;
        n += own;
    }
    plan.first_piece[world] = n;
    plan.n_add = leaf_tree_adds(n_leaf, pieces, n, plan.adds);
    plan.balanced = leaf_tree_is_balanced(n_leaf, world);
    c->plan = c->plan == &c->plans[0] ? &c->plans[1] : &c->plans[0]; /* the older one */
    mpi_tree_plan_finish(c->plan);
    *c->plan = plan; /* moves */
    plan = (struct mpi_tree_plan){0};
    ok = true;
out:
    mpi_tree_plan_finish(&plan);
    free(pieces);
    return ok;
}

static bool reduce_by_levels(struct comm_mpi *c, float *out, float *mine, size_t n,
                             struct error *err) {
    int rank = c->base.rank;
    int world = c->base.world;
    void *memory;
    if (!mpi_comm_scratch(c, n * sizeof(float), &memory, err)) {
        return false;
    }
    float *theirs = memory;
    for (int distance = 1; distance < world; distance *= 2) {
        int partner = rank ^ distance;
        if (!wire_receive(&c->wire, theirs, n * sizeof(float), partner, err) ||
            !wire_send(&c->wire, mine, n * sizeof(float), partner, err) ||
            !wire_wait(&c->wire, err)) {
            return false;
        }
        float *to = 2 * distance == world ? out : mine;
        if (rank < partner) {
            sum_pair(to, mine, theirs, n);
        } else {
            sum_pair(to, theirs, mine, n);
        }
    }
    return true;
}

/* Where piece k, another rank's, of m floats lies in scratch: without a gap for this rank's. */
static float *received(const struct comm_mpi *c, int k, size_t m) {
    int rank = c->base.rank;
    int before = k < c->plan->first_piece[rank] ? k : k - mpi_tree_pieces_of(c->plan, rank);
    return (float *)c->scratch + (size_t)before * m;
}

/* Makes room for the pieces of m floats, and sets plan.piece to where they will lie: this rank's
 * `stride` floats apart in `mine`, the others' in scratch. */
static bool place_pieces(struct comm_mpi *c, const float *mine, size_t stride, size_t m,
                         struct error *err) {
    const struct mpi_tree_plan *plan = c->plan;
    int own = plan->first_piece[c->base.rank];
    int own_end = plan->first_piece[c->base.rank + 1];
    size_t bytes;
    void *scratch;
    if (__builtin_mul_overflow((size_t)(plan->n_add + 1 - (own_end - own)), m * sizeof(float),
                               &bytes)) {
        return error_set(err, ERROR_MEMORY, "all_reduce_tree: %zu floats", m);
    }
    if (!mpi_comm_scratch(c, bytes, &scratch, err)) {
        return false;
    }
    for (int k = 0; k <= plan->n_add; k++) {
        bool is_own = k >= own && k < own_end;
        plan->piece[k] = is_own ? mine + (size_t)(k - own) * stride : received(c, k, m);
    }
    return true;
}

static bool reduce_by_pieces(struct comm_mpi *c, float *out, const float *mine, size_t n,
                             struct error *err) {
    const struct mpi_tree_plan *plan = c->plan;
    int rank = c->base.rank;
    int world = c->base.world;
    if (!place_pieces(c, mine, n, n, err)) {
        return false;
    }
    for (int i = 1; i < world; i++) {
        int r = (rank + world - i) % world;
        size_t bytes = (size_t)mpi_tree_pieces_of(plan, r) * n * sizeof(float);
        if (!wire_receive(&c->wire, received(c, plan->first_piece[r], n), bytes, r, err)) {
            return false;
        }
    }
    size_t mine_bytes = (size_t)mpi_tree_pieces_of(plan, rank) * n * sizeof(float);
    for (int i = 1; i < world; i++) {
        if (!wire_send(&c->wire, mine, mine_bytes, (rank + i) % world, err)) {
            return false;
        }
    }
    if (!wire_wait(&c->wire, err)) {
        return false;
    }
    sum_tree(out, plan->piece, plan->adds, plan->n_add, n);
    return true;
}

size_t mpi_tree_slice_start(size_t n, int world, int r) {
    size_t units = (n + MPI_TREE_LINE - 1) / MPI_TREE_LINE;
    size_t start = units * (size_t)r / (size_t)world * MPI_TREE_LINE;
    return start < n ? start : n;
}

/* Every rank gets all ranks' pieces of its own slice. */
static bool scatter_slices(struct comm_mpi *c, const float *mine, size_t n, struct error *err) {
    const int *first = c->plan->first_piece;
    int rank = c->base.rank;
    int world = c->base.world;
    size_t own_bytes =
        (mpi_tree_slice_start(n, world, rank + 1) - mpi_tree_slice_start(n, world, rank)) *
        sizeof(float);
    for (int i = 1; i < world; i++) {
        int r = (rank + world - i) % world;
        for (int k = first[r]; k < first[r + 1]; k++) {
            if (!wire_receive(&c->wire, received(c, k, own_bytes / sizeof(float)), own_bytes, r,
                              err)) {
                return false;
            }
        }
    }
    for (int i = 1; i < world; i++) {
        int r = (rank + i) % world;
        size_t start = mpi_tree_slice_start(n, world, r);
        size_t bytes = (mpi_tree_slice_start(n, world, r + 1) - start) * sizeof(float);
        for (int k = 0; k < mpi_tree_pieces_of(c->plan, rank); k++) {
            if (!wire_send(&c->wire, mine + (size_t)k * n + start, bytes, r, err)) {
                return false;
            }
        }
    }
    return wire_wait(&c->wire, err);
}

static bool gather_slices(struct comm_mpi *c, float *out, size_t n, struct error *err) {
    int rank = c->base.rank;
    int world = c->base.world;
    size_t own = mpi_tree_slice_start(n, world, rank);
    size_t own_bytes = (mpi_tree_slice_start(n, world, rank + 1) - own) * sizeof(float);
    for (int i = 1; i < world; i++) {
        int r = (rank + world - i) % world;
        size_t start = mpi_tree_slice_start(n, world, r);
        size_t bytes = (mpi_tree_slice_start(n, world, r + 1) - start) * sizeof(float);
        if (!wire_receive(&c->wire, out + start, bytes, r, err)) {
            return false;
        }
    }
    for (int i = 1; i < world; i++) {
        if (!wire_send(&c->wire, out + own, own_bytes, (rank + i) % world, err)) {
            return false;
        }
    }
    return wire_wait(&c->wire, err);
}

static bool reduce_by_slices(struct comm_mpi *c, float *out, float *mine, size_t n,
                             struct error *err) {
    int rank = c->base.rank;
    int world = c->base.world;
    size_t own = mpi_tree_slice_start(n, world, rank);
    size_t m = mpi_tree_slice_start(n, world, rank + 1) - own;
    if (!place_pieces(c, mine + own, n, m, err) || !scatter_slices(c, mine, n, err)) {
        return false;
    }
    /* out may be mine: the other slices of mine have been sent, so they may be overwritten. */
    sum_tree(out + own, c->plan->piece, c->plan->adds, c->plan->n_add, m);
    return gather_slices(c, out, n, err);
}

/* Vectors from here on go by slices. */
static size_t long_floats(const struct comm_mpi *c) {
    return (c->base.world == 2 ? TREE_SLICES_BYTES_OF_2 : TREE_SLICES_BYTES) / sizeof(float);
}

bool mpi_tree_reserve(struct comm_mpi *c, size_t n, int n_leaf, size_t *n_message,
                      struct error *err) {
    *n_message = 0;
    if (!plan_for(c, n_leaf, err)) {
        return false;
    }
    if (c->base.shares_memory) {
        return true;
    }
    size_t world = (size_t)c->base.world, total = (size_t)c->plan->n_add + 1;
    size_t own = (size_t)mpi_tree_pieces_of(c->plan, c->base.rank);
    size_t by_pieces = n < long_floats(c) ? n : long_floats(c);
    size_t slice = n / world + 2 * MPI_TREE_LINE; /* a rank's, however n is cut */
    size_t floats = (by_pieces > slice ? by_pieces : slice) * (total - own + 1);
    void *unused;
    *n_message = total - own + world * own;
    return mpi_comm_scratch(c, floats * sizeof(float), &unused, err);
}

static bool reduce(struct comm_mpi *c, float *out, float *pieces, size_t n, struct error *err) {
    if (n == 0) {
        return true;
    }
    if (c->base.world == 1) {
        memmove(out, pieces, n * sizeof(float));
        return true;
    }
    if (c->base.shares_memory) {
        return mpi_shm_reduce(c, out, pieces, n, err);
    }
    if (n >= long_floats(c)) {
        return reduce_by_slices(c, out, pieces, n, err);
    }
    if (c->plan->balanced) {
        return reduce_by_levels(c, out, pieces, n, err);
    }
    return reduce_by_pieces(c, out, pieces, n, err);
}

bool mpi_tree_all_reduce(struct comm *base, float *out, float *pieces, size_t n, int n_leaf,
                         struct error *err) {
    struct comm_mpi *c = (struct comm_mpi *)base;
    if (n_leaf < 1 || n_leaf > LEAF_TREE_MAX_LEAVES) {
        return error_set(err, ERROR_SHAPE, "all_reduce_tree: %d leaves", n_leaf);
    }
    const struct flight_call call = {"all-reduce", n * sizeof(float), FLIGHT_F32};
    if (!wire_begin(&c->wire, &call, err)) {
        return false;
    }
    return wire_end(&c->wire, plan_for(c, n_leaf, err) && reduce(c, out, pieces, n, err));
}
