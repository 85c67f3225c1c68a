/* Inside the server: what its files share. */
#pragma once

#include <pthread.h>

#include "leader/scheduler.h"
#include "serve/http.h"
#include "serve/last_errors.h"
#include "serve/metrics.h"
#include "serve/rank_stats.h"
#include "serve/server.h"

enum server_state {
    SERVER_CHECKING,
    SERVER_LOADING,
    SERVER_READY,
    SERVER_DRAINING,
    SERVER_FAILED,
    SERVER_STATE_COUNT
};

struct server {
    struct server_options options;
    struct pool *pool; /* borrowed; the main thread's */
    struct engine *engine;
    struct tokenizer *tokenizer; /* set before READY, then shared */
    struct api_model model;
    struct scheduler *scheduler;
    struct http *http;
    struct job *jobs; /* scheduled, or not all sent yet; the main thread's */
    struct rank_stats ranks;
    int wake_fd; /* an eventfd: there is something for the main thread */
    pthread_mutex_t lock;
    /* Under the lock. */
    enum server_state state;
    double loaded;      /* share of the model, while LOADING */
    struct error cause; /* of FAILED */
    struct job *inbox, **inbox_end;
    struct metrics metrics;
    struct last_errors errors;
};

/* ---- routes.c, on HTTP's thread ---- */
http_handle server_handle;

/* ---- server.c ---- */
/* Makes the main thread look around. */
void server_wake(struct server *s);
/* Queues a job for the main thread; takes a reference. */
void server_submit(struct server *s, struct job *j);
/* The state, and a refusal with its reason where that is not READY. */
enum server_state server_state(struct server *s, struct api_error *why);
const char *server_state_name(enum server_state state);
