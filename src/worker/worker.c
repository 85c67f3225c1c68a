#include "worker/worker.h"

#include "config.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/build_id.h"
#include "base/clock.h"
#include "base/flight.h"
#include "base/hash.h"
#include "comm/check.h"
#include "comm/mpi.h"
#include "comm/sweep.h"
#include "device/device.h"
#include "device/host/host.h"
#include "device/host/host_limits.h"
#include "rpc/watchdog.h"
#include "worker/gauge.h"
#include "worker/segments.h"

enum { ECHO_MAX_BYTES = 1 << 20, ECHO_MAX_COUNT = 1 << 20 };

struct worker {
    struct worker_options options;
    int rank, world;
    struct gpu gpu; /* as hello has found it */
    bool gpu_known;
    bool on_gpu;              /* device and comm are the plug-in's */
    struct device *device;    /* owns; from init on */
    struct comm *comm;        /* owns; from worker_join on */
    bool wants_check;         /* of collectives: as init has said */
    MPI_Comm check_mpi;       /* owns; its own, for the check; MPI_COMM_NULL: none */
    struct comm_check *check; /* owns; may be NULL */
    struct model *model;      /* owns; from load to unload */
    struct probe *probe;      /* owns; from the first probe on */
    transport_hook *poll;
    void *poll_user;
    uint64_t resident_before; /* bytes of this process in memory before the load */
    struct model_progress progress;
    struct message_stats stats; /* of its steps, since they were last asked for */
};

bool worker_create(struct worker **out, const struct worker_options *options, struct error *err) {
    struct worker *w = calloc(1, sizeof *w);
    if (!w) {
        return error_set(err, ERROR_MEMORY, "cannot allocate a worker");
    }
    w->options = *options;
    w->check_mpi = MPI_COMM_NULL;
    MPI_Comm_rank(options->control, &w->rank);
    MPI_Comm_size(options->control, &w->world);
    *out = w;
    return true;
}

static void drop_model(struct worker *w) {
    if (!w->comm || !w->comm->broken) { /* else leaked on purpose: see comm.h */
        model_destroy(w->model);
    }
    w->model = NULL;
}

/* A broken one's communicator may still be in use by MPI. */
static void drop_check(struct worker *w) {
    bool broken = w->comm && w->comm->broken;
    comm_check_destroy(w->check);
    w->check = NULL;
    if (!broken && w->check_mpi != MPI_COMM_NULL) {
        MPI_Comm_free(&w->check_mpi);
    }
}

/* Beyond the deadlines that the waits inside of CUDA and NCCL have of their own. */
static const double slack_s = 3;

/* CUDA and NCCL may block for ever where they should not: the watchdog ends this process then. */
static void guard(const struct worker *w, const char *phase, double seconds) {
    if (w->on_gpu) {
        watchdog_phase(phase, seconds);
    }
}

static void unguard(const struct worker *w) {
    if (w->on_gpu) {
        watchdog_clear();
    }
}

static bool left_gpu;

bool worker_left_gpu(void) {
    return left_gpu;
}

void worker_destroy(struct worker *w) {
    /* The abort of a broken communicator. The job is at its end; rank 0 is the one to say why. */
    static const double abort_s = 2, after_leader_s = 4;
    if (w) {
        bool broken = (w->comm && w->comm->broken) || (w->device && w->device->broken);
        double limit = broken ? abort_s : w->options.timeout_s + 1;
        guard(w, "the end of NCCL and the GPU", limit + (w->rank == 0 ? 0 : after_leader_s));
        drop_model(w);
        drop_check(w);
        comm_destroy(w->comm); /* it works on the device */
        probe_destroy(w->probe);
        left_gpu = left_gpu || (w->device && w->device->broken);
        device_destroy(w->device);
        unguard(w);
        free(w);
    }
}

struct comm *worker_comm(struct worker *w) {
    return w->comm;
}

