#include "cli/ping.h"

#include <string.h>

#include "base/clock.h"
#include "cli/launch.h"

enum { ROUNDS = 16, PINGS_PER_ROUND = 25 };

static const double budget_s = 0.5; /* per rank, for slow networks and crowded hosts */

/* One round: pings, then as many bare round trips, so that both meet the same machine. */
static bool one_round(struct pool *pool, int rank, double *ping, double *bare, struct error *err) {
    if (launch_interrupted()) {
        return error_set(err, ERROR_INTERRUPTED, "interrupted");
    }
    if (!pool_ping(pool, rank, NULL, err)) { /* wakes the rank up */
        return false;
    }
    for (int i = 0; i < PINGS_PER_ROUND; i++) {
        if (!pool_ping(pool, rank, &ping[i], err)) {
            return false;
        }
    }
    return rank == 0 || pool_echo(pool, rank, PINGS_PER_ROUND, bare, err);
}

static double least(double a, double b) {
    return a == 0 || b < a ? b : a;
}

bool ping_measure(struct pool *pool, int rank, struct ping_link *out, struct error *err) {
    double ping[ROUNDS * PINGS_PER_ROUND], bare[ROUNDS * PINGS_PER_ROUND];
    double start = clock_now();
    int n = 0;
    for (int i = 0; i < ROUNDS && (i == 0 || clock_now() - start < budget_s); i++) {
        double p[PINGS_PER_ROUND], b[PINGS_PER_ROUND] = {0};
        if (!one_round(pool, rank, p, b, err)) {
            return false;
        }
        memcpy(ping + n, p, sizeof p);
        memcpy(bare + n, b, sizeof b);
        n += PINGS_PER_ROUND;
        out->calm_ping = least(out->calm_ping, spread_of(p, PINGS_PER_ROUND).median);
        out->calm_bare = least(out->calm_bare, spread_of(b, PINGS_PER_ROUND).median);
    }
    out->ping = spread_of(ping, n);
    out->bare = spread_of(bare, rank == 0 ? 0 : n);
    return true;
}

double ping_link_ratio(const struct ping_link *l) {
    return l->calm_bare > 0 ? l->calm_ping / l->calm_bare : 0;
}
