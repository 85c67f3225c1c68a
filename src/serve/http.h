/* The HTTP server: sockets, limits, keys and the access log; what a path means is the handler's
 * business. Its own thread parses and writes, and never calls MPI or the device. */
#pragma once

#include "base/buffer.h"
#include "serve/job.h"

struct http; /* opaque */

struct http_options {
    const char *host;    /* to bind to: a name or an address */
    int port;            /* 0: a free one */
    const char *api_key; /* "Authorization: Bearer KEY" is asked of all but /health, the page and
                          * /openapi.json; NULL: none, and then a POST from another origin's page
                          * gets 403 */
    const char *cors_origin; /* whose pages may send requests and read answers; "*": all; NULL:
                              * none but our own */
    bool json_log;           /* the access log, on stderr */
};

/* What a handler makes of a request: a body, or a job whose reply is to come. */
struct http_answer {
    int status;
    const char *type;   /* of the body; static. NULL: application/json */
    struct buffer body; /* moved out */
    const char *allow;  /* with 405; static */
    const char *policy; /* Content-Security-Policy; static. NULL: none */
    bool close;         /* the connection ends with it */
    bool routine;       /* machines ask for it again and again: it is not logged */
    struct job *job;    /* moved out, with its reference; NULL: the body is the answer */
};

/* Called on the server's thread, one request at a time. body [n], borrowed; ends with a NUL. */
typedef void http_handle(void *user, const char *method, const char *path, const char *body,
                         size_t n, struct http_answer *out);

/* Listens. Errors: IO (names host and port). */
bool http_start(struct http **out, const struct http_options *options, http_handle *handle,
                void *user, struct error *err);

/* The port it listens on. */
int http_port(const struct http *h);

/* Somebody's request is not read, or its answer not written, to its last byte. */
bool http_is_busy(const struct http *h);

/* Ends connections that take too long to say what they want. Call it every few
 * seconds; more often costs nothing, for it looks once a second. */
void http_expire(struct http *h);

/* Takes no new connections. */
void http_quiesce(struct http *h);

/* Ends all connections. All jobs must be done. Accepts NULL. */
void http_stop(struct http *h);
