/* What a rank knows about its host and about the ranks it shares it with. */
#pragma once

#include <mpi.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "worker/binding.h"

struct host_facts {
    char host[128];
    int local_rank;
    int local_size; /* ranks on this host */
    int cores;      /* this rank may use: affinity and cgroup limit */
    int cores_host; /* online on the host */
    int sharers;    /* ranks on this host that may use one of this rank's cores; at least 1 */
    struct binding binding;
};

/* Also shares this rank's flight record with the ranks of its host, and maps theirs.
 * Collective over `comm`, blocking (start-up only; a watchdog phase guards it).
 * Errors: COMM, MEMORY. */
bool host_facts_read(MPI_Comm comm, struct host_facts *out, struct error *err);

/* More ranks than cores: waiting must yield early. */
bool host_facts_oversubscribed(const struct host_facts *f);

/* Threads somebody asked for: `asked` (--threads) where it is not 0, else OMP_NUM_THREADS, else
 * SLURM_CPUS_PER_TASK; 0 where nobody did. Needs no MPI. */
int host_threads_wanted(int asked);

/* Threads of this rank: those wanted, else the rank's share of its cores; at least 1. */
int host_facts_threads(const struct host_facts *f, int asked);

/* Cores that this process may use: affinity and cgroup limit. Needs no MPI. */
int host_cores_usable(void);
int host_cores_online(void);
