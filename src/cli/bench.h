/* What `lockstep bench` measures, and how it is told. Rank 0 only.
 *
 * Speed is measured in rounds. Before each row's turn the ranks measure their machine's limits, so
 * that what is compared has met the same moment; medians are over the rounds. */
#pragma once

#include "cli/ping.h"
#include "cli/session.h"
#include "comm/sweep.h"
#include "device/host/probe.h"

struct bench_plan {
    int n_prefill, n_batch;
    int32_t *prefill; /* owns: tokens of a prompt, ascending */
    int32_t *batch;   /* owns: sequences side by side */
    int decode;       /* tokens of each sequence; 0: no such rows */
    int rounds;
};

void bench_plan_finish(struct bench_plan *plan);

/* Sets MEMORY: there is none for the measurements themselves. Returns false. */
bool bench_no_memory(struct error *err);

/* ---- speed ---- */

enum bench_kind { BENCH_PREFILL, BENCH_DECODE };

/* "prefill", "decode". */
const char *bench_kind_name(enum bench_kind kind);

/* Of one measurement: the mean over the rounds. 0 where collectives are only enqueued, on GPUs, but
 * for compute_s, which is then the whole step. */
struct bench_rank {
    double compute_s, wait_s, transfer_s;
};

struct bench_row {
    enum bench_kind kind;
    int batch;
    int prompt; /* tokens: fed, or before those that are made */
    int n_tok;  /* of all sequences, in one measurement */
    /* What a measurement cannot do without, all ranks together: weights and KV cache read once a
     * step, and a multiply-add as two operations. */
    double bytes, operations;
    struct spread seconds;
    enum probe_limit limit;   /* what would take longer at the machine's limits */
    struct spread fraction;   /* of the speed at these limits; n 0: they are not known */
    struct bench_rank *ranks; /* owns [world] */
};

struct bench_speed {
    const char *model; /* borrowed, as the next */
    const char *device, *isa, *dtype;
    char weights[16]; /* their dtype, "bf16" */
    int world, threads, rounds;
    double load_s;
    double load_bytes;
    double model_bytes; /* the weights that a step of one token reads, all ranks together */
    struct spread limits[PROBE_LIMIT_COUNT]; /* a second, all ranks together; n 0: a GPU's */
    int n_row;
    struct bench_row *rows; /* owns */
};

/* Sizes the session's load for the plan, and takes the memory that the limits are measured with, so
 * that the load is refused where there is not enough for both. After pool_start. Errors: USAGE,
 * MEMORY, pool_probe's. */
bool bench_speed_prepare(const struct bench_plan *plan, struct session *s, struct error *err);

/* With the model loaded. Errors: INTERRUPTED, MEMORY, WRONG_RESULT, the engine's and the pool's. */
bool bench_speed_run(const struct bench_plan *plan, struct session *s, struct bench_speed *out,
                     struct error *err);
void bench_speed_finish(struct bench_speed *b);

/* ---- control messages ---- */

/* Seconds. */
struct bench_rpc {
    int world;
    struct ping_link *links; /* owns [world] */
    struct spread step;      /* one token of one sequence, as rank 0 sees it */
    struct spread around;    /* of it, outside of the forward pass: what the control plane costs */
    struct spread sending;   /* of that, the frames to the other ranks */
};

/* Sizes the session's load. Errors: USAGE. */
bool bench_rpc_prepare(struct session *s, struct error *err);

/* With a model loaded. Errors: as bench_speed_run. */
bool bench_rpc_run(const struct bench_plan *plan, struct session *s, struct bench_rpc *out,
                   struct error *err);
void bench_rpc_finish(struct bench_rpc *b);

/* ---- collectives ---- */

struct bench_collective {
    enum sweep_collective which;
    uint64_t bytes;
    double algbw, busbw;      /* 1e9 bytes a second, of the median */
    struct spread ours, bare; /* seconds of a call; bare n 0: nothing to compare with */
    struct spread ratio;      /* ours over bare, of each round */
};

struct bench_collectives {
    int world;
    const char *backend; /* borrowed: "mpi" */
    int n_row;
    struct bench_collective *rows; /* owns */
};

/* After pool_start. Errors: INTERRUPTED, MEMORY, WRONG_RESULT, pool_measure's. */
bool bench_collectives_run(const struct bench_plan *plan, const struct common_options *common,
                           struct pool *pool, struct bench_collectives *out, struct error *err);
void bench_collectives_finish(struct bench_collectives *b);

/* ---- how it is told, on stdout ---- */

enum bench_form { BENCH_TABLE, BENCH_JSON, BENCH_CSV };

/* Errors: MEMORY, IO. */
bool bench_speed_tell(const struct bench_speed *b, enum bench_form form, struct error *err);
bool bench_rpc_tell(const struct bench_rpc *b, enum bench_form form, struct error *err);
bool bench_collectives_tell(const struct bench_collectives *b, enum bench_form form,
                            struct error *err);
