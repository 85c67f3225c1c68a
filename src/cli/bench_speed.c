#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/random.h"
#include "cli/bench.h"
#include "cli/launch.h"
#include "model/checkpoint.h"

enum { STEP_TOKENS = 256, WARM_STEPS = 3 };

static const double probe_s = 0.02; /* of each limit, before every measurement */

/* What a model's numbers make of a measurement: parameters are those of matrices. */
struct cost {
    double layer_params, head_params;
    double bytes_per_param;
    double kv_bytes;  /* of one position */
    double attention; /* operations of one query for one position */
};

struct bench {
    const struct bench_plan *plan;
    struct session *session;
    struct cost cost;
    enum probe_limit arithmetic;
    int max_tok, n_seq;
    int32_t *ids;                      /* owns: sequence s is fed ids + s */
    struct sequence **seqs;            /* owns [n_seq] */
    struct engine_part *parts;         /* owns [n_seq] */
    struct step_result *results;       /* owns [n_seq] */
    int32_t *next;                     /* owns [n_seq]: each sequence's next token */
    struct message_stats *stats;       /* owns [world] */
    double *seconds, *fractions;       /* own [n_row][rounds] */
    double *limits[PROBE_LIMIT_COUNT]; /* owns [n_measured] */
    int n_measured;
};

static int largest(const int32_t *list, int n) {
    int32_t most = 0;
    for (int i = 0; i < n; i++) {
        most = list[i] > most ? list[i] : most;
    }
    return most;
}

/* Steps of a batch before it is measured: no more than are measured, for they take positions. */
static int warm_steps(const struct bench_plan *plan) {
    return plan->decode < WARM_STEPS ? plan->decode : WARM_STEPS;
}

bool bench_speed_prepare(const struct bench_plan *plan, struct session *s, struct error *err) {
    int prompt = largest(plan->prefill, plan->n_prefill),
        n_seq = largest(plan->batch, plan->n_batch);
    int64_t need = (int64_t)prompt + plan->decode;
    int most = s->common->ctx ? s->ctx : s->config.max_positions;
    if (need > most) {
        return error_set(
            err, ERROR_USAGE, "--prefill %d and --decode %d take %lld positions, but %s %d", prompt,
            plan->decode, (long long)need, s->common->ctx ? "--ctx is" : "the model has", most);
    }
    s->options.ctx = (int)need;
    s->options.max_seqs = n_seq;
    s->options.max_tok = n_seq > STEP_TOKENS ? n_seq : STEP_TOKENS;
    double rate; /* of no time: the ranks keep the memory that they are to read */
    return pool_probe(s->pool, PROBE_MEMORY, 0, 0, &rate, err);
}

/* ---- what a measurement costs at least ---- */

static struct cost cost_of(const struct session *s) {
    const struct model_config *c = &s->config;
    const struct footprint held = engine_footprint(s->engine);
    double q = (double)c->n_head * c->head_dim, kv = (double)c->n_kv_head * c->head_dim;
    double table = (double)c->vocab * c->hidden;
    struct cost cost = {
        .layer_params = c->n_layer * (2 * q * c->hidden + 2 * kv * c->hidden +
                                      3.0 * c->intermediate * c->hidden),
        .head_params = table,
        .kv_bytes = (double)held.kv / engine_blocks(s->engine) / KV_BLOCK,
        .attention = 4 * q * c->n_layer,
    };
    double all = cost.layer_params + table * (c->tied ? 1 : 2);
    cost.bytes_per_param = (double)held.weights / all;
    return cost;
}

/* A prompt is fed in steps of at most max_tok tokens; the last one alone asks the head. */
static void cost_of_prefill(const struct bench *b, struct bench_row *row) {
    const struct cost *c = &b->cost;
    double p = row->prompt;
    int n_step = 0;
    double kv_read = 0; /* positions */
    for (int done = 0; done < row->prompt; n_step++) {
        done = done + b->max_tok < row->prompt ? done + b->max_tok : row->prompt;
        kv_read += done;
    }
    row->bytes =
        (n_step * c->layer_params + c->head_params) * c->bytes_per_param + kv_read * c->kv_bytes;
    row->operations = 2 * (p * c->layer_params + c->head_params) + c->attention * p * (p + 1) / 2;
}

