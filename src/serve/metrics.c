#include "serve/metrics.h"

#include <inttypes.h>
#include <string.h>

/* A token takes from less than a millisecond to seconds, a request up to hours. */
static const double token_bounds[METRIC_BUCKETS] = {0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01,
                                                    0.015,  0.025, 0.05,   0.075, 0.1,    0.15,
                                                    0.25,   0.5,   1,      2.5};
static const double request_bounds[METRIC_BUCKETS] = {
    0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 480, 1920, 7680};

static const double *bounds_of(enum metric_time which) {
    bool of_token = which == METRIC_INTER_TOKEN || which == METRIC_PER_TOKEN;
    return of_token ? token_bounds : request_bounds;
}

void metrics_time(struct metrics *m, enum metric_time which, double seconds) {
    struct metric_histogram *h = &m->times[which];
    const double *bounds = bounds_of(which);
    int i = 0;
    while (i < METRIC_BUCKETS && seconds > bounds[i]) {
        i++;
    }
    h->bucket[i]++;
    h->sum += seconds;
}

bool metrics_head(struct buffer *out, const char *name, const char *type, const char *help,
                  struct error *err) {
    return buffer_printf(out, err, "# HELP lockstep_%s %s\n# TYPE lockstep_%s %s\n", name, help,
                         name, type);
}

bool metrics_quote(struct buffer *out, const char *text, struct error *err) {
    bool ok = true;
    for (; ok && *text; text++) {
        ok = *text == '\n' ? buffer_append(out, "\\n", 2, err)
                           : (!strchr("\\\"", *text) || buffer_append(out, "\\", 1, err)) &&
                                 buffer_append(out, text, 1, err);
    }
    return ok;
}

static bool number(struct buffer *out, const char *name, const char *type, const char *help,
                   const char *model, double value, struct error *err) {
    return metrics_head(out, name, type, help, err) &&
           buffer_printf(out, err, "lockstep_%s{model_name=\"%s\"} %.17g\n", name, model, value);
}

static bool histogram(struct buffer *out, const char *name, const char *help, const char *model,
                      const struct metric_histogram *h, const double *bounds, struct error *err) {
    uint64_t n = 0;
    if (!metrics_head(out, name, "histogram", help, err)) {
        return false;
    }
    for (int i = 0; i < METRIC_BUCKETS; i++) {
        n += h->bucket[i];
        if (!buffer_printf(out, err,
                           "lockstep_%s_bucket{model_name=\"%s\",le=\"%g\"} %" PRIu64 "\n", name,
                           model, bounds[i], n)) {
            return false;
        }
    }
    n += h->bucket[METRIC_BUCKETS];
    return buffer_printf(out, err,
                         "lockstep_%s_bucket{model_name=\"%s\",le=\"+Inf\"} %" PRIu64
                         "\nlockstep_%s_sum{model_name=\"%s\"} %.17g\n"
                         "lockstep_%s_count{model_name=\"%s\"} %" PRIu64 "\n",
                         name, model, n, name, model, h->sum, name, model, n);
}

/* As in the replies. */
static const char *reason_name(enum finish_reason r) {
    return r == FINISH_INTERRUPTED ? "abort" : finish_reason_name(r);
}

static bool ends(const struct metrics *m, const char *model, struct buffer *out,
                 struct error *err) {
    const char *name = "request_success_total";
    bool ok = metrics_head(out, name, "counter", "Requests that finished, by reason.", err);
    for (int r = 0; ok && r < FINISH_COUNT; r++) {
        ok = buffer_printf(out, err,
                           "lockstep_%s{model_name=\"%s\",finished_reason=\"%s\"} %" PRIu64 "\n",
                           name, model, reason_name((enum finish_reason)r), m->finished[r]);
    }
    return ok &&
           number(out, "request_failure_total", "counter", "Requests that ended with an error.",
                  model, (double)m->failed, err) &&
           number(out, "request_cancelled_total", "counter", "Requests whose client went away.",
                  model, (double)m->cancelled, err) &&
           number(out, "request_refused_total", "counter", "Requests that found the queue full.",
                  model, (double)m->refused, err);
}

static bool scheduler_text(const struct scheduler_stats *s, const char *model, struct buffer *out,
                           struct error *err) {
    double used = s->blocks_total ? (double)s->blocks_used / s->blocks_total : 0;
    return number(out, "num_requests_running", "gauge", "Requests in the batch.", model, s->running,
                  err) &&
           number(out, "num_requests_waiting", "gauge", "Requests that wait for a place.", model,
                  s->waiting, err) &&
           number(out, "kv_cache_usage_perc", "gauge", "Share of the KV cache set aside; 1 is all.",
                  model, used, err) &&
           number(out, "prompt_tokens_total", "counter", "Prompt tokens fed.", model,
                  (double)s->prompt_tokens, err) &&
           number(out, "generation_tokens_total", "counter", "Tokens sampled.", model,
                  (double)s->generated_tokens, err) &&
           number(out, "steps_total", "counter", "Steps of the model.", model, (double)s->n_step,
                  err) &&
           number(out, "step_seconds_total", "counter", "Time in steps of the model.", model,
                  s->step_seconds, err) &&
           number(out, "leader_seconds_total", "counter",
                  "All other time of the leader's while requests are under way.", model,
                  s->leader_seconds, err);
}

static bool times_text(const struct metrics *m, const char *model, struct buffer *out,
                       struct error *err) {
    static const struct {
        const char *name, *help;
    } times[] = {
        [METRIC_FIRST_TOKEN] = {"time_to_first_token_seconds",
                                "From a request's arrival to its first token."},
        [METRIC_INTER_TOKEN] = {"inter_token_latency_seconds",
                                "From one token of a request to the next."},
        [METRIC_PER_TOKEN] = {"request_time_per_output_token_seconds",
                              "Between tokens, a request's mean."},
        [METRIC_REQUEST] = {"e2e_request_latency_seconds", "From arrival to the last token."},
        [METRIC_QUEUE] = {"request_queue_time_seconds",
                          "From a request's arrival to its first step."},
        [METRIC_PREFILL] = {"request_prefill_time_seconds",
                            "From a request's first step to its first token."},
        [METRIC_DECODE] = {"request_decode_time_seconds",
                           "From a request's first token to its last."},
    };
    _Static_assert(sizeof times / sizeof times[0] == METRIC_TIME_COUNT, "named times");
    bool ok = true;
    for (int i = 0; ok && i < METRIC_TIME_COUNT; i++) {
        ok = histogram(out, times[i].name, times[i].help, model, &m->times[i],
                       bounds_of((enum metric_time)i), err);
    }
    return ok;
}

bool metrics_text(const struct metrics *m, const char *model, struct buffer *out,
                  struct error *err) {
    struct buffer quoted = {0};
    bool ok = metrics_quote(&quoted, model, err) && buffer_append(&quoted, "", 1, err);
    const char *name = (const char *)quoted.data;
    ok = ok && scheduler_text(&m->scheduler, name, out, err) && ends(m, name, out, err) &&
         times_text(m, name, out, err);
    buffer_finish(&quoted);
    return ok;
}
