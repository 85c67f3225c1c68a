#include "gpu/gpu_rank.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

#include "comm/mpi.h"
#include "worker/facts.h"

void gpu_rank_die(const char *what, const struct error *err) {
    fprintf(stderr, "%s: %s: %s\n", what, error_kind_name(err->kind), err->message);
    MPI_Abort(MPI_COMM_WORLD, 1);
    exit(1);
}

static bool make_id(void *user, uint8_t id[COMM_ID_BYTES], struct error *err) {
    return ((struct gpu_rank *)user)->plugin->unique_id(id, err);
}

void gpu_rank_start(struct gpu_rank *r, bool f32, bool graphs) {
    struct host_facts facts;
    struct error err;
    uint8_t id[COMM_ID_BYTES];
    int rank, world, n;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    if (!host_facts_read(MPI_COMM_WORLD, &facts, &err) || !plugin_open(&r->plugin, &err) ||
        !r->plugin->count(&n, &err)) {
        gpu_rank_die("plug-in", &err);
    }
    const struct cuda_device_options options = {.index = facts.local_rank % n,
                                                .f32 = f32,
                                                .graphs = graphs,
                                                .n_thread = 1,
                                                .n_sharer = 1,
                                                .timeout_s = 60};
    if (!r->plugin->device_create(&options, &r->device, &err) ||
        !comm_mpi_share_id(MPI_COMM_WORLD, true, make_id, r, 60, id, &err) ||
        !r->plugin->comm_create(r->device, id, rank, world, 60, NULL, NULL, &r->comm, &err)) {
        gpu_rank_die("communicator", &err);
    }
}

void gpu_rank_finish(struct gpu_rank *r) {
    comm_destroy(r->comm);
    device_destroy(r->device);
}
