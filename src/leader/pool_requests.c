/* The pool's requests, one function each. */
#include "leader/pool_impl.h"

#include <stdio.h>
#include <string.h>

#include "base/build_id.h"
#include "base/clock.h"
#include "base/log.h"
#include "comm/comm.h"
#include "rpc/watchdog.h"

/* ---- hello ---- */

static bool check_hello(const struct message_hello_ok *h, int rank, struct error *err) {
    if (h->protocol != PROTOCOL_VERSION) {
        return error_set(err, ERROR_VERSION, "hello: speaks protocol %d, rank 0 speaks %d",
                         h->protocol, PROTOCOL_VERSION);
    }
    if (strcmp(h->build, build_id()) != 0) {
        return error_set(err, ERROR_VERSION,
                         "hello: runs build %s (%s) on %s, rank 0 runs build %s; start the same "
                         "program on every host",
                         h->build, h->version, h->host, build_id());
    }
    if (h->rank != rank) {
        return error_set(err, ERROR_RANK_MISMATCH, "hello: says it is rank %d", h->rank);
    }
    return true;
}

static bool on_hello(void *user, int rank, const struct message *reply, struct error *err) {
    struct pool *p = user;
    p->ranks[rank] = reply->hello_ok;
    return check_hello(&reply->hello_ok, rank, err);
}

bool pool_hello(struct pool *p, bool leftovers, struct error *err) {
    struct message m = {.type = MESSAGE_HELLO};
    m.hello.protocol = PROTOCOL_VERSION;
    m.hello.leftovers = leftovers;
    snprintf(m.hello.build, sizeof m.hello.build, "%s", build_id());
    return pool_ask_all(p, &m, on_hello, p, err);
}

/* ---- ping ---- */

bool pool_ping(struct pool *p, int rank, double *seconds, struct error *err) {
    struct message request, reply;
    request.type = MESSAGE_PING;
    double start = clock_now();
    if (!pool_ask(p, rank, &request, &reply, err)) {
        return false;
    }
    if (seconds) {
        *seconds = clock_now() - start;
    }
    if (reply.pong.rank != rank) {
        error_set(err, ERROR_RANK_MISMATCH, "ping: rank %d answered for rank %d", reply.pong.rank,
                  rank);
        return error_at_rank(err, rank);
    }
    return true;
}

bool pool_echo(struct pool *p, int rank, int count, double *seconds, struct error *err) {
    struct message request = {.type = MESSAGE_PING}, reply;
    char data[64] = {0};
    request.seq = p->seq;
    if (!message_encode(&p->own, &request, err)) {
        return false;
    }
    int bytes = (int)p->own.size;
    request.type = MESSAGE_ECHO;
    request.echo = (struct message_echo){.bytes = bytes, .count = count};
    if (!pool_send(p, &request, rank, err)) {
        return false;
    }
    watchdog_phase("a bare MPI ping-pong", p->options.timeout_s + 1);
    MPI_Comm comm = p->options.control;
    for (int i = 0; i < count; i++) {
        double start = clock_now();
        MPI_Send(data, bytes, MPI_BYTE, rank, WORKER_ECHO_TAG, comm);
        MPI_Recv(data, bytes, MPI_BYTE, rank, WORKER_ECHO_TAG, comm, MPI_STATUS_IGNORE);
        seconds[i] = clock_now() - start;
    }
    watchdog_clear();
    return pool_collect(p, rank, MESSAGE_ECHO_OK, p->options.timeout_s, &reply, err);
}

/* ---- init ---- */

static bool has_word(const char *list, const char *word) {
    size_t n = strlen(word);
    for (const char *at = strstr(list, word); n && at; at = strstr(at + 1, word)) {
        if ((at == list || at[-1] == ' ') && (at[n] == 0 || at[n] == ' ')) {
            return true;
        }
    }
    return false;
}

/* The ranks that cannot use an instruction set, as "1, 3"; "" when all can. */
static void ranks_without(const struct pool *p, const char *isa, char *out, size_t size) {
    size_t used = 0;
    *out = 0;
    for (int r = 0; r < p->world && used + 16 < size; r++) {
        if (!has_word(p->ranks[r].isas, isa)) {
            used += (size_t)snprintf(out + used, size - used, "%s%d", used ? ", " : "", r);
        }
    }
}

