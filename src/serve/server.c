#include "serve/server.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "serve/server_impl.h"

enum { TICK_MS = 1000 };
static const double silent_s = 15; /* then a stream gets a comment */
static const double flush_s = 2;   /* for the last bytes to reach their clients */

/* ---- the state that both threads know ---- */

const char *server_state_name(enum server_state state) {
    static const char *const names[] = {"checking", "loading", "ready", "draining", "failed"};
    _Static_assert(sizeof names / sizeof names[0] == SERVER_STATE_COUNT, "named states");
    return names[state];
}

static void set_state(struct server *s, enum server_state state) {
    pthread_mutex_lock(&s->lock);
    s->state = state;
    pthread_mutex_unlock(&s->lock);
}

enum server_state server_state(struct server *s, struct api_error *why) {
    static const char *const words[] = {"the ranks are being checked", "the model is being loaded",
                                        "", "the server is shutting down", ""};
    pthread_mutex_lock(&s->lock);
    enum server_state state = s->state;
    if (state == SERVER_FAILED) {
        api_error_from(why, &s->cause);
    } else if (state == SERVER_LOADING) {
        api_refuse(why, 503, "unavailable", "loading", NULL, "%s: %.0f %%", words[state],
                   100 * s->loaded);
    } else {
        api_refuse(why, 503, "unavailable", server_state_name(state), NULL, "%s", words[state]);
    }
    pthread_mutex_unlock(&s->lock);
    return state;
}

void server_wake(struct server *s) {
    uint64_t one = 1;
    if (write(s->wake_fd, &one, sizeof one) < 0) {
        /* full: then it is awake */
    }
}

void server_submit(struct server *s, struct job *j) {
    job_hold(j);
    pthread_mutex_lock(&s->lock);
    *s->inbox_end = j;
    s->inbox_end = &j->next;
    pthread_mutex_unlock(&s->lock);
    server_wake(s);
}

/* ---- jobs ---- */

static void count_end(struct server *s, const struct job *j, const struct generation_event *event) {
    double now = clock_now();
    pthread_mutex_lock(&s->lock);
    struct metrics *m = &s->metrics;
    if (event->error) {
        m->failed++;
    } else {
        m->finished[event->finish]++;
        metrics_time(m, METRIC_REQUEST, now - j->arrived);
        if (event->n_generated > 0) {
            double begun = scheduler_begun(j->ticket);
            metrics_time(m, METRIC_QUEUE, begun - j->arrived);
            metrics_time(m, METRIC_PREFILL, j->first_token - begun);
            metrics_time(m, METRIC_DECODE, j->last_token - j->first_token);
        }
        if (event->n_generated > 1) {
            metrics_time(m, METRIC_PER_TOKEN,
                         (j->last_token - j->first_token) / (event->n_generated - 1));
        }
    }
    pthread_mutex_unlock(&s->lock);
}

static void note_error(struct server *s, const char *message) {
    pthread_mutex_lock(&s->lock);
    last_errors_note(&s->errors, time(NULL), message);
    pthread_mutex_unlock(&s->lock);
}

static void put_failure(struct job *j, const struct error *why) {
    struct api_error e;
    struct buffer body = {0};
    api_error_from(&e, why);
    if (e.status >= 500) { /* else the client's */
        note_error(j->server, e.message);
    }
    bool begun = j->request.stream && j->status == 200;
    (void)(begun ? api_error_event(&e, &body, NULL) : api_error_body(&e, &body, NULL));
    job_put(j, e.status, &body, true);
    buffer_finish(&body);
}

static void time_token(struct server *s, struct job *j) {
    double now = clock_now();
    pthread_mutex_lock(&s->lock);
    if (j->first_token == 0) {
        j->first_token = now;
        metrics_time(&s->metrics, METRIC_FIRST_TOKEN, now - j->arrived);
    } else {
        metrics_time(&s->metrics, METRIC_INTER_TOKEN, now - j->last_token);
    }
    j->last_token = now;
    pthread_mutex_unlock(&s->lock);
}

/* What an event of the scheduler's adds to the reply. */
static void on_event(void *user, const struct generation_event *event) {
    struct job *j = user;
    struct server *s = j->server;
    struct buffer bytes = {0};
    struct error err;
    if (event->has_token) {
        time_token(s, j);
    }
    bool ok = true;
    if (event->error) {
        put_failure(j, event->error);
    } else if (!api_reply_event(&j->reply, event, &bytes, &err)) {
        put_failure(j, &err);
        ok = false;
    } else if (bytes.size || event->finished) {
        ok = job_put(j, 200, &bytes, event->finished);
    }
    buffer_finish(&bytes);
    if (event->finished) {
        count_end(s, j, event);
        j->ticket = NULL;
    } else if (!ok) { /* nobody reads it, or it cannot be told */
        scheduler_cancel(s->scheduler, j->ticket);
        j->ticket = NULL;
        pthread_mutex_lock(&s->lock);
        s->metrics.failed++;
        pthread_mutex_unlock(&s->lock);
    }
}

