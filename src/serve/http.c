#include "serve/http.h"

#include <errno.h>
#include <jansson.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "format/show.h"
#include "serve/origin.h"

enum {
    MAX_BODY = 8 << 20,
    MAX_READ = 64 << 20, /* of a body that is refused: some clients hear only once it is sent */
    MAX_CONNECTIONS = 1000,
    IDLE_S = 75,
    CONNECTION_MEMORY = 64 << 10, /* headers have to fit */
    STREAM_BLOCK = 16 << 10,
};

struct http {
    struct http_options options; /* borrows its strings */
    http_handle *handle;
    void *user;
    struct MHD_Daemon *daemon;
    int socket;
    int port;
    bool loopback; /* nobody reaches it from another machine */
    atomic_int n_exchange;
};

/* One request of a connection, from its first line to its last byte. */
struct exchange {
    struct buffer body;
    bool denied, foreign, too_large; /* then the body is not kept */
    size_t n_read;                   /* bytes of it */
    const char *cors;                /* who may read the answer; NULL: it is not said */
    bool cors_varies;                /* it depends on who asks */
    struct job *job;
    int status;   /* answered with; 0: not yet */
    bool routine; /* see struct http_answer */
    double start;
    char method[16], path[200];
};

/* ---- the access log ---- */

/* What a client wrote as a JSON string, whatever it is. */
static json_t *loggable(struct shown text) {
    json_t *string = json_string(text.text);
    for (char *c = text.text; !string && *c; c++) { /* not UTF-8 */
        *c = (char)((unsigned char)*c < 0x80 ? *c : '?');
    }
    return string ? string : json_string(text.text);
}

static void log_access(const struct http *h, const struct exchange *x) {
    char when[32];
    time_t now = time(NULL);
    struct tm utc;
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    double seconds = clock_now() - x->start;
    /* Both may hold newlines, or anything. */
    struct shown method = show_text(x->method), path = show_text(x->path);
    if (!h->options.json_log) {
        fprintf(stderr, "%s %s %s %d %.3f s\n", when, method.text, path.text, x->status, seconds);
        return;
    }
    json_t *line = json_pack("{s:s, s:o, s:o, s:i, s:f}", "time", when, "method", loggable(method),
                             "path", loggable(path), "status", x->status, "seconds", seconds);
    char *text = line ? json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(6)) : NULL;
    fprintf(stderr, "%s\n", text ? text : "{}");
    free(text);
    json_decref(line);
}

/* ---- answers ---- */

/* Lets pages of other origins read the answer, where they were let in. */
static void add_cors(struct MHD_Response *r, const struct exchange *x) {
    if (x->cors) {
        MHD_add_response_header(r, MHD_HTTP_HEADER_ACCESS_CONTROL_ALLOW_ORIGIN, x->cors);
    }
    if (x->cors_varies) {
        MHD_add_response_header(r, MHD_HTTP_HEADER_VARY, MHD_HTTP_HEADER_ORIGIN);
    }
}

/* Takes the response. */
static enum MHD_Result queue(struct MHD_Connection *c, struct exchange *x, int status,
                             struct MHD_Response *r) {
    add_cors(r, x);
    x->status = status;
    enum MHD_Result queued = MHD_queue_response(c, (unsigned)status, r);
    MHD_destroy_response(r);
    return queued;
}

static enum MHD_Result send_body(struct MHD_Connection *c, struct exchange *x,
                                 struct http_answer *a) {
    struct MHD_Response *r = MHD_create_response_from_buffer(
        a->body.size, a->body.size ? (void *)a->body.data : (void *)"", MHD_RESPMEM_MUST_COPY);
    buffer_finish(&a->body);
    if (!r) {
        return MHD_NO;
    }
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE,
                            a->type ? a->type : "application/json");
    if (a->status == MHD_HTTP_UNAUTHORIZED) {
        MHD_add_response_header(r, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
    }
    if (a->allow) {
        MHD_add_response_header(r, MHD_HTTP_HEADER_ALLOW, a->allow);
    }
    if (a->policy) {
        MHD_add_response_header(r, "Content-Security-Policy", a->policy);
    }
    if (a->status == MHD_HTTP_TOO_MANY_REQUESTS || a->status == MHD_HTTP_SERVICE_UNAVAILABLE) {
        MHD_add_response_header(r, MHD_HTTP_HEADER_RETRY_AFTER, "1");
    }
    x->routine = a->routine;
    return queue(c, x, a->status, r);
}

