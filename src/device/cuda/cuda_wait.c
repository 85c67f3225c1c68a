#include <sched.h>

#include "base/clock.h"
#include "base/flight.h"
#include "device/cuda/cuda_device.h"

enum { WAIT_LOOKS_PER_POLL = 16 };
/* For another rank to say what it knows; mpirun ends everybody one second after a death. */
static const double others_s = 0.6;

bool cuda_error(struct error *err, cudaError_t e, const char *what) {
    (void)cudaGetLastError(); /* what was said need not be said again by the next call */
    enum error_kind kind = e == cudaErrorMemoryAllocation ? ERROR_MEMORY : ERROR_DEVICE;
    return error_set(err, kind, "%s: %s (%s)", what, cudaGetErrorString(e), cudaGetErrorName(e));
}

bool cuda_usable(const struct cuda_device *c, struct error *err) {
    return !c->base.broken ||
           error_set(err, ERROR_DEVICE, "an earlier operation on this GPU failed");
}

void cuda_ask_others(struct cuda_device *c, struct error *err) {
    struct error better;
    double end = clock_now() + others_s;
    while (c->base.poll && clock_now() < end) {
        if (!c->base.poll(c->base.poll_user, &better)) {
            /* A signal is how launchers answer a rank's death: no better words than err's. */
            if (err && better.kind != ERROR_INTERRUPTED) {
                *err = better;
            }
            return;
        }
        clock_sleep(1e-3);
    }
}

bool cuda_break(struct cuda_device *c) {
    if (!c->base.broken) {
        c->base.broken = true;
        cuda_graphs_drop(c);
        if (c->watch.abort) {
            c->watch.abort(c->watch.user);
        }
    }
    return false;
}

bool cuda_stream_failed(struct cuda_device *c, cudaError_t e, const char *what, struct error *err) {
    cuda_error(err, e, what);
    return c->recording ? false : cuda_break(c);
}

/* What to look at besides the stream. */
static bool look_around(struct cuda_device *c, const char *what, double deadline,
                        struct error *err) {
    if (c->watch.check && !c->watch.check(c->watch.user, err)) {
        error_wrap(err, "%s", what);
        cuda_ask_others(c, err);
        return false;
    }
    if (c->base.poll && !c->base.poll(c->base.poll_user, err)) {
        return false;
    }
    double now = clock_now();
    flight_pulse(now);
    return now < deadline || error_set(err, ERROR_DEADLINE, "%s: the GPU was not done within %g s",
                                       what, c->base.timeout_s);
}

bool cuda_wait(struct cuda_device *c, cudaEvent_t event, const char *what, struct error *err) {
    double start = clock_now(), deadline = start + c->base.timeout_s;
    if (!cuda_usable(c, err)) {
        return false;
    }
    uint64_t entry = flight_enter_wait(what, start);
    for (int look = 1;; look++) {
        cudaError_t e = event ? cudaEventQuery(event) : cudaStreamQuery(c->stream);
        if (e == cudaSuccess) {
            /* "Not ready" is no error that CUDA keeps, says its guide; those who ask often clear it
             * all the same, and a launch that met it here would be taken for a failed one. */
            (void)cudaGetLastError();
            flight_leave(entry, clock_now());
            return true;
        }
        if (e != cudaErrorNotReady) {
            cuda_error(err, e, what);
            return cuda_break(c);
        }
        if (look % WAIT_LOOKS_PER_POLL == 0) {
            if (!look_around(c, what, deadline, err)) {
                return cuda_break(c);
            }
            sched_yield();
        }
    }
}
