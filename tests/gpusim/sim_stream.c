/* Streams and graphs. A stream is a list of operations that run when somebody waits
 * for the stream or asks about it, in order, and no sooner: who forgets to wait finds old data. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"

struct entry {
    struct op *op; /* owns one use */
    bool replayed; /* came by the launch of a graph */
};

struct op_list {
    struct entry *ops;
    size_t n, capacity;
};

struct CUgraph_st {
    struct op_list list;
};

struct CUgraphExec_st {
    struct op_list list;
};

struct CUstream_st {
    struct op_list list;
    size_t done;  /* operations at the front that have run */
    bool started; /* the next has been called before and said BUSY */
    struct CUgraph_st *capture;
    bool capture_spent; /* something illegal was called meanwhile */
    struct CUstream_st *next;
};

static struct CUstream_st default_stream;
static struct CUstream_st *streams = &default_stream;
static bool replaying;
static struct graph_link { /* graphs and executable graphs alive */
    struct op_list *list;
    const void *graph;
    const char *what;
    struct graph_link *next;
} * graphs;

/* ---- operations ---- */

static struct op *op_create(const struct gpusim_op *call) {
    struct op *op = calloc(1, sizeof *op);
    op->call = *call;
    op->n_user = 1;
    return op;
}

void op_unref(struct op *op) {
    if (--op->n_user == 0) {
        if (op->call.destroy) {
            op->call.destroy(op->call.arg);
        }
        free(op);
    }
}

/* Takes over one use. */
static void list_add(struct op_list *l, struct op *op, bool replayed) {
    if (l->n == l->capacity) {
        l->capacity = l->capacity ? 2 * l->capacity : 64;
        l->ops = realloc(l->ops, l->capacity * sizeof *l->ops);
    }
    l->ops[l->n++] = (struct entry){op, replayed};
}

static void list_copy(struct op_list *to, const struct op_list *from) {
    for (size_t i = 0; i < from->n; i++) {
        from->ops[i].op->n_user++;
        list_add(to, from->ops[i].op, true);
    }
}

static void list_finish(struct op_list *l) {
    for (size_t i = 0; i < l->n; i++) {
        op_unref(l->ops[i].op);
    }
    free(l->ops);
    *l = (struct op_list){0};
}

/* ---- streams ---- */

static struct CUstream_st *stream_of(cudaStream_t stream) {
    if (stream == NULL || stream == cudaStreamLegacy || stream == cudaStreamPerThread) {
        return &default_stream;
    }
    for (struct CUstream_st *s = streams; s; s = s->next) {
        if (s == stream) {
            return s;
        }
    }
    gpusim_finding("%p is no stream, or was destroyed", (void *)stream);
    return NULL;
}

/* The last n operations have come into the stream, unless it is being captured. */
static void came(const struct CUstream_st *s, size_t n) {
    for (size_t i = s->list.n - n; !s->capture && i < s->list.n; i++) {
        const struct gpusim_op *call = &s->list.ops[i].op->call;
        sim_pinned_use(call->host, call->host_bytes, call->host_written, call->name);
    }
}

/* The operation has left a stream. */
static void gone(const struct op *op) {
    sim_pinned_used(op->call.host, op->call.host_bytes, op->call.host_written);
}

cudaError_t sim_enqueue(cudaStream_t stream, const struct gpusim_op *call) {
    struct CUstream_st *s = stream_of(stream);
    struct op *op = op_create(call);
    if (!s) {
        op_unref(op);
        return cudaErrorInvalidResourceHandle;
    }
    list_add(s->capture ? &s->capture->list : &s->list, op, false);
    came(s, 1);
    return cudaSuccess;
}

GPUSIM_API cudaError_t gpusim_enqueue(cudaStream_t stream, const struct gpusim_op *op) {
    sim_lock();
    cudaError_t e = sim_sticky();
    e = e == cudaSuccess ? sim_enqueue(stream, op) : e;
    sim_unlock();
    return e;
}

bool sim_replaying(void) {
    return replaying;
}

static cudaError_t run(struct CUstream_st *s) {
    while (s->done < s->list.n) {
        struct op *op = s->list.ops[s->done].op;
        cudaError_t e = cudaErrorLaunchFailure;
        enum gpusim_status status = GPUSIM_DONE;
        if (!op->dropped) {
            replaying = s->list.ops[s->done].replayed;
            status = op->call.run(op->call.arg, !s->started, &e);
            replaying = false;
        }
        if (status == GPUSIM_BUSY) {
            s->started = true;
            return cudaErrorNotReady;
        }
        s->started = false;
        gone(op);
        s->done++;
        if (status == GPUSIM_FAILED) {
            sim_stick(e);
            return e;
        }
    }
    list_finish(&s->list);
    s->done = 0;
    return cudaSuccess;
}

