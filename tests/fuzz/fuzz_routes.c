/* A request as the HTTP server hands it on: method, path and body, with zero bytes between. */
#include <sys/eventfd.h>
#include <unistd.h>

#include <string.h>

#include "config.h"
#include "format/json.h"
#include "fuzz.h"
#include "serve/server_impl.h"

static bool never(void) {
    return false;
}

static struct server *server(void) {
    static struct server s;
    struct error err = {0};
    if (s.inbox_end) {
        return &s;
    }
    s.inbox_end = &s.inbox;
    s.options.interrupted = never;
    s.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    rank_stats_init(&s.ranks);
    pthread_mutex_init(&s.lock, NULL);
    FUZZ_CHECK(s.wake_fd >= 0);
    if (!served_create(&s.model, LOCKSTEP_SOURCE_DIR "/tests/data/tiny-qwen3", "tiny", &err)) {
        fprintf(stderr, "%s\n", err.message);
        abort();
    }
    snprintf(s.model_name, sizeof s.model_name, "tiny");
    return &s;
}

/* Nobody will do the job. */
static void drop_jobs(struct server *s, struct job *answered) {
    uint64_t ignored;
    while (s->inbox) {
        struct job *j = s->inbox;
        s->inbox = j->next;
        job_release(j);
    }
    s->inbox_end = &s->inbox;
    if (answered) {
        job_release(answered);
    }
    FUZZ_CHECK(read(s->wake_fd, &ignored, sizeof ignored) != 0);
    s->stop = false;
}

static void check_answer(const struct http_answer *a) {
    struct error err;
    json_t *json;
    if (a->job || (a->status == 200 && a->type)) { /* the page, or metrics */
        return;
    }
    FUZZ_CHECK(a->status >= 200 && a->status != 500);
    FUZZ_CHECK(json_parse(&json, "answer", (const char *)a->body.data, a->body.size, JSON_ALLOW_NUL,
                          &err));
    FUZZ_CHECK(a->status < 400 || json_object_get(json, "error") ||
               json_object_get(json, "status"));
    json_decref(json);
}

/* A part as a string of its own. */
static const char *text_of(struct fuzz_input part, char *out, size_t size) {
    size_t n = part.size < size - 1 ? part.size : size - 1;
    if (n > 0) {
        memcpy(out, part.data, n);
    }
    out[n] = 0;
    return out;
}

void fuzz_one(struct fuzz_input in) {
    struct server *s = server();
    char method[32], path[600];
    text_of(fuzz_part(&in), method, sizeof method);
    text_of(fuzz_part(&in), path, sizeof path);
    char *body = malloc(in.size + 1);
    struct http_answer answer = {.status = 200};
    FUZZ_CHECK(body);
    text_of(in, body, in.size + 1);
    /* An odd first letter asks a server without a model. */
    s->state = method[0] == 'g' || method[0] == 'p' ? SERVER_UNLOADED : SERVER_READY;
    method[0] = method[0] == 'g' ? 'G' : method[0] == 'p' ? 'P' : method[0];
    server_handle(s, method, path, body, in.size, &answer);
    check_answer(&answer);
    drop_jobs(s, answer.job);
    buffer_finish(&answer.body);
    free(body);
}
