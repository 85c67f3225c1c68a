/* For how long a rank's main thread stands still, from looks at its pulse every now and then. */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

/* Zero-initialised is valid. */
struct stillness {
    uint64_t pulse;         /* at the last look */
    _Atomic double seconds; /* that it has been still beyond its word; any thread may read it */
};

/* pulse: flight_read_pulse's. state: flight_process_state's, 0 where nobody asked. passed_s: since
 * the last look, as far as this process ran itself: what is stopped with all others, as by Ctrl-Z,
 * does not hang. A rank in a debugger ('t') is never still, nor one that has ended. Returns
 * `seconds`. */
double stillness_look(struct stillness *s, uint64_t pulse, char state, double now, double passed_s);
