#include "comm/sweep.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

static const char *const names[SWEEP_COUNT] = {"all_reduce", "all_gather", "broadcast"};

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

uint64_t sweep_bytes(enum sweep_collective which, uint64_t bytes, int world) {
    uint64_t unit = which == SWEEP_ALL_GATHER ? sizeof(float) * (uint64_t)world : sizeof(float);
    return bytes < unit ? unit : bytes / unit * unit;
}

/* One measurement's buffers: n floats sent, n_out received (the same memory for broadcast). */
struct trial {
    struct comm *comm;
    enum sweep_collective which;
    size_t n, n_out;
    float *in;  /* owns */
    float *out; /* owns, unless in */
};

static bool trial_init(struct trial *t, struct comm *c, enum sweep_collective which, uint64_t bytes,
                       struct error *err) {
    *t = (struct trial){.comm = c, .which = which, .n_out = bytes / sizeof(float)};
    double memory = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    if (3 * (double)bytes > memory) { /* send, receive and what the communicator holds */
        return error_set(err, ERROR_MEMORY, "%s of %llu bytes: the host has %.0f bytes of memory",
                         sweep_name(which), (unsigned long long)bytes, memory);
    }
    t->n = which == SWEEP_ALL_GATHER ? t->n_out / (size_t)c->world : t->n_out;
    t->in = malloc(t->n * sizeof(float));
    t->out = which == SWEEP_BROADCAST ? t->in : malloc(t->n_out * sizeof(float));
    if (t->in == NULL || t->out == NULL) {
        return error_set(err, ERROR_MEMORY, "%s of %llu bytes: out of memory", sweep_name(which),
                         (unsigned long long)bytes);
    }
    return true;
}

static void trial_finish(struct trial *t) {
    if (t->comm != NULL && t->comm->broken) {
        return; /* leaked on purpose: see comm.h */
    }
    if (t->out != t->in) {
        free(t->out);
    }
    free(t->in);
}

static bool trial_call(struct trial *t, struct error *err) {
    struct comm *c = t->comm;
    switch (t->which) {
    case SWEEP_ALL_REDUCE:
        return c->ops->all_reduce_tree(c, t->out, t->in, t->n, c->world, err);
    case SWEEP_ALL_GATHER:
        return c->ops->all_gather(c, t->out, t->in, t->n * sizeof(float), err);
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
        return value((int)(i / t->n), i % t->n);
    case SWEEP_BROADCAST:
    case SWEEP_COUNT:
        break;
    }
    return value(0, i);
}

static bool trial_verify(struct trial *t, uint64_t *wrong, struct error *err) {
    for (size_t i = 0; i < t->n_out; i++) {
        t->out[i] = -1e30f;
    }
    for (size_t i = 0; i < t->n; i++) {
        bool given = t->which != SWEEP_BROADCAST || t->comm->rank == 0;
        t->in[i] = given ? (float)value(t->comm->rank, i) : -1e30f;
    }
    if (!trial_call(t, err)) {
        return false;
    }
    *wrong = 0;
    for (size_t i = 0; i < t->n_out; i++) {
        float want = (float)expected(t, i);
        *wrong += memcmp(&t->out[i], &want, sizeof(want)) != 0;
    }
    return true;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Times calls on zeros, which stay zeros however often they are summed. */
static bool trial_time(struct trial *t, int iters, int warmup, double *each,
                       struct sweep_sample *out, struct error *err) {
    memset(t->in, 0, t->n * sizeof(float));
    memset(t->out, 0, t->n_out * sizeof(float));
    for (int i = 0; i < warmup; i++) {
        if (!trial_call(t, err)) {
            return false;
        }
    }
    uint32_t ready = 0; /* all start together: the first call must not time who came late */
    if (!t->comm->ops->all_reduce_u32(t->comm, &ready, 1, err)) {
        return false;
    }
    double start = clock_now();
    double last = start;
    for (int i = 0; i < iters; i++) {
        if (!trial_call(t, err)) {
            return false;
        }
        double now = clock_now();
        each[i] = now - last;
        last = now;
    }
    out->seconds = (last - start) / iters;
    qsort(each, (size_t)iters, sizeof(*each), by_value);
    out->median_seconds = each[iters / 2];
    return true;
}

/* Means of the times, sum of the wrong elements. all: [world]. */
static bool combine(struct comm *c, struct sweep_sample *all, struct sweep_sample *sample,
                    struct error *err) {
    if (!c->ops->all_gather(c, all, sample, sizeof(*sample), err)) {
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

bool sweep_measure(struct comm *c, enum sweep_collective which, uint64_t bytes, int iters,
                   int warmup, struct sweep_sample *out, struct error *err) {
    bool ok = false;
    struct trial t = {0};
    struct sweep_sample sample = {0};
    struct sweep_sample *all = NULL;
    double *each = NULL;

    if (which < 0 || which >= SWEEP_COUNT || iters < 1 || warmup < 0 ||
        bytes != sweep_bytes(which, bytes, c->world) || bytes > SIZE_MAX / 2) {
        return error_set(err, ERROR_SHAPE, "bandwidth: %llu bytes, %d iterations, %d to warm up",
                         (unsigned long long)bytes, iters, warmup);
    }
    all = malloc((size_t)c->world * sizeof(*all));
    each = malloc((size_t)iters * sizeof(*each));
    bool have = trial_init(&t, c, which, bytes, err);
    if (have && (all == NULL || each == NULL)) {
        have = error_set(err, ERROR_MEMORY, "bandwidth: out of memory for %d times", iters);
    }
    if (!comm_agree(c, have, err) || !trial_time(&t, iters, warmup, each, &sample, err) ||
        !trial_verify(&t, &sample.wrong, err) || !combine(c, all, &sample, err)) {
        goto out;
    }
    *out = sample;
    ok = true;
out:
    trial_finish(&t);
    free(each);
    free(all);
    return ok;
}
