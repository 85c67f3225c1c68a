#include "serve/rank_stats.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "serve/metrics.h"

/* Then numbers are asked for again. Less than a second, so that who looks once a second does not
 * find them nearly old every other time. */
static const double old_s = 0.9;
static const double window_s = 3; /* of shares and rates */

void rank_stats_init(struct rank_stats *s) {
    *s = (struct rank_stats){0};
    pthread_mutex_init(&s->lock, NULL);
}

void rank_stats_finish(struct rank_stats *s) {
    free(s->told);
    free(s->pings);
    free(s->kept[0].ranks); /* the first of all */
    json_decref(s->about);
    pthread_mutex_destroy(&s->lock);
}

/* ---- collecting ---- */

bool rank_stats_know(struct rank_stats *s, json_t *about, bool timed, struct error *err) {
    size_t world = json_array_size(json_object_get(about, "ranks"));
    struct rank_numbers *numbers = calloc(world * RANK_STATS_KEPT, sizeof *numbers);
    s->told = calloc(world, sizeof *s->told);
    s->pings = calloc(world, sizeof *s->pings);
    if (world == 0 || !numbers || !s->told || !s->pings) {
        free(numbers);
        json_decref(about);
        return error_set(err, ERROR_MEMORY, "cannot tell of the ranks");
    }
    pthread_mutex_lock(&s->lock);
    s->about = about;
    s->world = (int)world;
    s->timed = timed;
    for (size_t i = 0; i < RANK_STATS_KEPT; i++) {
        s->kept[i].ranks = numbers + i * world;
    }
    pthread_mutex_unlock(&s->lock);
    return true;
}

bool rank_stats_begin(struct rank_stats *s, struct pool *p, struct error *err) {
    json_t *list = json_array();
    for (int r = 0; r < pool_world(p); r++) {
        const struct message_hello_ok *h = pool_rank(p, r);
        json_array_append_new(list, json_pack("{s:i, s:s, s:i, s:s, s:i, s:i, s:I}", "rank", r,
                                              "host", h->host, "pid", h->pid, "device", h->device,
                                              "cores", h->cores, "threads", h->threads,
                                              "memory_free", (json_int_t)h->memory));
    }
    json_t *about = json_pack("{s:i, s:s, s:s, s:o}", "world", pool_world(p), "device",
                              pool_device(p), "dtype", pool_dtype(p), "ranks", list);
    return rank_stats_know(s, about, strcmp(pool_device(p), "host") == 0, err);
}

static const struct rank_sample *newest(const struct rank_stats *s) {
    return s->n_kept ? &s->kept[s->n_kept - 1] : NULL;
}

/* Room for one more sample; the oldest goes. */
static struct rank_sample *next_sample(struct rank_stats *s) {
    if (s->n_kept == RANK_STATS_KEPT) {
        struct rank_numbers *first = s->kept[0].ranks;
        struct rank_numbers *next = s->kept[1].ranks;
        size_t stride = (size_t)s->world;
        memmove(first, next, (RANK_STATS_KEPT - 1) * stride * sizeof *first);
        for (int i = 1; i < RANK_STATS_KEPT; i++) {
            s->kept[i - 1].at = s->kept[i].at;
            s->kept[i - 1].tokens = s->kept[i].tokens;
        }
        s->n_kept--;
    }
    return &s->kept[s->n_kept];
}

void rank_stats_add(struct rank_stats *s, double at, uint64_t tokens,
                    const struct message_stats *told, const double *pings) {
    pthread_mutex_lock(&s->lock);
    struct rank_sample *now = next_sample(s);
    const struct rank_sample *before = newest(s);
    for (int r = 0; r < s->world; r++) {
        struct rank_numbers *n = &now->ranks[r];
        const struct message_stats *t = &told[r];
        double compute = t->step_s - t->wait_s - t->transfer_s;
        *n = before ? before->ranks[r] : (struct rank_numbers){0};
        n->compute_s += compute > 0 ? compute : 0; /* a counter never goes back, not by rounding */
        n->wait_s += t->wait_s;
        n->transfer_s += t->transfer_s;
        n->n_collective += t->n_collective;
        n->bytes_sent += t->bytes_sent;
        n->ping_s = pings[r];
        n->rss = t->rss;
    }
    now->at = at;
    now->tokens = tokens;
    s->n_kept++;
    s->wanted = false;
    pthread_mutex_unlock(&s->lock);
}

