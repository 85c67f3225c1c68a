#include "comm/mpi.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/flight.h"
#include "base/hash.h"
#include "comm/mpi_comm.h"

enum {
    GATHER_DIRECT_BYTES = 64 * 1024, /* all-gathers whose result is longer go round a ring */
    CROWDED_SPINS_PER_YIELD = 8,     /* where ranks share cores; measured */
};

bool mpi_comm_scratch(struct comm_mpi *c, size_t bytes, void **out, struct error *err) {
    if (bytes > c->scratch_bytes) {
        free(c->scratch);
        c->scratch_bytes = 0;
        if (posix_memalign(&c->scratch, 64, bytes) != 0) {
            c->scratch = NULL;
            return error_set(err, ERROR_MEMORY, "%s: out of memory for %zu bytes", c->wire.name,
                             bytes);
        }
        c->scratch_bytes = bytes;
    }
    *out = c->scratch;
    return true;
}

static void mpi_destroy(struct comm *base) {
    struct comm_mpi *c = (struct comm_mpi *)base;
    shm_finish(&c->shm);
    if (!wire_finish(&c->wire)) {
        return; /* leaked on purpose: MPI may still write there */
    }
    for (int i = 0; i < MPI_TREE_PLANS; i++) {
        mpi_tree_plan_finish(&c->plans[i]);
    }
    free(c->scratch);
    free(c);
}

static bool begin(struct comm_mpi *c, const char *op, uint64_t bytes, enum flight_type type,
                  struct error *err) {
    const struct flight_call call = {op, bytes, type};
    return wire_begin(&c->wire, &call, err);
}

bool mpi_gather_direct(struct comm_mpi *c, char *dst, size_t bytes, struct error *err) {
    int rank = c->base.rank;
    int world = c->base.world;
    for (int i = 1; i < world; i++) {
        int r = (rank + world - i) % world;
        if (!wire_receive(&c->wire, dst + (size_t)r * bytes, bytes, r, err)) {
            return false;
        }
    }
    for (int i = 1; i < world; i++) {
        if (!wire_send(&c->wire, dst + (size_t)rank * bytes, bytes, (rank + i) % world, err)) {
            return false;
        }
    }
    return wire_wait(&c->wire, err);
}

/* world - 1 steps; in each, every rank hands on to the right what it got last from the left. */
static bool gather_ring(struct comm_mpi *c, char *dst, size_t bytes, struct error *err) {
    int world = c->base.world;
    int left = (c->base.rank + world - 1) % world;
    int right = (c->base.rank + 1) % world;
    int have = c->base.rank;
    for (int step = 1; step < world; step++) {
        int next = (have + world - 1) % world;
        if (!wire_receive(&c->wire, dst + (size_t)next * bytes, bytes, left, err) ||
            !wire_send(&c->wire, dst + (size_t)have * bytes, bytes, right, err) ||
            !wire_wait(&c->wire, err)) {
            return false;
        }
        have = next;
    }
    return true;
}

static bool mpi_all_gather(struct comm *base, void *dst, const void *src, size_t bytes,
                           struct error *err) {
    struct comm_mpi *c = (struct comm_mpi *)base;
    if (!begin(c, "all-gather", bytes, FLIGHT_BYTES, err)) {
        return false;
    }
    char *mine = (char *)dst + (size_t)base->rank * bytes;
    if (mine != src && bytes > 0) {
        memmove(mine, src, bytes);
    }
    bool direct = bytes <= GATHER_DIRECT_BYTES / (size_t)base->world;
    return wire_end(&c->wire, direct ? mpi_gather_direct(c, dst, bytes, err)
                                     : gather_ring(c, dst, bytes, err));
}

/* Gathers every rank's x in scratch. */
static bool gather_u32(struct comm_mpi *c, const uint32_t *x, size_t n, uint32_t **all,
                       struct error *err) {
    size_t bytes;
    void *memory;
    if (__builtin_mul_overflow(n, (size_t)c->base.world * sizeof(*x), &bytes)) {
        return error_set(err, ERROR_MEMORY, "%s: %zu numbers", c->wire.name, n);
    }
    if (!mpi_comm_scratch(c, bytes, &memory, err)) {
        return false;
    }
    *all = memory;
    if (n > 0) {
        memcpy(*all + (size_t)c->base.rank * n, x, n * sizeof(*x));
    }
    return mpi_gather_direct(c, memory, n * sizeof(*x), err);
}

