#include "worker/hello.h"

#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/build_id.h"
#include "device/device.h"
#include "device/host/host.h"
#include "worker/segments.h"

static void list_isas(char *out, size_t size) {
    static const char *const known[] = {"generic", "avx2", "avx512", "avx512vnni"};
    size_t used = 0;
    *out = 0;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (host_isa_usable(known[i])) {
            used += (size_t)snprintf(out + used, size - used, "%s%s", used ? " " : "", known[i]);
        }
    }
}

static void describe_gpu(const struct gpu *g, struct message_hello_ok *h) {
    const char *shared = getenv("NCCL_MULTI_RANK_GPU_ENABLE");
    h->n_gpu = g->n;
    snprintf(h->device, sizeof h->device, "host");
    snprintf(h->device_why, sizeof h->device_why, "%s", g->why);
    if (g->plugin) {
        snprintf(h->nccl, sizeof h->nccl, "%s", g->plugin->nccl_version());
        h->nccl_code = g->plugin->nccl_version_code();
        h->gpu_shared = shared && strcmp(shared, "1") == 0;
    }
    if (g->usable) {
        snprintf(h->device, sizeof h->device, "cuda:%d", g->index);
    }
    if (*g->about.name) { /* known where it is refused, too */
        snprintf(h->gpu, sizeof h->gpu, "%s", g->about.name);
        snprintf(h->gpu_pci, sizeof h->gpu_pci, "%s", g->about.pci);
        snprintf(h->gpu_cc, sizeof h->gpu_cc, "%d.%d", g->about.cc_major % 100,
                 g->about.cc_minor % 100);
        h->gpu_memory = g->about.memory_total;
    }
}

static void find_leftovers(struct message_hello_ok *h) {
    struct segments s;
    segments_find(&s);
    h->leftovers = s.n;
    h->leftover_bytes = s.bytes;
    h->leftover_runs = s.n_job;
    h->leftover_named = s.n_named;
    snprintf(h->leftover_pattern, sizeof h->leftover_pattern, "%s", s.pattern);
}

void hello_fill(struct message_hello_ok *out, int rank, const struct worker_options *options,
                const struct gpu *gpu, bool leftovers) {
    const struct host_facts *f = &options->facts;
    *out = (struct message_hello_ok){
        .protocol = PROTOCOL_VERSION,
        .version = LOCKSTEP_VERSION,
        .rank = rank,
        .pid = (int32_t)getpid(),
        .local_rank = f->local_rank,
        .local_size = f->local_size,
        .cores = f->cores,
        .cores_host = f->cores_host,
        .sharers = f->sharers,
        .numa_nodes = f->binding.n_node,
        .numa_host = f->binding.n_node_host,
        .threads = options->threads,
        .memory = host_memory_available(),
    };
    char mpi[MPI_MAX_LIBRARY_VERSION_STRING];
    int len = 0;
    MPI_Get_library_version(mpi, &len);
    snprintf(out->build, sizeof out->build, "%s", build_id());
    snprintf(out->mpi, sizeof out->mpi, "%.*s", (int)strcspn(mpi, ",\n"), mpi);
    snprintf(out->msgpack, sizeof out->msgpack, "%s", msgpack_version());
    snprintf(out->host, sizeof out->host, "%s", f->host);
    snprintf(out->binding, sizeof out->binding, "%s", f->binding.cores);
    snprintf(out->numa, sizeof out->numa, "%s", f->binding.nodes);
    list_isas(out->isas, sizeof out->isas);
    describe_gpu(gpu, out);
    if (leftovers && f->local_rank == 0) {
        find_leftovers(out);
    }
}
