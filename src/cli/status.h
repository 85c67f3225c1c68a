/* How the run ended: the one line of blame on stderr, and --status-file. */
#pragma once

#include <stdbool.h>

#include "base/error.h"

/* What the line and the file say besides the error. Borrowed for good. */
void status_set_command(const char *name);
/* Looks for --status-file in a command line; one that cannot be parsed otherwise has an end too. */
void status_find_file(int argc, char **argv);

/* Where a rank runs, for "rank 3 (node7, cuda:1)". */
void status_set_place(int rank, const char *host, const char *device);

/* True for the first who asks: the end of this process is that one's to tell, by the line and the
 * file, and nobody else's. */
bool status_claim(void);

enum { STATUS_LINE_SIZE = 1000 };

/* The line of blame, with its newline and its end; returns its length. */
int status_error_line(const struct error *err, char line[STATUS_LINE_SIZE]);

/* Prints the line of blame: `lockstep: rank 3 (node7, host): st_truncated: ...`; a usage error
 * reads `lockstep generate: ...; try: lockstep generate --help`. */
void status_print_error(const struct error *err);

enum { STATUS_FILE_S = 10 }; /* for the main thread to do so: the file system may be gone */

/* Writes the status file, if one is asked for, at once and whole: {"ok", "exit_code", "command",
 * "kind", "rank", "host", "device", "message"}. err NULL: all is well. */
void status_write_file(const struct error *err);
