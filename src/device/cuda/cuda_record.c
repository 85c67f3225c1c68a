/* CUDA graphs: a step of generation is enqueued for real the first time, captured the second, and
 * replayed from then on. (The first run also makes NCCL set up what may not be set up in a capture,
 * and lets scratch memory grow.) All ranks record, replay or enqueue the same step alike: what they
 * decide by is equal on all of them, and whether a capture worked they ask each other. */
#include "base/clock.h"
#include "base/flight.h"
#include "base/log.h"
#include "device/cuda/cuda_device.h"

static void recording_finish(struct cuda_recording *r) {
    if (r->exec) {
        cudaGraphExecDestroy(r->exec);
    }
    if (r->graph) {
        cudaGraphDestroy(r->graph);
    }
    r->exec = NULL;
    r->graph = NULL;
}

void cuda_graphs_drop(struct cuda_device *c) {
    if (c->recording) { /* ends the capture, whatever became of it */
        cudaGraph_t graph = NULL;
        (void)cudaStreamEndCapture(c->stream, &graph);
        (void)cudaGetLastError();
        if (graph) {
            cudaGraphDestroy(graph);
        }
        c->recording = NULL;
    }
    for (int i = 0; i < c->n_recording; i++) {
        recording_finish(&c->recordings[i]);
    }
    c->n_recording = 0;
}

/* The recording of this key for the current batch's size; NULL where it is new. */
static struct cuda_recording *find(struct cuda_device *c, int key) {
    const struct kernel_batch *b = &c->batch.args;
    for (int i = 0; i < c->n_recording; i++) {
        struct cuda_recording *r = &c->recordings[i];
        if (r->key == key && r->n_tok == b->n_tok && r->n_row == b->n_row) {
            return r;
        }
    }
    return NULL;
}

static void refuse(struct cuda_recording *r, const char *what, const char *why) {
    (void)cudaGetLastError();
    recording_finish(r);
    r->state = RECORDING_REFUSED;
    log_warn("steps of %d tokens run without a CUDA graph: %s%s%s", r->n_tok, what,
             *why ? ": " : "", why);
}

/* A replay counts as one collective, for it has all of the step's in it: on every rank alike. */
static bool launch(struct cuda_device *c, struct cuda_recording *r, struct error *err) {
    const struct flight_call call = {"graph", 0, FLIGHT_BYTES};
    uint64_t entry = flight_enter_collective(&call, clock_now());
    CUDA_STREAM_TRY(c, cudaGraphLaunch(r->exec, c->stream), "cudaGraphLaunch");
    flight_leave(entry, clock_now());
    return true;
}

bool cuda_record_begin(struct device *d, int key, bool *replayed, struct error *err) {
    struct cuda_device *c = cuda_of(d);
    *replayed = false;
    if (!cuda_usable(c, err)) {
        return false;
    }
    if (!c->batch.recordable) {
        return true;
    }
    struct cuda_recording *r = find(c, key);
    if (!r) {
        if (c->n_recording < CUDA_MAX_RECORDINGS) {
            c->recordings[c->n_recording++] = (struct cuda_recording){
                .key = key, .n_tok = c->batch.args.n_tok, .n_row = c->batch.args.n_row};
        } else if (!c->told_full) {
            c->told_full = true;
            log_warn("there are %d CUDA graphs: steps of new sizes run without", c->n_recording);
        }
        return true;
    }
    if (r->state == RECORDING_SEEN) {
        /* Of this thread alone: NCCL's own threads go on allocating and asking. A rank that cannot
         * even begin must not run what the others record, so that there is no way on. */
        CUDA_STREAM_TRY(c, cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal),
                        "cudaStreamBeginCapture");
        c->recording = r;
    } else if (r->state == RECORDING_READY) {
        *replayed = true;
        return launch(c, r, err);
    }
    return true;
}

/* Ends the capture and makes a graph of it. False: refused, with the reason. */
static bool complete(struct cuda_device *c, struct cuda_recording *r, bool ok,
                     const struct error *err) {
    c->recording = NULL;
    cudaError_t e = cudaStreamEndCapture(c->stream, &r->graph);
    const char *what = "cudaStreamEndCapture";
    if (!ok) { /* which tells why the capture has ended, too */
        refuse(r, err && err->message[0] ? err->message : "an operation failed", "");
        return false;
    }
    if (e == cudaSuccess) {
        what = "cudaGraphInstantiate";
        e = cudaGraphInstantiate(&r->exec, r->graph, 0);
    }
    if (e != cudaSuccess) {
        refuse(r, what, cudaGetErrorString(e));
    }
    return e == cudaSuccess;
}

bool cuda_record_end(struct device *d, bool ok, bool *again, struct error *err) {
    struct cuda_device *c = cuda_of(d);
    struct cuda_recording *r = c->recording;
    *again = false;
    if (!r) {
        return ok;
    }
    bool mine = complete(c, r, ok, err), all = mine;
    if (c->base.broken) { /* not the capture's fault */
        return false;
    }
    /* NCCL wants an operation captured on all ranks or on none. */
    if (c->watch.agree && !c->watch.agree(c->watch.user, mine, &all, err)) {
        return false;
    }
    if (!all) {
        if (mine) {
            refuse(r, "another rank could not record them", "");
        }
        *again = true;
        return true;
    }
    r->state = RECORDING_READY;
    return launch(c, r, err);
}
