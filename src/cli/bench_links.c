/* What the ranks pay to reach each other: control messages and collectives, beside bare MPI. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cli/bandwidth.h"
#include "cli/bench.h"
#include "cli/launch.h"

/* ---- control messages ---- */

enum { STEPS = 32, PROMPT = 8, POSITIONS = PROMPT + STEPS };

bool bench_rpc_prepare(struct session *s, struct error *err) {
    if (s->ctx < POSITIONS) {
        return error_set(err, ERROR_USAGE, "--rpc takes %d positions, but %s %d", POSITIONS,
                         s->common->ctx ? "--ctx is" : "the model has", s->ctx);
    }
    s->options.ctx = POSITIONS;
    return true;
}

struct step_times {
    double *step, *around, *sending; /* own [rounds] */
};

/* STEPS steps of one token: their mean, and what of it is not the forward pass. */
static bool step_round(struct session *s, struct sequence *seq, struct message_stats *stats,
                       const struct step_times *t, int round, struct error *err) {
    static const int32_t ids[STEPS] = {0};
    double sent = engine_send_seconds(s->engine);
    sequence_seek(seq, PROMPT);
    if (!pool_stats(s->pool, stats, err)) {
        return false;
    }
    double start = clock_now();
    for (int i = 0; i < STEPS; i++) {
        struct step_result result;
        const struct engine_part part = {.seq = seq,
                                         .tokens = &ids[i],
                                         .n_tok = 1,
                                         .output = STEP_OUTPUT_CANDIDATES,
                                         .top_k = 1};
        if (launch_interrupted()) {
            return error_set(err, ERROR_INTERRUPTED, "interrupted");
        }
        if (!engine_step(s->engine, &part, 1, &result, err)) {
            return false;
        }
    }
    double seconds = clock_now() - start;
    if (!pool_stats(s->pool, stats, err)) {
        return false;
    }
    t->step[round] = seconds / STEPS;
    t->around[round] = (seconds - stats[0].step_s) / STEPS;
    t->sending[round] = (engine_send_seconds(s->engine) - sent) / STEPS;
    return true;
}

static bool measure_steps(const struct bench_plan *plan, struct session *s, struct bench_rpc *out,
                          struct error *err) {
    static const int32_t prompt[PROMPT] = {0};
    size_t n = (size_t)plan->rounds;
    struct sequence *seq = NULL;
    struct step_result result;
    struct step_times t = {calloc(n, sizeof(double)), calloc(n, sizeof(double)),
                           calloc(n, sizeof(double))};
    struct message_stats *stats = calloc((size_t)out->world, sizeof *stats);
    bool ok = ((t.step && t.around && t.sending && stats) || bench_no_memory(err)) &&
              sequence_create(s->engine, &seq, err);
    struct engine_part part = {.seq = seq,
                               .tokens = prompt,
                               .n_tok = PROMPT,
                               .output = STEP_OUTPUT_CANDIDATES,
                               .top_k = 1};
    ok = ok && engine_feed(s->engine, &part, &result, launch_interrupted, err) &&
         step_round(s, seq, stats, &t, 0, err); /* warms up */
    for (int i = 0; ok && i < plan->rounds; i++) {
        ok = step_round(s, seq, stats, &t, i, err);
    }
    if (ok) {
        out->step = spread_of(t.step, plan->rounds);
        out->around = spread_of(t.around, plan->rounds);
        out->sending = spread_of(t.sending, plan->rounds);
    }
    sequence_destroy(seq);
    free(t.step);
    free(t.around);
    free(t.sending);
    free(stats);
    return ok;
}

bool bench_rpc_run(const struct bench_plan *plan, struct session *s, struct bench_rpc *out,
                   struct error *err) {
    *out = (struct bench_rpc){.world = pool_world(s->pool)};
    out->links = calloc((size_t)out->world, sizeof *out->links);
    bool ok = out->links != NULL || bench_no_memory(err);
    for (int r = 0; ok && r < out->world; r++) {
        common_progress(s->common, "pings");
        ok = ping_measure(s->pool, r, &out->links[r], err);
    }
    if (ok) {
        common_progress(s->common, "steps");
        ok = measure_steps(plan, s, out, err);
    }
    common_progress_end(s->common);
    return ok;
}

