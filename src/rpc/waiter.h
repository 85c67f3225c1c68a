/* How a wait passes its time: awake for 2 ms, so that what follows soon is met at once, then asleep
 * for longer and longer, so that a rank with no work uses next to nothing. */
#pragma once

#include <stdbool.h>

/* Zero-initialised but for yield_early is valid. The clock is first read when there is something to
 * wait for: reading it costs as much as a look, and most answers are there at once. */
struct waiter {
    bool yield_early; /* more ranks than cores share this host */
    double start;     /* 0: not yet known */
    double now;
    double nap; /* 0: still awake */
    unsigned spins;
};

/* Passes the time between two looks. True when it has looked at the clock: `start` and `now` are
 * set, and the next look may cost more, for it is one of few. */
bool waiter_pause(struct waiter *w);
