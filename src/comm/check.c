#include "comm/check.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "comm/mpi.h"

/* What a rank is about to call, as it travels. */
struct called {
    char op[FLIGHT_OP_SIZE];
    uint64_t bytes;
    uint64_t type;
    uint64_t number; /* in its flight record: to tell, not to compare */
};

struct comm_check {
    struct comm *comm;  /* owns */
    struct called *all; /* owns [world] */
};

bool comm_check_create(struct comm_check **out, MPI_Comm mpi, double timeout_s, struct error *err) {
    static const uint8_t id[COMM_ID_BYTES] = {'c', 'h', 'e', 'c', 'k'};
    struct comm_check *k = calloc(1, sizeof *k);
    if (!k) {
        return error_set(err, ERROR_MEMORY, "out of memory for --check-collectives");
    }
    if (!comm_mpi_create_unrecorded(mpi, id, timeout_s, &k->comm, err)) {
        goto fail;
    }
    k->all = calloc((size_t)k->comm->world, sizeof *k->all);
    if (!k->all) {
        error_set(err, ERROR_MEMORY, "out of memory for --check-collectives");
        goto fail;
    }
    *out = k;
    return true;
fail:
    comm_check_destroy(k);
    return false;
}

void comm_check_destroy(struct comm_check *k) {
    if (!k) {
        return;
    }
    if (!k->comm || !k->comm->broken) { /* else leaked on purpose: see comm.h */
        free(k->all);
    }
    comm_destroy(k->comm);
    free(k);
}

void comm_check_set_poll(struct comm_check *k, bool (*poll)(void *, struct error *), void *user) {
    k->comm->poll = poll;
    k->comm->poll_user = user;
}

/* ---- the comparison: the same on every rank, for all have the same list ---- */

static bool is_same(const struct called *a, const struct called *b) {
    return memcmp(a->op, b->op, sizeof a->op) == 0 && a->bytes == b->bytes && a->type == b->type;
}

static int count_same(const struct comm_check *k, const struct called *c) {
    int n = 0;
    for (int r = 0; r < k->comm->world; r++) {
        n += is_same(&k->all[r], c);
    }
    return n;
}

/* What most ranks call; of several, what the lowest rank does. */
static const struct called *usual(const struct comm_check *k) {
    const struct called *best = &k->all[0];
    for (int r = 1; r < k->comm->world; r++) {
        if (count_same(k, &k->all[r]) > count_same(k, best)) {
            best = &k->all[r];
        }
    }
    return best;
}

/* "all-reduce #12 of 4096 bytes (f32) by ranks 0, 2" */
static void describe(const struct comm_check *k, const struct called *c, struct buffer *out) {
    int n = count_same(k, c), shown = 0;
    enum flight_type type = c->type < FLIGHT_TYPE_COUNT ? (enum flight_type)c->type : FLIGHT_BYTES;
    buffer_printf(out, NULL, "%.*s #%" PRIu64 " of %" PRIu64 " bytes (%s) by rank%s",
                  FLIGHT_OP_SIZE - 1, c->op, c->number, c->bytes, flight_type_name(type),
                  n == 1 ? "" : "s");
    for (int r = 0; r < k->comm->world && shown < 16; r++) {
        if (is_same(&k->all[r], c)) {
            buffer_printf(out, NULL, "%s%d", shown++ ? ", " : " ", r);
        }
    }
    buffer_printf(out, NULL, "%s", n > shown ? ", …" : "");
}

static bool differ(const struct comm_check *k, int rank, struct error *err) {
    struct buffer here = {0}, there = {0};
    describe(k, &k->all[rank], &here);
    describe(k, usual(k), &there);
    error_set(err, ERROR_RANK_MISMATCH, "the ranks call different collectives: %.*s, but %.*s",
              (int)here.size, here.data ? (char *)here.data : "", (int)there.size,
              there.data ? (char *)there.data : "");
    buffer_finish(&here);
    buffer_finish(&there);
    err->has_rank = false;
    return error_at_rank(err, rank);
}

static bool compare(void *user, const struct flight_call *call, struct error *err) {
    struct comm_check *k = user;
    struct called mine = {
        .bytes = call->bytes, .type = (uint64_t)call->type, .number = flight_collectives()};
    strncpy(mine.op, call->op, sizeof mine.op - 1);
    if (!k->comm->ops->all_gather(k->comm, k->all, &mine, sizeof mine, err)) {
        return error_wrap(err, "before %s", call->op);
    }
    const struct called *most = usual(k);
    for (int r = 0; r < k->comm->world; r++) {
        if (!is_same(&k->all[r], most)) {
            return differ(k, r, err);
        }
    }
    return true;
}

void comm_check_attach(struct comm_check *k, struct comm *c) {
    c->check = compare;
    c->check_user = k;
}
