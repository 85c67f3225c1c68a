#include "cli/stillness.h"

#include <math.h>
#include <stdbool.h>

double stillness_look(struct stillness *s, uint64_t pulse, char state, double now,
                      double passed_s) {
    double beyond_s = now - 1e-9 * (double)pulse; /* its word */
    double still_s = state == 'T' ? passed_s : fmin(passed_s, fmax(0, beyond_s));
    double seconds = atomic_load_explicit(&s->seconds, memory_order_relaxed) + still_s;
    bool other = state == 't' || state == 'Z' || state == 'X';
    if (pulse != s->pulse || pulse == 0 || other || still_s <= 0) {
        seconds = 0;
    }
    s->pulse = pulse;
    atomic_store_explicit(&s->seconds, seconds, memory_order_relaxed);
    return seconds;
}
