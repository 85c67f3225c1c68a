#include "rpc/waiter.h"

#include <math.h>
#include <sched.h>

#include "base/clock.h"
#include "base/flight.h"

enum {
    SPINS_PER_CLOCK = 16,
    SPINS_PER_YIELD =
        4, /* of a crowd: MPI yields too where it knows of it, and twice is too much */
};

static const double yield_s = 20e-6; /* from here on spinning gives way to others */
static const double spin_s = 2e-3;
static const double nap_first_s = 50e-6;
static const double nap_longest_s = 3e-3;

bool waiter_pause(struct waiter *w) {
    if (w->nap > 0) {
        clock_sleep(w->nap);
        w->nap = fmin(2 * w->nap, nap_longest_s);
    } else if (w->yield_early && w->spins % SPINS_PER_YIELD == SPINS_PER_YIELD - 1) {
        sched_yield();
    } else {
        clock_relax();
    }
    if (w->nap == 0 && ++w->spins % SPINS_PER_CLOCK) {
        return false;
    }
    w->now = clock_now();
    flight_pulse(w->now);
    if (w->start == 0) {
        w->start = w->now;
    } else if (w->nap == 0 && w->now - w->start > spin_s) {
        w->nap = nap_first_s;
    } else if (w->nap == 0 && w->now - w->start > yield_s) {
        sched_yield(); /* who has the answer may be waiting for this core */
    }
    return true;
}
