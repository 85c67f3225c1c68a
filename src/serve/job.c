#include "serve/job.h"

#include <microhttpd.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

static bool create(struct job **out, enum job_kind kind, struct error *err) {
    struct job *j = calloc(1, sizeof *j);
    if (!j) {
        return error_set(err, ERROR_MEMORY, "cannot allocate a request");
    }
    j->kind = kind;
    j->arrived = j->last_output = clock_now();
    atomic_init(&j->n_ref, 1);
    pthread_mutex_init(&j->lock, NULL);
    *out = j;
    return true;
}

bool job_create(struct job **out, struct api_request *request, struct served *model,
                struct error *err) {
    struct job *j;
    if (!create(&j, JOB_TEXT, err)) {
        return false;
    }
    j->request = *request;
    *request = (struct api_request){0};
    /* What points into the request goes with it. */
    j->request.generate.prompt = j->request.prompt.ids;
    j->request.generate.stops = (const char *const *)j->request.stops;
    j->model = model;
    *out = j;
    return true;
}

bool job_create_load(struct job **out, char *wanted, const struct load_wish *wish,
                     struct error *err) {
    if (!create(out, JOB_LOAD, err)) {
        return false;
    }
    (*out)->wanted = wanted;
    (*out)->wish = *wish;
    return true;
}

bool job_create_unload(struct job **out, double patience_s, struct error *err) {
    if (!create(out, JOB_UNLOAD, err)) {
        return false;
    }
    (*out)->patience_s = patience_s;
    return true;
}

void job_hold(struct job *j) {
    atomic_fetch_add(&j->n_ref, 1);
}

void job_release(struct job *j) {
    if (j && atomic_fetch_sub(&j->n_ref, 1) == 1) {
        api_request_finish(&j->request);
        api_reply_finish(&j->reply);
        served_release(j->model);
        free(j->wanted);
        buffer_finish(&j->out);
        pthread_mutex_destroy(&j->lock);
        free(j);
    }
}

/* Under the lock. */
static void resume(struct job *j) {
    if (j->suspended) {
        MHD_resume_connection(j->suspended);
        j->suspended = NULL;
    }
}

/* Under the lock. The first stands, and is not written again: who has seen it needs no lock. */
static void set_status(struct job *j, int status) {
    if (j->status == 0) {
        j->status = status;
    }
}

/* Under the lock. The bytes to send; with too many of them unsent, the end of the stream. */
static bool put_bytes(struct job *j, const struct buffer *bytes) {
    struct api_error e;
    j->last_output = clock_now();
    if (!j->request.stream || j->out.size - j->sent <= JOB_MAX_UNSENT) {
        return buffer_append(&j->out, bytes->data, bytes->size, NULL);
    }
    api_refuse(&e, MHD_HTTP_SERVICE_UNAVAILABLE, "slow_reader", NULL, NULL,
               "the stream ends here: it was read too slowly, and %d bytes of it wait",
               JOB_MAX_UNSENT);
    (void)api_error_event(&e, &j->out, NULL);
    return false;
}

/* Under the lock. */
static bool is_open(const struct job *j) {
    return j->request.stream && j->status == 200 && !j->done;
}

bool job_is_open(struct job *j) {
    pthread_mutex_lock(&j->lock);
    bool open = is_open(j);
    pthread_mutex_unlock(&j->lock);
    return open;
}

bool job_put(struct job *j, int status, const struct buffer *bytes, bool done) {
    bool ok = true;
    pthread_mutex_lock(&j->lock);
    set_status(j, status);
    if (j->done && !j->gone) {
        ok = false;
    } else if (bytes && bytes->size && !j->gone) {
        ok = put_bytes(j, bytes);
    }
    j->done = j->done || done || !ok;
    resume(j);
    pthread_mutex_unlock(&j->lock);
    return ok;
}

void job_fail(struct job *j, const struct api_error *e) {
    pthread_mutex_lock(&j->lock);
    if (!j->done) {
        bool begun = j->request.stream && j->status == 200;
        set_status(j, e->status);
        (void)(begun ? api_error_event : api_error_body)(e, &j->out, NULL);
        j->done = true;
        resume(j);
    }
    pthread_mutex_unlock(&j->lock);
}

