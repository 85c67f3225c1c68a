/* Whom everybody waits for. */
#include "leader/pool_impl.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/flight_dump.h"
#include "base/flight_peers.h"

/* For ranks to tell where they are. One that waits in a collective, or for a request, answers in
 * milliseconds; a rank that missed its own deadline ends itself a second later if it hears nothing.
 */
static const double answers_s = 0.4;

static bool has_told(const struct pool *p, int rank) {
    return p->places[rank].seq == p->seq;
}

static bool is_known(const struct pool *p, int rank) {
    return flight_of_rank(rank) || has_told(p, rank);
}

static bool all_are_known(const struct pool *p) {
    int r = 0;
    while (r < p->world && is_known(p, r)) {
        r++;
    }
    return r == p->world;
}

static void hear_places(struct pool *p) {
    struct error ignored;
    double end = clock_now() + answers_s;
    p->settled = p->seq > p->settled ? p->seq : p->settled; /* their troubles are this one's */
    while (!all_are_known(p) && clock_now() < end) {
        pool_read_notices(p, &ignored);
        clock_sleep(1e-3);
    }
}

/* Time has gone on since it was told. */
static struct blame_rank told_place(const struct pool_place *place) {
    struct blame_rank r = place->at;
    double since = clock_now() - place->heard;
    r.collective_s += since;
    r.rpc_s += since;
    return r;
}

bool pool_find_culprit(struct pool *p, struct error *err) {
    struct blame_rank *ranks = NULL;
    struct flight_entry *entries = NULL;
    bool in_vain = err->kind == ERROR_DEADLINE;
    bool wrong = err->kind == ERROR_COMM || err->kind == ERROR_WRONG_RESULT;
    if ((!in_vain && !wrong) || p->world == 1) {
        return false;
    }
    ranks = calloc((size_t)p->world, sizeof *ranks);
    entries = calloc((size_t)p->world * FLIGHT_ENTRIES, sizeof *entries);
    if (ranks && entries) {
        if (in_vain && !all_are_known(p)) {
            pool_call_off(p, err);
            hear_places(p);
        }
        for (int r = 0; r < p->world; r++) {
            blame_look(&ranks[r], r, entries + (size_t)r * FLIGHT_ENTRIES);
            if (!ranks[r].known && has_told(p, r)) {
                ranks[r] = told_place(&p->places[r]);
            }
        }
        if (in_vain) {
            blame_find(ranks, p->world, err->has_rank ? err->rank : -1, err);
        } else {
            blame_find_mismatch(ranks, p->world, err);
        }
    }
    flight_dump(err->message);
    free(entries);
    free(ranks);
    return false;
}