static enum MHD_Result send_error(struct MHD_Connection *c, struct exchange *x, int status,
                                  const char *code, const char *words) {
    struct api_error e;
    struct http_answer a = {.status = status};
    api_refuse(&e, status, "invalid_request_error", code, NULL, "%s", words);
    return api_error_body(&e, &a.body, NULL) ? send_body(c, x, &a) : MHD_NO;
}

struct stream {
    struct job *job; /* holds */
    struct MHD_Connection *connection;
};

static ssize_t read_stream(void *user, uint64_t pos, char *to, size_t n) {
    struct stream *s = user;
    (void)pos;
    long got = job_read(s->job, s->connection, to, n);
    return got < 0 ? MHD_CONTENT_READER_END_OF_STREAM : got;
}

static void free_stream(void *user) {
    struct stream *s = user;
    job_release(s->job);
    free(s);
}

static enum MHD_Result send_stream(struct MHD_Connection *c, struct exchange *x) {
    struct stream *s = malloc(sizeof *s);
    if (!s) {
        return MHD_NO;
    }
    *s = (struct stream){x->job, c};
    job_hold(x->job);
    struct MHD_Response *r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK,
                                                               read_stream, s, free_stream);
    if (!r) {
        free_stream(s);
        return MHD_NO;
    }
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, "text/event-stream");
    MHD_add_response_header(r, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache");
    return queue(c, x, MHD_HTTP_OK, r);
}

/* The job's answer, once it is known what that is. */
static enum MHD_Result send_job(struct MHD_Connection *c, struct exchange *x) {
    struct job *j = x->job;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (!job_await(j, c, info ? info->connect_fd : -1, !j->request.stream)) {
        return MHD_YES; /* suspended; called again when there is more */
    }
    if (j->request.stream && j->status == MHD_HTTP_OK) {
        return send_stream(c, x);
    }
    struct http_answer a = {.status = j->status};
    pthread_mutex_lock(&j->lock);
    bool ok = buffer_append(&a.body, j->out.data, j->out.size, NULL);
    j->sent = j->out.size;
    pthread_mutex_unlock(&j->lock);
    return ok ? send_body(c, x, &a) : MHD_NO;
}

/* ---- who may send requests ---- */

static const char *header(struct MHD_Connection *c, const char *name) {
    return MHD_lookup_connection_value(c, MHD_HEADER_KIND, name);
}

/* Whose page it comes from, and what that leads to. A key is proof enough: a page that should not
 * have it does not. */
static void note_origin(const struct http *h, struct MHD_Connection *c, struct exchange *x) {
    const char *allowed = h->options.cors_origin;
    bool open = !h->options.api_key;
    enum origin origin = origin_of(header(c, MHD_HTTP_HEADER_ORIGIN),
                                   header(c, MHD_HTTP_HEADER_HOST), allowed, open && h->loopback);
    x->cors_varies = allowed && strcmp(allowed, "*") != 0;
    x->cors = allowed && (!x->cors_varies || origin == ORIGIN_ALLOWED) ? allowed : NULL;
    x->foreign = open && origin == ORIGIN_FOREIGN && strcmp(x->method, "POST") == 0;
}

/* A browser asks beforehand whether its page may; keys do not come with that. */
static bool is_preflight(const struct http *h, struct MHD_Connection *c, const struct exchange *x) {
    return h->options.cors_origin && strcmp(x->method, "OPTIONS") == 0 &&
           header(c, MHD_HTTP_HEADER_ACCESS_CONTROL_REQUEST_METHOD);
}

static enum MHD_Result send_preflight(struct MHD_Connection *c, struct exchange *x) {
    const char *wanted = header(c, MHD_HTTP_HEADER_ACCESS_CONTROL_REQUEST_HEADERS);
    if (!x->cors) {
        return send_error(c, x, MHD_HTTP_FORBIDDEN, "origin_not_allowed",
                          "--cors-origin does not let in this page's origin");
    }
    struct MHD_Response *r = MHD_create_response_from_buffer(0, (void *)"", MHD_RESPMEM_PERSISTENT);
    if (!r) {
        return MHD_NO;
    }
    MHD_add_response_header(r, MHD_HTTP_HEADER_ACCESS_CONTROL_ALLOW_METHODS, "GET, POST");
    if (wanted) { /* any will do: OpenAI's clients send some of their own */
        MHD_add_response_header(r, MHD_HTTP_HEADER_ACCESS_CONTROL_ALLOW_HEADERS, wanted);
    }
    MHD_add_response_header(r, MHD_HTTP_HEADER_ACCESS_CONTROL_MAX_AGE, "600");
    return queue(c, x, MHD_HTTP_NO_CONTENT, r);
}

