/* Signals. Blocked in every thread; one thread reads them. */
#pragma once

#include <stdbool.h>

#include "base/error.h"

/* Blocks TERM, INT, HUP, USR1, USR2 and CONT and ignores PIPE, then starts the thread that reads
 * them. Call before any other thread starts. `who` names this process in its last line. Errors:
 * INTERNAL.
 */
bool interrupt_start(const char *who, struct error *err);

/* Makes launch_kill_fd readable. From any thread. */
void interrupt_raise_kill(void);

/* When mpirun's SIGTERM came, the middle of its three signals; infinite: it has not. */
double interrupt_killed_at(void);
