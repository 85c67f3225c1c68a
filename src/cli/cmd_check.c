/* lockstep check: are the ranks who they should be, and do they reach each other? */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cli/check_report.h"
#include "cli/command.h"
#include "cli/launch.h"
#include "cli/stdio_util.h"
#include "config.h"

enum { OWN_OPTIONS = 9 };

struct check_options {
    struct common_options common;
    bool json;
    bool bandwidth;
    const char *collective; /* NULL: all */
    struct bandwidth_options sweep;
    bool sweep_given; /* an option that is only for the sweep */
};

static bool greet(struct pool *pool, struct check_report *r, struct error *err) {
    if (!pool_hello(pool, true, err)) {
        return false;
    }
    for (int i = 0; i < r->world; i++) {
        r->ranks[i].hello = *pool_rank(pool, i);
    }
    r->has_hello = true;
    for (int i = 0; i < r->world; i++) {
        if (!ping_measure(pool, i, &r->ranks[i].link, err)) {
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
    for (int i = 0; i < r->world; i++) {
        r->ranks[i].hello = *pool_rank(pool, i); /* with the device that it takes */
    }
    r->device = pool_device(pool);
    r->dtype = pool_dtype(pool);
    r->device_note = pool_device_note(pool);
    r->isa = pool_isa(pool);
    r->comm = pool_comm(pool)->ops->name;
    r->shares_memory = pool_comm(pool)->shares_memory;
    r->why_not_shared = pool_comm(pool)->why_not_shared;
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

static bool measure(void *user, enum sweep_collective which, uint64_t bytes, int iters, int warmup,
                    struct sweep_sample *out, struct error *err) {
    if (launch_interrupted()) {
        return error_set(err, ERROR_INTERRUPTED, "interrupted");
    }
    return pool_measure(user, which, bytes, iters, warmup, out, err);
}

/* Each rank holds what it sends, what it receives, and what the communicator keeps. */
static bool fits(const struct check_report *r, uint64_t bytes, struct error *err) {
    bool cuda = strcmp(r->device, "cuda") == 0;
    for (int i = 0; i < r->world; i++) {
        const struct message_hello_ok *h = &r->ranks[i].hello;
        uint64_t have = cuda ? h->gpu_memory : h->memory;
        int n = cuda ? 1 : h->local_size;
        double need = 3.0 * (double)bytes * n;
        if (need > (double)have) {
            error_set(err, ERROR_MEMORY,
                      "-e %llu: %d rank%s would need %.1f GB on this %s, which has %.1f GB%s",
                      (unsigned long long)bytes, n, n == 1 ? "" : "s", 1e-9 * need,
                      cuda ? "GPU" : "host", 1e-9 * (double)have, cuda ? "" : " free");
            return error_at_rank(err, i);
        }
    }
    return true;
}

static bool sweep(struct pool *pool, const struct check_options *o, struct check_report *r,
                  struct error *err) {
    struct bandwidth_measurer measurer = {.measure = measure, .user = pool};
    if (!o->bandwidth) {
        return true;
    }
    if (!fits(r, o->sweep.max_bytes, err)) {
        return false;
    }
    r->has_bandwidth = bandwidth_run(&o->sweep, r->world, r->comm, &measurer, &r->bandwidth, err);
    return r->has_bandwidth && bandwidth_verdict(&r->bandwidth, err);
}

static bool lead_check(struct pool *pool, void *user, struct error *err) {
    const struct check_options *o = user;
    struct check_report r = {.world = pool_world(pool)};
    r.ranks = calloc((size_t)r.world, sizeof *r.ranks);
    if (!r.ranks) {
        return error_set(err, ERROR_MEMORY, "cannot hold a table of %d ranks", r.world);
    }
    bool ok = greet(pool, &r, err) && connect_ranks(pool, &r, err) && sweep(pool, o, &r, err);
    stdio_may_wait();
    if (o->json) {
        check_report_json(&r, ok ? NULL : err);
    } else {
        check_report_print(&r);
    }
    bandwidth_result_finish(&r.bandwidth);
    free(r.ranks);
    return ok;
}

static bool apply(struct check_options *o, struct error *err) {
    enum sweep_collective only;
    if (!o->bandwidth) {
        return !o->sweep_given ||
               error_set(err, ERROR_USAGE, "options of the sweep need --bandwidth as well");
    }
    if (o->collective && sweep_from_name(o->collective, &only)) {
        for (int i = 0; i < SWEEP_COUNT; i++) {
            o->sweep.want[i] = i == (int)only;
        }
    }
    return bandwidth_check_options(&o->sweep, err);
}

static void fill_table(struct check_options *o, struct option *table) {
    const struct option own[OWN_OPTIONS] = {
        {.type = OPTION_SECTION, .name = "Options"},
        {.type = OPTION_FLAG,
         .name = "json",
         .value = &o->json,
         .help = "print one JSON object instead of the table"},
        {.type = OPTION_FLAG,
         .name = "bandwidth",
         .value = &o->bandwidth,
         .help = "time and verify collectives, as nccl-tests do"},
        {.type = OPTION_STRING,
         .name = "collective",
         .value = &o->collective,
         .arg = "NAME",
         .choices = "all_reduce|all_gather|broadcast|gather",
         .seen = &o->sweep_given,
         .help = "only all_reduce, all_gather, broadcast or gather"},
        {.type = OPTION_BYTES,
         .name = "minbytes",
         .short_name = 'b',
         .value = &o->sweep.min_bytes,
         .arg = "SIZE",
         .seen = &o->sweep_given,
         .help = "smallest size (default: 1K)"},
        {.type = OPTION_BYTES,
         .name = "maxbytes",
         .short_name = 'e',
         .value = &o->sweep.max_bytes,
         .arg = "SIZE",
         .seen = &o->sweep_given,
         .help = "largest size (default: 16M)"},
        {.type = OPTION_INT,
         .name = "stepfactor",
         .short_name = 'f',
         .value = &o->sweep.factor,
         .arg = "N",
         .min = 2,
         .max = 1024,
         .seen = &o->sweep_given,
         .help = "each size is the last one times N (default: 4)"},
        {.type = OPTION_INT,
         .name = "iters",
         .short_name = 'n',
         .value = &o->sweep.iters,
         .arg = "N",
         .min = 1,
         .max = 1e6,
         .seen = &o->sweep_given,
         .help = "timed calls (default: fewer for larger sizes)"},
        {.type = OPTION_INT,
         .name = "warmup_iters",
         .short_name = 'w',
         .value = &o->sweep.warmup,
         .arg = "N",
         .min = 0,
         .max = 1e6,
         .seen = &o->sweep_given,
         .help = "calls before them (default: 5)"},
    };
    memcpy(table, own, sizeof own);
    common_options_table(&o->common, table + OWN_OPTIONS);
}

static bool run(const struct command *self, int argc, char **argv, struct error *err) {
    struct check_options o = {.sweep = bandwidth_defaults()};
    struct option table[OWN_OPTIONS + COMMON_OPTION_COUNT];
    const int n = OWN_OPTIONS + COMMON_OPTION_COUNT;
    fill_table(&o, table);
    if (!command_parse(self, &o.common, table, n, argc, argv, NULL, 0, NULL, err)) {
        return false;
    }
    return o.common.help || (apply(&o, err) && launch_run(&o.common, lead_check, &o, err));
}

const struct command command_check = {
    .name = "check",
    .summary = "Check ranks, control messages and the communicator.",
    .synopsis =
        "[--json] [--bandwidth [-b SIZE] [-e SIZE] [-f N] [-n N] [-w N] [--collective NAME]]",
    .run = run,
};