/* In a time that does not depend on where they differ. */
static bool same_key(const char *given, const char *key) {
    size_t n = strlen(key), m = strlen(given);
    unsigned char differ = n != m;
    for (size_t i = 0; i < n; i++) {
        differ |= (unsigned char)(key[i] ^ (m ? given[i % m] : 0));
    }
    return !differ;
}

static bool may_enter(const struct http *h, struct MHD_Connection *c, const char *path) {
    static const char bearer[] = "Bearer "; /* in any case: RFC 9110, 11.1 */
    if (!h->options.api_key || strcmp(path, "/health") == 0 || strcmp(path, "/") == 0 ||
        strcmp(path, "/openapi.json") == 0) {
        return true;
    }
    const char *given = header(c, MHD_HTTP_HEADER_AUTHORIZATION);
    return given && strncasecmp(given, bearer, sizeof bearer - 1) == 0 &&
           same_key(given + sizeof bearer - 1, h->options.api_key);
}

/* ---- requests ---- */

static enum MHD_Result answer(struct http *h, struct MHD_Connection *c, struct exchange *x,
                              const char *method, const char *path) {
    struct http_answer a = {.status = MHD_HTTP_OK};
    if (is_preflight(h, c, x)) {
        return send_preflight(c, x);
    }
    if (x->denied) {
        return send_error(c, x, MHD_HTTP_UNAUTHORIZED, "invalid_api_key",
                          "this server wants its API key, as 'Authorization: Bearer KEY'");
    }
    if (x->foreign) {
        return send_error(c, x, MHD_HTTP_FORBIDDEN, "origin_not_allowed",
                          "this request comes from the page of another origin; --cors-origin lets "
                          "one in");
    }
    if (x->too_large) {
        return send_error(c, x, MHD_HTTP_CONTENT_TOO_LARGE, NULL, "the body is larger than 8 MiB");
    }
    if (!buffer_reserve(&x->body, 1, NULL)) {
        return MHD_NO;
    }
    x->body.data[x->body.size] = 0;
    if (strcmp(method, MHD_HTTP_METHOD_HEAD) == 0) {
        method = MHD_HTTP_METHOD_GET; /* the body stays behind by itself */
    }
    h->handle(h->user, method, path, (const char *)x->body.data, x->body.size, &a);
    if (a.job) {
        x->job = a.job;
        return send_job(c, x);
    }
    return send_body(c, x, &a);
}

static bool is_refused(const struct exchange *x) {
    return x->denied || x->foreign || x->too_large;
}

static bool is_too_long(struct MHD_Connection *c) {
    const char *length = header(c, MHD_HTTP_HEADER_CONTENT_LENGTH);
    return length && strtoull(length, NULL, 10) > MAX_BODY;
}

/* A piece of the body. */
static enum MHD_Result take_body(struct exchange *x, const char *data, size_t *n) {
    x->n_read += *n;
    x->too_large = x->too_large || x->n_read > MAX_BODY;
    if (is_refused(x)) {
        buffer_finish(&x->body);
    } else {
        x->too_large = !buffer_append(&x->body, data, *n, NULL);
    }
    *n = 0;
    if (x->n_read <= MAX_READ) {
        return MHD_YES;
    }
    x->status = MHD_HTTP_CONTENT_TOO_LARGE; /* for the log: it just ends */
    return MHD_NO;
}

static enum MHD_Result on_request(void *user, struct MHD_Connection *c, const char *path,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_size, void **state) {
    struct http *h = user;
    struct exchange *x = *state;
    (void)version;
    if (!x) {
        x = *state = calloc(1, sizeof *x);
        if (!x) {
            return MHD_NO;
        }
        atomic_fetch_add(&h->n_exchange, 1);
        x->start = clock_now();
        snprintf(x->method, sizeof x->method, "%s", method);
        snprintf(x->path, sizeof x->path, "%s", path);
        x->denied = !may_enter(h, c, path);
        x->too_large = is_too_long(c);
        note_origin(h, c, x);
        /* Who waits for leave to send the body does not get it. */
        bool waits = header(c, MHD_HTTP_HEADER_EXPECT) != NULL;
        return waits && is_refused(x) ? answer(h, c, x, method, path) : MHD_YES;
    }
    if (*upload_size > 0) {
        return take_body(x, upload, upload_size);
    }
    return x->job ? send_job(c, x) : answer(h, c, x, method, path);
}

