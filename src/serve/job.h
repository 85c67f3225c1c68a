/* One request on its way between an HTTP connection and the main thread: for text, or for another
 * model. The connection's side parses it and sends what comes out; the main thread schedules it and
 * puts text in. Both hold a reference. A connection with nothing to send is suspended; who puts
 * something in resumes it. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "leader/scheduler.h"
#include "serve/api.h"
#include "serve/served.h"

struct MHD_Connection;

enum {
    JOB_MAX_UNSENT = 1 << 20, /* bytes that a slow reader may leave; then its stream ends */
    JOB_CLIENT_GONE = 499,    /* a status for the log, as nginx has it */
};

/* How a load is to differ from what the server was started with; constant words, NULL: it is not.
 */
struct load_wish {
    const char *kv_dtype; /* "auto", "f32" or "bf16" */
    const char *quant;    /* "none", "q8_0" or "q4_0" */
};

enum job_kind { JOB_TEXT, JOB_LOAD, JOB_UNLOAD };

struct job {
    /* Not changed once it is queued. */
    enum job_kind kind;
    struct api_request request; /* TEXT: owns */
    struct served *model;       /* TEXT: that it was read against; holds */
    char *wanted;               /* LOAD: the model's name, owns; NULL: that of the start */
    struct load_wish wish;      /* LOAD */
    double patience_s;          /* UNLOAD: for requests to finish */
    double arrived;             /* on the monotonic clock */
    /* The main thread's. */
    struct ticket *ticket; /* NULL: not scheduled, or over */
    struct api_reply reply;
    double first_token; /* when; 0: not yet */
    double last_token;
    void *server; /* whose it is */
    struct job *next;
    atomic_int n_ref;
    pthread_mutex_t lock;
    /* Under the lock. */
    struct buffer out; /* owns */
    size_t sent;       /* bytes of out */
    int status;        /* HTTP's; 0: not known yet */
    bool done;         /* nothing more will come */
    bool gone;         /* the client has hung up */
    bool half_closed;  /* it will send no more, and has been tried */
    double last_output;
    struct MHD_Connection *suspended; /* NULL: it is not */
    int socket;
};

/* One reference. request, with a reference to its model, or wanted: moved in. Errors: MEMORY, and
 * then nothing was moved. */
bool job_create(struct job **out, struct api_request *request, struct served *model,
                struct error *err);
bool job_create_load(struct job **out, char *wanted, const struct load_wish *wish,
                     struct error *err);
bool job_create_unload(struct job **out, double patience_s, struct error *err);
void job_hold(struct job *j);
void job_release(struct job *j);

/* ---- the main thread ---- */
/* Appends bytes (NULL: none), sets the status where it is 0, and resumes the connection. Bytes for
 * one who does not read them end the stream with an error event instead: false, as for a job that
 * is done already, which nothing is appended to. */
bool job_put(struct job *j, int status, const struct buffer *bytes, bool done);
/* Whether it is a stream that has begun and not ended. */
bool job_is_open(struct job *j);
/* Ends it with an error: as the reply, or as an event where a stream has begun. From any thread. */
void job_fail(struct job *j, const struct api_error *e);
/* Whether the client is gone: it said so, or its socket does. A stream's client may have ended its
 * own half of the connection. */
bool job_is_gone(struct job *j);
/* Everything that will come has been sent, or nobody wants it. */
bool job_is_sent(struct job *j);
/* A comment for those in between, where a stream has been silent for so long. */
void job_keep_alive(struct job *j, double silent_s);

/* ---- the connection's thread ---- */
/* Suspends the connection until the status is known, and for a whole reply until it is done; true
 * where that is so already. */
bool job_await(struct job *j, struct MHD_Connection *c, int socket, bool whole);
/* Up to n bytes of a stream; 0: the connection has been suspended, -1: the end. */
long job_read(struct job *j, struct MHD_Connection *c, char *to, size_t n);
void job_hang_up(struct job *j);