/* The ranks are awake from the first round trip on, so that the pings measure the way, not a nap.
 */
static bool collect(struct rank_stats *s, struct pool *p, uint64_t tokens, struct error *err) {
    double start = clock_now();
    if (!pool_stats(p, s->told, err)) {
        return false;
    }
    for (int r = 0; r < s->world; r++) {
        if (!pool_ping(p, r, &s->pings[r], err)) {
            return false;
        }
    }
    double end = clock_now();
    rank_stats_add(s, end, tokens, s->told, s->pings);
    pthread_mutex_lock(&s->lock);
    s->n_collected++;
    s->collecting_s += end - start;
    pthread_mutex_unlock(&s->lock);
    return true;
}

/* Under the lock. */
static bool is_old(const struct rank_stats *s, double now) {
    return s->n_kept == 0 || now - newest(s)->at >= old_s;
}

/* Under the lock. */
static bool is_silent(const struct rank_stats *s, double now) {
    return s->world > 1 && (s->n_kept == 0 || now - newest(s)->at >= RANK_STATS_HEARTBEAT_S);
}

bool rank_stats_tick(struct rank_stats *s, struct pool *p, bool busy, uint64_t tokens,
                     struct error *err) {
    pthread_mutex_lock(&s->lock);
    double now = clock_now();
    bool due = s->world > 0 && (busy || s->wanted ? is_old(s, now) : is_silent(s, now));
    pthread_mutex_unlock(&s->lock);
    return !due || pool_is_broken(p) || collect(s, p, tokens, err);
}

bool rank_stats_want(struct rank_stats *s) {
    pthread_mutex_lock(&s->lock);
    bool old = is_old(s, clock_now());
    s->wanted = s->wanted || old;
    pthread_mutex_unlock(&s->lock);
    return old;
}

/* ---- showing ---- */

/* The sample that the window begins with; NULL: there are not two. Samples older than the window
 * count where there is no other: then nothing ran in between, or nobody looked. */
static const struct rank_sample *window_start(const struct rank_stats *s) {
    const struct rank_sample *last = newest(s);
    for (int i = 0; i + 1 < s->n_kept; i++) {
        if (last->at - s->kept[i].at <= window_s + old_s / 2 || i + 2 == s->n_kept) {
            return &s->kept[i];
        }
    }
    return NULL;
}

static void set_real(json_t *to, const char *name, bool known, double value) {
    json_object_set_new(to, name, known ? json_real(value) : json_null());
}

static void show_rank(const struct rank_stats *s, int rank, json_t *to) {
    const struct rank_numbers *n = &newest(s)->ranks[rank];
    json_object_set_new(to, "collectives", json_integer((json_int_t)n->n_collective));
    json_object_set_new(to, "bytes_sent", json_integer((json_int_t)n->bytes_sent));
    json_object_set_new(to, "resident_bytes", json_integer((json_int_t)n->rss));
    set_real(to, "ping_seconds", true, n->ping_s);
    set_real(to, "compute_seconds", true, n->compute_s);
    set_real(to, "wait_seconds", s->timed, n->wait_s);
    set_real(to, "transfer_seconds", s->timed, n->transfer_s);
    const struct rank_sample *start = window_start(s);
    if (start) {
        const struct rank_numbers *b = &start->ranks[rank];
        double seconds = newest(s)->at - start->at;
        set_real(to, "compute_share", true, (n->compute_s - b->compute_s) / seconds);
        set_real(to, "wait_share", s->timed, (n->wait_s - b->wait_s) / seconds);
        set_real(to, "transfer_share", s->timed, (n->transfer_s - b->transfer_s) / seconds);
        set_real(to, "collectives_per_second", true,
                 (double)(n->n_collective - b->n_collective) / seconds);
        set_real(to, "bytes_per_second", true, (double)(n->bytes_sent - b->bytes_sent) / seconds);
    }
}

/* Under the lock. */
static void show(const struct rank_stats *s, json_t *to) {
    const struct rank_sample *last = newest(s), *start = window_start(s);
    size_t i;
    json_t *rank;
    if (start) {
        /* The count starts anew with another model. */
        uint64_t before = last->tokens >= start->tokens ? start->tokens : 0;
        set_real(to, "tokens_per_second", true,
                 (double)(last->tokens - before) / (last->at - start->at));
    }
    if (last) {
        set_real(to, "age_seconds", true, clock_now() - last->at);
        json_array_foreach(json_object_get(to, "ranks"), i, rank) {
            show_rank(s, (int)i, rank);
        }
    }
}