cudaError_t sim_run(cudaStream_t stream) {
    struct CUstream_st *s = stream_of(stream);
    return s ? run(s) : cudaErrorInvalidResourceHandle;
}

cudaError_t sim_run_all(void) {
    cudaError_t all = cudaSuccess;
    for (struct CUstream_st *s = streams; s; s = s->next) {
        cudaError_t e = run(s);
        all = all == cudaSuccess ? e : all;
    }
    return all;
}

bool sim_breaks_capture(void) {
    bool any = false;
    for (struct CUstream_st *s = streams; s; s = s->next) {
        any = any || s->capture;
        s->capture_spent = s->capture != NULL;
    }
    return any;
}

API cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags) {
    cudaError_t e = sim_enter("cudaStreamCreateWithFlags");
    (void)flags;
    if (e == cudaSuccess) {
        struct CUstream_st *s = calloc(1, sizeof *s);
        s->next = streams->next;
        streams->next = s;
        *out = s;
    }
    return sim_leave(e);
}

API cudaError_t cudaStreamCreate(cudaStream_t *out) {
    return cudaStreamCreateWithFlags(out, 0);
}

API cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    cudaError_t e = sim_enter("cudaStreamDestroy");
    struct CUstream_st *s = e == cudaSuccess ? stream_of(stream) : NULL;
    if (!s) {
        return sim_leave(e == cudaSuccess ? cudaErrorInvalidResourceHandle : e);
    }
    run(s);
    for (struct CUstream_st **at = &streams; *at; at = &(*at)->next) {
        if (*at == s) {
            *at = s->next;
            break;
        }
    }
    for (size_t i = s->done; i < s->list.n; i++) {
        gone(s->list.ops[i].op);
    }
    list_finish(&s->list);
    free(s);
    return sim_leave(cudaSuccess);
}

/* Asking a stream that is being captured ends the capture. */
static cudaError_t ask(cudaStream_t stream) {
    struct CUstream_st *s = stream_of(stream);
    if (!s) {
        return cudaErrorInvalidResourceHandle;
    }
    if (s->capture) {
        s->capture_spent = true;
        return cudaErrorStreamCaptureUnsupported;
    }
    return run(s);
}

API cudaError_t cudaStreamQuery(cudaStream_t stream) {
    cudaError_t e = sim_enter("cudaStreamQuery");
    return sim_leave(e == cudaSuccess ? ask(stream) : e);
}

API cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    cudaError_t e = sim_enter("cudaStreamSynchronize");
    e = e == cudaSuccess ? ask(stream) : e;
    while (e == cudaErrorNotReady) {
        e = ask(stream);
    }
    return sim_leave(e);
}

API cudaError_t cudaDeviceSynchronize(void) {
    cudaError_t e = sim_enter("cudaDeviceSynchronize");
    if (e == cudaSuccess) {
        e = sim_breaks_capture() ? cudaErrorStreamCaptureUnsupported : sim_run_all();
        while (e == cudaErrorNotReady) {
            e = sim_run_all();
        }
    }
    return sim_leave(e);
}

/* ---- graphs ---- */

static void graph_add(struct op_list *list, const void *graph, const char *what) {
    struct graph_link *link = malloc(sizeof *link);
    *link = (struct graph_link){list, graph, what, graphs};
    graphs = link;
}

static bool graph_remove(const void *graph) {
    for (struct graph_link **at = &graphs; *at; at = &(*at)->next) {
        if ((*at)->graph == graph) {
            struct graph_link *link = *at;
            *at = link->next;
            free(link);
            return true;
        }
    }
    gpusim_finding("%p is no graph, or was destroyed", graph);
    return false;
}

API cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
    cudaError_t e = sim_enter("cudaStreamBeginCapture");
    struct CUstream_st *s = e == cudaSuccess ? stream_of(stream) : NULL;
    (void)mode;
    if (!s) {
        return sim_leave(e == cudaSuccess ? cudaErrorInvalidResourceHandle : e);
    }
    if (s == &default_stream || s->capture) {
        return sim_leave(s->capture ? cudaErrorIllegalState : cudaErrorStreamCaptureUnsupported);
    }
    s->capture = calloc(1, sizeof *s->capture);
    s->capture_spent = false;
    return sim_leave(cudaSuccess);
}

API cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out) {
    cudaError_t e = sim_enter("cudaStreamEndCapture");
    struct CUstream_st *s = stream_of(stream);
    *out = NULL;
    if (!s || !s->capture) {
        return sim_leave(e != cudaSuccess ? e : cudaErrorIllegalState);
    }
    struct CUgraph_st *g = s->capture;
    s->capture = NULL;
    if (e != cudaSuccess || s->capture_spent) {
        list_finish(&g->list);
        free(g);
        return sim_leave(e != cudaSuccess ? e : cudaErrorStreamCaptureInvalidated);
    }
    graph_add(&g->list, g, "graph");
    *out = g;
    return sim_leave(cudaSuccess);
}

bool sim_is_capturing(cudaStream_t stream) {
    struct CUstream_st *s = stream_of(stream);
    return s && s->capture;
}

API cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *out) {
    cudaError_t e = sim_enter("cudaStreamIsCapturing");
    struct CUstream_st *s = e == cudaSuccess ? stream_of(stream) : NULL;
    if (s) {
        *out = !s->capture        ? cudaStreamCaptureStatusNone
               : s->capture_spent ? cudaStreamCaptureStatusInvalidated
                                  : cudaStreamCaptureStatusActive;
    }
    return sim_leave(e == cudaSuccess && !s ? cudaErrorInvalidResourceHandle : e);
}

API cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph,
                                     unsigned long long flags) {
    cudaError_t e = sim_enter("cudaGraphInstantiate");
    (void)flags;
    if (e == cudaSuccess) {
        struct CUgraphExec_st *x = calloc(1, sizeof *x);
        list_copy(&x->list, &graph->list);
        graph_add(&x->list, x, "executable graph");
        *out = x;
    }
    return sim_leave(e);
}

API cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    sim_enter("cudaGraphDestroy"); /* works whatever has failed */
    if (!graph_remove(graph)) {
        return sim_leave(cudaErrorInvalidValue);
    }
    list_finish(&graph->list);
    free(graph);
    return sim_leave(cudaSuccess);
}

API cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    sim_enter("cudaGraphExecDestroy");
    if (!graph_remove(exec)) {
        return sim_leave(cudaErrorInvalidValue);
    }
    list_finish(&exec->list);
    free(exec);
    return sim_leave(cudaSuccess);
}

API cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    cudaError_t e = sim_enter("cudaGraphLaunch");
    struct CUstream_st *s = e == cudaSuccess ? stream_of(stream) : NULL;
    if (!s) {
        return sim_leave(e == cudaSuccess ? cudaErrorInvalidResourceHandle : e);
    }
    list_copy(s->capture ? &s->capture->list : &s->list, &exec->list);
    came(s, exec->list.n);
    return sim_leave(cudaSuccess);
}

static int holds(const struct op_list *l, const void *owner) {
    for (size_t i = 0; i < l->n; i++) {
        if (l->ops[i].op->call.owner == owner) {
            return 1;
        }
    }
    return 0;
}

GPUSIM_API int gpusim_graphs_of(const void *owner) {
    int n = 0;
    sim_lock();
    for (struct graph_link *g = graphs; g; g = g->next) {
        n += holds(g->list, owner);
    }
    sim_unlock();
    return n;
}

GPUSIM_API void gpusim_drop(const void *owner) {
    sim_lock();
    for (struct CUstream_st *s = streams; s; s = s->next) {
        for (size_t i = s->done; i < s->list.n; i++) {
            struct op *op = s->list.ops[i].op;
            op->dropped = op->dropped || op->call.owner == owner;
        }
    }
    sim_unlock();
}

void sim_stream_report_leaks(void) {
    for (struct CUstream_st *s = streams; s; s = s->next) {
        if (s != &default_stream) {
            gpusim_finding("leak at exit: stream %p", (void *)s);
        }
        if (s->done < s->list.n) {
            gpusim_finding("at exit %zu operations wait in stream %p, the first a %s",
                           s->list.n - s->done, (void *)s, s->list.ops[s->done].op->call.name);
        }
    }
    for (struct graph_link *g = graphs; g; g = g->next) {
        gpusim_finding("leak at exit: %s %p", g->what, g->graph);
    }
}
