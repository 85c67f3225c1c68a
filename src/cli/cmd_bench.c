/* lockstep bench: how fast is it, and what share of what the machine could do is that? */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"
#include "cli/command.h"
#include "cli/launch.h"
#include "model/checkpoint.h"
#include "nn/step.h"

enum { N_OWN = 10, MAX_LIST = 64 };

struct bench_options {
    struct common_options common;
    const char *shape;
    const char *prefill, *batch;
    bool rpc, collectives, json, csv;
    bool speed_given; /* an option that is for speed alone */
    struct bench_plan plan;
    char model[64]; /* of a random shape */
};

static void fill_table(struct bench_options *o, struct option *table) {
    const struct option own[N_OWN] = {
        {.type = OPTION_SECTION, .name = "Options"},
        {.type = OPTION_STRING,
         .name = "random-shape",
         .value = &o->shape,
         .arg = "NAME",
         .choices = CHECKPOINT_SHAPES,
         .help = "random weights of this shape in BF16, from no file:\n"
                 "qwen3-0.6b, 1.7b, 4b, 8b, 14b or 32b"},
        {.type = OPTION_STRING,
         .name = "prefill",
         .value = &o->prefill,
         .arg = "LIST",
         .seen = &o->speed_given,
         .help = "tokens of a prompt, as 64,256,1024 (default: 256)"},
        {.type = OPTION_INT,
         .name = "decode",
         .value = &o->plan.decode,
         .arg = "N",
         .min = 0,
         .max = 1 << 20,
         .seen = &o->speed_given,
         .help = "tokens of each sequence after it (default: 64; 0: none)"},
        {.type = OPTION_STRING,
         .name = "batch",
         .value = &o->batch,
         .arg = "LIST",
         .seen = &o->speed_given,
         .help = "sequences side by side, as 1,4,8 (default: 1)"},
        {.type = OPTION_INT,
         .name = "rounds",
         .value = &o->plan.rounds,
         .arg = "N",
         .min = 1,
         .max = 1000,
         .help = "measure everything N times, in turns (default: 5);\n"
                 "of --rpc the steps alone"},
        {.type = OPTION_FLAG,
         .name = "rpc",
         .value = &o->rpc,
         .help = "instead: control messages against a bare MPI ping-pong"},
        {.type = OPTION_FLAG,
         .name = "collectives",
         .value = &o->collectives,
         .help = "instead: all-reduce and gather against MPI's own"},
        {.type = OPTION_FLAG, .name = "json", .value = &o->json, .help = "print one JSON object"},
        {.type = OPTION_FLAG, .name = "csv", .value = &o->csv, .help = "print CSV"},
    };
    memcpy(table, own, sizeof own);
    common_options_table(&o->common, table + N_OWN);
}

