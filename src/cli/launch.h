/* Start and end of a run with ranks: environment, signals, watchdog, MPI. One per process, as MPI
 * is.
 *
 * A command calls launch_run after parsing; main calls launch_finish last. */
#pragma once

#include <mpi.h>
#include <stdbool.h>

#include "base/error.h"
#include "cli/command.h"
#include "leader/pool.h"

/* What rank 0 does once the ranks are up. The pool is created, not started: call pool_start. */
typedef bool launch_lead(struct pool *pool, void *user, struct error *err);

/* Starts MPI, then on rank 0 runs `lead` and shuts the pool down, and on the others serves until
 * then. Errors: COMM_INIT (with what to type), COMM, MEMORY, IO, lead's, and on rank 0 that of a
 * rank that did not say bye. */
bool launch_run(const struct common_options *options, launch_lead *lead, void *user,
                struct error *err);

/* True once the user wants an end (SIGINT, SIGTERM, SIGHUP). A second signal, or five seconds, end
 * the process whatever it does. */
bool launch_interrupted(void);

/* Work that may go on for so long after the first signal, before the five seconds begin. */
void launch_grace(double more_s);

/* From now on SIGUSR1, which mpirun passes on to its ranks, is such a signal too; else it is
 * nothing. Call before launch_run. */
void launch_usr1_ends(void);

/* A descriptor that becomes readable with the first such signal; -1 before launch_run. */
int launch_interrupt_fd(void);

/* Another, for when this process is about to be killed: mpirun ends its ranks with SIGCONT, SIGTERM
 * a second later and SIGKILL a second after that. Readable from that SIGTERM on, and once a rank
 * is lost (vigil.h). */
int launch_kill_fd(void);

/* True where the world is up: then every rank reports its own errors, with its rank. */
bool launch_is_up(void);

/* What the start is in while the ranks do not know each other; any thread. */
const char *launch_phase(void);
int launch_rank(void);
/* True where every rank is on its way to a common end. */
bool launch_is_clean(void);

/* Ends MPI: MPI_Finalize where every rank is known to come along, else MPI_Abort with the code.
 * Returns the exit code for this process: rank 0 passes it on, the others end with 0. */
int launch_finish(int code);