static bool choose_isa(struct pool *p, struct error *err) {
    static const char *const best_first[] = {"avx512vnni", "avx512", "avx2", "generic"};
    const char *asked = p->options.isa;
    char missing[200];
    if (asked) {
        ranks_without(p, asked, missing, sizeof missing);
        snprintf(p->isa, sizeof p->isa, "%s", asked);
        return !*missing || error_set(err, ERROR_UNSUPPORTED, "--isa %s: not on the CPU of rank %s",
                                      asked, missing);
    }
    for (size_t i = 0; i < sizeof best_first / sizeof best_first[0]; i++) {
        ranks_without(p, best_first[i], missing, sizeof missing);
        if (!*missing) {
            snprintf(p->isa, sizeof p->isa, "%s", best_first[i]);
            return true;
        }
    }
    return error_set(err, ERROR_INTERNAL, "the ranks have no kernels in common");
}

bool pool_init(struct pool *p, struct error *err) {
    struct message m = {.type = MESSAGE_INIT};
    if (!choose_isa(p, err) || !pool_choose_device(p, err)) {
        return false;
    }
    snprintf(m.init.device, sizeof m.init.device, "%s", p->device);
    snprintf(m.init.isa, sizeof m.init.isa, "%s", p->isa);
    snprintf(m.init.dtype, sizeof m.init.dtype, "%s", p->dtype);
    m.init.graphs = !p->options.no_graphs;
    m.init.sharers = p->sharers;
    m.init.check = p->options.check_collectives;
    m.init.timeout_s = p->options.timeout_s;
    bool ready = pool_ask_all(p, &m, NULL, NULL, err);
    if (!ready && err->kind == ERROR_DEADLINE) {
        return false; /* somebody is not there: a broadcast would wait for it */
    }
    struct error e = {0};
    if (worker_join(p->worker, ready, &e) || !ready) {
        return ready;
    }
    *err = e;
    pool_own_failure(p, err);
    if (!pool_read_notices(p, &e)) { /* another rank may know better why */
        pool_keep_error(err, &e);
    }
    p->settled = p->seq;
    pool_call_off(p, err); /* the others may wait in there for a rank that has failed */
    return pool_find_culprit(p, err);
}

/* ---- sanity ---- */

struct sanity {
    uint64_t *sums; /* may be NULL */
    int world;
};

static bool on_sanity(void *user, int rank, const struct message *reply, struct error *err) {
    struct sanity *s = user;
    uint64_t sum = reply->sanity_result.observed_sum;
    if (s->sums) {
        s->sums[rank] = sum;
    }
    return sum == (uint64_t)s->world ||
           error_set(err, ERROR_WRONG_RESULT,
                     "sanity: the sum of ones over %d ranks came out as %llu", s->world,
                     (unsigned long long)sum);
}

bool pool_sanity(struct pool *p, uint64_t *sums, struct error *err) {
    struct message m = {.type = MESSAGE_SANITY};
    struct sanity s = {.sums = sums, .world = p->world};
    return pool_ask_all(p, &m, on_sanity, &s, err);
}

/* ---- bandwidth ---- */

static bool on_sample(void *user, int rank, const struct message *reply, struct error *err) {
    struct sweep_sample *out = user;
    (void)err;
    if (rank == 0) { /* all ranks have the same */
        *out = (struct sweep_sample){.seconds = reply->bandwidth_result.seconds,
                                     .median_seconds = reply->bandwidth_result.median_s,
                                     .wrong = reply->bandwidth_result.wrong};
    }
    return true;
}

static bool measure(struct pool *p, enum sweep_collective which, uint64_t bytes, int iters,
                    int warmup, bool bare, struct sweep_sample *out, struct error *err) {
    struct message m = {.type = MESSAGE_BANDWIDTH};
    m.bandwidth.bare = bare;
    snprintf(m.bandwidth.collective, sizeof m.bandwidth.collective, "%s", sweep_name(which));
    m.bandwidth.bytes = bytes;
    m.bandwidth.iters = iters;
    m.bandwidth.warmup = warmup;
    return pool_ask_all(p, &m, on_sample, out, err);
}

