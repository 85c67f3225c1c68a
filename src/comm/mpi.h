/* The MPI communicator: collectives over host memory by non-blocking point-to-point. */
#pragma once

#include <mpi.h>

#include "comm/comm.h"

/* A fresh random id, made on rank 0 and broadcast to all. Errors: IO. */
bool comm_mpi_new_id(uint8_t id[COMM_ID_BYTES], struct error *err);

/* Creates the communicator over `mpi` (borrowed; must not be used by anybody else while this lives)
 * and checks, under the deadline, that every rank came with the same id.
 * Collective. Errors: COMM_INIT, DEADLINE. */
bool comm_mpi_create(MPI_Comm mpi, const uint8_t id[COMM_ID_BYTES], double timeout_s,
                     struct comm **out, struct error *err);