static void cost_of_decode(const struct bench *b, struct bench_row *row) {
    const struct cost *c = &b->cost;
    double n = b->plan->decode, params = c->layer_params + c->head_params;
    double positions = row->batch * (n * row->prompt + n * (n + 1) / 2);
    row->bytes = n * params * c->bytes_per_param + positions * c->kv_bytes;
    row->operations = 2 * n * row->batch * params + c->attention * positions;
}

/* ---- measuring ---- */

static bool check_interrupt(struct error *err) {
    return !launch_interrupted() || error_set(err, ERROR_INTERRUPTED, "interrupted");
}

static bool feed(struct bench *b, int seq, int n_tok, struct error *err) {
    struct step_result result;
    struct engine_part part = {.seq = b->seqs[seq],
                               .tokens = b->ids + seq,
                               .n_tok = n_tok,
                               .output = STEP_OUTPUT_CANDIDATES,
                               .top_k = 1};
    sequence_seek(b->seqs[seq], 0);
    return engine_feed(b->session->engine, &part, &result, launch_interrupted, err);
}

/* n greedy tokens of each of n_seq sequences, which stand at `prompt`. */
static bool decode(struct bench *b, int n_seq, int prompt, int n, struct error *err) {
    for (int s = 0; s < n_seq; s++) {
        sequence_seek(b->seqs[s], prompt);
        b->next[s] = b->ids[s];
        b->parts[s] = (struct engine_part){.seq = b->seqs[s],
                                           .tokens = &b->next[s],
                                           .n_tok = 1,
                                           .output = STEP_OUTPUT_CANDIDATES,
                                           .top_k = 1};
    }
    for (int i = 0; i < n; i++) {
        if (!check_interrupt(err) ||
            !engine_step(b->session->engine, b->parts, n_seq, b->results, err)) {
            return false;
        }
        for (int s = 0; s < n_seq; s++) {
            if (!step_result_check(&b->results[s], err)) {
                return false;
            }
            b->next[s] = b->results[s].ids[0];
        }
    }
    return true;
}

/* The limits just now; of memory by the pattern that is the best at the moment. */
static bool probe(struct bench *b, double rates[PROBE_LIMIT_COUNT], struct error *err) {
    struct pool *pool = b->session->pool;
    double rate = 1;
    memset(rates, 0, PROBE_LIMIT_COUNT * sizeof *rates);
    for (int pattern = 0; rate > 0; pattern++) {
        if (!check_interrupt(err) ||
            !pool_probe(pool, PROBE_MEMORY, pattern, probe_s, &rate, err)) {
            return false;
        }
        rates[PROBE_MEMORY] = rate > rates[PROBE_MEMORY] ? rate : rates[PROBE_MEMORY];
    }
    if (rates[PROBE_MEMORY] == 0) {
        return true; /* GPUs */
    }
    for (int i = 0; i < PROBE_LIMIT_COUNT; i++) {
        if (i != PROBE_MEMORY &&
            !pool_probe(pool, (enum probe_limit)i, 0, probe_s, &rates[i], err)) {
            return false;
        }
        b->limits[i][b->n_measured] = rates[i];
    }
    b->n_measured++;
    return true;
}

static void add_stats(struct bench *b, struct bench_row *row) {
    for (int r = 0; r < pool_world(b->session->pool); r++) {
        const struct message_stats *s = &b->stats[r];
        double share = 1.0 / b->plan->rounds;
        row->ranks[r].compute_s += share * (s->step_s - s->wait_s - s->transfer_s);
        row->ranks[r].wait_s += share * s->wait_s;
        row->ranks[r].transfer_s += share * s->transfer_s;
    }
}

static bool measure(struct bench *b, struct bench_row *row, double *seconds, double *fraction,
                    struct error *err) {
    double rates[PROBE_LIMIT_COUNT];
    struct pool *pool = b->session->pool;
    if (!probe(b, rates, err) || !pool_stats(pool, b->stats, err)) {
        return false;
    }
    double start = clock_now();
    bool ok = row->kind == BENCH_PREFILL ? feed(b, 0, row->prompt, err)
                                         : decode(b, row->batch, row->prompt, b->plan->decode, err);
    *seconds = clock_now() - start;
    if (!ok || !pool_stats(pool, b->stats, err)) {
        return false;
    }
    add_stats(b, row);
    if (rates[PROBE_MEMORY] > 0) {
        double memory_s = row->bytes / rates[PROBE_MEMORY];
        double arithmetic_s = row->operations / rates[b->arithmetic];
        *fraction = (memory_s > arithmetic_s ? memory_s : arithmetic_s) / *seconds;
    }
    return true;
}