static bool mpi_all_reduce_u32(struct comm *base, uint32_t *x, size_t n, struct error *err) {
    struct comm_mpi *c = (struct comm_mpi *)base;
    uint32_t *all = NULL;
    if (!begin(c, "all-reduce", n * sizeof *x, FLIGHT_U32, err) ||
        !wire_end(&c->wire, gather_u32(c, x, n, &all, err))) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        uint32_t sum = 0;
        for (size_t r = 0; r < (size_t)base->world; r++) {
            sum += all[r * n + i];
        }
        x[i] = sum;
    }
    return true;
}

static bool mpi_all_reduce_max_u32(struct comm *base, uint32_t *x, size_t n, struct error *err) {
    struct comm_mpi *c = (struct comm_mpi *)base;
    uint32_t *all = NULL;
    if (!begin(c, "all-reduce max", n * sizeof *x, FLIGHT_U32, err) ||
        !wire_end(&c->wire, gather_u32(c, x, n, &all, err))) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        for (size_t r = 0; r < (size_t)base->world; r++) {
            x[i] = all[r * n + i] > x[i] ? all[r * n + i] : x[i];
        }
    }
    return true;
}

/* Down a binomial tree: in the step of distance d, ranks below d (counted from the root) each send
 * to the one d above. */
static bool broadcast_tree(struct comm_mpi *c, void *buf, size_t bytes, int root,
                           struct error *err) {
    int world = c->base.world;
    int place = (c->base.rank + world - root) % world;
    int distance = 1;
    if (place > 0) {
        while (2 * distance <= place) {
            distance *= 2;
        }
        int parent = (place - distance + root) % world;
        if (!wire_receive(&c->wire, buf, bytes, parent, err) || !wire_wait(&c->wire, err)) {
            return false;
        }
        distance *= 2;
    }
    for (; distance < world - place; distance *= 2) {
        if (!wire_send(&c->wire, buf, bytes, (place + distance + root) % world, err)) {
            return false;
        }
    }
    return wire_wait(&c->wire, err);
}

static bool mpi_broadcast(struct comm *base, void *buf, size_t bytes, int root, struct error *err) {
    struct comm_mpi *c = (struct comm_mpi *)base;
    if (root < 0 || root >= base->world) {
        return error_set(err, ERROR_SHAPE, "broadcast: no rank %d in a world of %d", root,
                         base->world);
    }
    return begin(c, "broadcast", bytes, FLIGHT_BYTES, err) &&
           wire_end(&c->wire, broadcast_tree(c, buf, bytes, root, err));
}

static bool gather_to_zero(struct comm_mpi *c, char *dst, const void *src, const size_t *bytes,
                           struct error *err) {
    if (c->base.rank != 0) {
        return wire_send(&c->wire, src, bytes[c->base.rank], 0, err) && wire_wait(&c->wire, err);
    }
    size_t at = bytes[0];
    for (int r = 1; r < c->base.world; r++) {
        if (bytes[r] > 0 && !wire_receive(&c->wire, dst + at, bytes[r], r, err)) {
            return false;
        }
        at += bytes[r];
    }
    if (bytes[0] > 0 && dst != src) {
        memmove(dst, src, bytes[0]);
    }
    return wire_wait(&c->wire, err);
}

static bool mpi_gather(struct comm *base, void *dst, const void *src, const size_t *bytes,
                       struct error *err) {
    struct comm_mpi *c = (struct comm_mpi *)base;
    return begin(c, "gather", comm_gather_bytes(base, bytes), FLIGHT_BYTES, err) &&
           wire_end(&c->wire, gather_to_zero(c, dst, src, bytes, err));
}

static bool mpi_reserve(struct comm *base, size_t n, int n_leaf, size_t bytes, struct error *err) {
    struct comm_mpi *c = (struct comm_mpi *)base;
    size_t world = (size_t)base->world, n_message;
    c->wire.name = "set-up";
    if (!mpi_tree_reserve(c, n, n_leaf, &n_message, err)) {
        return false;
    }
    size_t most = n * sizeof(float) * LEAF_TREE_MAX_PIECES;
    return wire_reserve(&c->wire, n_message > world ? n_message : world,
                        most > bytes ? most : bytes, err);
}

