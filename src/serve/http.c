#include "serve/http.h"

#include <dirent.h>
#include <errno.h>
#include <malloc.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "serve/access_log.h"
#include "serve/connections.h"
#include "serve/entry.h"

enum {
    MAX_READ = 64 << 20, /* of a body that is refused: some clients hear only once it is sent */
    LARGE_BODY = 1 << 20,
    MAX_CONNECTIONS = 1000,
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
    struct connections connections;
    double expired; /* when they were last looked at: the main thread's */
};

/* One request of a connection, from its first line to its last byte. */
struct exchange {
    struct connection *connection;
    struct buffer body;
    struct entry entry;
    size_t n_read; /* bytes of the body */
    struct job *job;
    int status;   /* answered with; 0: not yet */
    bool routine; /* see struct http_answer */
    double start;
    char method[16], path[200];
};

/* ---- answers ---- */

/* Lets pages of other origins read the answer, where they were let in. */
static void add_cors(struct MHD_Response *r, const struct exchange *x) {
    if (x->entry.cors) {
        MHD_add_response_header(r, MHD_HTTP_HEADER_ACCESS_CONTROL_ALLOW_ORIGIN, x->entry.cors);
    }
    if (x->entry.cors_varies) {
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
    if (a->close) {
        MHD_add_response_header(r, MHD_HTTP_HEADER_CONNECTION, "close");
    }
    if (a->status == MHD_HTTP_TOO_MANY_REQUESTS || a->status == MHD_HTTP_SERVICE_UNAVAILABLE) {
        MHD_add_response_header(r, MHD_HTTP_HEADER_RETRY_AFTER, "1");
    }
    x->routine = a->routine;
    return queue(c, x, a->status, r);
}

static enum MHD_Result send_refusal(struct MHD_Connection *c, struct exchange *x,
                                    enum refusal why) {
    struct api_error e;
    entry_explain(why, &e);
    struct http_answer a = {.status = e.status, .close = why == UNCLEAR || why == CROWDED};
    return api_error_body(&e, &a.body, NULL) ? send_body(c, x, &a) : MHD_NO;
}

struct stream {
    struct job *job; /* holds */
    struct MHD_Connection *to;
    struct connection *connection;
};

static ssize_t read_stream(void *user, uint64_t pos, char *to, size_t n) {
    struct stream *s = user;
    (void)pos;
    long got = job_read(s->job, s->to, to, n);
    if (got != 0 && !job_is_open(s->job)) {
        connections_note(s->connection, CONNECTION_SENDING);
    }
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
    *s = (struct stream){x->job, c, x->connection};
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
    connections_note(x->connection, CONNECTION_WAITING);
    if (!job_await(j, c, info ? info->connect_fd : -1, !j->request.stream)) {
        return MHD_YES; /* suspended; called again when there is more */
    }
    if (j->request.stream && j->status == MHD_HTTP_OK) {
        return send_stream(c, x);
    }
    struct http_answer a = {.status = j->status};
    connections_note(x->connection, CONNECTION_SENDING);
    pthread_mutex_lock(&j->lock);
    bool ok = buffer_append(&a.body, j->out.data, j->out.size, NULL);
    j->sent = j->out.size;
    pthread_mutex_unlock(&j->lock);
    return ok ? send_body(c, x, &a) : MHD_NO;
}

/* ---- requests ---- */

/* A browser asks beforehand whether its page may; keys do not come with that. */
static bool is_preflight(const struct http *h, struct MHD_Connection *c, const struct exchange *x) {
    return h->options.cors_origin && strcmp(x->method, "OPTIONS") == 0 &&
           entry_header(c, MHD_HTTP_HEADER_ACCESS_CONTROL_REQUEST_METHOD);
}

static enum MHD_Result send_preflight(struct MHD_Connection *c, struct exchange *x) {
    const char *wanted = entry_header(c, MHD_HTTP_HEADER_ACCESS_CONTROL_REQUEST_HEADERS);
    if (!x->entry.cors) {
        return send_refusal(c, x, FOREIGN);
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

static enum MHD_Result answer(struct http *h, struct MHD_Connection *c, struct exchange *x,
                              const char *method, const char *path) {
    struct http_answer a = {.status = MHD_HTTP_OK};
    connections_note(x->connection, CONNECTION_SENDING);
    if (is_preflight(h, c, x)) {
        return send_preflight(c, x);
    }
    if (x->entry.refusal) {
        return send_refusal(c, x, x->entry.refusal);
    }
    if (!buffer_reserve(&x->body, 1, NULL)) {
        return MHD_NO;
    }
    x->body.data[x->body.size] = 0;
    if (strcmp(method, MHD_HTTP_METHOD_HEAD) == 0) {
        method = MHD_HTTP_METHOD_GET; /* the body stays behind by itself */
    }
    h->handle(h->user, method, path, (const char *)x->body.data, x->body.size, &a);
    /* Called again at once for the job. A connection that is suspended in this call would be read
     * from when it is resumed, and one that its client has half-closed be taken to be at an end. */
    if (a.job) {
        x->job = a.job;
        return MHD_YES;
    }
    return send_body(c, x, &a);
}

/* A piece of the body. */
static enum MHD_Result take_body(struct exchange *x, const char *data, size_t *n) {
    x->n_read += *n;
    if (!x->entry.refusal &&
        (x->n_read > ENTRY_MAX_BODY || !buffer_append(&x->body, data, *n, NULL))) {
        x->entry.refusal = TOO_LARGE;
    }
    if (x->entry.refusal) {
        buffer_finish(&x->body);
    }
    *n = 0;
    if (x->n_read <= MAX_READ) {
        return MHD_YES;
    }
    x->status = MHD_HTTP_CONTENT_TOO_LARGE; /* for the log: it just ends */
    return MHD_NO;
}

static struct connection *connection_of(struct MHD_Connection *c) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

/* A new one, of which the head is there. */
static enum MHD_Result begin(struct http *h, struct MHD_Connection *c, const char *path,
                             const char *method, const char *version, void **state) {
    struct connection *of = connection_of(c);
    struct exchange *x = *state = of ? calloc(1, sizeof *x) : NULL;
    if (!x) {
        return MHD_NO;
    }
    atomic_fetch_add(&h->n_exchange, 1);
    x->start = clock_now();
    x->connection = of;
    snprintf(x->method, sizeof x->method, "%s", method);
    snprintf(x->path, sizeof x->path, "%s", path);
    entry_judge(&x->entry, &h->options, h->loopback, c, method, path, version);
    if (x->entry.refusal != UNCLEAR && connections_full(&h->connections) &&
        strcmp(path, "/health") != 0) {
        x->entry.refusal = CROWDED;
    }
    connections_note(of, CONNECTION_READING);
    /* Who waits for leave to send the body does not get it; and nothing is read after a head that
     * somebody on the way may have read otherwise. */
    bool waits = entry_header(c, MHD_HTTP_HEADER_EXPECT) != NULL;
    return x->entry.refusal == UNCLEAR || (x->entry.refusal && waits)
               ? send_refusal(c, x, x->entry.refusal)
               : MHD_YES;
}

static enum MHD_Result on_request(void *user, struct MHD_Connection *c, const char *path,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_size, void **state) {
    struct exchange *x = *state;
    if (!x) {
        return begin(user, c, path, method, version, state);
    }
    if (*upload_size > 0) {
        return take_body(x, upload, upload_size);
    }
    return x->job ? send_job(c, x) : answer(user, c, x, method, path);
}

/* The status for the log, where there was no answer or not all of one. */
static int status_of(const struct exchange *x, enum MHD_RequestTerminationCode why) {
    if (why == MHD_REQUEST_TERMINATED_COMPLETED_OK || (x->status && x->status != MHD_HTTP_OK)) {
        return x->status;
    }
    if (x->job || x->status) {
        return JOB_CLIENT_GONE;
    }
    if (why == MHD_REQUEST_TERMINATED_TIMEOUT_REACHED || connections_ended(x->connection)) {
        return MHD_HTTP_REQUEST_TIMEOUT;
    }
    return why == MHD_REQUEST_TERMINATED_WITH_ERROR ? MHD_HTTP_BAD_REQUEST /* by the library */
                                                    : JOB_CLIENT_GONE;
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
        job_hang_up(x->job);
        job_release(x->job);
    }
    if (!x->routine) {
        access_log(&(struct access){.client = x->connection->address,
                                    .method = x->method,
                                    .path = x->path,
                                    .status = status_of(x, why),
                                    .seconds = clock_now() - x->start},
                   h->options.json_log);
    }
    connections_note(x->connection, CONNECTION_RESTING);
    bool was_large = x->n_read > LARGE_BODY;
    buffer_finish(&x->body);
    free(x);
    *state = NULL;
    if (was_large) {
        malloc_trim(0); /* what read it has taken a multiple of it, in small pieces */
    }
    atomic_fetch_sub(&h->n_exchange, 1);
}

/* ---- connections ---- */

static void on_connection(void *user, struct MHD_Connection *c, void **context,
                          enum MHD_ConnectionNotificationCode what) {
    struct http *h = user;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *fd =
            MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
        const union MHD_ConnectionInfo *address =
            MHD_get_connection_info(c, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
        *context = fd ? connections_add(&h->connections, fd->connect_fd,
                                        address ? address->client_addr : NULL)
                      : NULL;
    } else if (*context) {
        connections_remove(*context);
        *context = NULL;
    }
}

/* A path that would end early is left as it came. */
static size_t unescape(void *user, struct MHD_Connection *c, char *text) {
    (void)user, (void)c;
    return strstr(text, "%00") ? strlen(text) : MHD_http_unescape(text);
}

static int files_open(void) {
    int n = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (dir && readdir(dir)) {
        n++;
    }
    if (dir) {
        closedir(dir);
    }
    return n;
}

/* How many there may be: each is a file, and half of those that may still be opened are for MPI and
 * for models. */
static int most_connections(void) {
    struct rlimit files;
    rlim_t used = (rlim_t)files_open(), want = used + 2 * MAX_CONNECTIONS;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0) {
        return MAX_CONNECTIONS;
    }
    if (files.rlim_cur < want && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = want < files.rlim_max ? want : files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    if (files.rlim_cur >= want) {
        return MAX_CONNECTIONS;
    }
    int most = files.rlim_cur > used ? (int)(files.rlim_cur - used) / 2 : 0;
    if (most > 0) {
        log_warn("%d connections at most, as only %llu files may be open (ulimit -n)", most,
                 (unsigned long long)files.rlim_cur);
    }
    return most;
}

/* ---- start and end ---- */

/* On the first of the addresses that can be had; else errno is the last one's. */
static bool listen_on_first(struct http *h, const struct addrinfo *found) {
    int one = 1;
    for (const struct addrinfo *a = found; a; a = a->ai_next) {
        h->socket = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
        if (h->socket < 0) {
            continue;
        }
        if (setsockopt(h->socket, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0 &&
            bind(h->socket, a->ai_addr, a->ai_addrlen) == 0 && listen(h->socket, 128) == 0) {
            return true;
        }
        int why = errno;
        close(h->socket);
        h->socket = -1;
        errno = why;
    }
    return false;
}

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
    struct sockaddr_storage bound;
    socklen_t size = sizeof bound;
    bool ok =
        listen_on_first(h, found) && getsockname(h->socket, (struct sockaddr *)&bound, &size) == 0;
    int why = errno;
    freeaddrinfo(found);
    if (!ok) {
        return error_set(err, ERROR_IO, "cannot listen on %s, port %d: %s (--host, --port)", host,
                         h->options.port, strerror(why));
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
    int most = most_connections();
    connections_init(&h->connections, most);
    if (most < 1) {
        http_stop(h);
        return error_set(err, ERROR_IO, "too few files may be open for a server (ulimit -n)");
    }
    if (!listen_on(h, err)) {
        http_stop(h);
        return false;
    }
    /* Some more than that may be there until they are refused. */
    unsigned limit = (unsigned)(most + (most < 256 ? most / 4 + 1 : 64));
    h->daemon = MHD_start_daemon(
        MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL,
        on_request, h, MHD_OPTION_LISTEN_SOCKET, h->socket, MHD_OPTION_NOTIFY_COMPLETED,
        on_completed, h, MHD_OPTION_NOTIFY_CONNECTION, on_connection, h,
        MHD_OPTION_UNESCAPE_CALLBACK, unescape, NULL, MHD_OPTION_STRICT_FOR_CLIENT, 1,
        MHD_OPTION_CONNECTION_LIMIT, limit, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)CONNECTION_HEAD_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY,
        MHD_OPTION_END);
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

void http_expire(struct http *h) {
    static const double every_s = 1;
    double now = clock_now();
    if (now - h->expired >= every_s) {
        h->expired = now;
        connections_expire(&h->connections, now);
    }
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
        connections_finish(&h->connections);
        free(h);
    }
}
