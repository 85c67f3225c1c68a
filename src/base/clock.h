/* Monotonic time. Deadlines are absolute times on this clock, in seconds. */
#pragma once

/* Seconds on CLOCK_MONOTONIC. */
double clock_now(void);

/* Sleeps, at least to the resolution of the kernel's timers. */
void clock_sleep(double seconds);
