/* What the ranks do and how fast, for GET /ranks and GET /metrics. The main thread collects it
 * between steps: once a second while steps run, else when somebody has asked and the numbers are
 * old, and every five seconds, so that a rank that is no more is noticed while nobody asks. Who
 * asks never waits: it gets the numbers that there are. A lock of its own stands between the two.
 */
#pragma once

#include <jansson.h>
#include <pthread.h>

#include "leader/pool.h"

enum { RANK_STATS_KEPT = 8, RANK_STATS_HEARTBEAT_S = 5 };

/* One rank's numbers since the start. */
struct rank_numbers {
    double compute_s, wait_s, transfer_s; /* of its steps; see struct message_stats */
    uint64_t n_collective, bytes_sent;
    double ping_s; /* the last round trip */
    uint64_t rss;  /* as of now, bytes */
};

struct rank_stats {
    /* The main thread's: */
    struct message_stats *told; /* owns [world] */
    double *pings;              /* owns [world] */
    pthread_mutex_t lock;
    /* Under the lock: */
    json_t *about; /* owns: who the ranks are; NULL: not known yet */
    int world;
    bool timed;  /* the ranks know their time in collectives: not on GPUs */
    bool wanted; /* somebody has found the numbers old */
    int n_kept;  /* samples, oldest first */
    struct rank_sample {
        double at;                  /* on the monotonic clock */
        uint64_t tokens;            /* sampled by then */
        struct rank_numbers *ranks; /* owns [world] */
    } kept[RANK_STATS_KEPT];
    uint64_t n_collected;
    double collecting_s;
};

void rank_stats_init(struct rank_stats *s);
void rank_stats_finish(struct rank_stats *s);

/* ---- the main thread ---- */

/* Who the ranks are; after pool_start. Errors: MEMORY. */
bool rank_stats_begin(struct rank_stats *s, struct pool *p, struct error *err);

/* Collects, where it is time to. busy: steps run. tokens: sampled so far.
 * Errors: those of pool_stats and pool_ping; the pool is of no more use then. */
bool rank_stats_tick(struct rank_stats *s, struct pool *p, bool busy, uint64_t tokens,
                     struct error *err);

/* ---- any thread ---- */

/* Says that the numbers will be shown. True: they are old, and the main thread is to be woken. */
bool rank_stats_want(struct rank_stats *s);

/* A new object: who the ranks are, and what they do. NULL: no memory. */
json_t *rank_stats_json(struct rank_stats *s);

/* Appends metrics in Prometheus' text format. Errors: MEMORY. */
bool rank_stats_text(struct rank_stats *s, struct buffer *out, struct error *err);

/* ---- its parts, for tests ---- */

/* about {"ranks": [{"host", "device", ...} ...], ...}: moved. Errors: MEMORY. */
bool rank_stats_know(struct rank_stats *s, json_t *about, bool timed, struct error *err);

/* Adds to each rank's numbers what it has told of the time since the last sample.
 * told, pings [world]. */
void rank_stats_add(struct rank_stats *s, double at, uint64_t tokens,
                    const struct message_stats *told, const double *pings);
