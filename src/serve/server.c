#include "serve/server.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/flight.h"
#include "base/log.h"
#include "base/small_file.h"
#include "base/wakeup.h"
#include "serve/server_impl.h"

enum { NAP_MS = 250 }; /* at most: a longer one hides for as long a main thread that is stuck */
static const double linger_s = 1; /* at least: a server that has failed says why */

/* ---- the state that both threads know ---- */

const char *server_state_name(enum server_state state) {
    static const char *const names[] = {"starting", "checking", "loading", "ready",
                                        "unloaded", "draining", "failed"};
    _Static_assert(sizeof names / sizeof names[0] == SERVER_STATE_COUNT, "named states");
    return names[state];
}

void server_set_state(struct server *s, enum server_state state, const char *reason) {
    static const char *const words[] = {"the ranks are being started",
                                        "the ranks are being checked",
                                        "the model is being loaded",
                                        "",
                                        "no model is loaded (POST /v1/admin/load)",
                                        "the server is shutting down",
                                        ""};
    pthread_mutex_lock(&s->lock);
    if (!atomic_load(&s->killed)) { /* else it keeps the killer's */
        s->state = state;
        snprintf(s->reason, sizeof s->reason, "%s", reason ? reason : words[state]);
    }
    pthread_mutex_unlock(&s->lock);
}

void server_refusal(const struct server *s, const struct error *why, struct api_error *out) {
    api_error_from(out, why);
    if (why->has_rank && why->rank < s->n_host) {
        snprintf(out->host, sizeof out->host, "%s", s->hosts[why->rank].name);
    }
}

/* Under the lock. */
static void tell_state(const struct server *s, struct api_error *why) {
    const char *name = server_state_name(s->state);
    if (s->state == SERVER_FAILED) {
        *why = s->refusal;
    } else if (s->state == SERVER_LOADING) {
        api_refuse(why, 503, "unavailable", name, NULL, "%s: %.0f %%", s->reason, 100 * s->loaded);
    } else {
        api_refuse(why, 503, "unavailable", name, NULL, "%s", s->reason);
    }
}

enum server_state server_state(struct server *s, struct api_error *why) {
    pthread_mutex_lock(&s->lock);
    enum server_state state = s->state;
    tell_state(s, why);
    pthread_mutex_unlock(&s->lock);
    return state;
}

struct served *server_model(struct server *s, struct api_error *why) {
    struct served *model = NULL;
    pthread_mutex_lock(&s->lock);
    if (s->state == SERVER_READY) {
        model = s->model;
        served_hold(model);
    } else {
        tell_state(s, why);
    }
    pthread_mutex_unlock(&s->lock);
    return model;
}

void server_wake(struct server *s) {
    wakeup_raise(s->wake_fd);
}

void server_submit(struct server *s, struct job *j) {
    struct api_error why;
    pthread_mutex_lock(&s->lock);
    bool closed = s->closed;
    tell_state(s, &why);
    if (!closed) {
        job_hold(j);
        *s->inbox_end = j;
        s->inbox_end = &j->next;
    }
    pthread_mutex_unlock(&s->lock);
    if (closed) { /* it came while the state was another, and was long to read */
        job_fail(j, &why);
    } else {
        server_wake(s);
    }
}

void server_stop(struct server *s) {
    atomic_store(&s->stop, true);
    server_wake(s);
}

bool server_wants_end(const struct server *s) {
    return atomic_load(&s->stop) || s->options.interrupted();
}

/* ---- the last second ---- */

/* The launcher may know sooner than this rank that one is lost, and not say which. */
static bool find_lost(const struct server *s, struct error *lost) {
    static const double patience_s = 0.3;
    double end = clock_now() + patience_s;
    bool found = false;
    while (s->options.lost && !(found = s->options.lost(lost)) && clock_now() < end) {
        clock_sleep(0.01);
    }
    return found;
}

/* Whatever the main thread is in just now: it may be a long step. */
static void say_last_words(struct server *s) {
    struct api_error e;
    struct error lost;
    bool is_lost = find_lost(s, &lost);
    pthread_mutex_lock(&s->lock);
    if (s->state != SERVER_FAILED && is_lost) {
        s->state = SERVER_FAILED;
        server_refusal(s, &lost, &s->refusal);
    } else if (s->state != SERVER_FAILED) {
        s->state = SERVER_DRAINING;
        snprintf(s->reason, sizeof s->reason, "the launcher is ending the job");
    }
    atomic_store(&s->killed, true);
    tell_state(s, &e);
    for (struct job *j = s->jobs; j; j = j->next) {
        job_fail(j, &e);
    }
    for (struct job *j = s->inbox; j; j = j->next) {
        job_fail(j, &e);
    }
    pthread_mutex_unlock(&s->lock);
}

