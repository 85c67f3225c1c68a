#include "comm/sweep.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

static const char *const names[SWEEP_COUNT] = {"all_reduce", "all_gather", "broadcast", "gather"};

const char *sweep_name(enum sweep_collective which) {
    return names[which];
}

bool sweep_from_name(const char *name, enum sweep_collective *out) {
    for (int i = 0; i < SWEEP_COUNT; i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (enum sweep_collective)i;
            return true;
        }
    }
    return false;
}

/* Each rank has its part of the result. */
static bool in_parts(enum sweep_collective which) {
    return which == SWEEP_ALL_GATHER || which == SWEEP_GATHER;
}

uint64_t sweep_bytes(enum sweep_collective which, uint64_t bytes, int world) {
    uint64_t unit = in_parts(which) ? sizeof(float) * (uint64_t)world : sizeof(float);
    return bytes < unit ? unit : bytes / unit * unit;
}

uint64_t sweep_count(enum sweep_collective which, uint64_t bytes, int world) {
    return bytes / sizeof(float) / (in_parts(which) ? (uint64_t)world : 1);
}

double sweep_bus_factor(enum sweep_collective which, int world) {
    double n = world;
    switch (which) {
    case SWEEP_ALL_REDUCE:
        return 2 * (n - 1) / n;
    case SWEEP_ALL_GATHER:
    case SWEEP_GATHER:
        return (n - 1) / n;
    case SWEEP_BROADCAST:
    case SWEEP_COUNT:
        break;
    }
    return world == 1 ? 0 : 1;
}

/* One measurement's buffers: n floats sent, n_out received (the same memory for broadcast). */
struct trial {
    struct comm *comm;
    struct device *device;
    enum sweep_collective which;
    size_t n, n_out;
    void *in;      /* owns; the communicator's */
    void *out;     /* owns, unless in */
    float *host;   /* owns [n_out], to fill and look at the others with */
    size_t *parts; /* owns [world]: bytes of each rank, of a gather */
};

static bool trial_init(struct trial *t, struct comm *c, struct device *d,
                       enum sweep_collective which, uint64_t bytes, struct error *err) {
    *t = (struct trial){.comm = c, .device = d, .which = which, .n_out = bytes / sizeof(float)};
    double memory = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    if (4 * (double)bytes > memory) { /* send, receive, a copy, and what the communicator holds */
        return error_set(err, ERROR_MEMORY, "%s of %llu bytes: the host has %.0f bytes of memory",
                         sweep_name(which), (unsigned long long)bytes, memory);
    }
    t->n = sweep_count(which, bytes, c->world);
    t->host = malloc(t->n_out * sizeof(float));
    t->parts = malloc((size_t)c->world * sizeof *t->parts);
    if (t->host == NULL || t->parts == NULL) {
        return error_set(err, ERROR_MEMORY, "%s of %llu bytes: out of memory", sweep_name(which),
                         (unsigned long long)bytes);
    }
    for (int r = 0; r < c->world; r++) {
        t->parts[r] = t->n * sizeof(float);
    }
    if (!c->ops->alloc(c, t->n * sizeof(float), &t->in, err)) {
        return error_wrap(err, "%s", sweep_name(which));
    }
    t->out = t->in;
    return which == SWEEP_BROADCAST || c->ops->alloc(c, t->n_out * sizeof(float), &t->out, err) ||
           error_wrap(err, "%s", sweep_name(which));
}

static void trial_finish(struct trial *t) {
    if (t->comm != NULL && t->comm->broken) {
        return; /* leaked on purpose: see comm.h */
    }
    free(t->host);
    free(t->parts);
    if (t->comm == NULL) {
        return;
    }
    if (t->out != t->in) {
        t->comm->ops->free(t->comm, t->out, t->n_out * sizeof(float));
    }
    t->comm->ops->free(t->comm, t->in, t->n * sizeof(float));
}

static bool trial_call(struct trial *t, struct error *err) {
    struct comm *c = t->comm;
    switch (t->which) {
    case SWEEP_ALL_REDUCE:
        return c->ops->all_reduce_tree(c, t->out, t->in, t->n, c->world, err);
    case SWEEP_ALL_GATHER:
        return c->ops->all_gather(c, t->out, t->in, t->n * sizeof(float), err);
    case SWEEP_GATHER:
        return c->ops->gather(c, t->out, t->in, t->parts, err);
    case SWEEP_BROADCAST:
    case SWEEP_COUNT:
        break;
    }
    return c->ops->broadcast(c, t->out, t->n * sizeof(float), 0, err);
}

/* Rank r's element i, from -100 to 100: sums of up to 2^17 ranks are exact in f32. */
static int value(int r, size_t i) {
    return (int)((i * 7 + (size_t)r * 13) % 201) - 100;
}

static int expected(const struct trial *t, size_t i) {
    int sum = 0;
    switch (t->which) {
    case SWEEP_ALL_REDUCE:
        for (int r = 0; r < t->comm->world; r++) {
            sum += value(r, i);
        }
        return sum;
    case SWEEP_ALL_GATHER:
    case SWEEP_GATHER:
        return value((int)(i / t->n), i % t->n);
    case SWEEP_BROADCAST:
    case SWEEP_COUNT:
        break;
    }
    return value(0, i);
}

