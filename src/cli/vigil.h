/* Watches the other ranks of this host, whatever the main thread is in: one whose process ends
 * without having said why, or that is stopped for longer than the deadline, ends the job. */
#pragma once

#include <stdbool.h>

#include "base/error.h"

/* Starts the thread; once the ranks of this host know each other (host_facts_read). timeout_s: for
 * a stopped rank to go on. Errors: INTERNAL. */
bool vigil_start(int rank, int world, double timeout_s, struct error *err);

/* Whether a rank is lost, and which; from any thread. In a moment this process ends. */
bool vigil_lost(struct error *out);
