/* The pool's requests, one function each. */
#include "leader/pool_impl.h"

#include <stdio.h>
#include <string.h>

#include "base/build_id.h"
#include "base/clock.h"
#include "base/log.h"
#include "comm/comm.h"
#include "format/show.h"
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

bool pool_hello(struct pool *p, struct error *err) {
    struct message m = {.type = MESSAGE_HELLO};
    m.hello.protocol = PROTOCOL_VERSION;
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
    static const char *const best_first[] = {"avx512", "avx2", "generic"};
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

bool pool_measure(struct pool *p, enum sweep_collective which, uint64_t bytes, int iters,
                  int warmup, struct sweep_sample *out, struct error *err) {
    struct message m = {.type = MESSAGE_BANDWIDTH};
    snprintf(m.bandwidth.collective, sizeof m.bandwidth.collective, "%s", sweep_name(which));
    m.bandwidth.bytes = bytes;
    m.bandwidth.iters = iters;
    m.bandwidth.warmup = warmup;
    return pool_ask_all(p, &m, on_sample, out, err);
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
    return pool_hello(p, err) && pool_check(p, err);
}

/* ---- load and unload ---- */

static bool on_measured(void *user, int rank, const struct message *reply, struct error *err) {
    struct pool *p = user;
    struct pool_load_state *l = &p->loads[rank];
    const struct message_loaded *m = &l->measured;
    (void)err;
    l->measured = reply->loaded;
    pool_note_print(p, rank, m);
    snprintf(l->measured_text, sizeof l->measured_text,
             "needs %.20s (weights %.20s, KV cache %.20s, buffers %.20s), %.20s are free",
             show_bytes(m->bytes_held).text, show_bytes(m->weights).text, show_bytes(m->kv).text,
             show_bytes(m->buffers).text, show_bytes(m->free).text);
    return true;
}

/* Of a rank whose share does not fit. */
static const char *measured_text(const struct pool *p, int rank) {
    const struct pool_load_state *l = &p->loads[rank];
    return l->measured.fits ? NULL : l->measured_text;
}

/* Cuts a list with "; " between to about n bytes, after a whole entry. */
static void shorten(char *list, size_t n) {
    if (strlen(list) > n) {
        char *cut = list + n;
        while (cut > list && strncmp(cut, "; ", 2) != 0) {
            cut--;
        }
        strcpy(cut, "; …");
    }
}

/* What would fit on every rank instead; "" where nothing would. */
static void advise(const struct pool *p, char *out, size_t size) {
    uint64_t positions = UINT64_MAX;
    int world = 0;
    *out = 0;
    for (int r = 0; r < p->world; r++) {
        const struct message_loaded *m = &p->loads[r].measured;
        if (!m->fits) {
            positions = m->positions < positions ? m->positions : positions;
            world = world < 0 || (m->positions == 0 && m->world == 0) ? -1
                    : m->world > world                                ? m->world
                                                                      : world;
        }
    }
    if (positions > 0) {
        snprintf(out, size, " (a KV cache of %llu positions would: --ctx)",
                 (unsigned long long)positions);
    } else if (world > 0) {
        snprintf(out, size, " (with as much for each, %d ranks would do)", world);
    }
}

bool pool_look_before_load(struct pool *p, struct message load, struct error *err) {
    enum { LIST = 300 }; /* of a message's 480 bytes */
    char advice[100];
    int n_fit = 0;
    load.load.measure = 1;
    if (!pool_ask_all(p, &load, on_measured, p, err) || !pool_same_model(p, &load, err)) {
        return false;
    }
    for (int r = 0; r < p->world; r++) {
        n_fit += p->loads[r].measured.fits != 0;
    }
    if (n_fit == p->world) {
        return true;
    }
    struct buffer table = {0};
    advise(p, advice, sizeof advice);
    pool_describe_groups(p, measured_text, &table);
    if (table.size) {
        shorten((char *)table.data, LIST);
    }
    error_set(err, ERROR_MEMORY, "load: %s: will not fit%s: %s%s", show_path(load.load.dir).text,
              advice, table.size ? (const char *)table.data : "", n_fit ? "; the others fit" : "");
    buffer_finish(&table);
    return false;
}

struct loading {
    struct pool *pool;
    uint64_t bytes;
};

static bool on_loaded(void *user, int rank, const struct message *reply, struct error *err) {
    struct loading *l = user;
    l->bytes += reply->loaded.bytes;
    pool_note_print(l->pool, rank, &reply->loaded);
    return pool_note_progress(l->pool, rank, reply->loaded.bytes, reply->loaded.bytes, err);
}

/* Rank 0's own progress; while it loads, this is also when it hears of the others'. */
static bool own_progress(void *user, uint64_t done, uint64_t total, struct error *err) {
    struct pool *p = user;
    return pool_note_progress(p, 0, done, total, err) && pool_read_notices(p, err);
}

static bool make_load(struct message *m, const struct model_params *params, struct error *err) {
    *m = (struct message){.type = MESSAGE_LOAD};
    if (strlen(params->dir) >= sizeof m->load.dir) {
        return error_set(err, ERROR_USAGE, "the model's path is longer than %zu bytes",
                         sizeof m->load.dir - 1);
    }
    snprintf(m->load.dir, sizeof m->load.dir, "%s", params->dir);
    m->load.ctx = params->ctx;
    m->load.n_block = params->n_block;
    m->load.max_tok = params->max_tok;
    return true;
}

bool pool_measure_load(struct pool *p, const struct model_params *params, struct pool_fit *out,
                       struct error *err) {
    struct message m;
    if (!make_load(&m, params, err)) {
        return false;
    }
    m.load.measure = 1;
    if (!pool_ask_all(p, &m, on_measured, p, err) || !pool_same_model(p, &m, err)) {
        return false;
    }
    *out = (struct pool_fit){.fits = true, .positions = UINT64_MAX};
    for (int r = 0; r < p->world; r++) {
        const struct message_loaded *l = &p->loads[r].measured;
        out->kv = l->kv > out->kv ? l->kv : out->kv;
        if (!l->fits) {
            out->fits = false;
            out->positions = l->positions < out->positions ? l->positions : out->positions;
        }
    }
    return true;
}

bool pool_load(struct pool *p, const struct model_params *params,
               const struct model_progress *progress, uint64_t *bytes_read, struct error *err) {
    struct message m;
    struct loading loading = {.pool = p};
    if (!make_load(&m, params, err)) {
        return false;
    }
    memset(p->loads, 0, (size_t)p->world * sizeof *p->loads);
    if (!pool_look_before_load(p, m, err)) {
        return false;
    }
    struct model_progress own = {.report = own_progress, .user = p};
    p->progress = progress;
    worker_set_progress(p->worker, &own);
    bool ok = pool_ask_all(p, &m, on_loaded, &loading, err);
    ok = ok && pool_same_model(p, &m, err); /* once more: of what was read */
    worker_set_progress(p->worker, NULL);
    p->progress = NULL;
    if (ok && bytes_read) {
        *bytes_read = loading.bytes;
    }
    if (!ok && err->kind != ERROR_DEADLINE) { /* the ranks that could load must not keep it */
        struct error ignored;
        pool_unload(p, NULL, &ignored);
    }
    return ok;
}

static bool on_unloaded(void *user, int rank, const struct message *reply, struct error *err) {
    struct message_unloaded *ranks = user;
    (void)err;
    ranks[rank] = reply->unloaded;
    return true;
}

bool pool_unload(struct pool *p, struct message_unloaded *ranks, struct error *err) {
    struct message m = {.type = MESSAGE_UNLOAD};
    return pool_ask_all(p, &m, ranks ? on_unloaded : NULL, ranks, err);
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
    double start = clock_now();
    bool sent = pool_send(p, &m, -1, err);
    p->send_seconds += clock_now() - start;
    if (!sent) {
        return false;
    }
    if (worker_step(p->worker, step, results, err)) {
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
    if (err->kind != ERROR_PROTOCOL) {
        pool_call_off(p, err);
    }
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
