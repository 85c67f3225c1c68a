/* Events: records, and waits for them, as operations of streams. */
#include <stdlib.h>

#include "sim.h"

struct CUevent_st {
    uint64_t recorded, happened; /* serial numbers of records */
    cudaStream_t stream;         /* of the last record */
    struct CUevent_st *next;
};

static struct CUevent_st *events;

static struct CUevent_st *event_of(cudaEvent_t event) {
    for (struct CUevent_st *v = events; v; v = v->next) {
        if (v == event) {
            return v;
        }
    }
    gpusim_finding("%p is no event, or was destroyed", (void *)event);
    return NULL;
}

API cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags) {
    cudaError_t e = sim_enter("cudaEventCreateWithFlags");
    (void)flags;
    if (e == cudaSuccess) {
        struct CUevent_st *v = calloc(1, sizeof *v);
        v->next = events;
        events = v;
        *out = v;
    }
    return sim_leave(e);
}

API cudaError_t cudaEventCreate(cudaEvent_t *out) {
    return cudaEventCreateWithFlags(out, 0);
}

API cudaError_t cudaEventDestroy(cudaEvent_t event) {
    cudaError_t e = sim_enter("cudaEventDestroy");
    if (e == cudaSuccess && !event_of(event)) {
        e = cudaErrorInvalidResourceHandle;
    }
    for (struct CUevent_st **at = &events; e == cudaSuccess && *at; at = &(*at)->next) {
        if (*at == event) {
            *at = event->next;
            free(event);
            break;
        }
    }
    return sim_leave(e);
}

/* A record, or a wait for one. */
struct event_call {
    struct CUevent_st *event;
    uint64_t serial;
};

static struct CUevent_st *event_alive(struct CUevent_st *event) {
    for (struct CUevent_st *v = events; v; v = v->next) {
        if (v == event) {
            return v;
        }
    }
    return NULL; /* destroyed meanwhile, which is allowed */
}

static enum gpusim_status run_record(void *arg, bool start, cudaError_t *error) {
    struct event_call *c = arg;
    struct CUevent_st *v = event_alive(c->event);
    (void)start;
    (void)error;
    if (v) {
        v->happened = c->serial > v->happened ? c->serial : v->happened;
    }
    return GPUSIM_DONE;
}

static enum gpusim_status run_event_wait(void *arg, bool start, cudaError_t *error) {
    struct event_call *c = arg;
    struct CUevent_st *v = event_alive(c->event);
    (void)start;
    (void)error;
    if (v && v->happened < c->serial) {
        sim_run(v->stream);
    }
    return !v || v->happened >= c->serial ? GPUSIM_DONE : GPUSIM_BUSY;
}

static cudaError_t enqueue_event(cudaStream_t stream, struct CUevent_st *v, const char *name,
                                 enum gpusim_status (*f)(void *, bool, cudaError_t *)) {
    struct event_call *c = malloc(sizeof *c);
    *c = (struct event_call){v, v->recorded};
    return sim_enqueue(stream,
                       &(struct gpusim_op){.name = name, .run = f, .destroy = free, .arg = c});
}

API cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    cudaError_t e = sim_enter("cudaEventRecord");
    struct CUevent_st *v = e == cudaSuccess ? event_of(event) : NULL;
    if (!v) {
        return sim_leave(e == cudaSuccess ? cudaErrorInvalidResourceHandle : e);
    }
    v->recorded++;
    v->stream = stream;
    return sim_leave(enqueue_event(stream, v, "cudaEventRecord", run_record));
}

API cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
    cudaError_t e = sim_enter("cudaStreamWaitEvent");
    struct CUevent_st *v = e == cudaSuccess ? event_of(event) : NULL;
    (void)flags;
    if (!v) {
        return sim_leave(e == cudaSuccess ? cudaErrorInvalidResourceHandle : e);
    }
    return sim_leave(enqueue_event(stream, v, "cudaStreamWaitEvent", run_event_wait));
}

static cudaError_t event_state(cudaEvent_t event) {
    struct CUevent_st *v = event_of(event);
    if (!v) {
        return cudaErrorInvalidResourceHandle;
    }
    cudaError_t e = v->happened < v->recorded ? sim_run(v->stream) : cudaSuccess;
    return e != cudaSuccess && e != cudaErrorNotReady ? e
           : v->happened >= v->recorded               ? cudaSuccess
                                                      : cudaErrorNotReady;
}

API cudaError_t cudaEventQuery(cudaEvent_t event) {
    cudaError_t e = sim_enter("cudaEventQuery");
    return sim_leave(e == cudaSuccess ? event_state(event) : e);
}

API cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    cudaError_t e = sim_enter("cudaEventSynchronize");
    e = e == cudaSuccess ? event_state(event) : e;
    while (e == cudaErrorNotReady) {
        e = event_state(event);
    }
    return sim_leave(e);
}

void sim_event_report_leaks(void) {
    for (struct CUevent_st *v = events; v; v = v->next) {
        gpusim_finding("leak at exit: event %p", (void *)v);
    }
}
