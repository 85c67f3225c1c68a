#include "worker/gauge.h"

#include <limits.h>
#include <stdlib.h>

#include "base/clock.h"

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

static void call(enum sweep_collective which, float *in, float *out, int n, MPI_Comm mpi) {
    switch (which) {
    case SWEEP_ALL_REDUCE:
        MPI_Allreduce(in, out, n, MPI_FLOAT, MPI_SUM, mpi);
        break;
    case SWEEP_ALL_GATHER:
        MPI_Allgather(in, n, MPI_FLOAT, out, n, MPI_FLOAT, mpi);
        break;
    case SWEEP_GATHER:
        MPI_Gather(in, n, MPI_FLOAT, out, n, MPI_FLOAT, 0, mpi);
        break;
    case SWEEP_BROADCAST:
    case SWEEP_COUNT:
        MPI_Bcast(in, n, MPI_FLOAT, 0, mpi);
        break;
    }
}

bool gauge_bare(MPI_Comm mpi, struct comm *comm, enum sweep_collective which, uint64_t bytes,
                int iters, int warmup, struct sweep_sample *out, struct error *err) {
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
        for (int i = 0; i < warmup; i++) {
            call(which, from, to, (int)n, mpi);
        }
        MPI_Barrier(mpi);
        double start = clock_now();
        for (int i = 0; i < iters; i++) {
            call(which, from, to, (int)n, mpi);
        }
        double mine = (clock_now() - start) / iters, all;
        MPI_Allreduce(&mine, &all, 1, MPI_DOUBLE, MPI_SUM, mpi);
        *out = (struct sweep_sample){.seconds = all / comm->world,
                                     .median_seconds = all / comm->world};
    }
    free(from);
    free(to);
    return ok;
}