static void on_completed(void *user, struct MHD_Connection *c, void **state,
                         enum MHD_RequestTerminationCode why) {
    struct http *h = user;
    struct exchange *x = *state;
    (void)c;
    if (!x) {
        return;
    }
    if (x->job) {
        if (why != MHD_REQUEST_TERMINATED_COMPLETED_OK) {
            x->status = x->status == MHD_HTTP_OK || !x->status ? JOB_CLIENT_GONE : x->status;
        }
        job_hang_up(x->job);
        job_release(x->job);
    }
    if (!x->routine) {
        log_access(h, x);
    }
    buffer_finish(&x->body);
    free(x);
    *state = NULL;
    atomic_fetch_sub(&h->n_exchange, 1);
}

/* ---- start and end ---- */

static bool listen_on(struct http *h, struct error *err) {
    const char *host = h->options.host;
    char port[16];
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICSERV},
                    *found = NULL;
    snprintf(port, sizeof port, "%d", h->options.port);
    int failed = getaddrinfo(host, port, &hints, &found);
    if (failed) {
        return error_set(err, ERROR_IO, "--host %s: %s", host, gai_strerror(failed));
    }
    int one = 1;
    h->socket = socket(found->ai_family, found->ai_socktype | SOCK_CLOEXEC, found->ai_protocol);
    bool ok =
        h->socket >= 0 && setsockopt(h->socket, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0 &&
        bind(h->socket, found->ai_addr, found->ai_addrlen) == 0 && listen(h->socket, 128) == 0;
    int why = errno;
    freeaddrinfo(found);
    struct sockaddr_storage bound;
    socklen_t size = sizeof bound;
    if (!ok || getsockname(h->socket, (struct sockaddr *)&bound, &size) != 0) {
        return error_set(err, ERROR_IO, "cannot listen on %s, port %d: %s (--host, --port)", host,
                         h->options.port, strerror(ok ? errno : why));
    }
    if (bound.ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&bound;
        h->port = ntohs(in6->sin6_port);
        h->loopback = IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
    } else {
        const struct sockaddr_in *in = (const struct sockaddr_in *)&bound;
        h->port = ntohs(in->sin_port);
        h->loopback = ntohl(in->sin_addr.s_addr) >> 24 == 127;
    }
    return true;
}

bool http_start(struct http **out, const struct http_options *options, http_handle *handle,
                void *user, struct error *err) {
    struct http *h = calloc(1, sizeof *h);
    if (!h) {
        return error_set(err, ERROR_MEMORY, "cannot allocate the HTTP server");
    }
    *h = (struct http){.options = *options, .handle = handle, .user = user, .socket = -1};
    if (!listen_on(h, err)) {
        http_stop(h);
        return false;
    }
    h->daemon = MHD_start_daemon(
        MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL,
        on_request, h, MHD_OPTION_LISTEN_SOCKET, h->socket, MHD_OPTION_NOTIFY_COMPLETED,
        on_completed, h, MHD_OPTION_CONNECTION_LIMIT, (unsigned)MAX_CONNECTIONS,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)CONNECTION_MEMORY, MHD_OPTION_END);
    if (!h->daemon) {
        http_stop(h);
        return error_set(err, ERROR_IO, "the HTTP server does not start on port %d", options->port);
    }
    *out = h;
    return true;
}

int http_port(const struct http *h) {
    return h->port;
}

bool http_is_busy(const struct http *h) {
    return atomic_load(&h->n_exchange) > 0;
}

void http_quiesce(struct http *h) {
    h->socket = MHD_quiesce_daemon(h->daemon);
}

void http_stop(struct http *h) {
    if (h) {
        if (h->daemon) {
            const union MHD_DaemonInfo *info =
                MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_LISTEN_FD);
            h->socket = info && info->listen_fd >= 0 ? -1 : h->socket; /* it closes its own */
            MHD_stop_daemon(h->daemon);
        }
        if (h->socket >= 0) {
            close(h->socket);
        }
        free(h);
    }
}
