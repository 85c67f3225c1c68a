/* What the flight record costs: nanoseconds per collective (entered, left) with the clock's time
 * given, as the communicators do, and with two looks at the clock of its own. Not a test:
 *   build/tests/base/bench_flight [collectives a token]
 * A step of L layers has 2 L + 2 collectives and one RPC: 58 for Qwen3-0.6B's 28 layers. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/flight.h"

enum { ROUNDS = 31, N = 100000 };

static const struct flight_call call = {"all-reduce", 4096, FLIGHT_F32};

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double stores_alone(void) {
    double start = clock_now();
    for (int i = 0; i < N; i++) {
        flight_place(i, FLIGHT_MLP);
        flight_leave(flight_enter_collective(&call, start), start);
    }
    return (clock_now() - start) / N;
}

static double with_clock(void) {
    double start = clock_now();
    for (int i = 0; i < N; i++) {
        flight_place(i, FLIGHT_MLP);
        uint64_t entry = flight_enter_collective(&call, clock_now());
        flight_leave(entry, clock_now());
    }
    return (clock_now() - start) / N;
}

int main(int argc, char **argv) {
    double stores[ROUNDS], clocks[ROUNDS];
    int a_token = argc > 1 ? atoi(argv[1]) : 58;
    for (int i = 0; i < ROUNDS; i++) {
        stores[i] = 1e9 * stores_alone();
        clocks[i] = 1e9 * with_clock();
    }
    qsort(stores, ROUNDS, sizeof *stores, by_value);
    qsort(clocks, ROUNDS, sizeof *clocks, by_value);
    printf("%.1f ns a record, %.1f ns with two looks at the clock (medians of %d, quartiles %.1f "
           "%.1f); %d records a token: %.2f us\n",
           stores[ROUNDS / 2], clocks[ROUNDS / 2], (int)ROUNDS, stores[ROUNDS / 4],
           stores[ROUNDS * 3 / 4], a_token + 1,
           1e-3 * (a_token * stores[ROUNDS / 2] + clocks[ROUNDS / 2]));
    return 0;
}