/* A refusal of the scheduler's. */
static void refuse(struct server *s, struct job *j, const struct error *why) {
    if (why->kind == ERROR_BUSY) {
        pthread_mutex_lock(&s->lock);
        s->metrics.refused++;
        pthread_mutex_unlock(&s->lock);
    }
    put_failure(j, why);
}

static void schedule(struct server *s, struct job *j) {
    struct error err;
    struct api_error why;
    struct buffer body = {0};
    j->server = s;
    j->next = s->jobs;
    s->jobs = j;
    if (server_state(s, &why) != SERVER_READY) {
        (void)api_error_body(&why, &body, NULL);
        job_put(j, why.status, &body, true);
        buffer_finish(&body);
    } else if (!api_reply_init(&j->reply, &j->request, &s->model, &err) ||
               !scheduler_add(s->scheduler, &j->request.generate, on_event, j, &j->ticket, &err)) {
        refuse(s, j, &err);
    } else if (j->request.stream) {
        job_put(j, 200, NULL, false); /* the stream opens at once, and its client may wait */
    }
}

static void take_inbox(struct server *s) {
    pthread_mutex_lock(&s->lock);
    struct job *first = s->inbox;
    s->inbox = NULL;
    s->inbox_end = &s->inbox;
    pthread_mutex_unlock(&s->lock);
    while (first) {
        struct job *j = first;
        first = j->next;
        schedule(s, j);
    }
}

/* Lets go of jobs that are sent, and of those whose clients are. True: there are others. */
static bool look_after_jobs(struct server *s) {
    struct job **at = &s->jobs;
    while (*at) {
        struct job *j = *at;
        if (job_is_gone(j) && j->ticket) {
            scheduler_cancel(s->scheduler, j->ticket);
            j->ticket = NULL;
            pthread_mutex_lock(&s->lock);
            s->metrics.cancelled++;
            pthread_mutex_unlock(&s->lock);
        }
        if (!j->ticket && job_is_sent(j)) {
            *at = j->next;
            job_release(j);
        } else {
            job_keep_alive(j, silent_s);
            at = &j->next;
        }
    }
    return s->jobs != NULL;
}

static void note_stats(struct server *s) {
    pthread_mutex_lock(&s->lock);
    s->metrics.scheduler = scheduler_stats(s->scheduler);
    pthread_mutex_unlock(&s->lock);
}

/* ---- the main thread's loop ---- */

static void nap(struct server *s, bool waiting) {
    uint64_t ignored;
    struct pollfd fds[] = {{.fd = s->wake_fd, .events = POLLIN},
                           {.fd = s->options.interrupt_fd, .events = POLLIN}};
    poll(fds, 2, waiting ? TICK_MS : -1);
    if (read(s->wake_fd, &ignored, sizeof ignored) < 0) {
        /* nobody woke us */
    }
}

/* The client's last bytes are on their way. */
static void flush(struct server *s) {
    double end = clock_now() + flush_s;
    while (look_after_jobs(s) && clock_now() < end) {
        clock_sleep(0.005);
    }
    while (s->jobs) { /* the rest cannot be waited for */
        struct job *j = s->jobs;
        s->jobs = j->next;
        job_put(j, 503, NULL, true);
        job_release(j);
    }
}

static void fail_jobs(struct server *s, const struct error *why) {
    if (s->scheduler) {
        scheduler_fail(s->scheduler, why);
        note_stats(s);
    }
}

/* Requests that run may finish; what still runs after the deadline ends with an error event. */
static bool drain(struct server *s, struct error *err) {
    double end = clock_now() + s->options.drain_s;
    set_state(s, SERVER_DRAINING);
    log_info("draining: %d requests run or wait",
             scheduler_stats(s->scheduler).running + scheduler_stats(s->scheduler).waiting);
    while (!scheduler_idle(s->scheduler) && clock_now() < end) {
        take_inbox(s);
        look_after_jobs(s);
        if (!scheduler_step(s->scheduler, err)) {
            return false;
        }
        note_stats(s);
    }
    struct error late;
    error_set(&late, ERROR_INTERRUPTED, "the server shut down before this request was finished");
    fail_jobs(s, &late);
    return true;
}

