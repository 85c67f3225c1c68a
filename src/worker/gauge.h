/* What `bench` asks of a rank beside its work: the limits of its machine, and MPI's own
 * collectives to compare ours with. */
#pragma once

#include <mpi.h>

#include "comm/sweep.h"
#include "device/host/probe.h"
#include "rpc/messages.h"

/* The rate of one limit, measured by all ranks at once; 0: there is no such pattern. *probe: NULL
 * at first, then kept for the next time; the caller destroys it before the device, a host's.
 * Collective. Errors: PROTOCOL, MEMORY (COMM on the ranks that have it), the collectives' own. */
bool gauge_probe(struct probe **probe, struct device *device, struct comm *comm,
                 const struct message_probe *request, double *rate, struct error *err);

/* Times iters calls of MPI_Allreduce, MPI_Gather, ... on host memory, one after the other, on
 * `mpi`, the communicator that the tensors' own comes from; its arguments are sweep_measure's.
 * *out has means over the ranks, and nothing is verified. Collective. MPI's calls block without a
 * deadline: a phase of the watchdog's of limit_s guards them. Errors: SHAPE, MEMORY, COMM, the
 * collectives' own. */
bool gauge_bare(MPI_Comm mpi, struct comm *comm, enum sweep_collective which, uint64_t bytes,
                int iters, int warmup, double limit_s, struct sweep_sample *out, struct error *err);