static void *watch_for_kill(void *user) {
    struct server *s = user;
    struct pollfd fds[] = {{.fd = s->options.kill_fd, .events = POLLIN},
                           {.fd = s->end_fd, .events = POLLIN}};
    while (poll(fds, 2, -1) < 0 && errno == EINTR) {
    }
    if (fds[0].revents) {
        say_last_words(s);
    }
    return NULL;
}

/* ---- the main thread's loop ---- */

static void nap(struct server *s) {
    struct pollfd fds[] = {{.fd = s->wake_fd, .events = POLLIN},
                           {.fd = s->options.interrupt_fd, .events = POLLIN}};
    flight_pulse(clock_now() + 1e-3 * NAP_MS);
    poll(fds, 2, NAP_MS);
    wakeup_lower(s->wake_fd);
}

/* One turn: what came in, what went away, and a step where there is something to do. *idle: there
 * was not. */
static bool turn(struct server *s, bool *idle, struct error *err) {
    http_expire(s->http);
    server_take_inbox(s);
    server_look_after_jobs(s);
    *idle = !s->scheduler || scheduler_idle(s->scheduler);
    bool ok = *idle || scheduler_step(s->scheduler, err);
    server_note_stats(s); /* also where somebody has just been called off */
    return ok &&
           rank_stats_tick(&s->ranks, s->pool, !*idle, s->metrics.scheduler.generated_tokens, err);
}

bool server_finish_requests(struct server *s, double patience_s, const char *late,
                            struct error *err) {
    double end = clock_now() + patience_s;
    bool idle = !s->scheduler, hurried = false;
    while (!idle && clock_now() < end && !atomic_load(&s->killed)) {
        if (!hurried && server_wants_end(s)) { /* perhaps in the middle of an unload */
            hurried = true;
            end = fmin(end, clock_now() + s->options.drain_s);
        }
        if (!turn(s, &idle, err)) {
            return false;
        }
    }
    if (s->scheduler && !scheduler_idle(s->scheduler)) {
        struct error why;
        error_set(&why, ERROR_INTERRUPTED, "%s", late);
        scheduler_fail(s->scheduler, &why);
        server_note_stats(s);
    }
    return true;
}

static bool drain(struct server *s, struct error *err) {
    struct scheduler_stats stats = server_stats(s);
    server_set_state(s, SERVER_DRAINING, NULL);
    log_info("draining: %d running, %d waiting", stats.running, stats.waiting);
    return server_finish_requests(s, s->options.drain_s,
                                  "the server shut down before this request was finished", err);
}

static bool do_command(struct server *s, struct error *err) {
    struct job *command = s->command;
    s->command = NULL;
    bool ok = server_do(s, command, err);
    job_release(command);
    return ok;
}

static bool serve(struct server *s, struct error *err) {
    bool idle;
    while (!server_wants_end(s)) {
        if (!turn(s, &idle, err)) {
            return false;
        }
        if (s->command) {
            if (!do_command(s, err)) {
                return false;
            }
        } else if (idle) {
            nap(s);
        }
    }
    return drain(s, err);
}

/* ---- start and end ---- */

/* Where it listens, as a URL has it. */
static void address_of(const struct server *s, char *out, size_t size) {
    const char *host = s->options.host;
    snprintf(out, size, strchr(host, ':') ? "[%s]:%d" : "%s:%d", host, http_port(s->http));
}

static bool open_port(struct server *s, struct error *err) {
    const struct server_options *o = &s->options;
    const struct http_options http = {.host = o->host,
                                      .port = o->port,
                                      .api_key = o->api_key,
                                      .cors_origin = o->cors_origin,
                                      .json_log = o->json_log};
    char address[300];
    if (o->port_file) {
        small_file_remove(o->port_file); /* of an earlier server: nobody shall go there */
    }
    if (!http_start(&s->http, &http, server_handle, s, err)) {
        return false;
    }
    address_of(s, address, sizeof address);
    if (o->port_file && !small_file_write(o->port_file, address)) {
        return error_set(err, ERROR_IO, "--port-file %s: %s", o->port_file, strerror(errno));
    }
    log_info("listening on http://%s", address);
    return true;
}

