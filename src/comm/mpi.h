/* The MPI communicator: collectives over host memory by non-blocking point-to-point. */
#pragma once

#include <mpi.h>

#include "comm/comm.h"

/* Makes the id of a new communicator, on rank 0. */
typedef bool comm_make_id(void *user, uint8_t id[COMM_ID_BYTES], struct error *err);

/* Rank 0's word over `mpi`, by MPI_Ibcast: a fresh id where it wants a communicator (`want` is its
 * alone to say), or all zeros where it does not, or could make none; then nobody creates one.
 * `make` NULL: a random id. Collective. After a missed deadline MPI may still be at it: end the
 * process. Errors: COMM_INIT, DEADLINE; rank 0: those of make, IO (no random bytes). */
bool comm_mpi_share_id(MPI_Comm mpi, bool want, comm_make_id *make, void *user, double timeout_s,
                       uint8_t id[COMM_ID_BYTES], struct error *err);

/* True for the id that says: no communicator. */
bool comm_mpi_id_is_none(const uint8_t id[COMM_ID_BYTES]);

/* Creates the communicator over `mpi` (borrowed; must not be used by anybody else while this lives)
 * and checks, under the deadline, that every rank came with the same id.
 * Collective. Errors: COMM_INIT, DEADLINE. */
bool comm_mpi_create(MPI_Comm mpi, const uint8_t id[COMM_ID_BYTES], double timeout_s,
                     struct comm **out, struct error *err);

/* The same, for one whose collectives do not go into the flight record. */
bool comm_mpi_create_unrecorded(MPI_Comm mpi, const uint8_t id[COMM_ID_BYTES], double timeout_s,
                                struct comm **out, struct error *err);