static void mpi_release(struct comm *base) {
    struct comm_mpi *c = (struct comm_mpi *)base;
    if (!base->broken) { /* else MPI may still write there */
        free(c->scratch);
        c->scratch = NULL;
        c->scratch_bytes = 0;
    }
}

static const struct comm_ops mpi_ops = {
    .name = "mpi",
    .exact = true,
    .destroy = mpi_destroy,
    .alloc = comm_host_alloc,
    .free = comm_host_free,
    .reserve = mpi_reserve,
    .release = mpi_release,
    .all_reduce_tree = mpi_tree_all_reduce,
    .all_reduce_u32 = mpi_all_reduce_u32,
    .all_reduce_max_u32 = mpi_all_reduce_max_u32,
    .all_gather = mpi_all_gather,
    .broadcast = mpi_broadcast,
    .gather = mpi_gather,
};

static bool make_random_id(void *unused, uint8_t id[COMM_ID_BYTES], struct error *err) {
    (void)unused;
    return getrandom(id, COMM_ID_BYTES, 0) == COMM_ID_BYTES ||
           error_set(err, ERROR_IO, "no random bytes for the communicator's id");
}

/* Like MPI_Bcast from rank 0, but with a deadline, and this thread is seen to be alive while it
 * waits for another. */
static bool broadcast_id(MPI_Comm mpi, uint8_t id[COMM_ID_BYTES], double timeout_s,
                         struct error *err) {
    static const double nap_s = 100e-6;
    static uint8_t shared[COMM_ID_BYTES]; /* after a missed deadline MPI may still write here */
    MPI_Request request;
    int done = 0;
    double now = clock_now(), end = now + timeout_s;
    flight_pulse(now);
    memcpy(shared, id, COMM_ID_BYTES);
    int rc = MPI_Ibcast(shared, COMM_ID_BYTES, MPI_BYTE, 0, mpi, &request);
    while (rc == MPI_SUCCESS && !done && now < end) {
        rc = MPI_Test(&request, &done, MPI_STATUS_IGNORE);
        if (!done) {
            clock_sleep(nap_s);
        }
        now = clock_now();
        flight_pulse(now);
    }
    if (rc != MPI_SUCCESS) {
        return error_set(err, ERROR_COMM_INIT, "MPI_Ibcast of the communicator's id failed");
    }
    if (!done) {
        return error_set(err, ERROR_DEADLINE,
                         "MPI_Ibcast of the communicator's id: no end in time");
    }
    memcpy(id, shared, COMM_ID_BYTES);
    return true;
}

bool comm_mpi_share_id(MPI_Comm mpi, bool want, comm_make_id *make, void *user, double timeout_s,
                       uint8_t id[COMM_ID_BYTES], struct error *err) {
    int rank;
    struct error late; /* the first reason is the one to tell */
    MPI_Comm_rank(mpi, &rank);
    memset(id, 0, COMM_ID_BYTES);
    bool made = rank != 0 || !want || (make ? make : make_random_id)(user, id, err);
    if (!made) {
        memset(id, 0, COMM_ID_BYTES); /* the others must not wait for this rank */
    }
    return broadcast_id(mpi, id, timeout_s, made ? err : &late) && made;
}

bool comm_mpi_id_is_none(const uint8_t id[COMM_ID_BYTES]) {
    static const uint8_t none[COMM_ID_BYTES];
    return memcmp(id, none, sizeof none) == 0;
}

/* What the ranks tell each other first. */
struct greeting {
    uint8_t id[COMM_ID_BYTES];
    uint64_t host;
    cpu_set_t cores;
};

static void greeting_fill(struct greeting *g, const uint8_t id[COMM_ID_BYTES]) {
    char host[256] = "";
    memset(g, 0, sizeof(*g));
    memcpy(g->id, id, COMM_ID_BYTES);
    gethostname(host, sizeof(host) - 1);
    g->host = hash_bytes(HASH_START, host, strlen(host));
    if (sched_getaffinity(0, sizeof(g->cores), &g->cores) != 0) {
        CPU_ZERO(&g->cores);
    }
}