static bool warm_up(struct bench *b, struct error *err) {
    const struct bench_plan *p = b->plan;
    int prompt = largest(p->prefill, p->n_prefill);
    bool ok = true;
    for (int s = 0; ok && s < b->n_seq; s++) {
        common_progress(b->session->common, "warming up, sequence %d of %d", s + 1, b->n_seq);
        ok = feed(b, s, prompt, err);
    }
    for (int i = 0; ok && i < p->n_batch; i++) {
        ok = decode(b, p->batch[i], prompt, warm_steps(p), err);
    }
    return ok;
}

static bool measure_rounds(struct bench *b, struct bench_speed *out, struct error *err) {
    for (int round = 0; round < b->plan->rounds; round++) {
        for (int i = 0; i < out->n_row; i++) {
            struct bench_row *row = &out->rows[i];
            int at = i * b->plan->rounds + round;
            common_progress(b->session->common, "round %d of %d: %s, %d x %d", round + 1,
                            b->plan->rounds, bench_kind_name(row->kind), row->batch, row->prompt);
            if (!measure(b, row, &b->seconds[at], &b->fractions[at], err)) {
                return false;
            }
        }
    }
    return true;
}

/* ---- start and end ---- */

const char *bench_kind_name(enum bench_kind kind) {
    return kind == BENCH_PREFILL ? "prefill" : "decode";
}

void bench_plan_finish(struct bench_plan *plan) {
    free(plan->prefill);
    free(plan->batch);
    *plan = (struct bench_plan){0};
}

bool bench_no_memory(struct error *err) {
    return error_set(err, ERROR_MEMORY, "out of memory for the measurements");
}

void bench_speed_finish(struct bench_speed *b) {
    for (int i = 0; i < b->n_row; i++) {
        free(b->rows[i].ranks);
    }
    free(b->rows);
    *b = (struct bench_speed){0};
}

static bool add_row(const struct bench *b, struct bench_speed *out, enum bench_kind kind, int batch,
                    int prompt, struct error *err) {
    struct bench_row *row = &out->rows[out->n_row];
    bool fed = kind == BENCH_PREFILL;
    *row = (struct bench_row){.kind = kind,
                              .batch = batch,
                              .prompt = prompt,
                              .n_tok = fed ? prompt : batch * b->plan->decode,
                              .ranks = calloc((size_t)out->world, sizeof *row->ranks)};
    out->n_row++;
    (fed ? cost_of_prefill : cost_of_decode)(b, row);
    return row->ranks || bench_no_memory(err);
}

static bool add_rows(const struct bench *b, struct bench_speed *out, struct error *err) {
    const struct bench_plan *p = b->plan;
    bool ok = true;
    out->rows = calloc((size_t)p->n_prefill * (size_t)(1 + p->n_batch), sizeof *out->rows);
    if (!out->rows) {
        return bench_no_memory(err);
    }
    for (int i = 0; ok && i < p->n_prefill; i++) {
        ok = add_row(b, out, BENCH_PREFILL, 1, p->prefill[i], err);
    }
    for (int i = 0; ok && p->decode && i < p->n_prefill; i++) {
        for (int j = 0; ok && j < p->n_batch; j++) {
            ok = add_row(b, out, BENCH_DECODE, p->batch[j], p->prefill[i], err);
        }
    }
    return ok;
}

/* The dtype of the weights as the ranks hold them. */
static bool name_weights(const struct session *s, char out[16], struct error *err) {
    struct st_set *set;
    if (strcmp(pool_device(s->pool), "host") != 0) {
        snprintf(out, 16, "%s", pool_dtype(s->pool));
        return true;
    }
    if (s->common->quant) {
        snprintf(out, 16, "%s", s->common->quant);
        return true;
    }
    if (!checkpoint_open(&set, s->model, err)) {
        return false;
    }
    snprintf(out, 16, "%s", dtype_word(footprint_dtype(set, s->config.dtype)));
    st_close(set);
    return true;
}

