#include "worker/gauge.h"

#include <limits.h>
#include <stdlib.h>

#include "base/clock.h"
#include "rpc/watchdog.h"

static const double probe_max_s = 10;

bool gauge_probe(struct probe **probe, struct device *device, struct comm *comm,
                 const struct message_probe *request, double *rate, struct error *err) {
    enum probe_limit which;
    if (!probe_limit_from_name(request->what, &which) || !(request->seconds >= 0) ||
        request->seconds > probe_max_s) {
        return error_set(err, ERROR_PROTOCOL, "no limit '%s' is measured for %g s", request->what,
                         request->seconds);
    }
    bool have = *probe || probe_create(device, request->bytes, probe, err);
    if (!comm_agree(comm, have, err)) { /* from here on all ranks measure at once */
        return false;
    }
    bool any = which != PROBE_MEMORY || probe_use_pattern(*probe, request->pattern);
    *rate = any ? probe_measure(*probe, which, request->seconds) : 0;
    return true;
}

/* Returns MPI's code: the communicator's errors return. */
static int call(enum sweep_collective which, float *in, float *out, int n, MPI_Comm mpi) {
    switch (which) {
    case SWEEP_ALL_REDUCE:
        return MPI_Allreduce(in, out, n, MPI_FLOAT, MPI_SUM, mpi);
    case SWEEP_ALL_GATHER:
        return MPI_Allgather(in, n, MPI_FLOAT, out, n, MPI_FLOAT, mpi);
    case SWEEP_GATHER:
        return MPI_Gather(in, n, MPI_FLOAT, out, n, MPI_FLOAT, 0, mpi);
    case SWEEP_BROADCAST:
    case SWEEP_COUNT:
        break;
    }
    return MPI_Bcast(in, n, MPI_FLOAT, 0, mpi);
}

/* *sum: over the ranks, of the seconds of a call. */
static int time_calls(enum sweep_collective which, float *in, float *out, int n, int iters,
                      int warmup, MPI_Comm mpi, double *sum) {
    int code = MPI_SUCCESS;
    for (int i = 0; i < warmup && code == MPI_SUCCESS; i++) {
        code = call(which, in, out, n, mpi);
    }
    code = code == MPI_SUCCESS ? MPI_Barrier(mpi) : code;
    double start = clock_now();
    for (int i = 0; i < iters && code == MPI_SUCCESS; i++) {
        code = call(which, in, out, n, mpi);
    }
    double mine = (clock_now() - start) / iters;
    return code == MPI_SUCCESS ? MPI_Allreduce(&mine, sum, 1, MPI_DOUBLE, MPI_SUM, mpi) : code;
}

bool gauge_bare(MPI_Comm mpi, struct comm *comm, enum sweep_collective which, uint64_t bytes,
                int iters, int warmup, double limit_s, struct sweep_sample *out,
                struct error *err) {
    uint64_t n = sweep_count(which, bytes, comm->world);
    if (iters < 1 || warmup < 0 || bytes != sweep_bytes(which, bytes, comm->world) || n > INT_MAX) {
        return error_set(err, ERROR_SHAPE, "bare MPI: %llu bytes, %d iterations, %d to warm up",
                         (unsigned long long)bytes, iters, warmup);
    }
    float *from = calloc(n, sizeof *from), *to = calloc(1, bytes);
    bool have =
        (from && to) || error_set(err, ERROR_MEMORY, "bare MPI: out of memory for %llu bytes",
                                  (unsigned long long)bytes);
    bool ok = comm_agree(comm, have, err);
    if (ok) {
        double sum = 0;
        /* Only now: the agreement has a deadline of its own, and its pulse would end the phase's,
         * so that others took this thread for one that stands still. */
        watchdog_phase("bare MPI collectives", limit_s);
        int code = time_calls(which, from, to, (int)n, iters, warmup, mpi, &sum);
        watchdog_clear();
        ok = code == MPI_SUCCESS || error_set(err, ERROR_COMM, "bare MPI: MPI error %d", code);
        if (ok) {
            *out = (struct sweep_sample){.seconds = sum / comm->world,
                                         .median_seconds = sum / comm->world};
        }
    }
    free(from);
    free(to);
    return ok;
}