json_t *rank_stats_json(struct rank_stats *s) {
    pthread_mutex_lock(&s->lock);
    json_t *view = s->about ? json_deep_copy(s->about) : json_object();
    if (view) {
        show(s, view);
    }
    pthread_mutex_unlock(&s->lock);
    return view;
}

/* ---- Prometheus ---- */

enum field { COMPUTE, WAIT, TRANSFER, COLLECTIVES, BYTES, PING, RESIDENT, FIELD_COUNT };

static const struct {
    const char *name, *type, *help;
    bool collective_time;
} fields[] = {
    [COMPUTE] = {"rank_compute_seconds_total", "counter",
                 "Time in steps without wait and transfer; on GPUs, which do not tell these apart, "
                 "all of it.",
                 false},
    [WAIT] = {"rank_wait_seconds_total", "counter",
              "Time in the collectives of steps until the other ranks were there.", true},
    [TRANSFER] = {"rank_transfer_seconds_total", "counter",
                  "Time in the collectives of steps that moved and added data.", true},
    [COLLECTIVES] = {"rank_collectives_total", "counter", "Collectives.", false},
    [BYTES] = {"rank_sent_bytes_total", "counter", "Bytes sent to other ranks in collectives.",
               false},
    [PING] = {"rank_ping_seconds", "gauge", "The last round trip of a control message.", false},
    [RESIDENT] = {"rank_resident_memory_bytes", "gauge", "Host memory that the process holds.",
                  false},
};
_Static_assert(sizeof fields / sizeof fields[0] == FIELD_COUNT, "named fields");

static double value_of(const struct rank_numbers *n, enum field f) {
    const double values[] = {
        [COMPUTE] = n->compute_s,        [WAIT] = n->wait_s,
        [TRANSFER] = n->transfer_s,      [COLLECTIVES] = (double)n->n_collective,
        [BYTES] = (double)n->bytes_sent, [PING] = n->ping_s,
        [RESIDENT] = (double)n->rss,
    };
    return values[f];
}

/* {rank="0",host="node1",device="cuda:0"} */
static bool put_labels(const struct rank_stats *s, int rank, struct buffer *out,
                       struct error *err) {
    const json_t *r = json_array_get(json_object_get(s->about, "ranks"), (size_t)rank);
    const char *host = json_string_value(json_object_get(r, "host"));
    const char *device = json_string_value(json_object_get(r, "device"));
    return buffer_printf(out, err, "{rank=\"%d\",host=\"", rank) &&
           metrics_quote(out, host ? host : "", err) && buffer_printf(out, err, "\",device=\"") &&
           metrics_quote(out, device ? device : "", err) && buffer_printf(out, err, "\"}");
}

static bool put_field(const struct rank_stats *s, enum field f, struct buffer *out,
                      struct error *err) {
    bool ok = metrics_head(out, fields[f].name, fields[f].type, fields[f].help, err);
    for (int r = 0; ok && r < s->world; r++) {
        ok = buffer_printf(out, err, "lockstep_%s", fields[f].name) && put_labels(s, r, out, err) &&
             buffer_printf(out, err, " %.17g\n", value_of(&newest(s)->ranks[r], f));
    }
    return ok;
}

bool rank_stats_text(struct rank_stats *s, struct buffer *out, struct error *err) {
    bool ok = true;
    pthread_mutex_lock(&s->lock);
    for (int f = 0; ok && s->n_kept && f < FIELD_COUNT; f++) {
        ok = (fields[f].collective_time && !s->timed) || put_field(s, (enum field)f, out, err);
    }
    ok = ok &&
         metrics_head(out, "rank_collections_total", "counter",
                      "Times that these numbers were collected from the ranks.", err) &&
         buffer_printf(out, err, "lockstep_rank_collections_total %" PRIu64 "\n", s->n_collected) &&
         metrics_head(out, "rank_collection_seconds_total", "counter",
                      "Time that this took the leader, between steps.", err) &&
         buffer_printf(out, err, "lockstep_rank_collection_seconds_total %.17g\n", s->collecting_s);
    pthread_mutex_unlock(&s->lock);
    return ok;
}