static bool begin(struct bench *b, struct bench_speed *out, struct error *err) {
    const struct session *s = b->session;
    size_t n = (size_t)b->n_seq;
    int prompt = largest(b->plan->prefill, b->plan->n_prefill);
    *out = (struct bench_speed){.model = s->model,
                                .device = pool_device(s->pool),
                                .isa = pool_isa(s->pool),
                                .dtype = pool_dtype(s->pool),
                                .world = pool_world(s->pool),
                                .threads = pool_rank(s->pool, 0)->threads,
                                .rounds = b->plan->rounds,
                                .load_s = engine_load_seconds(s->engine),
                                .load_bytes = (double)engine_load_bytes(s->engine)};
    b->cost = cost_of(s);
    out->model_bytes = (b->cost.layer_params + b->cost.head_params) * b->cost.bytes_per_param;
    if (!name_weights(s, out->weights, err) || !add_rows(b, out, err)) {
        return false;
    }
    b->arithmetic = out->weights[0] == 'q' ? PROBE_INT8 : PROBE_F32; /* quantized: in integers */
    b->ids = calloc((size_t)prompt + n, sizeof *b->ids);
    b->seqs = calloc(n, sizeof *b->seqs);
    b->parts = calloc(n, sizeof *b->parts);
    b->results = calloc(n, sizeof *b->results);
    b->next = calloc(n, sizeof *b->next);
    b->stats = calloc((size_t)out->world, sizeof *b->stats);
    size_t n_measurement = (size_t)out->n_row * (size_t)out->rounds;
    b->seconds = calloc(n_measurement, sizeof *b->seconds);
    b->fractions = calloc(n_measurement, sizeof *b->fractions);
    bool ok = b->ids && b->seqs && b->parts && b->results && b->next && b->stats && b->seconds &&
              b->fractions;
    for (int i = 0; i < PROBE_LIMIT_COUNT; i++) {
        b->limits[i] = calloc(n_measurement, sizeof(double));
        ok = ok && b->limits[i];
    }
    if (!ok) {
        return bench_no_memory(err);
    }
    for (int i = 0; i < prompt + b->n_seq; i++) {
        b->ids[i] = (int32_t)(random_at((uint64_t)i) % (uint64_t)s->config.vocab);
    }
    for (int i = 0; ok && i < b->n_seq; i++) {
        ok = sequence_create(s->engine, &b->seqs[i], err);
    }
    return ok;
}

static void end(struct bench *b) {
    for (int i = 0; b->seqs && i < b->n_seq; i++) {
        sequence_destroy(b->seqs[i]);
    }
    for (int i = 0; i < PROBE_LIMIT_COUNT; i++) {
        free(b->limits[i]);
    }
    free(b->seconds);
    free(b->fractions);
    free(b->ids);
    free(b->seqs);
    free(b->parts);
    free(b->results);
    free(b->next);
    free(b->stats);
}

static void summarise(struct bench *b, struct bench_speed *out) {
    for (int i = 0; i < PROBE_LIMIT_COUNT; i++) {
        out->limits[i] = spread_of(b->limits[i], b->n_measured);
    }
    for (int i = 0; i < out->n_row; i++) {
        struct bench_row *row = &out->rows[i];
        row->seconds = spread_of(b->seconds + i * out->rounds, out->rounds);
        if (b->n_measured) {
            row->fraction = spread_of(b->fractions + i * out->rounds, out->rounds);
            bool memory = row->bytes / out->limits[PROBE_MEMORY].median >
                          row->operations / out->limits[b->arithmetic].median;
            row->limit = memory ? PROBE_MEMORY : b->arithmetic;
        }
    }
}

bool bench_speed_run(const struct bench_plan *plan, struct session *s, struct bench_speed *out,
                     struct error *err) {
    struct bench b = {.plan = plan,
                      .session = s,
                      .max_tok = engine_max_tok(s->engine),
                      .n_seq = engine_max_seqs(s->engine)};
    bool ok = begin(&b, out, err) && warm_up(&b, err) && measure_rounds(&b, out, err);
    common_progress_end(s->common);
    if (ok) {
        summarise(&b, out);
    }
    end(&b);
    return ok;
}