void bench_rpc_finish(struct bench_rpc *b) {
    free(b->links);
    *b = (struct bench_rpc){0};
}

/* ---- collectives ---- */

enum { MIN_BYTES = 4 << 10, MAX_BYTES = 4 << 20, FACTOR = 4, WARM_UP = 3 };
enum { ROUND_BYTES = 8 << 20, ITERS_MAX = 100 };

/* Ours, then MPI's, so that both meet the same machine. */
static bool one_round(struct pool *pool, const struct bench_collective *row, bool with_bare,
                      double *ours, double *bare, struct error *err) {
    struct sweep_sample mine, other = {0};
    int n = bandwidth_iters(row->bytes, ROUND_BYTES, ITERS_MAX);
    if (launch_interrupted()) {
        return error_set(err, ERROR_INTERRUPTED, "interrupted");
    }
    if (!pool_measure(pool, row->which, row->bytes, n, WARM_UP, &mine, err)) {
        return false;
    }
    if (mine.wrong) {
        return error_set(err, ERROR_WRONG_RESULT, "%s of %llu bytes: %llu wrong elements",
                         sweep_name(row->which), (unsigned long long)row->bytes,
                         (unsigned long long)mine.wrong);
    }
    if (with_bare && !pool_measure_bare(pool, row->which, row->bytes, n, WARM_UP, &other, err)) {
        return false;
    }
    *ours = mine.seconds;
    *bare = other.seconds;
    return true;
}

static bool measure_row(const struct bench_plan *plan, struct pool *pool, bool with_bare,
                        struct bench_collective *row, struct error *err) {
    size_t n = (size_t)plan->rounds;
    double *ours = calloc(n, sizeof *ours), *bare = calloc(n, sizeof *bare);
    double *ratio = calloc(n, sizeof *ratio);
    bool ok = (ours && bare && ratio) || bench_no_memory(err);
    for (int i = 0; ok && i < plan->rounds; i++) {
        ok = one_round(pool, row, with_bare, &ours[i], &bare[i], err);
        if (ok && with_bare) {
            ratio[i] = ours[i] / bare[i];
        }
    }
    if (ok) {
        int n_bare = with_bare ? plan->rounds : 0;
        row->ours = spread_of(ours, plan->rounds);
        row->bare = spread_of(bare, n_bare);
        row->ratio = spread_of(ratio, n_bare);
        row->algbw = (double)row->bytes / row->ours.median / 1e9;
        row->busbw = row->algbw * sweep_bus_factor(row->which, pool_world(pool));
    }
    free(ours);
    free(bare);
    free(ratio);
    return ok;
}

bool bench_collectives_run(const struct bench_plan *plan, const struct common_options *common,
                           struct pool *pool, struct bench_collectives *out, struct error *err) {
    static const enum sweep_collective both[] = {SWEEP_ALL_REDUCE, SWEEP_GATHER};
    enum { MOST = 2 * 32 };
    *out = (struct bench_collectives){.world = pool_world(pool),
                                      .backend = pool_comm(pool)->ops->name};
    out->rows = calloc(MOST, sizeof *out->rows);
    bool with_bare = strcmp(out->backend, "mpi") == 0, ok = out->rows || bench_no_memory(err);
    for (size_t i = 0; i < sizeof both / sizeof both[0]; i++) {
        for (uint64_t bytes = MIN_BYTES; ok && bytes <= MAX_BYTES; bytes *= FACTOR) {
            struct bench_collective *row = &out->rows[out->n_row++];
            row->which = both[i];
            row->bytes = sweep_bytes(both[i], bytes, out->world);
            common_progress(common, "%s", sweep_name(both[i]));
            ok = measure_row(plan, pool, with_bare, row, err);
        }
    }
    common_progress_end(common);
    return ok;
}

void bench_collectives_finish(struct bench_collectives *b) {
    free(b->rows);
    *b = (struct bench_collectives){0};
}
