/* Writes flight records to files, for `lockstep blame`: DIR/flight-rank3.json, whole or not at all.
 *
 * Works when the main thread is stuck: it allocates nothing, takes no lock, and calls nothing but
 * system calls and formatting of numbers. */
#pragma once

#include <stdbool.h>

#include "base/error.h"

enum { FLIGHT_DUMP_VERSION = 1 };

/* Where dumps go: a directory that is made if it is missing, and in which the dump of this rank
 * from an earlier run is removed. Before this, and without it, dumps are nothing. Errors: IO. */
bool flight_dump_to(const char *dir, int rank, struct error *err);

/* Writes this process's record and, of the neighbours on this host, those that cannot write theirs:
 * stopped ones and those that have ended; rank 0 all that it can read. A record that somebody has
 * written already stays. Once per process: what comes
 * after the first failure follows from it. `reason`: one line. */
void flight_dump(const char *reason);
