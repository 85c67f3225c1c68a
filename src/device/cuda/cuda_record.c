/* CUDA graphs: a step of generation is enqueued for real the first time, captured the second, and
 * replayed from then on. (The first run also makes NCCL set up what may not be set up in a capture,
 * and lets scratch memory grow.) */
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

static void refuse(struct cuda_recording *r, cudaError_t e, const char *what) {
    (void)cudaGetLastError();
    recording_finish(r);
    r->state = RECORDING_REFUSED;
    log_warn("steps of %d tokens run without a CUDA graph: %s: %s", r->n_tok, what,
             cudaGetErrorString(e));
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
        }
        return true;
    }
    if (r->state == RECORDING_SEEN) {
        cudaError_t e = cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal);
        if (e == cudaSuccess) {
            c->recording = r;
        } else {
            refuse(r, e, "cudaStreamBeginCapture");
        }
    } else if (r->state == RECORDING_READY) {
        CUDA_TRY(cudaGraphLaunch(r->exec, c->stream), "cudaGraphLaunch");
        *replayed = true;
    }
    return true;
}

bool cuda_record_end(struct device *d, bool ok, bool *again, struct error *err) {
    struct cuda_device *c = cuda_of(d);
    struct cuda_recording *r = c->recording;
    *again = false;
    if (!r) {
        return ok;
    }
    c->recording = NULL;
    cudaError_t e = cudaStreamEndCapture(c->stream, &r->graph);
    const char *what = "cudaStreamEndCapture";
    if (e == cudaSuccess && ok) {
        what = "cudaGraphInstantiate";
        e = cudaGraphInstantiate(&r->exec, r->graph, 0);
    }
    if (e == cudaSuccess && ok) {
        r->state = RECORDING_READY;
        CUDA_TRY(cudaGraphLaunch(r->exec, c->stream), "cudaGraphLaunch");
        return true;
    }
    if (e == cudaSuccess) {
        e = cudaErrorStreamCaptureInvalidated;
        what = err && err->message[0] ? err->message : "an operation failed";
    }
    refuse(r, e, what);
    if (c->broken) { /* not the capture's fault */
        return false;
    }
    *again = true;
    return true;
}
