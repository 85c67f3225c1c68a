#include "comm/wire.h"

#include <limits.h>
#include <sched.h>
#include <stdlib.h>

#include "base/buffer.h"
#include "base/clock.h"

enum {
    WIRE_TAGS = 32768,        /* MPI promises tags up to 32767 */
    WIRE_CHUNK = 1 << 30,     /* MPI counts bytes in an int */
    WIRE_SHORT = 12 * 1024,   /* up to here, messages go in chunks of WIRE_EAGER ... */
    WIRE_EAGER = 3968,        /* ... which Open MPI's shared memory takes without a handshake; the
                               * first chunk of longer ones, too: it tells that the sender is here */
    WIRE_SPINS_PER_POLL = 64, /* looks at the clock and polls this often */
    /* About 60 us. The rank that is waited for may have been woken on this very core, as after an
     * idle time: without this, each would spin its time slices away before the other's turn. */
    WIRE_SPINS_FIRST_YIELD = 512,
    /* About 2 ms. Where every rank has its core, a shorter spin only gives time slices away to
     * other programs on a shared machine (wire.spins_per_yield is lower where ranks share). */
    WIRE_SPINS_PER_YIELD = 16384
};

void wire_init(struct wire *w, MPI_Comm mpi, struct comm *comm) {
    *w = (struct wire){.mpi = mpi, .comm = comm, .spins_per_yield = WIRE_SPINS_PER_YIELD};
}

bool wire_finish(struct wire *w) {
    for (int i = 0; i < w->n; i++) {
        int done = 0;
        if (MPI_Test(&w->request[i], &done, MPI_STATUS_IGNORE) != MPI_SUCCESS || !done) {
            return false;
        }
    }
    free(w->request);
    free(w->peer);
    *w = (struct wire){0};
    return true;
}

bool wire_begin(struct wire *w, const struct flight_call *call, struct error *err) {
    struct comm *c = w->comm;
    w->name = call->op;
    if (c->broken) {
        return error_set(err, ERROR_COMM, "%s: an earlier collective on this communicator failed",
                         w->name);
    }
    w->sequence++;
    w->start = clock_now();
    w->waited = 0;
    w->deadline = w->start + c->timeout_s;
    if (!c->unrecorded) {
        w->entry = flight_enter_collective(call, w->start);
    }
    if (c->check && !c->check(c->check_user, call, err)) {
        c->broken = true;
        return false;
    }
    return true;
}

static bool set_capacity(struct wire *w, int capacity, struct error *err) {
    MPI_Request *request = realloc(w->request, (size_t)capacity * sizeof(*request));
    if (request != NULL) {
        w->request = request;
    }
    struct wire_peer *peer = realloc(w->peer, (size_t)capacity * sizeof(*peer));
    if (peer != NULL) {
        w->peer = peer;
    }
    if (request == NULL || peer == NULL) {
        return error_set(err, ERROR_MEMORY, "%s: out of memory for %d requests", w->name, capacity);
    }
    w->capacity = capacity;
    return true;
}

static bool reserve(struct wire *w, struct error *err) {
    return w->n < w->capacity || set_capacity(w, w->capacity == 0 ? 64 : 2 * w->capacity, err);
}

bool wire_reserve(struct wire *w, size_t n, size_t bytes, struct error *err) {
    size_t of_short = WIRE_SHORT / WIRE_EAGER + 1, of_long = 2 + bytes / WIRE_CHUNK;
    size_t most = n * (of_short > of_long ? of_short : of_long);
    w->name = "set-up";
    if (most > INT_MAX / 2) {
        return error_set(err, ERROR_MEMORY, "%s: %zu messages at a time", w->name, n);
    }
    return (int)most <= w->capacity || set_capacity(w, (int)most, err);
}

static bool mpi_failed(struct wire *w, const char *call, int rc, struct error *err) {
    char text[MPI_MAX_ERROR_STRING] = "";
    int length;
    MPI_Error_string(rc, text, &length);
    return error_set(err, ERROR_COMM, "%s: %s: %s", w->name, call, text);
}

/* The same on both sides, since both know the size. 4 KiB takes 0.75 times as long in two chunks as
 * in one message with a handshake; from 16 KiB on the handshake is the faster way. */
static size_t chunk_size(size_t bytes, size_t at) {
    size_t most = bytes <= WIRE_SHORT || at == 0 ? WIRE_EAGER : WIRE_CHUNK;
    return bytes - at < most ? bytes - at : most;
}

bool wire_receive(struct wire *w, void *to, size_t bytes, int rank, struct error *err) {
    for (size_t at = 0, chunk; at < bytes; at += chunk) {
        chunk = chunk_size(bytes, at);
        if (!reserve(w, err)) {
            return false;
        }
        int rc = MPI_Irecv((char *)to + at, (int)chunk, MPI_BYTE, rank,
                           (int)(w->sequence % WIRE_TAGS), w->mpi, &w->request[w->n]);
        if (rc != MPI_SUCCESS) {
            return mpi_failed(w, "MPI_Irecv", rc, err);
        }
        w->peer[w->n++] = (struct wire_peer){rank, true, at == 0};
    }
    return true;
}

