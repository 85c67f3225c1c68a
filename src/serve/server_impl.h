/* Inside the server: what its files share. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "leader/scheduler.h"
#include "serve/http.h"
#include "serve/last_errors.h"
#include "serve/metrics.h"
#include "serve/rank_stats.h"
#include "serve/server.h"

enum server_state {
    SERVER_STARTING, /* the ranks say hello */
    SERVER_CHECKING, /* they make their communicator, and try it */
    SERVER_LOADING,
    SERVER_READY,
    SERVER_UNLOADED,
    SERVER_DRAINING, /* requests finish, but none is taken */
    SERVER_FAILED,
    SERVER_STATE_COUNT
};

struct server {
    struct server_options options;
    struct pool *pool; /* borrowed; the main thread's, as are the next five */
    struct engine *engine;
    struct scheduler *scheduler;
    struct http *http;
    struct job *command;         /* a load or an unload that waits for its turn; holds */
    struct scheduler_stats past; /* of the model that is loaded, from before it was unloaded */
    pthread_t watcher;           /* waits for the kill_fd, and for end_fd */
    bool watching;
    int end_fd;         /* see base/wakeup.h, as the next: the watcher's end */
    int wake_fd;        /* there is something for the main thread */
    atomic_bool stop;   /* somebody wants an end */
    atomic_bool killed; /* this process has less than a second left */
    /* [n_host], by rank: set once, under the lock, and kept when the pool is gone; 0: not known */
    struct server_host {
        char name[128];
    } * hosts;
    int n_host;
    struct rank_stats ranks; /* has its own lock */
    pthread_mutex_t lock;
    /* Under the lock. */
    enum server_state state;
    char reason[200];                 /* of DRAINING, and of UNLOADED where a load failed */
    double loaded;                    /* share of the model, while LOADING */
    struct api_error refusal;         /* of FAILED; HTTP outlives the pool that it is made from */
    struct served *model;             /* holds; NULL: none is loaded */
    char model_name[SERVED_MAX_NAME]; /* the last one's */
    struct job *inbox, **inbox_end;
    bool closed;      /* nobody looks into the inbox any more */
    struct job *jobs; /* taken from the inbox, and not all sent yet; only the main thread changes
                         the list, and so reads it without the lock */
    struct metrics metrics;
    struct last_errors errors;
};

/* ---- routes.c, on HTTP's thread ---- */
http_handle server_handle;

/* ---- server.c, from both threads ---- */
/* Makes the main thread look around. */
void server_wake(struct server *s);
/* For people to see; e.g. in GET /ranks. */
void server_note_error(struct server *s, const char *message);
/* Queues a job for the main thread, which takes a reference; at the server's end fails it. */
void server_submit(struct server *s, struct job *j);
/* Ends the server as a signal does. */
void server_stop(struct server *s);
/* A failure as a refusal, with the rank's host. */
void server_refusal(const struct server *s, const struct error *why, struct api_error *out);
/* The state, and a refusal with its reason where that is not READY. */
enum server_state server_state(struct server *s, struct api_error *why);
const char *server_state_name(enum server_state state);
/* The model that is served, with a reference; NULL where there is none, for why. */
struct served *server_model(struct server *s, struct api_error *why);

/* ---- server.c, the main thread's ---- */
/* reason: of DRAINING and UNLOADED; NULL: none. */
void server_set_state(struct server *s, enum server_state state, const char *reason);
bool server_wants_end(const struct server *s);
/* Lets requests finish, for so long at most, and where the server is to end no longer than its
 * drain may take; the others end with `late`. Takes no new ones, where the state says so. Errors:
 * those of a step. */
bool server_finish_requests(struct server *s, double patience_s, const char *late,
                            struct error *err);

/* ---- server_jobs.c, the main thread's ---- */
void server_take_inbox(struct server *s);
/* Lets go of jobs that are sent, and of those whose clients are. True: there are others. */
bool server_look_after_jobs(struct server *s);
/* Of the model that is loaded; what counts up goes on from those before it. */
struct scheduler_stats server_stats(const struct server *s);
/* Shows them to the other thread. */
void server_note_stats(struct server *s);
/* Ends every request. */
void server_fail_jobs(struct server *s, const struct error *why);
/* Sends what there is to send, for a while, and lets go of all jobs. */
void server_flush(struct server *s);

/* ---- server_model.c, the main thread's ---- */
/* Loads the model in dir. Errors: those of served_create and engine_open, INTERRUPTED; the state is
 * LOADING then. */
bool server_load(struct server *s, const char *dir, const char *name, const struct load_wish *wish,
                 struct error *err);
/* Frees the model, where there is one, which nothing may run on; ranks [world] or NULL. Errors:
 * those of engine_close. */
bool server_unload(struct server *s, struct message_unloaded *ranks, struct error *err);
/* Does what the command says, and answers it. False: the server cannot go on. */
bool server_do(struct server *s, struct job *command, struct error *err);
