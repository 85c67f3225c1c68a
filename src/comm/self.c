/* The world of one rank: every collective is a copy at most. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "comm/comm.h"

static bool copy(struct comm *c, const char *op, enum flight_type type, void *dst, const void *src,
                 size_t bytes) {
    const struct flight_call call = {op, bytes, type};
    double now = clock_now();
    uint64_t entry = flight_enter_collective(&call, now);
    c->stats.n_collective++;
    if (dst != src && bytes > 0) {
        memmove(dst, src, bytes);
    }
    flight_leave(entry, now); /* a copy at most: the clock costs more than it would say */
    return true;
}

static void self_destroy(struct comm *c) {
    free(c);
}

static bool self_all_reduce_tree(struct comm *c, float *out, float *pieces, size_t n, int n_leaf,
                                 struct error *err) {
    if (n_leaf < 1 || n_leaf > LEAF_TREE_MAX_LEAVES) {
        return error_set(err, ERROR_SHAPE, "all_reduce_tree: %d leaves", n_leaf);
    }
    return copy(c, "all-reduce", FLIGHT_F32, out, pieces,
                n * sizeof(*out)); /* one piece: the whole tree */
}

static bool self_all_reduce_u32(struct comm *c, uint32_t *x, size_t n, struct error *err) {
    (void)err;
    return copy(c, "all-reduce", FLIGHT_U32, x, x, n * sizeof(*x));
}

static bool self_all_gather(struct comm *c, void *dst, const void *src, size_t bytes,
                            struct error *err) {
    (void)err;
    return copy(c, "all-gather", FLIGHT_BYTES, dst, src, bytes);
}

static bool self_broadcast(struct comm *c, void *buf, size_t bytes, int root, struct error *err) {
    if (root != 0) {
        return error_set(err, ERROR_SHAPE, "broadcast: no rank %d in a world of 1", root);
    }
    return copy(c, "broadcast", FLIGHT_BYTES, buf, buf, bytes);
}

static bool self_gather(struct comm *c, void *dst, const void *src, const size_t *bytes,
                        struct error *err) {
    (void)err;
    return copy(c, "gather", FLIGHT_BYTES, dst, src, bytes[0]);
}

static const struct comm_ops self_ops = {
    .name = "self",
    .exact = true,
    .destroy = self_destroy,
    .alloc = comm_host_alloc,
    .free = comm_host_free,
    .all_reduce_tree = self_all_reduce_tree,
    .all_reduce_u32 = self_all_reduce_u32,
    .all_reduce_max_u32 = self_all_reduce_u32,
    .all_gather = self_all_gather,
    .broadcast = self_broadcast,
    .gather = self_gather,
};

bool comm_self_create(struct comm **out, struct error *err) {
    struct comm *c = calloc(1, sizeof(*c));
    if (c == NULL) {
        return error_set(err, ERROR_MEMORY, "out of memory for a communicator");
    }
    c->ops = &self_ops;
    c->world = 1;
    *out = c;
    return true;
}