/* Under the lock. A comment, which every client skips. */
static void put_comment(struct job *j) {
    static const char comment[] = ": still there\n\n";
    (void)buffer_append(&j->out, comment, sizeof comment - 1, NULL);
    j->last_output = clock_now();
    resume(j);
}

/* Under the lock. */
static void give_up(struct job *j) {
    struct api_error e;
    if (j->status == 0) { /* in case that somebody reads it after all */
        api_refuse(&e, JOB_CLIENT_GONE, "invalid_request_error", "half_closed", NULL,
                   "the client has ended its half of the connection, and was taken to be gone; a "
                   "stream would go on");
        (void)api_error_body(&e, &j->out, NULL);
    }
    set_status(j, JOB_CLIENT_GONE);
    j->gone = j->done = true;
    resume(j);
}

/* A suspended connection notices nothing by itself, so its socket is asked: not for bytes, which
 * may stand there unread before the end. It cannot be closed meanwhile, as only a connection that
 * is not suspended is.
 *
 * Who will send no more may still read, or be gone: what is sent to somebody who is gone comes back
 * as a reset. A stream is sent a comment, to see; a whole reply has nothing to be sent before its
 * time, and its client is taken to be gone. */
bool job_is_gone(struct job *j) {
    pthread_mutex_lock(&j->lock);
    struct pollfd fd = {.fd = j->socket, .events = POLLRDHUP};
    if (j->suspended && poll(&fd, 1, 0) > 0) {
        if ((fd.revents & ~POLLRDHUP) || !is_open(j)) { /* hung up, or reset */
            give_up(j);
        } else if (!j->half_closed) {
            j->half_closed = true;
            put_comment(j);
        }
    }
    bool gone = j->gone;
    pthread_mutex_unlock(&j->lock);
    return gone;
}

bool job_is_sent(struct job *j) {
    pthread_mutex_lock(&j->lock);
    bool sent = j->gone || (j->done && j->sent == j->out.size);
    pthread_mutex_unlock(&j->lock);
    return sent;
}

void job_keep_alive(struct job *j, double silent_s) {
    pthread_mutex_lock(&j->lock);
    if (is_open(j) && j->suspended && clock_now() - j->last_output > silent_s) {
        put_comment(j);
    }
    pthread_mutex_unlock(&j->lock);
}

/* Under the lock, which whoever resumes takes too. */
static void suspend(struct job *j, struct MHD_Connection *c) {
    j->suspended = c;
    MHD_suspend_connection(c);
}

bool job_await(struct job *j, struct MHD_Connection *c, int socket, bool whole) {
    pthread_mutex_lock(&j->lock);
    bool ready = j->status != 0 && (j->done || (!whole && j->status == 200));
    j->socket = socket;
    if (!ready) {
        suspend(j, c);
    }
    pthread_mutex_unlock(&j->lock);
    return ready;
}

/* Under the lock. Forgets what is sent, so that a long stream stays small: at once where it is all,
 * else from time to time. */
static void forget_sent(struct job *j) {
    if (j->sent == j->out.size) {
        buffer_clear(&j->out);
        j->sent = 0;
    } else if (j->sent >= JOB_MAX_UNSENT) {
        j->out.size -= j->sent;
        memmove(j->out.data, j->out.data + j->sent, j->out.size);
        j->sent = 0;
    }
}

long job_read(struct job *j, struct MHD_Connection *c, char *to, size_t n) {
    pthread_mutex_lock(&j->lock);
    size_t left = j->out.size - j->sent;
    long got = (long)(left < n ? left : n);
    if (got > 0) {
        memcpy(to, j->out.data + j->sent, (size_t)got);
        j->sent += (size_t)got;
        forget_sent(j);
    } else if (j->done) {
        got = -1;
    } else {
        suspend(j, c);
    }
    pthread_mutex_unlock(&j->lock);
    return got;
}

void job_hang_up(struct job *j) {
    pthread_mutex_lock(&j->lock);
    j->suspended = NULL;
    j->gone = true;
    pthread_mutex_unlock(&j->lock);
}