static int by_value(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* An ascending list of numbers from 1 to `most`, each once. */
static bool parse_list(const char *text, const char *option, int most, int32_t **out, int *n_out,
                       struct error *err) {
    int n = 0, kept = 0;
    if (!options_parse_ints(text, option, out, &n, err)) {
        return false;
    }
    int32_t *list = *out;
    if (n < 1 || n > MAX_LIST) {
        return error_set(err, ERROR_USAGE, "%s '%.40s': 1 to %d numbers are needed", option, text,
                         MAX_LIST);
    }
    qsort(list, (size_t)n, sizeof *list, by_value);
    if (list[0] < 1 || list[n - 1] > most) {
        return error_set(err, ERROR_USAGE, "%s: %d is not between 1 and %d", option,
                         (int)(list[0] < 1 ? list[0] : list[n - 1]), most);
    }
    for (int i = 0; i < n; i++) {
        if (i == 0 || list[i] != list[i - 1]) {
            list[kept++] = list[i];
        }
    }
    *n_out = kept;
    return true;
}

static bool apply(struct bench_options *o, struct error *err) {
    struct bench_plan *p = &o->plan;
    if (o->rpc && o->collectives) {
        return error_set(err, ERROR_USAGE, "--rpc and --collectives: one at a time");
    }
    if (o->json && o->csv) {
        return error_set(err, ERROR_USAGE, "--json and --csv: one at a time");
    }
    if ((o->rpc || o->collectives) && o->speed_given) {
        return error_set(err, ERROR_USAGE, "--prefill, --decode and --batch do not go with --%s",
                         o->rpc ? "rpc" : "collectives");
    }
    if (o->shape && (o->common.model || o->collectives)) {
        return error_set(err, ERROR_USAGE, "--random-shape does not go with --%s",
                         o->collectives ? "collectives" : "model");
    }
    if (o->shape) {
        snprintf(o->model, sizeof o->model, CHECKPOINT_RANDOM "%s", o->shape);
        o->common.model = o->model;
    }
    return parse_list(o->prefill, "--prefill", 1 << 26, &p->prefill, &p->n_prefill, err) &&
           parse_list(o->batch, "--batch", STEP_MAX_SEQS, &p->batch, &p->n_batch, err);
}

/* ---- speed and control messages: with a model ---- */

static bool prepare(void *user, struct session *s, struct error *err) {
    struct bench_options *o = user;
    return o->rpc ? bench_rpc_prepare(s, err) : bench_speed_prepare(&o->plan, s, err);
}

static enum bench_form form_of(const struct bench_options *o) {
    return o->json ? BENCH_JSON : o->csv ? BENCH_CSV : BENCH_TABLE;
}

static bool run_speed(const struct bench_options *o, struct session *s, struct error *err) {
    struct bench_speed b = {0};
    bool ok = bench_speed_run(&o->plan, s, &b, err) && bench_speed_tell(&b, form_of(o), err);
    bench_speed_finish(&b);
    return ok;
}

static bool run_rpc(const struct bench_options *o, struct session *s, struct error *err) {
    struct bench_rpc b = {0};
    bool ok = bench_rpc_run(&o->plan, s, &b, err) && bench_rpc_tell(&b, form_of(o), err);
    bench_rpc_finish(&b);
    return ok;
}

static bool run_loaded(void *user, struct session *s, struct error *err) {
    struct bench_options *o = user;
    return (o->rpc ? run_rpc : run_speed)(o, s, err);
}

/* ---- collectives: without one ---- */

static bool lead_collectives(struct pool *pool, void *user, struct error *err) {
    const struct bench_options *o = user;
    struct bench_collectives b = {0};
    bool ok = pool_start(pool, err) && bench_collectives_run(&o->plan, &o->common, pool, &b, err) &&
              bench_collectives_tell(&b, form_of(o), err);
    bench_collectives_finish(&b);
    return ok;
}

static bool run(const struct command *self, int argc, char **argv, struct error *err) {
    struct bench_options o = {.prefill = "256", .batch = "1", .plan = {.decode = 64, .rounds = 5}};
    struct option table[N_OWN + COMMON_OPTION_COUNT];
    const int n = N_OWN + COMMON_OPTION_COUNT;
    fill_table(&o, table);
    if (!command_parse(self, &o.common, table, n, argc, argv, NULL, 0, NULL, err)) {
        return false;
    }
    if (o.common.help) {
        return true;
    }
    const struct session_job job = {.prepare = prepare, .run = run_loaded, .user = &o};
    bool ok = apply(&o, err) && (o.collectives ? launch_run(&o.common, lead_collectives, &o, err)
                                               : session_run(&o.common, &job, err));
    bench_plan_finish(&o.plan);
    return ok;
}

const struct command command_bench = {
    .name = "bench",
    .summary = "Prefill and decode speed, collective and RPC latency.",
    .synopsis = "[--model DIR | --random-shape NAME] [--prefill LIST] [--decode N] [--batch LIST] "
                "[options]",
    .run = run,
};
