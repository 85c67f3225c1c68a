/* The bandwidth sweep of `lockstep check --bandwidth`: sizes, rows, and the table and footer that
 * users of nccl-tests know. How a measurement reaches the ranks is the caller's business. */
#pragma once

#include <jansson.h>
#include <stdio.h>

#include "comm/sweep.h"

struct bandwidth_options {
    uint64_t min_bytes; /* -b */
    uint64_t max_bytes; /* -e */
    int factor;         /* -f: each size is the last one times this */
    int iters;          /* -n; 0: fewer for larger sizes */
    int warmup;         /* -w */
    bool want[SWEEP_COUNT];
};

/* 1 KiB to 16 MiB by factors of 4, all collectives. */
struct bandwidth_options bandwidth_defaults(void);

/* Errors: USAGE, naming the option. */
bool bandwidth_check_options(const struct bandwidth_options *options, struct error *err);

/* Calls of so many bytes that come to about `total`: at least a few, and `most` at most. */
int bandwidth_iters(uint64_t bytes, uint64_t total, int most);

struct bandwidth_row {
    enum sweep_collective which;
    uint64_t bytes; /* as nccl-tests counts it: for the gathers the whole result */
    uint64_t count; /* floats per rank */
    int iters;
    struct sweep_sample sample;
    double algbw; /* GB/s, of 1e9 bytes: bytes / seconds */
    double busbw; /* GB/s: algbw * 2(n-1)/n all-reduce, (n-1)/n gathers, 1 broadcast; n = 1: 0 */
};

struct bandwidth_result {
    int world;
    const char *backend; /* "mpi"; borrowed */
    int n_row;
    struct bandwidth_row *row; /* owns [n_row], by collective, then size */
};

/* Runs one measurement on all ranks, with sweep_measure on each of them. */
struct bandwidth_measurer {
    bool (*measure)(void *user, enum sweep_collective which, uint64_t bytes, int iters, int warmup,
                    struct sweep_sample *out, struct error *err);
    void *user;
};

/* Measures every wanted collective at every size. Wrong elements are no error here.
 * Errors: USAGE (options), MEMORY, the measurer's. */
bool bandwidth_run(const struct bandwidth_options *options, int world, const char *backend,
                   const struct bandwidth_measurer *measurer, struct bandwidth_result *out,
                   struct error *err);
void bandwidth_result_finish(struct bandwidth_result *result);

/* Errors: WRONG_RESULT, naming the first size with wrong elements. */
bool bandwidth_verdict(const struct bandwidth_result *result, struct error *err);

/* One table with nccl-tests' columns and footer for each collective. */
void bandwidth_print(const struct bandwidth_result *result, FILE *out);

/* {"world", "backend", "rows": [{"collective", "bytes", "count", "type", "redop", "iters",
 * "time_us", "median_us", "algbw_gbs", "busbw_gbs", "wrong"}], "avg_busbw_gbs": {collective: x},
 * "wrong"}. NULL when out of memory. */
json_t *bandwidth_json(const struct bandwidth_result *result);
