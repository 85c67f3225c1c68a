/* Requests on the main thread: from the inbox to the scheduler, its events to the replies, and what
 * becomes of those whose clients went away. */
#include <time.h>

#include "base/clock.h"
#include "base/flight.h"
#include "serve/server_impl.h"

static const double silent_s = 15; /* then a stream gets a comment */
static const double flush_s = 2;   /* for the last bytes to reach their clients */

static void count(struct server *s, uint64_t *counter) {
    pthread_mutex_lock(&s->lock);
    (*counter)++;
    pthread_mutex_unlock(&s->lock);
}

static void count_end(struct server *s, const struct job *j, const struct generation_event *event) {
    double now = clock_now();
    pthread_mutex_lock(&s->lock);
    struct metrics *m = &s->metrics;
    if (event->error && event->error->kind == ERROR_INTERRUPTED) {
        m->finished[FINISH_INTERRUPTED]++;
    } else if (event->error) {
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

void server_note_error(struct server *s, const char *message) {
    pthread_mutex_lock(&s->lock);
    last_errors_note(&s->errors, time(NULL), message);
    pthread_mutex_unlock(&s->lock);
}

/* A text that is cut short by the server's own end, and not by a fault, has a finish_reason, too.
 */
static void put_failure(struct job *j, const struct error *why) {
    struct api_error e;
    struct buffer last = {0};
    if (why->kind == ERROR_INTERRUPTED && job_is_open(j) &&
        api_reply_abort(&j->reply, &last, NULL)) {
        job_put(j, 200, &last, false);
    }
    buffer_finish(&last);
    server_refusal(j->server, why, &e);
    if (e.status >= 500) { /* else the client's */
        server_note_error(j->server, e.message);
    }
    job_fail(j, &e);
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
        count(s, &s->metrics.failed);
    }
}

/* A refusal of the scheduler's. */
static void refuse(struct server *s, struct job *j, const struct error *why) {
    if (why->kind == ERROR_BUSY) {
        count(s, &s->metrics.refused);
    }
    put_failure(j, why);
}

static void schedule(struct server *s, struct job *j) {
    struct error err;
    struct api_error why;
    if (server_state(s, &why) != SERVER_READY) {
        job_fail(j, &why);
    } else if (j->model != s->model) {
        api_refuse(&why, 503, "unavailable", "unloaded", NULL, "the model '%s' has been unloaded",
                   j->model->name);
        job_fail(j, &why);
    } else if (!api_reply_init(&j->reply, &j->request, &j->model->api, &err) ||
               !scheduler_add(s->scheduler, &j->request.generate, on_event, j, &j->ticket, &err)) {
        refuse(s, j, &err);
    } else if (j->request.stream) {
        job_put(j, 200, NULL, false); /* the stream opens at once, and its client may wait */
    }
}

/* One at a time: who comes while another waits can try again. */
static void keep_command(struct server *s, struct job *j) {
    struct api_error why;
    if (server_state(s, &why) == SERVER_FAILED) {
        job_fail(j, &why);
    } else if (s->command) {
        api_refuse(&why, 409, "conflict", "busy", NULL, "another load or unload is under way");
        job_fail(j, &why);
    } else {
        job_hold(j);
        s->command = j;
    }
}

void server_take_inbox(struct server *s) {
    for (;;) {
        pthread_mutex_lock(&s->lock);
        struct job *j = s->inbox;
        if (j) {
            s->inbox = j->next;
            s->inbox_end = s->inbox ? s->inbox_end : &s->inbox;
            j->next = s->jobs;
            s->jobs = j;
        }
        pthread_mutex_unlock(&s->lock);
        if (!j) {
            return;
        }
        j->server = s;
        (j->kind == JOB_TEXT ? schedule : keep_command)(s, j);
    }
}

static void unlink_job(struct server *s, struct job **at) {
    struct job *j = *at;
    pthread_mutex_lock(&s->lock);
    *at = j->next;
    pthread_mutex_unlock(&s->lock);
    job_release(j);
}

bool server_look_after_jobs(struct server *s) {
    struct job **at = &s->jobs;
    while (*at) {
        struct job *j = *at;
        if (job_is_gone(j) && j->ticket) {
            scheduler_cancel(s->scheduler, j->ticket);
            j->ticket = NULL;
            count(s, &s->metrics.cancelled);
        }
        if (!j->ticket && job_is_sent(j)) {
            unlink_job(s, at);
        } else {
            job_keep_alive(j, silent_s);
            at = &j->next;
        }
    }
    return s->jobs != NULL;
}

struct scheduler_stats server_stats(const struct server *s) {
    struct scheduler_stats stats = {0};
    if (s->scheduler) {
        stats = scheduler_stats(s->scheduler);
    }
    stats.n_step += s->past.n_step;
    stats.prompt_tokens += s->past.prompt_tokens;
    stats.generated_tokens += s->past.generated_tokens;
    stats.step_seconds += s->past.step_seconds;
    stats.leader_seconds += s->past.leader_seconds;
    return stats;
}

void server_note_stats(struct server *s) {
    struct scheduler_stats now = server_stats(s);
    pthread_mutex_lock(&s->lock);
    s->metrics.scheduler = now;
    pthread_mutex_unlock(&s->lock);
}

void server_fail_jobs(struct server *s, const struct error *why) {
    struct api_error e;
    if (s->scheduler) {
        scheduler_fail(s->scheduler, why);
        server_note_stats(s);
    }
    server_refusal(s, why, &e);
    for (struct job *j = s->jobs; j; j = j->next) { /* commands, too */
        job_fail(j, &e);
    }
}

void server_flush(struct server *s) {
    double end = clock_now() + flush_s;
    while ((server_look_after_jobs(s) || (s->http && http_is_busy(s->http))) && clock_now() < end) {
        flight_pulse(clock_now());
        clock_sleep(0.005);
    }
    struct api_error late;
    api_refuse(&late, 503, "unavailable", NULL, NULL, "the server has ended");
    while (s->jobs) { /* the rest cannot be waited for */
        job_fail(s->jobs, &late);
        unlink_job(s, &s->jobs);
    }
}
