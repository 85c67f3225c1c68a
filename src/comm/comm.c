#include "comm/comm.h"

#include "device/host/host.h"

bool comm_agree(struct comm *c, bool ok, struct error *err) {
    /* The largest of these numbers belongs to the lowest rank that failed. */
    uint32_t vote = ok ? 0 : (uint32_t)(c->world - c->rank);
    struct error failed_vote;
    if (!c->ops->all_reduce_max_u32(c, &vote, 1, ok ? err : &failed_vote)) {
        return false;
    }
    if (vote == 0) {
        return true;
    }
    if (ok) {
        int rank = c->world - (int)vote;
        error_set(err, ERROR_COMM, "rank %d could not do its part", rank);
        error_at_rank(err, rank);
    }
    return false;
}

void comm_destroy(struct comm *c) {
    if (c != NULL) {
        c->ops->destroy(c);
    }
}

bool comm_host_alloc(struct comm *c, size_t bytes, void **out, struct error *err) {
    (void)c;
    void *p = host_memory_alloc(bytes);
    if (!p) {
        return error_set(err, ERROR_MEMORY, "cannot allocate %zu bytes", bytes);
    }
    *out = p;
    return true;
}

void comm_host_free(struct comm *c, void *p, size_t bytes) {
    (void)c;
    host_memory_free(p, bytes);
}