static bool trial_verify(struct trial *t, uint64_t *wrong, struct error *err) {
    struct device *d = t->device;
    bool given = t->which != SWEEP_BROADCAST || t->comm->rank == 0;
    for (size_t i = 0; i < t->n_out; i++) {
        t->host[i] = -1e30f;
    }
    if (!d->ops->upload(d, t->out, t->host, t->n_out * sizeof(float), err)) {
        return false;
    }
    for (size_t i = 0; given && i < t->n; i++) {
        t->host[i] = (float)value(t->comm->rank, i);
    }
    if (!d->ops->upload(d, t->in, t->host, t->n * sizeof(float), err) || !trial_call(t, err) ||
        !d->ops->download(d, t->host, t->out, t->n_out * sizeof(float), err)) {
        return false;
    }
    *wrong = 0;
    bool has_result = t->which != SWEEP_GATHER || t->comm->rank == 0;
    for (size_t i = 0; has_result && i < t->n_out; i++) {
        float want = (float)expected(t, i);
        *wrong += memcmp(&t->host[i], &want, sizeof(want)) != 0;
    }
    return true;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* One run of calls, each of which is timed, and awaited where `await` says so. */
static bool time_calls(struct trial *t, int iters, bool await, double *each, double *total,
                       struct error *err) {
    struct device *d = t->device;
    uint32_t ready = 0; /* all start together: the first call must not time who came late */
    if (!t->comm->ops->all_reduce_u32(t->comm, &ready, 1, err)) {
        return false;
    }
    double start = clock_now();
    double last = start;
    for (int i = 0; i < iters; i++) {
        if (!trial_call(t, err) || (await && !d->ops->sync(d, err))) {
            return false;
        }
        double now = clock_now();
        each[i] = now - last;
        last = now;
    }
    if (!d->ops->sync(d, err)) {
        return false;
    }
    *total = clock_now() - start;
    return true;
}

/* Times calls on zeros (the buffers are new), which stay zeros however often they are summed. */
static bool trial_time(struct trial *t, int iters, int warmup, double *each,
                       struct sweep_sample *out, struct error *err) {
    double total, awaited;
    for (int i = 0; i < warmup; i++) {
        if (!trial_call(t, err)) {
            return false;
        }
    }
    if (!t->device->ops->sync(t->device, err) || !time_calls(t, iters, false, each, &total, err) ||
        (t->comm->ops->enqueues && !time_calls(t, iters, true, each, &awaited, err))) {
        return false;
    }
    out->seconds = total / iters;
    qsort(each, (size_t)iters, sizeof(*each), by_value);
    out->median_seconds = each[iters / 2];
    return true;
}

/* Means of the times, sum of the wrong elements. all: [world]. */
static bool combine(struct trial *t, void *buffer, struct sweep_sample *all,
                    struct sweep_sample *sample, struct error *err) {
    struct comm *c = t->comm;
    struct device *d = t->device;
    char *mine = (char *)buffer + (size_t)c->rank * sizeof(*sample);
    if (!d->ops->upload(d, mine, sample, sizeof(*sample), err) ||
        !c->ops->all_gather(c, buffer, mine, sizeof(*sample), err) ||
        !d->ops->download(d, all, buffer, (size_t)c->world * sizeof(*sample), err)) {
        return false;
    }
    *sample = (struct sweep_sample){0};
    for (int r = 0; r < c->world; r++) {
        sample->seconds += all[r].seconds / c->world;
        sample->median_seconds += all[r].median_seconds / c->world;
        sample->wrong += all[r].wrong;
    }
    return true;
}

bool sweep_measure(struct comm *c, struct device *d, enum sweep_collective which, uint64_t bytes,
                   int iters, int warmup, struct sweep_sample *out, struct error *err) {
    bool ok = false;
    struct trial t = {0};
    struct sweep_sample sample = {0};
    struct sweep_sample *all = NULL;
    size_t all_bytes = (size_t)c->world * sizeof(*all);
    void *buffer = NULL; /* [world] samples, the communicator's */
    double *each = NULL;

    if (which < 0 || which >= SWEEP_COUNT || iters < 1 || warmup < 0 ||
        bytes != sweep_bytes(which, bytes, c->world) || bytes > SIZE_MAX / 2) {
        return error_set(err, ERROR_SHAPE, "bandwidth: %llu bytes, %d iterations, %d to warm up",
                         (unsigned long long)bytes, iters, warmup);
    }
    all = malloc(all_bytes);
    each = malloc((size_t)iters * sizeof(*each));
    bool have =
        trial_init(&t, c, d, which, bytes, err) && c->ops->alloc(c, all_bytes, &buffer, err);
    if (have && (all == NULL || each == NULL)) {
        have = error_set(err, ERROR_MEMORY, "bandwidth: out of memory for %d times", iters);
    }
    if (!comm_agree(c, have, err) || !trial_time(&t, iters, warmup, each, &sample, err) ||
        !trial_verify(&t, &sample.wrong, err) || !combine(&t, buffer, all, &sample, err)) {
        goto out;
    }
    *out = sample;
    ok = true;
out:
    if (!c->broken) {
        c->ops->free(c, buffer, all_bytes);
    }
    trial_finish(&t);
    free(each);
    free(all);
    return ok;
}
