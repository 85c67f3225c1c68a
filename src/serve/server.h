/* The server: its port opens at once, then come the ranks' checks and the model, then requests, and
 * at the end it drains. The calling thread, rank 0's main one, runs the pool; HTTP has a thread of
 * its own, and the two meet in jobs and in a little state under a lock. */
#pragma once

#include "leader/pool.h"

struct server_options {
    const char *dir;        /* of the model */
    const char *model_name; /* as served */
    int ctx;                /* 0: the smaller of the model's and 4096 */
    const char *kv_dtype;   /* see struct engine_options; a load may ask for another */
    const char *host;
    int port;                /* 0: a free one */
    const char *port_file;   /* gets "HOST:PORT" once it listens; NULL: none */
    const char *api_key;     /* NULL: none is asked for */
    const char *cors_origin; /* see struct http_options */
    bool json_log;
    int max_batch, prefill_chunk, max_waiting; /* see struct scheduler_options */
    uint64_t kv_memory;                        /* see struct engine_options */
    enum dtype quant;                          /* the same; of every model */
    const char *model_root;                    /* others may be loaded from below; NULL: none */
    double drain_s;                            /* for running requests to finish */
    bool (*interrupted)(void);                 /* drain now? */
    int interrupt_fd;                          /* readable with it */
    int kill_fd; /* readable when less than a second is left; see launch_kill_fd */
    bool (*lost)(struct error *which); /* is that because of a rank? NULL: nobody knows */
    void (*show)(const char *text);    /* see struct pool_load_options */
};

/* Until it is interrupted, and drained; then true. After a failure HTTP stays up for as long as the
 * process, and answers with the reason. All strings: borrowed. Errors: IO (port), those of the
 * pool's start, of engine_open and of a step. */
bool server_run(const struct server_options *options, struct pool *pool, struct error *err);
