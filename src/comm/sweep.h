/* Times and verifies one collective at one size: what `lockstep check --bandwidth` is made of. */
#pragma once

#include "comm/comm.h"
#include "device/device.h"

enum sweep_collective {
    SWEEP_ALL_REDUCE,
    SWEEP_ALL_GATHER,
    SWEEP_BROADCAST,
    SWEEP_GATHER, /* to rank 0 */
    SWEEP_COUNT
};

/* All times are means over the ranks. */
struct sweep_sample {
    double seconds; /* per call: the mean over all timed calls */
    double median_seconds;
    uint64_t wrong; /* elements with wrong bits, summed over the ranks */
};

/* "all_reduce", "all_gather", "broadcast", "gather": names on the wire and in JSON. */
const char *sweep_name(enum sweep_collective which);
/* False if the name is none of them. */
bool sweep_from_name(const char *name, enum sweep_collective *out);

/* The size a measurement for about `bytes` really has, as nccl-tests counts it: the vector for
 * all-reduce and broadcast, the whole result for the gathers. A whole, positive number of floats,
 * of floats per rank for the gathers. */
uint64_t sweep_bytes(enum sweep_collective which, uint64_t bytes, int world);
/* Floats that each rank contributes to so many bytes. */
uint64_t sweep_count(enum sweep_collective which, uint64_t bytes, int world);
/* What nccl-tests multiplies a collective's bytes over time by, for the bandwidth of the bus. */
double sweep_bus_factor(enum sweep_collective which, int world);

/* On buffers of the communicator; `device` is the one it works on. Runs `warmup` calls, then times
 * `iters` (where calls are only enqueued: one after another for the mean, each awaited for the
 * median), then checks one call's result bit by bit: floats that
 * are small integers, whose sums are exact in any order. bytes as sweep_bytes gives it.
 * All-reduce goes by all_reduce_tree with one leaf a rank; broadcast's root is rank 0.
 * Collective; every rank gets the same sample. Errors: SHAPE, MEMORY (all ranks, if one has it),
 * the collectives' own. */
bool sweep_measure(struct comm *c, struct device *device, enum sweep_collective which,
                   uint64_t bytes, int iters, int warmup, struct sweep_sample *out,
                   struct error *err);