static bool note_hosts(struct server *s, struct error *err) {
    int n = pool_world(s->pool);
    struct server_host *hosts = calloc((size_t)n, sizeof *hosts);
    if (!hosts) {
        return error_set(err, ERROR_MEMORY, "cannot allocate a table of %d hosts", n);
    }
    for (int r = 0; r < n; r++) {
        snprintf(hosts[r].name, sizeof hosts[r].name, "%s", pool_rank(s->pool, r)->host);
    }
    pthread_mutex_lock(&s->lock);
    s->hosts = hosts;
    s->n_host = n;
    pthread_mutex_unlock(&s->lock);
    return true;
}

static bool run(struct server *s, struct error *err) {
    if (!open_port(s, err) || !pool_hello(s->pool, false, err) || !note_hosts(s, err)) {
        return false;
    }
    server_set_state(s, SERVER_CHECKING, NULL);
    if (!pool_check(s->pool, err) || !rank_stats_begin(&s->ranks, s->pool, err)) {
        return false;
    }
    if (!server_load(s, s->options.dir, s->options.model_name, &(struct load_wish){0}, err)) {
        /* Nobody has asked for anything yet, so that there is nothing to be sorry for. */
        return err->kind == ERROR_INTERRUPTED && server_wants_end(s);
    }
    return serve(s, err);
}

/* From now on a request is refused as it comes; one that came before is failed here, for nobody
 * looks any more. */
static void close_inbox(struct server *s, const struct error *why) {
    pthread_mutex_lock(&s->lock);
    s->closed = true;
    pthread_mutex_unlock(&s->lock);
    server_take_inbox(s);
    server_fail_jobs(s, why);
    server_flush(s);
}

/* Whatever went wrong, clients hear of it first, and for a while those who come to ask. */
static void fail(struct server *s, const struct error *why) {
    struct api_error e;
    server_refusal(s, why, &e);
    server_note_error(s, e.message);
    pthread_mutex_lock(&s->lock);
    if (!atomic_load(&s->killed) || s->state != SERVER_FAILED) { /* else they have been told */
        s->state = SERVER_FAILED;
        s->refusal = e;
    }
    pthread_mutex_unlock(&s->lock);
    server_fail_jobs(s, why);
    double end = clock_now() + linger_s;
    do {
        server_take_inbox(s);
        server_flush(s);
        flight_pulse(clock_now());
        clock_sleep(0.005);
    } while (s->http && clock_now() < end && !atomic_load(&s->killed));
    close_inbox(s, why);
}

static void finish_http(struct server *s) {
    struct error late;
    error_set(&late, ERROR_INTERRUPTED, "the server is shutting down");
    http_quiesce(s->http);
    close_inbox(s, &late);
    http_stop(s->http);
    job_release(s->command);
}

static void finish(struct server *s) {
    if (s->http) {
        finish_http(s);
    }
    if (s->watching) {
        wakeup_raise(s->end_fd);
        pthread_join(s->watcher, NULL);
    }
    rank_stats_finish(&s->ranks);
    pthread_mutex_destroy(&s->lock);
    close(s->wake_fd);
    close(s->end_fd);
}

static bool start(struct server *s, struct error *err) {
    if (!wakeup_open(&s->wake_fd, err) || !wakeup_open(&s->end_fd, err)) {
        return false;
    }
    int failed = pthread_create(&s->watcher, NULL, watch_for_kill, s);
    s->watching = failed == 0;
    return s->watching ||
           error_set(err, ERROR_INTERNAL, "cannot start a thread: %s", strerror(failed));
}

static struct server *create(const struct server_options *options, struct pool *pool) {
    struct server *s = calloc(1, sizeof *s);
    if (s) {
        s->options = *options;
        s->pool = pool;
        s->wake_fd = s->end_fd = -1;
        s->inbox_end = &s->inbox;
        snprintf(s->model_name, sizeof s->model_name, "%s", options->model_name);
        rank_stats_init(&s->ranks);
        pthread_mutex_init(&s->lock, NULL);
        server_set_state(s, SERVER_STARTING, NULL);
    }
    return s;
}

bool server_run(const struct server_options *options, struct pool *pool, struct error *err) {
    struct server *s = create(options, pool);
    if (!s) {
        return error_set(err, ERROR_MEMORY, "cannot allocate the server");
    }
    if (!start(s, err) || !run(s, err)) {
        fail(s, err);
        return false; /* HTTP goes on, and says why, until the process ends */
    }
    bool ok = !s->engine || server_unload(s, NULL, err);
    if (options->port_file) {
        small_file_remove(options->port_file);
    }
    finish(s);
    free(s->hosts);
    free(s);
    return ok;
}
