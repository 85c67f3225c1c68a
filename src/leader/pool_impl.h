/* What the files of the pool share: pool*.c and replay.c. */
#pragma once

#include "leader/fit.h"
#include "leader/pool.h"
#include "rpc/blame.h"
#include "rpc/trace.h"
#include "rpc/transport.h"
#include "worker/worker.h"

/* Where a rank is, as it or a neighbour has told. */
struct pool_place {
    uint64_t seq;  /* the request during which; 0: never */
    double heard;  /* when, on the monotonic clock */
    bool own_word; /* the rank's own */
    struct blame_rank at;
};

/* What rank 0 has heard from a rank that is loading. */
struct pool_load_state {
    double heard; /* when, on the monotonic clock */
    uint64_t done, total;
};

/* What a rank's files say, and that as a text. */
struct pool_print {
    struct fingerprint print;
    char text[20];
};

struct pool {
    struct pool_options options;
    int world;
    struct transport *t;   /* owns */
    struct worker *worker; /* owns: rank 0's own share */
    struct trace *trace;   /* owns; may be NULL */
    struct message_decoder replies;
    struct message_decoder notices;
    struct buffer frame;                   /* the request on its way */
    struct buffer notice;                  /* the notice on its way */
    struct buffer own;                     /* rank 0's own reply, for the trace */
    struct message_hello_ok *ranks;        /* owns [world] */
    struct pool_load_state *loads;         /* owns [world] */
    struct fit_rank *fits;                 /* owns [world] memory, as last measured */
    struct pool_place *places;             /* owns [world] */
    struct pool_print *prints;             /* owns [world] */
    const struct model_progress *progress; /* while loading; may be NULL */
    double send_seconds;                   /* of steps to the ranks, so far */
    uint64_t seq;                          /* of the last request */
    uint64_t entry;                        /* its own in the flight record */
    uint64_t settled;     /* troubles of requests up to this one have been reported */
    int mute;             /* the first rank that did not answer the last request; -1: none */
    struct error trouble; /* the one heard during the request under way; kind NONE: none */
    bool stuck;           /* a send never ended: MPI may still read the buffers */
    bool astray;          /* a request failed on its way: the ranks may be anywhere */
    double last_poll;
    char isa[32];
    char device[8];        /* "cuda" or "host" */
    char dtype[8];         /* "bf16" or "f32" */
    int sharers;           /* most ranks on one GPU */
    char device_note[480]; /* why not CUDA, although there are GPUs */
};

/* Agrees on the device and on the type of activations; see pool_init. */
bool pool_choose_device(struct pool *p, struct error *err);

/* What a rank is grouped by; NULL: it is in no group. */
typedef const char *pool_group_key(const struct pool *p, int rank);

/* "rank 0 (node1): this; ranks 1-3 (node2): that", as a text with its end. */
void pool_describe_groups(const struct pool *p, pool_group_key *key, struct buffer *out);

/* Reads what ranks tell without being asked. False: one of them is in trouble. */
bool pool_read_notices(void *pool, struct error *err);

/* The same, at most once a millisecond: for inside collectives. */
bool pool_poll(void *pool, struct error *err);

/* Notes how far `rank` is with loading, and passes the sums on. False: rank 0 does not want the
 * model any more. */
bool pool_note_progress(struct pool *p, int rank, uint64_t done, uint64_t total, struct error *err);

/* Notes what a rank has found where a load looks for the model. */
void pool_note_print(struct pool *p, int rank, const struct message_loaded *m);

/* Every rank's files and its memory, before the first of them allocates any of it. Errors: those of
 * model_measure, MEMORY (names who lacks it, and what would fit), RANK_MISMATCH. */
bool pool_look_before_load(struct pool *p, const struct model_params *params,
                           const struct pool_load_options *options, struct error *err);

/* Compares what has been noted; asks once more what it is that differs. `load` is the request.
 * Errors: RANK_MISMATCH (names the rank that most others differ from, and the part). */
bool pool_same_model(struct pool *p, const struct message *load, struct error *err);

/* Encodes and sends a request with the next sequence number: to one rank, or to all (rank -1). */
bool pool_send(struct pool *p, struct message *request, int rank, struct error *err);

/* Notes in the flight record that the last request has come to a good end. */
void pool_done(struct pool *p);

/* Rank 0's own share of a request. */
bool pool_own_share(struct pool *p, const struct message *request, struct message *reply,
                    struct error *err);

/* Records what rank 0 itself has answered, or would have. */
void pool_trace_own(struct pool *p, const struct message *reply);

/* Waits for `rank`'s reply to the last request. Errors have the rank. */
bool pool_collect(struct pool *p, int rank, enum message_type expect, double timeout_s,
                  struct message *reply, struct error *err);

/* The same until a time on the monotonic clock; a rank that loads is given more as long as it shows
 * progress. */
bool pool_collect_patiently(struct pool *p, int rank, enum message_type expect, double deadline,
                            struct message *reply, struct error *err);

/* One request to one rank. */
bool pool_ask(struct pool *p, int rank, struct message *request, struct message *reply,
              struct error *err);

/* Tells every rank that the last request is given up, so that none waits for the others until its
 * deadline. */
void pool_call_off(struct pool *p, const struct error *cause);

/* Where somebody waited in vain, or what came was wrong: finds the rank that all wait for,
 * from the flight records of this host and what the others tell, and puts it and its place into
 * err. Calls the request off, so that they tell. What it cannot find out leaves err as it is.
 * Returns false. */
bool pool_find_culprit(struct pool *p, struct error *err);

/* Where rank 0's own share failed because another rank told of its trouble: puts that rank's words
 * in the place of those that rank 0 wrapped around them. Returns false. */
bool pool_own_failure(struct pool *p, struct error *err);

/* Of several ranks' errors, keeps the one to report: the first cause, not the echoes of it (ranks
 * that waited for the failed one). Returns false. */
bool pool_keep_error(struct error *kept, const struct error *fresh);
