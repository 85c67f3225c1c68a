#include "worker/worker_impl.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "comm/check.h"
#include "comm/sweep.h"
#include "device/device.h"
#include "device/host/host.h"
#include "device/host/host_limits.h"
#include "rpc/watchdog.h"
#include "worker/gauge.h"
#include "worker/hello.h"

enum { ECHO_MAX_BYTES = 1 << 20, ECHO_MAX_COUNT = 1 << 20 };

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

void worker_guard(const struct worker *w, const char *phase, double seconds) {
    if (w->on_gpu) {
        watchdog_phase(phase, seconds);
    }
}

void worker_unguard(const struct worker *w) {
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
        worker_guard(w, "the end of NCCL and the GPU", limit + (w->rank == 0 ? 0 : after_leader_s));
        drop_model(w);
        drop_check(w);
        comm_destroy(w->comm); /* it works on the device */
        probe_destroy(w->probe);
        left_gpu = left_gpu || (w->device && w->device->broken);
        device_destroy(w->device);
        worker_unguard(w);
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

static bool handle_hello(struct worker *w, const struct message *request, struct message *reply,
                         struct error *err) {
    if (!worker_find_gpu(w, err)) {
        return false;
    }
    reply->type = MESSAGE_HELLO_OK;
    hello_fill(&reply->hello_ok, w->rank, &w->options, &w->gpu, request->hello.leftovers);
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
    worker_guard(w, "a sum over NCCL", w->options.timeout_s + WORKER_SLACK_S);
    bool ok = w->comm->ops->all_reduce_u32(w->comm, &one, 1, err);
    worker_unguard(w);
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
    worker_guard(w, "a measurement of NCCL", limit_s + WORKER_SLACK_S);
    bool ok = b->bare ? gauge_bare(w->options.tensor, w->comm, which, b->bytes, b->iters, b->warmup,
                                   limit_s + 1, &sample, err)
                      : sweep_measure(w->comm, w->device, which, b->bytes, b->iters, b->warmup,
                                      &sample, err);
    worker_unguard(w);
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
    worker_guard(w, "the load onto the GPU", w->options.timeout_s + WORKER_SLACK_S);
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
    worker_guard(w, "a look at the GPU's memory", w->options.timeout_s + WORKER_SLACK_S);
    out->group = w->device->ops->memory_free(w->device);
    worker_unguard(w);
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

bool worker_load_params(const struct message_load *load, struct model_params *out,
                        struct error *err) {
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
    *out = params;
    return true;
}

static bool handle_load(struct worker *w, const struct message *request, struct message *reply,
                        struct error *err) {
    const struct message_load *load = &request->load;
    struct model_params params;
    if (!need_comm(w, err) || !worker_load_params(load, &params, err)) {
        return false;
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
    worker_guard(w, "the load onto the GPU", w->options.timeout_s + WORKER_SLACK_S);
    bool ok = model_load(&w->model, &params, w->device, w->comm, &progress, err);
    worker_unguard(w);
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
    worker_guard(w, "a step on the GPU", w->options.timeout_s + WORKER_SLACK_S);
    bool ok = model_run(w->model, err);
    worker_unguard(w);
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
    worker_guard(w, "the unload from the GPU", w->options.timeout_s + WORKER_SLACK_S);
    drop_model(w);
    worker_unguard(w);
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
    [MESSAGE_ECHO] = handle_echo,           [MESSAGE_INIT] = worker_handle_init,
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
