/* A CUDA plug-in without CUDA: what its GPUs say comes from the environment, what they compute
 * comes from the host device and MPI. So the agreement of the ranks, and every way in which one of
 * them cannot take part, run on any machine.
 *
 * FAKE_CUDA_X is for all ranks, FAKE_CUDA_X_2 for rank 2:
 *   LOG             say on stderr what was called
 *   ABI, BUILD      of the plug-in
 *   COUNT           GPUs (4); COUNT_ERROR: cudaGetDeviceCount's words
 *   DESCRIBE_ERROR  the GPU is refused
 *   PCI             bus id, equal for all GPUs
 *   NCCL            version code (22809)
 *   FREE            bytes of the GPU's memory (8 GB)
 *   CREATE_ERROR, ID_ERROR, COMM_ERROR: what fails, with these words
 *   COMM_HANG       the communicator waits until somebody or the deadline ends it
 *   SUM_ERROR       the first sum breaks the communicator
 *   ABORT_HANG      the end of the communicator never comes */
#include <mpi.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/build_id.h"
#include "base/clock.h"
#include "comm/mpi.h"
#include "comm/plugin.h"

static const char *setting(const char *name) {
    char key[64];
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    snprintf(key, sizeof key, "FAKE_CUDA_%s_%s", name, rank ? rank : "0");
    const char *own = getenv(key);
    key[strlen("FAKE_CUDA_") + strlen(name)] = 0;
    return own ? own : getenv(key);
}

static int number(const char *name, int otherwise) {
    const char *text = setting(name);
    return text ? atoi(text) : otherwise;
}

/* One write, so that the lines of several ranks do not mix. */
static void __attribute__((format(printf, 1, 2))) note(const char *fmt, ...) {
    char line[200];
    va_list args;
    if (!setting("LOG")) {
        return;
    }
    va_start(args, fmt);
    int n = vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    if (write(STDERR_FILENO, line, (size_t)n) != n) {
        abort();
    }
}

static bool fails(const char *name, enum error_kind kind, struct error *err) {
    const char *words = setting(name);
    if (words) {
        error_set(err, kind, "%s", words);
    }
    return words != NULL;
}

static bool fake_count(int *n, struct error *err) {
    if (fails("COUNT_ERROR", ERROR_DEVICE, err)) {
        return false;
    }
    *n = number("COUNT", 4);
    return *n > 0 || error_set(err, ERROR_DEVICE, "cudaGetDeviceCount: no CUDA-capable device");
}

static bool fake_describe(int index, struct cuda_description *out, struct error *err) {
    const char *pci = setting("PCI");
    *out = (struct cuda_description){
        .name = "Fake GPU", .cc_major = 9, .memory_total = UINT64_C(80) << 30};
    if (pci) {
        snprintf(out->pci, sizeof out->pci, "%s", pci);
    } else {
        snprintf(out->pci, sizeof out->pci, "0000:%02x:00.0", (unsigned)(16 + index) & 255u);
    }
    return !fails("DESCRIBE_ERROR", ERROR_UNSUPPORTED, err);
}

static int fake_nccl_version_code(void) {
    return number("NCCL", 22809);
}

static const char *fake_nccl_version(void) {
    static char text[32];
    int code = fake_nccl_version_code();
    snprintf(text, sizeof text, "%d.%d.%d", code / 10000, code / 100 % 100, code % 100);
    return text;
}

static size_t memory_free(struct device *d) {
    const char *text = setting("FREE");
    (void)d;
    return text ? strtoull(text, NULL, 10) : (size_t)8000000000;
}

static bool fake_device_create(const struct cuda_device_options *o, struct device **out,
                               struct error *err) {
    struct host_options host = {.n_thread = o->n_thread};
    note("fake: device %d %s graphs %d sharers %d timeout %g\n", o->index, o->f32 ? "f32" : "bf16",
         o->graphs, o->n_sharer, o->timeout_s);
    if (fails("CREATE_ERROR", ERROR_DEVICE, err) || !host_device_create(&host, out, err)) {
        return false;
    }
    static struct device_ops ops;
    ops = *(*out)->ops;
    ops.memory_free = memory_free;
    (*out)->ops = &ops;
    (*out)->quantized = false;
    return true;
}

static bool fake_unique_id(uint8_t id[COMM_ID_BYTES], struct error *err) {
    for (int i = 0; i < COMM_ID_BYTES; i++) {
        id[i] = (uint8_t)(i + 1);
    }
    return !fails("ID_ERROR", ERROR_NCCL_INIT, err);
}

static bool hang(double timeout_s, bool (*poll)(void *, struct error *), void *poll_user,
                 struct error *err) {
    double deadline = clock_now() + timeout_s;
    while (clock_now() < deadline) {
        if (poll && !poll(poll_user, err)) {
            return false;
        }
        clock_sleep(1e-3);
    }
    return error_set(err, ERROR_DEADLINE, "ncclCommInitRankConfig: still in progress after %g s",
                     timeout_s);
}

static void fake_use_flight(struct flight *f) {
    flight_use(f);
}

static const struct comm_ops *real_ops;

static bool broken_sum(struct comm *c, uint32_t *x, size_t n, struct error *err) {
    (void)x;
    (void)n;
    c->broken = true;
    return !fails("SUM_ERROR", ERROR_COMM, err);
}

static void slow_abort(struct comm *c) {
    while (setting("ABORT_HANG")) {
        pause();
    }
    real_ops->destroy(c);
}

static void plant_faults(struct comm *c) {
    static struct comm_ops ops;
    real_ops = c->ops;
    ops = *c->ops;
    ops.destroy = slow_abort;
    if (setting("SUM_ERROR")) {
        ops.all_reduce_u32 = broken_sum;
    }
    c->ops = &ops;
}

static bool fake_comm_create(struct device *device, const uint8_t id[COMM_ID_BYTES], int rank,
                             int world, double timeout_s, bool (*poll)(void *, struct error *),
                             void *poll_user, struct comm **out, struct error *err) {
    note("fake: communicator of %d ranks, id %d to %d, %s\n", world, id[0], id[COMM_ID_BYTES - 1],
         device && device->poll == poll && device->poll_user == poll_user ? "polled" : "unpolled");
    (void)rank;
    if (fails("COMM_ERROR", ERROR_NCCL_INIT, err)) {
        return false;
    }
    if (setting("COMM_HANG")) {
        return hang(timeout_s, poll, poll_user, err);
    }
    static MPI_Comm own; /* given back by MPI_Finalize */
    bool ok = world == 1 ? comm_self_create(out, err)
              : MPI_Comm_dup(MPI_COMM_WORLD, &own) == MPI_SUCCESS
                  ? comm_mpi_create(own, id, timeout_s, out, err)
                  : error_set(err, ERROR_NCCL_INIT, "MPI_Comm_dup failed");
    if (ok) {
        plant_faults(*out);
    }
    return ok;
}

cuda_plugin_get lockstep_cuda_plugin __attribute__((visibility("default")));

const struct cuda_plugin *lockstep_cuda_plugin(void) {
    static struct cuda_plugin plugin = {
        .use_flight = fake_use_flight,
        .count = fake_count,
        .describe = fake_describe,
        .nccl_version = fake_nccl_version,
        .nccl_version_code = fake_nccl_version_code,
        .device_create = fake_device_create,
        .unique_id = fake_unique_id,
        .comm_create = fake_comm_create,
    };
    note("fake: opened\n");
    plugin.abi = (uint32_t)number("ABI", CUDA_PLUGIN_ABI);
    plugin.build_id = setting("BUILD") ? setting("BUILD") : build_id();
    return &plugin;
}