bool pool_measure(struct pool *p, enum sweep_collective which, uint64_t bytes, int iters,
                  int warmup, struct sweep_sample *out, struct error *err) {
    return measure(p, which, bytes, iters, warmup, false, out, err);
}

bool pool_measure_bare(struct pool *p, enum sweep_collective which, uint64_t bytes, int iters,
                       int warmup, struct sweep_sample *out, struct error *err) {
    return measure(p, which, bytes, iters, warmup, true, out, err);
}

/* ---- probe ---- */

static bool on_rate(void *user, int rank, const struct message *reply, struct error *err) {
    double *sum = user;
    (void)rank;
    (void)err;
    *sum += reply->probe_result.rate;
    return true;
}

/* Enough to be far beyond the caches of a host's ranks together, and a small part of its memory. */
static uint64_t probe_bytes(const struct pool *p) {
    uint64_t bytes = 512 << 20;
    for (int r = 0; r < p->world; r++) {
        uint64_t share = p->ranks[r].memory / 8 / (uint64_t)p->ranks[r].local_size;
        bytes = share < bytes ? share : bytes;
    }
    return bytes;
}

bool pool_probe(struct pool *p, enum probe_limit which, int pattern, double seconds, double *rate,
                struct error *err) {
    struct message m = {.type = MESSAGE_PROBE};
    snprintf(m.probe.what, sizeof m.probe.what, "%s", probe_limit_name(which));
    m.probe.pattern = pattern;
    m.probe.bytes = probe_bytes(p);
    m.probe.seconds = seconds;
    *rate = 0;
    return pool_ask_all(p, &m, on_rate, rate, err);
}

bool pool_check(struct pool *p, struct error *err) {
    for (int r = 0; r < p->world; r++) {
        if (!pool_ping(p, r, NULL, err)) {
            return false;
        }
    }
    return pool_init(p, err) && pool_sanity(p, NULL, err);
}

bool pool_start(struct pool *p, struct error *err) {
    return pool_hello(p, false, err) && pool_check(p, err);
}

/* ---- step ---- */

/* Nobody is sent a step's results; in a trace they are a reply of rank 0's, for `replay`. */
static void trace_results(struct pool *p, const struct step *step,
                          const struct step_result *results) {
    struct message m = {.type = MESSAGE_STEPPED, .seq = p->seq};
    if (p->trace && results) {
        m.stepped.digest = worker_digest(p->worker, step, results);
        pool_trace_own(p, &m);
    }
}

bool pool_step(struct pool *p, const struct step *step, struct step_result *results,
               struct error *err) {
    struct message m;
    m.type = MESSAGE_STEP;
    m.step = *step;
    p->trouble.kind = ERROR_NONE;
    if (!worker_prepare(p->worker, step, results, err)) {
        return error_at_rank(err, 0); /* and nobody was asked */
    }
    double start = clock_now();
    bool sent = pool_send(p, &m, -1, err);
    p->send_seconds += clock_now() - start;
    if (!sent) {
        return error_at_rank(err, 0);
    }
    if (worker_run(p->worker, err)) {
        pool_done(p);
        trace_results(p, step, results);
        return true;
    }
    if (p->trace) {
        message_from_error(&m, MESSAGE_ERROR, p->seq, err);
        pool_trace_own(p, &m);
    }
    pool_own_failure(p, err);
    if (p->settled < p->seq) {
        p->settled = p->seq;
    }
    p->astray = true;
    pool_call_off(p, err);
    return pool_find_culprit(p, err);
}

/* ---- stats ---- */

static bool on_stats(void *user, int rank, const struct message *reply, struct error *err) {
    struct message_stats *stats = user;
    (void)err;
    stats[rank] = reply->stats;
    return true;
}

bool pool_stats(struct pool *p, struct message_stats *stats, struct error *err) {
    struct message m = {.type = MESSAGE_STATS};
    return pool_ask_all(p, &m, on_stats, stats, err);
}
