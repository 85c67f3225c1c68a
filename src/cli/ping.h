/* Round trips of a ping with one rank, beside those of a bare MPI ping-pong: for check and bench.
 */
#pragma once

#include "cli/spread.h"
#include "leader/pool.h"

/* Seconds. */
struct ping_link {
    struct spread ping;
    struct spread bare;          /* of the same size; rank 0 has none */
    double calm_ping, calm_bare; /* medians of the calmest round of each */
};

/* Rounds of pings, each followed by as many bare round trips. Errors: INTERRUPTED, pool_ping's. */
bool ping_measure(struct pool *pool, int rank, struct ping_link *out, struct error *err);

/* Ping over bare ping-pong, each in its calmest round; 0 for rank 0. */
double ping_link_ratio(const struct ping_link *l);
