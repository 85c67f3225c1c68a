#include "comm/comm.h"

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
