/* lockstep check: are the ranks who they should be, and do they reach each other? */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cli/check_report.h"
#include "cli/command.h"
#include "cli/launch.h"
#include "cli/status.h"
#include "config.h"

enum {
    ROUNDS = 16,
    PINGS_PER_ROUND = 25,
    OWN_OPTIONS = 2,
};

static const double ping_budget_s = 0.5; /* per rank, for slow networks and crowded hosts */

struct check_options {
    struct common_options common;
    bool json;
};

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* min, median and max; sorts v. */
static struct check_times summarise(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, compare_doubles);
    return (struct check_times){.n = n, .min = v[0], .median = v[n / 2], .max = v[n - 1]};
}

/* One round: pings, then as many bare round trips, so that both meet the same machine. */
static bool ping_round(struct pool *pool, int rank, double *ping, double *bare, struct error *err) {
    if (!pool_ping(pool, rank, NULL, err)) { /* wakes the rank up */
        return false;
    }
    for (int i = 0; i < PINGS_PER_ROUND; i++) {
        if (!pool_ping(pool, rank, &ping[i], err)) {
            return false;
        }
    }
    return rank == 0 || pool_echo(pool, rank, PINGS_PER_ROUND, bare, err);
}

static double least(double a, double b) {
    return a == 0 || b < a ? b : a;
}

static bool ping_rank(struct pool *pool, int rank, struct check_rank *out, struct error *err) {
    double ping[ROUNDS * PINGS_PER_ROUND], bare[ROUNDS * PINGS_PER_ROUND];
    double start = clock_now();
    int n = 0;
    for (int i = 0; i < ROUNDS && (i == 0 || clock_now() - start < ping_budget_s); i++) {
        double p[PINGS_PER_ROUND], b[PINGS_PER_ROUND] = {0};
        if (!ping_round(pool, rank, p, b, err)) {
            return false;
        }
        memcpy(ping + n, p, sizeof p);
        memcpy(bare + n, b, sizeof b);
        n += PINGS_PER_ROUND;
        out->calm_ping = least(out->calm_ping, summarise(p, PINGS_PER_ROUND).median);
        out->calm_bare = least(out->calm_bare, summarise(b, PINGS_PER_ROUND).median);
    }
    out->ping = summarise(ping, n);
    out->bare = summarise(bare, n);
    return true;
}

static bool greet(struct pool *pool, struct check_report *r, struct error *err) {
    if (!pool_hello(pool, err)) {
        return false;
    }
    for (int i = 0; i < r->world; i++) {
        r->ranks[i].hello = *pool_rank(pool, i);
        status_set_place(i, r->ranks[i].hello.host, r->ranks[i].hello.device);
    }
    r->has_hello = true;
    for (int i = 0; i < r->world; i++) {
        if (!ping_rank(pool, i, &r->ranks[i], err)) {
            return false;
        }
    }
    r->has_ping = true;
    return true;
}

static bool connect_ranks(struct pool *pool, struct check_report *r, struct error *err) {
    double start = clock_now();
    if (!pool_init(pool, err)) {
        return false;
    }
    r->init_s = clock_now() - start;
    r->isa = pool_isa(pool);
    r->comm = pool_comm(pool)->ops->name;
    r->has_init = true;
    uint64_t *sums = calloc((size_t)r->world, sizeof *sums);
    if (!sums) {
        return error_set(err, ERROR_MEMORY, "cannot hold %d sums", r->world);
    }
    bool ok = pool_sanity(pool, sums, err);
    for (int i = 0; i < r->world; i++) {
        r->ranks[i].sum = sums[i];
    }
    free(sums);
    r->has_sanity = ok || err->kind == ERROR_WRONG_RESULT;
    return ok;
}

static bool lead_check(struct pool *pool, void *user, struct error *err) {
    const struct check_options *o = user;
    struct check_report r = {.world = pool_world(pool)};
    r.ranks = calloc((size_t)r.world, sizeof *r.ranks);
    if (!r.ranks) {
        return error_set(err, ERROR_MEMORY, "cannot hold a table of %d ranks", r.world);
    }
    bool ok = greet(pool, &r, err) && connect_ranks(pool, &r, err);
    if (o->json) {
        check_report_json(&r, ok ? NULL : err);
    } else {
        check_report_print(&r);
    }
    free(r.ranks);
    return ok;
}

static bool run(const struct command *self, int argc, char **argv, struct error *err) {
    struct check_options o = {.json = false};
    struct option table[OWN_OPTIONS + COMMON_OPTION_COUNT] = {
        {.type = OPTION_SECTION, .name = "Options"},
        {.type = OPTION_FLAG,
         .name = "json",
         .value = &o.json,
         .help = "print one JSON object instead of the table"},
    };
    int n = OWN_OPTIONS + COMMON_OPTION_COUNT;
    common_options_table(&o.common, table + OWN_OPTIONS);
    if (!options_parse(table, n, argc, argv, NULL, 0, NULL, err)) {
        return false;
    }
    if (o.common.help) {
        command_print_help(self, table, n);
        return true;
    }
    return common_options_apply(&o.common, err) && launch_run(&o.common, lead_check, &o, err);
}

const struct command command_check = {
    .name = "check",
    .summary = "Check ranks, control messages and the communicator.",
    .synopsis = "[options]",
    .run = run,
};
