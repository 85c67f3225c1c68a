/* The two halves of init: the device that a rank computes on, and the communicator. */
#include "worker/worker_impl.h"

#include <stdio.h>
#include <string.h>

#include "base/flight.h"
#include "comm/mpi.h"
#include "device/device.h"
#include "rpc/watchdog.h"

bool worker_find_gpu(struct worker *w, struct error *err) {
    if (!w->gpu_known) {
        watchdog_phase("the look for GPUs", w->options.timeout_s + 1);
        w->gpu_known = gpu_find(&w->options.gpu, &w->options.facts, &w->gpu, err);
        watchdog_clear();
    }
    return w->gpu_known;
}

/* ---- the first half ---- */

static bool create_cuda(struct worker *w, const struct message_init *init, struct error *err) {
    struct cuda_device_options options = {
        .index = w->gpu.index,
        .f32 = strcmp(init->dtype, "f32") == 0,
        .graphs = init->graphs != 0,
        .n_thread = w->options.threads,
        .n_sharer = init->sharers,
        .timeout_s = init->timeout_s,
    };
    if (!worker_find_gpu(w, err)) {
        return false;
    }
    if (!w->gpu.usable) {
        return error_set(err, ERROR_DEVICE, "%s",
                         *w->gpu.why ? w->gpu.why : "no GPU was asked for");
    }
    w->on_gpu = true;
    worker_guard(w, "the start of the GPU", init->timeout_s + 1);
    bool ok = w->gpu.plugin->device_create(&options, &w->device, err);
    worker_unguard(w);
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

bool worker_handle_init(struct worker *w, const struct message *request, struct message *reply,
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

/* ---- the second half ---- */

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
    worker_guard(w, "the start of NCCL", timeout_s + WORKER_SLACK_S);
    bool ok = w->gpu.plugin->comm_create(w->device, id, w->rank, w->world, timeout_s, w->poll,
                                         w->poll_user, &w->comm, err);
    worker_unguard(w);
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
    watchdog_phase("MPI_Ibcast of the communicator's id", w->options.timeout_s + WORKER_SLACK_S);
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
