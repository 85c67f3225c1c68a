#include "worker/facts.h"

#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/cgroup.h"
#include "base/flight_peers.h"

/* ---- cores ---- */

int host_cores_online(void) {
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

int host_cores_usable(void) {
    cpu_set_t set;
    int cores = host_cores_online();
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) {
        cores = CPU_COUNT(&set);
    }
    double limit = ceil(cgroup_cores(""));
    return limit < cores ? (int)limit : cores;
}

static bool mpi_try(int code, struct error *err) {
    return code == MPI_SUCCESS ||
           error_set(err, ERROR_COMM, "cannot learn which ranks share this host (MPI error %d)",
                     code);
}

/* What the ranks of a host tell each other. */
struct neighbour {
    cpu_set_t cores;
    struct flight_address flight;
};

/* How many of the local ranks' core sets overlap with this rank's; and maps their flight records.
 */
static bool meet_neighbours(MPI_Comm local, int rank, struct host_facts *f, struct error *err) {
    struct neighbour own = {.flight = flight_share(rank)};
    const int size = (int)sizeof own;
    sched_getaffinity(0, sizeof own.cores, &own.cores);
    binding_read("", &own.cores, &f->binding);
    struct neighbour *all = calloc((size_t)f->local_size, sizeof *all);
    if (!all) {
        return error_set(err, ERROR_MEMORY, "cannot hold %d core sets", f->local_size);
    }
    bool ok = mpi_try(MPI_Allgather(&own, size, MPI_BYTE, all, size, MPI_BYTE, local), err);
    f->sharers = 0;
    for (int i = 0; ok && i < f->local_size; i++) {
        cpu_set_t both;
        CPU_AND(&both, &own.cores, &all[i].cores);
        f->sharers += i == f->local_rank || CPU_COUNT(&both) > 0;
        flight_map(&all[i].flight);
    }
    free(all);
    return ok;
}

/* A number that all ranks of this job have, by rank 0's choice. */
static bool agree_on_job(MPI_Comm comm, int rank, uint64_t *job, struct error *err) {
    *job = 0;
    if (rank == 0 && getrandom(job, sizeof *job, 0) != (ssize_t)sizeof *job) {
        *job = 0; /* it only tells dumps of one job from another's */
    }
    return mpi_try(MPI_Bcast(job, sizeof *job, MPI_BYTE, 0, comm), err);
}

static void sign_flight_record(int rank, int world, uint64_t job, const char *host) {
    struct flight_owner owner = {
        .rank = rank, .world = world, .pid = (int32_t)getpid(), .job = job};
    snprintf(owner.host, sizeof owner.host, "%.*s", (int)sizeof owner.host - 1, host);
    snprintf(owner.device, sizeof owner.device, "host");
    flight_set_owner(&owner);
}

bool host_facts_read(MPI_Comm comm, struct host_facts *out, struct error *err) {
    struct host_facts f = {.cores = host_cores_usable(), .cores_host = host_cores_online()};
    MPI_Comm local = MPI_COMM_NULL;
    int rank, world;
    uint64_t job;
    if (gethostname(f.host, sizeof f.host - 1) != 0) {
        snprintf(f.host, sizeof f.host, "unknown-host");
    }
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &world);
    if (!mpi_try(MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &local),
                 err)) {
        return false;
    }
    MPI_Comm_rank(local, &f.local_rank);
    MPI_Comm_size(local, &f.local_size);
    bool ok = agree_on_job(comm, rank, &job, err) && meet_neighbours(local, rank, &f, err);
    sign_flight_record(rank, world, job, f.host);
    MPI_Comm_free(&local);
    if (ok) {
        *out = f;
    }
    return ok;
}

bool host_facts_oversubscribed(const struct host_facts *f) {
    return f->local_size > f->cores_host || f->sharers > f->cores;
}

static int env_count(const char *name) {
    const char *text = getenv(name);
    char *end;
    long v = text ? strtol(text, &end, 10) : 0;
    return v >= 1 && v <= 1024 ? (int)v : 0; /* "4,2", nested levels: the first counts */
}

int host_threads_wanted(int asked) {
    int n = asked;
    n = n ? n : env_count("OMP_NUM_THREADS");
    return n ? n : env_count("SLURM_CPUS_PER_TASK");
}

int host_facts_threads(const struct host_facts *f, int asked) {
    int n = host_threads_wanted(asked);
    n = n ? n : f->cores / f->sharers;
    return n > 1 ? n : 1;
}