bool wire_send(struct wire *w, const void *from, size_t bytes, int rank, struct error *err) {
    for (size_t at = 0, chunk; at < bytes; at += chunk) {
        chunk = chunk_size(bytes, at);
        if (!reserve(w, err)) {
            return false;
        }
        int rc = MPI_Isend((const char *)from + at, (int)chunk, MPI_BYTE, rank,
                           (int)(w->sequence % WIRE_TAGS), w->mpi, &w->request[w->n]);
        if (rc != MPI_SUCCESS) {
            return mpi_failed(w, "MPI_Isend", rc, err);
        }
        w->peer[w->n++] = (struct wire_peer){rank, false, at == 0};
    }
    w->comm->stats.bytes += bytes;
    return true;
}

/* Keeps only the requests that are not done, in order. */
static void drop_done(struct wire *w) {
    int kept = 0;
    for (int i = 0; i < w->n; i++) {
        int done = 0;
        int rc = MPI_Test(&w->request[i], &done, MPI_STATUS_IGNORE);
        if (rc == MPI_SUCCESS && !done) {
            w->request[kept] = w->request[i];
            w->peer[kept++] = w->peer[i];
        }
    }
    w->n = kept;
}

bool wire_late(struct wire *w, const int *rank, int n, struct error *err) {
    struct buffer names = {0};
    for (int i = 0; i < n && i < WIRE_NAMES; i++) {
        buffer_printf(&names, NULL, "%s%d", i == 0 ? "" : ", ", rank[i]);
    }
    error_set(err, ERROR_DEADLINE, "%s #%llu: rank %d waited %.1f s for rank %.*s", w->name,
              (unsigned long long)w->sequence, w->comm->rank, clock_now() - w->start,
              (int)names.size, names.data == NULL ? "" : (char *)names.data);
    buffer_finish(&names);
    return false;
}

/* True if all was done after all; else err names whom this rank waited for. */
static bool too_late(struct wire *w, struct error *err) {
    int rank[WIRE_NAMES], n = 0;
    drop_done(w);
    for (int i = 0; i < w->n && n < WIRE_NAMES; i++) {
        /* Receives are posted first: a rank that sent nothing is named before one that took
         * nothing. Consecutive posts to one rank are named once. */
        if ((n == 0 || w->peer[i].rank != rank[n - 1]) &&
            (w->peer[i].receiving || !w->peer[0].receiving)) {
            rank[n++] = w->peer[i].rank;
        }
    }
    return w->n == 0 || wire_late(w, rank, n, err);
}

/* Looks whether the first chunks have arrived, from the request *from on, which is moved to the
 * first whose has not. */
static bool all_are_here(struct wire *w, int *from) {
    for (; *from < w->n; (*from)++) {
        int here = 1;
        if (w->peer[*from].first) {
            MPI_Request_get_status(w->request[*from], &here, MPI_STATUS_IGNORE);
        }
        if (!here) {
            return false;
        }
    }
    return true;
}

static bool attend(struct wire *w, double now, struct error *err) {
    flight_pulse(now);
    return w->comm->poll == NULL || w->comm->poll(w->comm->poll_user, err);
}

bool wire_attend(struct wire *w, double now, struct error *err) {
    int found;
    /* Nobody writes to itself, so this finds nothing, and MPI then looks at all else. */
    int rc = MPI_Iprobe(w->comm->rank, MPI_ANY_TAG, w->mpi, &found, MPI_STATUS_IGNORE);
    return (rc == MPI_SUCCESS || mpi_failed(w, "MPI_Iprobe", rc, err)) && attend(w, now, err);
}

bool wire_wait(struct wire *w, struct error *err) {
    double start = clock_now();
    bool here = false;
    int from = 0;
    for (unsigned spin = 1;; spin++) {
        int done;
        double look = spin == 1 ? start : clock_now();
        int rc = MPI_Testall(w->n, w->request, &done, MPI_STATUSES_IGNORE);
        if (rc != MPI_SUCCESS) {
            return mpi_failed(w, "MPI_Testall", rc, err);
        }
        if (!here && (done || all_are_here(w, &from))) {
            here = true;
            w->waited += look - start; /* the look itself may have moved a long message */
        }
        if (done) {
            w->n = 0;
            return true;
        }
        if (spin % w->spins_per_yield == 0 || spin == WIRE_SPINS_FIRST_YIELD) {
            sched_yield();
        }
        if (spin % WIRE_SPINS_PER_POLL == 0) {
            if (!attend(w, look, err)) {
                return false;
            }
            if (look > w->deadline) {
                return too_late(w, err);
            }
        }
    }
}

bool wire_end(struct wire *w, bool ok) {
    if (!ok) {
        w->comm->broken = true;
        for (int i = 0; i < w->n; i++) {
            if (w->peer[i].receiving && w->request[i] != MPI_REQUEST_NULL) {
                MPI_Cancel(&w->request[i]);
            }
        }
        drop_done(w);
    }
    double now = clock_now();
    if (!w->comm->unrecorded && ok) { /* one that failed was never left */
        flight_leave(w->entry, now);
    }
    w->comm->stats.n_collective++;
    w->comm->stats.wait_s += w->waited;
    w->comm->stats.transfer_s += now - w->start - w->waited;
    return ok;
}
