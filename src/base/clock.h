/* Monotonic time. Deadlines are absolute times on this clock, in seconds. */
#pragma once

/* Seconds on CLOCK_MONOTONIC. */
double clock_now(void);

/* For a loop that looks again at once: leaves the core to its other hardware thread for a moment.
 */
static inline void clock_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* Sleeps, at least to the resolution of the kernel's timers. */
void clock_sleep(double seconds);