static bool serve(struct server *s, struct error *err) {
    set_state(s, SERVER_READY);
    while (!s->options.interrupted()) {
        take_inbox(s);
        bool any = look_after_jobs(s);
        if (scheduler_idle(s->scheduler)) {
            note_stats(s); /* somebody may just have been called off */
            nap(s, any);
        } else if (!scheduler_step(s->scheduler, err)) {
            return false;
        }
        note_stats(s);
        if (!rank_stats_tick(&s->ranks, s->pool, !scheduler_idle(s->scheduler),
                             s->metrics.scheduler.generated_tokens, err)) {
            return false;
        }
    }
    return drain(s, err);
}

/* ---- start and end ---- */

static bool report(void *user, uint64_t done, uint64_t total, struct error *err) {
    struct server *s = user;
    if (s->options.interrupted()) {
        return error_set(err, ERROR_INTERRUPTED, "interrupted while loading");
    }
    pthread_mutex_lock(&s->lock);
    s->loaded = total ? (double)done / (double)total : 0;
    pthread_mutex_unlock(&s->lock);
    return true;
}

static bool load(struct server *s, struct error *err) {
    const struct server_options *o = &s->options;
    struct engine_options engine = {.dir = o->dir,
                                    .ctx = o->ctx,
                                    .max_seqs = o->max_batch,
                                    .max_tok = o->max_batch + o->prefill_chunk,
                                    .progress = {.report = report, .user = s}};
    struct scheduler_options scheduler = {.max_batch = o->max_batch,
                                          .prefill_chunk = o->prefill_chunk,
                                          .max_waiting = o->max_waiting};
    struct model_config config;
    if (!model_config_load(&config, o->dir, err) ||
        !tokenizer_load(&s->tokenizer, o->dir, config.vocab, err) ||
        !engine_open(&s->engine, s->pool, &engine, err) ||
        !scheduler_create(&s->scheduler, s->engine, s->tokenizer, &scheduler, err)) {
        return false;
    }
    s->model.tokenizer = s->tokenizer;
    s->model.created = time(NULL);
    log_info("loaded %s: %.1f MB in %.2f s", o->dir, (double)engine_load_bytes(s->engine) / 1e6,
             engine_load_seconds(s->engine));
    return true;
}

static bool write_port(const struct server *s, struct error *err) {
    const char *path = s->options.port_file;
    FILE *f = path ? fopen(path, "we") : NULL;
    if (!path) {
        return true;
    }
    bool ok = f && fprintf(f, "%s:%d\n", s->options.host, http_port(s->http)) > 0;
    ok = (f ? fclose(f) == 0 : false) && ok;
    return ok || error_set(err, ERROR_IO, "--port-file %s: %s", path, strerror(errno));
}

static bool run(struct server *s, struct error *err) {
    const struct server_options *o = &s->options;
    const struct http_options http = {
        .host = o->host, .port = o->port, .api_key = o->api_key, .json_log = o->json_log};
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->wake_fd < 0) {
        return error_set(err, ERROR_INTERNAL, "eventfd: %s", strerror(errno));
    }
    if (!http_start(&s->http, &http, server_handle, s, err) || !write_port(s, err)) {
        return false;
    }
    log_info("listening on http://%s:%d", o->host, http_port(s->http));
    if (!pool_start(s->pool, err) || !rank_stats_begin(&s->ranks, s->pool, err)) {
        return false;
    }
    set_state(s, SERVER_LOADING);
    return load(s, err) && serve(s, err);
}

/* Whatever went wrong, clients hear of it first. */
static void fail(struct server *s, const struct error *why) {
    struct api_error e;
    api_error_from(&e, why);
    note_error(s, e.message);
    pthread_mutex_lock(&s->lock);
    s->state = SERVER_FAILED;
    s->cause = *why;
    pthread_mutex_unlock(&s->lock);
    fail_jobs(s, why);
}

static void finish(struct server *s) {
    if (s->http) {
        http_quiesce(s->http);
        take_inbox(s);
        flush(s);
        http_stop(s->http);
    }
    scheduler_destroy(s->scheduler);
    tokenizer_destroy(s->tokenizer);
    rank_stats_finish(&s->ranks);
    pthread_mutex_destroy(&s->lock);
    if (s->wake_fd >= 0) {
        close(s->wake_fd);
    }
}

bool server_run(const struct server_options *options, struct pool *pool, struct error *err) {
    struct server s = {.options = *options, .pool = pool, .wake_fd = -1};
    struct error at_close;
    s.model.name = options->model_name;
    s.inbox_end = &s.inbox;
    rank_stats_init(&s.ranks);
    pthread_mutex_init(&s.lock, NULL);
    bool ok = run(&s, err);
    if (!ok) {
        fail(&s, err);
    }
    finish(&s);
    if (s.engine && !engine_close(s.engine, &at_close) && ok) {
        *err = at_close;
        ok = false;
    }
    return ok;
}
