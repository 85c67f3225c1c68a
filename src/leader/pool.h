/* All ranks, as rank 0 sees them: a request goes to every rank, rank 0 does its own share, then the
 * replies are collected in rank order. Errors carry the rank they happened on.
 *
 *     pool_create, pool_start, [pool_load, pool_step ..., pool_unload] ..., pool_shutdown,
 * pool_destroy
 *
 * The other ranks are in pool_serve meanwhile. Main thread only. */
#pragma once

#include <mpi.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "comm/sweep.h"
#include "device/host/probe.h"
#include "model/model.h"
#include "rpc/messages.h"
#include "worker/facts.h"

struct pool;

struct pool_options {
    MPI_Comm control; /* borrowed; duplicates that nobody else uses, errors return */
    MPI_Comm tensor;  /* borrowed */
    struct host_facts facts;
    int threads;            /* of this rank */
    double timeout_s;       /* deadline of every wait for another rank */
    const char *device;     /* "auto", "host" or "cuda"; NULL: "host" */
    const char *isa;        /* NULL: the best that every rank has */
    const char *dtype;      /* of activations: "auto", "f32" or "bf16"; NULL: "auto" */
    bool no_graphs;         /* no CUDA graphs */
    bool check_collectives; /* see comm/check.h */
    /* Borrowed: the GPU of each local rank. NULL: local rank modulo the host's number of them. */
    const int32_t *cuda_devices;
    int n_cuda_device;
    /* Told what this rank computes on, once it is chosen. May be NULL. */
    void (*on_device)(const char *device);
};

/* Rank 0. Errors: MEMORY. */
bool pool_create(struct pool **out, const struct pool_options *options, struct error *err);

/* Records every frame from now on in a file. Errors: IO. */
bool pool_trace(struct pool *p, const char *path, struct error *err);

/* The other ranks: serves until rank 0 shuts the pool down. Errors: COMM, MEMORY. */
bool pool_serve(const struct pool_options *options, struct error *err);

/* pool_hello and pool_check. */
bool pool_start(struct pool *p, struct error *err);

/* Asks every rank what it is, and one of each host for what killed runs have left there
 * (leftovers). Errors: VERSION (names both builds), RANK_MISMATCH. */
bool pool_hello(struct pool *p, bool leftovers, struct error *err);

/* ping of every rank, init, sanity. */
bool pool_check(struct pool *p, struct error *err);

/* One round trip to `rank`; *seconds may be NULL. Errors: RANK_MISMATCH. */
bool pool_ping(struct pool *p, int rank, double *seconds, struct error *err);

/* Round trips of a bare MPI ping-pong with `rank` (not 0), frames of a ping's size: seconds[count].
 */
bool pool_echo(struct pool *p, int rank, int count, double *seconds, struct error *err);

/* Agrees on device and kernels, then creates the communicator on every rank. "auto" takes CUDA only
 * where every rank can, and else the host: in silence where no rank has a GPU, else with one line
 * in the log that names the ranks and why. Errors: UNSUPPORTED (names the ranks that cannot),
 * DEVICE ("cuda", and a rank cannot, two ranks have one GPU, or their NCCL differs: names them),
 * COMM_INIT, NCCL_INIT. */
bool pool_init(struct pool *p, struct error *err);

/* sums [world] may be NULL. Errors: WRONG_RESULT, COMM_NOT_INIT. */
bool pool_sanity(struct pool *p, uint64_t *sums, struct error *err);

/* Times and verifies one collective on every rank; see sweep_measure. */
bool pool_measure(struct pool *p, enum sweep_collective which, uint64_t bytes, int iters,
                  int warmup, struct sweep_sample *out, struct error *err);

/* The same of MPI's own collective, on host memory; nothing is verified. See gauge_bare. */
bool pool_measure_bare(struct pool *p, enum sweep_collective which, uint64_t bytes, int iters,
                       int warmup, struct sweep_sample *out, struct error *err);

