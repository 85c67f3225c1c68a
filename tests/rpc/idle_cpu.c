/* How much of a core does a waiting rank use? Run by mpiexec: idle_cpu SECONDS [LIMIT_PERCENT].
 * The other ranks wait in their loop for a request, rank 0 for a reply that never comes. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "leader/pool.h"
#include "rpc/transport.h"

static double cpu_seconds(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static bool lead(const struct pool_options *o, double seconds, struct error *err) {
    struct pool *p = NULL;
    struct transport *t = NULL;
    struct frame f;
    struct error deadline;
    bool ok = pool_create(&p, o, err) && pool_start(p, err) &&
              transport_create(&t, o->control, host_facts_oversubscribed(&o->facts), err);
    if (ok && transport_receive(t, 1, SIDE_REPLY, seconds, &f, &deadline)) {
        ok = error_set(err, ERROR_INTERNAL, "a reply came from nowhere");
    }
    transport_destroy(t);
    ok = p && pool_shutdown(p, err) && ok;
    pool_destroy(p);
    return ok;
}

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 10, limit = argc > 2 ? atof(argv[2]) : 2;
    struct pool_options o = {.threads = 1, .timeout_s = 60};
    struct error err = {0};
    int provided, rank, world;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    MPI_Comm_dup(MPI_COMM_WORLD, &o.control);
    MPI_Comm_dup(MPI_COMM_WORLD, &o.tensor);
    bool ok = host_facts_read(MPI_COMM_WORLD, &o.facts, &err);
    double cpu = cpu_seconds(), start = clock_now();
    ok = ok && (rank == 0 ? lead(&o, seconds, &err) : pool_serve(&o, &err));
    double percent = 100 * (cpu_seconds() - cpu) / (clock_now() - start);
    double *all = calloc((size_t)world, sizeof *all);
    if (!ok || !all) {
        fprintf(stderr, "rank %d: %s\n", rank, err.message);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    MPI_Gather(&percent, 1, MPI_DOUBLE, all, 1, MPI_DOUBLE, 0, MPI_COMM_WORLD);
    bool idle = true;
    for (int r = 0; rank == 0 && r < world; r++) {
        printf("rank %d waited %.1f s with %.2f %% of a core\n", r, seconds, all[r]);
        idle = idle && all[r] < limit;
    }
    free(all);
    MPI_Finalize();
    return idle ? 0 : 1;
}
