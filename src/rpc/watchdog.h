/* A thread that ends the process when a phase that can block without a deadline of its own takes
 * too long: MPI_Init, a blocking collective of start-up, MPI_Finalize. It writes a line and the
 * flight record, and calls _exit; never MPI or a device library, which may be what is stuck. */
#pragma once

#include <stdbool.h>

#include "base/error.h"

/* Starts the thread; before MPI_Init. Without it (an embedding program) phases do nothing.
 * Errors: INTERNAL. */
bool watchdog_start(struct error *err);

/* How the line names this process: "rank 3 (node7)". */
void watchdog_set_who(const char *who);

/* Enters a phase that must end (by watchdog_clear or the next phase) within `seconds`; else the
 * process says so in one line and ends with exit code 4. `name` is borrowed for good. */
void watchdog_phase(const char *name, double seconds);
void watchdog_clear(void);

/* The phase that there is, if any, gets so many seconds more. */
void watchdog_postpone(double seconds);

/* Called before the thread ends the process, on it; they may do what the thread may. may_say:
 * whether this process is to say why; said: after it has. err: in other words than
 * watchdog_last_words', else NULL. */
void watchdog_on_end(bool (*may_say)(void), void (*said)(const struct error *err));

/* While set, a phase that takes too long ends the process with this line (whole, with its newline)
 * and exit code in place of its own: the process is at its end for a reason that is known, and what
 * is stuck is only the cleaning up. NULL: no more. */
void watchdog_last_words(const char *line, int exit_code);