/* The rate of a limit of the ranks' machines, measured by all ranks at once for `seconds`, and
 * added up; 0: there is no such pattern of reads (of MEMORY, from 0 on), or they are GPUs. */
bool pool_probe(struct pool *p, enum probe_limit which, int pattern, double seconds, double *rate,
                struct error *err);

struct pool_load_options {
    /* Gets the sums over all ranks, a total of 0 before all have told theirs. */
    struct model_progress progress;
    int max_batch; /* the run's --max-batch, which could be less; 0: it has no such option */
    /* Gets a table of the ranks' memory where the model does not fit. May be NULL. */
    void (*show)(const char *table);
};

/* *bytes_read (may be NULL): all ranks together. Errors: MEMORY before any rank allocates, with
 * what would fit; RANK_MISMATCH (a rank has other files than most); and those of model_load, with
 * the rank. Then no rank keeps anything of it. */
bool pool_load(struct pool *p, const struct model_params *params,
               const struct pool_load_options *options, uint64_t *bytes_read, struct error *err);

/* What the ranks together take for the model that was loaded last. */
struct footprint pool_footprint(const struct pool *p);

/* Runs a step on every rank; results as model_step gives them, n_seq of them. A failure before any
 * rank was asked leaves the pool as it was, any other broken: pool_is_broken tells. */
bool pool_step(struct pool *p, const struct step *step, struct step_result *results,
               struct error *err);

/* What every rank says of its memory; [world], or NULL. */
bool pool_unload(struct pool *p, struct message_unloaded *ranks, struct error *err);

/* What a load of these params would take. */
struct pool_fit {
    uint64_t kv; /* bytes of the KV cache, on the rank where it takes most */
    bool fits;   /* on every rank */
    /* The most KV blocks, up to those asked for, that leave some memory free; 0: none do. */
    int64_t n_block;
};

/* Loads nothing. Errors: those of model_measure, with the rank, and RANK_MISMATCH. */
bool pool_measure_load(struct pool *p, const struct model_params *params, struct pool_fit *out,
                       struct error *err);

/* stats [world], since the last call. */
bool pool_stats(struct pool *p, struct message_stats *stats, struct error *err);

/* Best effort: tries every rank, and logs each that does not answer. True when all said bye, so
 * that MPI_Finalize will not hang; else err is the first rank's. */
bool pool_shutdown(struct pool *p, struct error *err);

void pool_destroy(struct pool *p);

/* Nothing more can be asked of the ranks but to end: a collective or a step failed, or one of them
 * does not take what it is sent. */
bool pool_is_broken(struct pool *p);

int pool_world(const struct pool *p);
/* After pool_hello. Borrowed. Its device is what it could take; after pool_init, what it took. */
const struct message_hello_ok *pool_rank(const struct pool *p, int rank);
/* After pool_init: the kernels all ranks use ("avx512"). */
const char *pool_isa(const struct pool *p);
/* After pool_init: "cuda" or "host", and the element type of activations, "bf16" or "f32". */
const char *pool_device(const struct pool *p);
const char *pool_dtype(const struct pool *p);
/* After pool_init: why "auto" does not use the ranks' GPUs; "" where there is nothing to say. */
const char *pool_device_note(const struct pool *p);
/* Seconds spent in sending steps to the ranks, so far. */
double pool_send_seconds(const struct pool *p);
/* Rank 0's own communicator; NULL before pool_init. Borrowed. */
struct comm *pool_comm(struct pool *p);

/* Any other collective request, for commands with one of their own. The callback gets every rank's
 * reply, in rank order, rank 0's first; reply->seq is the rank's to ignore. */
typedef bool pool_reply(void *user, int rank, const struct message *reply, struct error *err);
bool pool_ask_all(struct pool *p, struct message *request, pool_reply *on_reply, void *user,
                  struct error *err);