void worker_set_poll(struct worker *w, transport_hook *poll, void *user) {
    w->poll = poll;
    w->poll_user = user;
    if (w->comm) {
        w->comm->poll = poll;
        w->comm->poll_user = user;
    }
    if (w->check) {
        comm_check_set_poll(w->check, poll, user);
    }
    if (w->device) {
        w->device->poll = poll;
        w->device->poll_user = user;
    }
}

void worker_set_progress(struct worker *w, const struct model_progress *progress) {
    w->progress = progress ? *progress : (struct model_progress){0};
}

/* ---- handlers, in the order of the protocol ---- */

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

static bool find_gpu(struct worker *w, struct error *err) {
    if (!w->gpu_known) {
        watchdog_phase("the look for GPUs", w->options.timeout_s + 1);
        w->gpu_known = gpu_find(&w->options.gpu, &w->options.facts, &w->gpu, err);
        watchdog_clear();
    }
    return w->gpu_known;
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

static bool handle_hello(struct worker *w, const struct message *request, struct message *reply,
                         struct error *err) {
    const struct host_facts *f = &w->options.facts;
    struct message_hello_ok *h = &reply->hello_ok;
    if (!find_gpu(w, err)) {
        return false;
    }
    reply->type = MESSAGE_HELLO_OK;
    *h = (struct message_hello_ok){
        .protocol = PROTOCOL_VERSION,
        .version = LOCKSTEP_VERSION,
        .rank = w->rank,
        .pid = (int32_t)getpid(),
        .local_rank = f->local_rank,
        .local_size = f->local_size,
        .cores = f->cores,
        .cores_host = f->cores_host,
        .sharers = f->sharers,
        .numa_nodes = f->binding.n_node,
        .numa_host = f->binding.n_node_host,
        .threads = w->options.threads,
        .memory = host_memory_available(),
    };
    char mpi[MPI_MAX_LIBRARY_VERSION_STRING];
    int len = 0;
    MPI_Get_library_version(mpi, &len);
    snprintf(h->build, sizeof h->build, "%s", build_id());
    snprintf(h->mpi, sizeof h->mpi, "%.*s", (int)strcspn(mpi, ",\n"), mpi);
    snprintf(h->msgpack, sizeof h->msgpack, "%s", msgpack_version());
    snprintf(h->host, sizeof h->host, "%s", f->host);
    snprintf(h->binding, sizeof h->binding, "%s", f->binding.cores);
    snprintf(h->numa, sizeof h->numa, "%s", f->binding.nodes);
    list_isas(h->isas, sizeof h->isas);
    describe_gpu(&w->gpu, h);
    if (request->hello.leftovers && f->local_rank == 0) {
        find_leftovers(h);
    }
    return true;
}

static bool handle_ping(struct worker *w, const struct message *request, struct message *reply,
                        struct error *err) {
    (void)request;
    (void)err;
    reply->type = MESSAGE_PONG;
    reply->pong.rank = w->rank;
    return true;
}

/* The worker's half of a bare ping-pong; see pool_echo. */
static bool handle_echo(struct worker *w, const struct message *request, struct message *reply,
                        struct error *err) {
    const struct message_echo *e = &request->echo;
    if (e->bytes < 0 || e->bytes > ECHO_MAX_BYTES || e->count < 0 || e->count > ECHO_MAX_COUNT) {
        return error_set(err, ERROR_PROTOCOL, "%d times %d bytes is out of range", e->count,
                         e->bytes);
    }
    reply->type = MESSAGE_ECHO_OK;
    if (w->rank == 0) {
        return true;
    }
    void *data = calloc(1, (size_t)e->bytes + 1);
    if (!data) {
        return error_set(err, ERROR_MEMORY, "cannot hold %d bytes", e->bytes);
    }
    watchdog_phase("a bare MPI ping-pong", w->options.timeout_s + 1);
    for (int i = 0; i < e->count; i++) {
        MPI_Recv(data, e->bytes, MPI_BYTE, 0, WORKER_ECHO_TAG, w->options.control,
                 MPI_STATUS_IGNORE);
        MPI_Send(data, e->bytes, MPI_BYTE, 0, WORKER_ECHO_TAG, w->options.control);
    }
    watchdog_clear();
    free(data);
    return true;
}

static bool create_cuda(struct worker *w, const struct message_init *init, struct error *err) {
    struct cuda_device_options options = {
        .index = w->gpu.index,
        .f32 = strcmp(init->dtype, "f32") == 0,
        .graphs = init->graphs != 0,
        .n_thread = w->options.threads,
        .n_sharer = init->sharers,
        .timeout_s = init->timeout_s,
    };
    if (!find_gpu(w, err)) {
        return false;
    }
    if (!w->gpu.usable) {
        return error_set(err, ERROR_DEVICE, "%s",
                         *w->gpu.why ? w->gpu.why : "no GPU was asked for");
    }
    w->on_gpu = true;
    guard(w, "the start of the GPU", init->timeout_s + 1);
    bool ok = w->gpu.plugin->device_create(&options, &w->device, err);
    unguard(w);
    return ok;
}

static bool create_host(struct worker *w, const struct message_init *init, struct error *err) {
    struct host_options options = {.n_thread = w->options.threads,
                                   .isa = *init->isa ? init->isa : NULL};
    if (strcmp(init->dtype, "f32") != 0) {
        return error_set(err, ERROR_UNSUPPORTED, "dtype '%s': the host computes in f32",
                         init->dtype);
    }
    w->on_gpu = false;
    return host_device_create(&options, &w->device, err);
}

static bool check_init(const struct message_init *init, struct error *err) {
    if (strcmp(init->device, "host") != 0 && strcmp(init->device, "cuda") != 0) {
        return error_set(err, ERROR_UNSUPPORTED, "device '%s': there are 'host' and 'cuda'",
                         init->device);
    }
    if (strcmp(init->dtype, "f32") != 0 && strcmp(init->dtype, "bf16") != 0) {
        return error_set(err, ERROR_UNSUPPORTED, "dtype '%s': there are 'f32' and 'bf16'",
                         init->dtype);
    }
    return (init->timeout_s > 0 && init->sharers > 0) ||
           error_set(err, ERROR_PROTOCOL, "timeout_s or sharers is not above 0");
}

static void tell_device(const struct worker *w) {
    char name[32] = "host";
    if (w->on_gpu) {
        snprintf(name, sizeof name, "cuda:%d", w->gpu.index);
    }
    flight_set_device(name);
    if (w->options.on_device) {
        w->options.on_device(name);
    }
}

static bool handle_init(struct worker *w, const struct message *request, struct message *reply,
                        struct error *err) {
    const struct message_init *init = &request->init;
    if (w->comm) {
        return error_set(err, ERROR_PROTOCOL, "the communicator exists already");
    }
    if (!check_init(init, err)) {
        return false;
    }
    w->options.timeout_s = init->timeout_s;
    w->wants_check = init->check != 0;
    device_destroy(w->device);
    w->device = NULL;
    if (!(strcmp(init->device, "cuda") == 0 ? create_cuda : create_host)(w, init, err)) {
        return false;
    }
    worker_set_poll(w, w->poll, w->poll_user);
    tell_device(w);
    reply->type = MESSAGE_INIT_OK;
    return true;
}

static bool need_comm(const struct worker *w, struct error *err) {
    return w->comm || error_set(err, ERROR_COMM_NOT_INIT, "init has not been done");
}

static bool need_model(const struct worker *w, struct error *err) {
    return w->model || error_set(err, ERROR_PROTOCOL, "no model is loaded");
}

static bool handle_sanity(struct worker *w, const struct message *request, struct message *reply,
                          struct error *err) {
    (void)request;
    uint32_t one = 1;
    if (!need_comm(w, err)) {
        return false;
    }
    guard(w, "a sum over NCCL", w->options.timeout_s + slack_s);
    bool ok = w->comm->ops->all_reduce_u32(w->comm, &one, 1, err);
    unguard(w);
    if (!ok) {
        return false;
    }
    reply->type = MESSAGE_SANITY_RESULT;
    reply->sanity_result.observed_sum = one;
    return true;
}

static bool handle_bandwidth(struct worker *w, const struct message *request, struct message *reply,
                             struct error *err) {
    const struct message_bandwidth *b = &request->bandwidth;
    enum sweep_collective which;
    struct sweep_sample sample;
    if (!need_comm(w, err)) {
        return false;
    }
    if (!sweep_from_name(b->collective, &which)) {
        return error_set(err, ERROR_PROTOCOL, "there is no collective '%s'", b->collective);
    }
    const double limit_s = 2 * w->options.timeout_s;
    guard(w, "a measurement of NCCL", limit_s + slack_s);
    bool ok = b->bare ? gauge_bare(w->options.tensor, w->comm, which, b->bytes, b->iters, b->warmup,
                                   limit_s + 1, &sample, err)
                      : sweep_measure(w->comm, w->device, which, b->bytes, b->iters, b->warmup,
                                      &sample, err);
    unguard(w);
    if (!ok) {
        return false;
    }
    reply->type = MESSAGE_BANDWIDTH_RESULT;
    reply->bandwidth_result = (struct message_bandwidth_result){
        .seconds = sample.seconds, .median_s = sample.median_seconds, .wrong = sample.wrong};
    return true;
}

static bool handle_probe(struct worker *w, const struct message *request, struct message *reply,
                         struct error *err) {
    double rate = 0; /* of a GPU nothing is known */
    if (!need_comm(w, err) ||
        (!w->on_gpu && !gauge_probe(&w->probe, w->device, w->comm, &request->probe, &rate, err))) {
        return false;
    }
    reply->type = MESSAGE_PROBE_RESULT;
    reply->probe_result.rate = rate;
    return true;
}

/* A GPU that takes what is read lets the watchdog wait on. */
static bool load_progress(void *user, uint64_t done, uint64_t total, struct error *err) {
    struct worker *w = user;
    guard(w, "the load onto the GPU", w->options.timeout_s + slack_s);
    return !w->progress.report || w->progress.report(w->progress.user, done, total, err);
}

/* A GPU is its ranks' as a control group's memory is. */
static void look_at_memory(const struct worker *w, struct host_limits *out) {
    if (!w->on_gpu) {
        host_limits_read("", out);
        return;
    }
    const char *pci = w->gpu.about.pci;
    *out = (struct host_limits){.own = UINT64_MAX, .host = UINT64_MAX};
    out->group_id = hash_bytes(HASH_START, pci, strlen(pci));
    guard(w, "a look at the GPU's memory", w->options.timeout_s + slack_s);
    out->group = w->device->ops->memory_free(w->device);
    unguard(w);
}

static bool measure(struct worker *w, const struct model_params *params, struct model_needs *out,
                    struct fingerprint *print, struct error *err) {
    return need_comm(w, err) &&
           model_measure(params, w->device, w->comm, &w->progress, out, print, err);
}

bool worker_measure(struct worker *w, const struct model_params *params, struct model_needs *out,
                    struct error *err) {
    return measure(w, params, out, NULL, err);
}

static bool measure_load(struct worker *w, const struct model_params *params, struct message *reply,
                         struct error *err) {
    struct model_needs needs;
    struct host_limits limits;
    struct fingerprint print;
    if (!measure(w, params, &needs, &print, err)) {
        return false;
    }
    look_at_memory(w, &limits);
    reply->type = MESSAGE_LOADED;
    reply->loaded = (struct message_loaded){
        .bytes_held = footprint_total(&needs.own),
        .weights = needs.own.weights,
        .kv = needs.own.kv,
        .buffers = needs.own.buffers,
        .free_own = limits.own,
        .free_group = limits.group,
        .group = limits.group_id,
        .free_host = limits.host,
        .config = print.config,
        .headers = print.headers,
        .content = print.content,
    };
    return true;
}

static bool handle_load(struct worker *w, const struct message *request, struct message *reply,
                        struct error *err) {
    const struct message_load *load = &request->load;
    if (!need_comm(w, err)) {
        return false;
    }
    struct model_params params = {.dir = load->dir,
                                  .ctx = load->ctx,
                                  .n_block = load->n_block,
                                  .max_tok = load->max_tok,
                                  .file = load->file};
    if (!dtype_from_word(load->kv_dtype, &params.kv)) {
        return error_set(err, ERROR_PROTOCOL, "load: a KV cache in '%s'", load->kv_dtype);
    }
    if (*load->quant && !dtype_from_quantized_word(load->quant, &params.quant)) {
        return error_set(err, ERROR_PROTOCOL, "load: quant '%s': there are 'q8_0' and 'q4_0'",
                         load->quant);
    }
    if (load->measure) { /* of a model that is held, too: to name the file that differs */
        return measure_load(w, &params, reply, err);
    }
    if (w->model) {
        return error_set(err, ERROR_PROTOCOL, "a model is loaded already");
    }
    const struct model_progress progress = {.report = load_progress, .user = w};
    double start = clock_now();
    w->resident_before = host_memory_resident();
    guard(w, "the load onto the GPU", w->options.timeout_s + slack_s);
    bool ok = model_load(&w->model, &params, w->device, w->comm, &progress, err);
    unguard(w);
    if (!ok) {
        return false;
    }
    const struct fingerprint *print = model_fingerprint(w->model);
    reply->type = MESSAGE_LOADED;
    reply->loaded = (struct message_loaded){
        .bytes = model_bytes_read(w->model),
        .seconds = clock_now() - start,
        .bytes_held = model_bytes(w->model),
        .nonfinite = model_nonfinite(w->model),
        .config = print->config,
        .headers = print->headers,
        .content = print->content,
    };
    return true;
}

bool worker_prepare(struct worker *w, const struct step *step, struct step_result *results,
                    struct error *err) {
    return (need_comm(w, err) && need_model(w, err) &&
            model_prepare(w->model, step, results, err)) ||
           error_wrap(err, "step");
}

bool worker_run(struct worker *w, struct error *err) {
    struct comm_stats before = w->comm->stats;
    double start = clock_now();
    guard(w, "a step on the GPU", w->options.timeout_s + slack_s);
    bool ok = model_run(w->model, err);
    unguard(w);
    w->stats.step_s += clock_now() - start;
    w->stats.wait_s += w->comm->stats.wait_s - before.wait_s;
    w->stats.transfer_s += w->comm->stats.transfer_s - before.transfer_s;
    w->stats.n_step++;
    return ok || error_wrap(err, "step");
}

uint64_t worker_digest(const struct worker *w, const struct step *step,
                       const struct step_result *results) {
    return model_digest(w->model, step, results);
}

static bool handle_unload(struct worker *w, const struct message *request, struct message *reply,
                          struct error *err) {
    (void)request;
    if (!need_model(w, err)) {
        return false;
    }
    reply->type = MESSAGE_UNLOADED;
    reply->unloaded.bytes_freed = model_bytes(w->model);
    guard(w, "the unload from the GPU", w->options.timeout_s + slack_s);
    drop_model(w);
    unguard(w);
    malloc_trim(0); /* what was freed goes back to the system, for others to have */
    reply->unloaded.resident_before = w->resident_before;
    reply->unloaded.resident = host_memory_resident();
    return true;
}

static bool handle_stats(struct worker *w, const struct message *request, struct message *reply,
                         struct error *err) {
    (void)request;
    (void)err;
    reply->type = MESSAGE_STATS_RESULT;
    reply->stats = w->stats;
    reply->stats.rss = host_memory_resident();
    if (w->comm) {
        reply->stats.n_collective = w->comm->stats.n_collective;
        reply->stats.bytes_sent = w->comm->stats.bytes;
        w->comm->stats = (struct comm_stats){0};
    }
    w->stats = (struct message_stats){0};
    return true;
}

static bool handle_shutdown(struct worker *w, const struct message *request, struct message *reply,
                            struct error *err) {
    (void)w;
    (void)request;
    (void)err;
    reply->type = MESSAGE_BYE;
    return true;
}

typedef bool handler(struct worker *, const struct message *, struct message *, struct error *);

static handler *const handlers[MESSAGE_COUNT] = {
    [MESSAGE_HELLO] = handle_hello,         [MESSAGE_PING] = handle_ping,
    [MESSAGE_ECHO] = handle_echo,           [MESSAGE_INIT] = handle_init,
    [MESSAGE_SANITY] = handle_sanity,       [MESSAGE_LOAD] = handle_load,
    [MESSAGE_BANDWIDTH] = handle_bandwidth, [MESSAGE_UNLOAD] = handle_unload,
    [MESSAGE_STATS] = handle_stats,         [MESSAGE_SHUTDOWN] = handle_shutdown,
    [MESSAGE_PROBE] = handle_probe,
};

bool worker_handle(struct worker *w, const struct message *request, struct message *reply,
                   struct error *err) {
    handler *handle = handlers[request->type];
    if (!handle) {
        return error_set(err, ERROR_PROTOCOL, "%s: not handled here", message_name(request->type));
    }
    reply->seq = request->seq;
    return handle(w, request, reply, err) || error_wrap(err, "%s", message_name(request->type));
}

/* ---- the second half of init ---- */

static bool make_nccl_id(void *user, uint8_t id[COMM_ID_BYTES], struct error *err) {
    struct worker *w = user;
    return w->gpu.plugin->unique_id(id, err);
}

static bool create_comm(struct worker *w, const uint8_t id[COMM_ID_BYTES], struct error *err) {
    double timeout_s = w->options.timeout_s;
    if (!w->on_gpu) {
        return w->world == 1 ? comm_self_create(&w->comm, err)
                             : comm_mpi_create(w->options.tensor, id, timeout_s, &w->comm, err);
    }
    guard(w, "the start of NCCL", timeout_s + slack_s);
    bool ok = w->gpu.plugin->comm_create(w->device, id, w->rank, w->world, timeout_s, w->poll,
                                         w->poll_user, &w->comm, err);
    unguard(w);
    return ok;
}

/* Of its own MPI communicator: the tensors' is busy with the collective that is compared. */
static bool create_check(struct worker *w, struct error *err) {
    if (!w->wants_check || w->world == 1) {
        return true;
    }
    watchdog_phase("the set-up of --check-collectives", w->options.timeout_s + 1);
    bool ok = MPI_Comm_dup(w->options.control, &w->check_mpi) == MPI_SUCCESS ||
              error_set(err, ERROR_COMM_INIT, "MPI_Comm_dup failed");
    watchdog_clear();
    return ok && comm_check_create(&w->check, w->check_mpi, w->options.timeout_s, err);
}

bool worker_join(struct worker *w, bool go, struct error *err) {
    uint8_t id[COMM_ID_BYTES];
    comm_make_id *make = w->on_gpu ? make_nccl_id : NULL;
    watchdog_phase("MPI_Ibcast of the communicator's id", w->options.timeout_s + slack_s);
    bool shared = comm_mpi_share_id(w->options.control, go, make, w, w->options.timeout_s, id, err);
    watchdog_clear();
    if (!shared) {
        return error_wrap(err, "init");
    }
    if (comm_mpi_id_is_none(id)) {
        return true; /* called off: the leader has the reason */
    }
    bool ok = create_check(w, err) && create_comm(w, id, err);
    if (ok && w->check) {
        comm_check_attach(w->check, w->comm);
    }
    worker_set_poll(w, w->poll, w->poll_user);
    return ok || error_wrap(err, "init");
}