/* More ranks on this rank's host than cores that they may use. */
static bool is_crowded(const struct greeting *all, int world, int rank) {
    cpu_set_t cores;
    int n_rank = 0;
    CPU_ZERO(&cores);
    for (int r = 0; r < world; r++) {
        if (all[r].host == all[rank].host) {
            n_rank++;
            CPU_OR(&cores, &cores, &all[r].cores);
        }
    }
    return n_rank > CPU_COUNT(&cores);
}

static bool check_ids(const struct greeting *all, int world, struct error *err) {
    struct buffer ranks = {0};
    int n = 0;
    for (int r = 1; r < world; r++) {
        if (memcmp(all[r].id, all[0].id, COMM_ID_BYTES) != 0 && n++ < 16) {
            buffer_printf(&ranks, NULL, "%s%d", n == 1 ? "" : ", ", r);
        }
    }
    if (n > 0) {
        error_set(err, ERROR_COMM_INIT,
                  "%d of %d ranks came with another id than rank 0's: rank %.*s", n, world,
                  (int)ranks.size, ranks.data == NULL ? "" : (char *)ranks.data);
    }
    buffer_finish(&ranks);
    return n == 0;
}

static bool is_one_host(const struct greeting *all, int world) {
    int r = 1;
    while (r < world && all[r].host == all[0].host) {
        r++;
    }
    return r == world;
}

/* The ranks tell each other who they are; those of one host then share memory. */
static bool meet(struct comm_mpi *c, const uint8_t id[COMM_ID_BYTES], struct error *err) {
    int rank = c->base.rank, world = c->base.world;
    void *memory;
    if (!mpi_comm_scratch(c, (size_t)world * sizeof(struct greeting), &memory, err)) {
        return false;
    }
    struct greeting *all = memory;
    greeting_fill(&all[rank], id);
    if (!mpi_gather_direct(c, memory, sizeof(*all), err) || !check_ids(all, world, err)) {
        return false;
    }
    bool crowded = is_crowded(all, world, rank);
    /* A check must not hold up what it checks where other programs have the cores. */
    if (c->base.unrecorded || crowded) {
        c->wire.spins_per_yield = CROWDED_SPINS_PER_YIELD;
    }
    if (c->base.unrecorded || world == 1 || !is_one_host(all, world)) {
        return true;
    }
    uint64_t token = hash_bytes(hash_bytes(HASH_START, id, COMM_ID_BYTES), &rank, sizeof(rank));
    return mpi_shm_set_up(c, token, crowded, err);
}

static bool create(MPI_Comm mpi, const uint8_t id[COMM_ID_BYTES], double timeout_s, bool recorded,
                   struct comm **out, struct error *err) {
    struct comm_mpi *c = calloc(1, sizeof(*c));
    if (c == NULL) {
        return error_set(err, ERROR_MEMORY, "out of memory for a communicator");
    }
    c->base.ops = &mpi_ops;
    c->base.timeout_s = timeout_s;
    c->base.unrecorded = !recorded;
    wire_init(&c->wire, mpi, &c->base);
    bool ok = (MPI_Comm_rank(mpi, &c->base.rank) == MPI_SUCCESS &&
               MPI_Comm_size(mpi, &c->base.world) == MPI_SUCCESS &&
               MPI_Comm_set_errhandler(mpi, MPI_ERRORS_RETURN) == MPI_SUCCESS) ||
              error_set(err, ERROR_COMM_INIT, "MPI does not know the communicator");
    ok = ok && begin(c, "set-up", sizeof(struct greeting), FLIGHT_BYTES, err) &&
         wire_end(&c->wire, meet(c, id, err));
    if (!ok) {
        mpi_destroy(&c->base);
        return false;
    }
    c->base.stats = (struct comm_stats){0};
    *out = &c->base;
    return true;
}

bool comm_mpi_create(MPI_Comm mpi, const uint8_t id[COMM_ID_BYTES], double timeout_s,
                     struct comm **out, struct error *err) {
    return create(mpi, id, timeout_s, true, out, err);
}

bool comm_mpi_create_unrecorded(MPI_Comm mpi, const uint8_t id[COMM_ID_BYTES], double timeout_s,
                                struct comm **out, struct error *err) {
    return create(mpi, id, timeout_s, false, out, err);
}
