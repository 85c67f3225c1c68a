/* --check-collectives: before each collective the ranks tell each other what they call, so that a
 * rank that calls something else is an error on all of them, and not a hang or wrong numbers.
 *
 * It goes over MPI and host memory whatever the communicator is: where NCCL's collectives are only
 * enqueued, they are compared before they are. (What a CUDA graph replays was compared when it was
 * captured.) It costs a round trip each, and is off unless asked for. */
#pragma once

#include <mpi.h>

#include "comm/comm.h"

struct comm_check;

/* `mpi` is borrowed, and nobody else's. Collective. Errors: those of comm_mpi_create. */
bool comm_check_create(struct comm_check **out, MPI_Comm mpi, double timeout_s, struct error *err);
void comm_check_destroy(struct comm_check *k);

/* From now on every collective of c is compared. c borrows k. */
void comm_check_attach(struct comm_check *k, struct comm *c);

/* Called while waiting for the others; see comm.h. */
void comm_check_set_poll(struct comm_check *k, bool (*poll)(void *, struct error *), void *user);
