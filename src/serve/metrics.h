/* What a server counts, and its text for Prometheus. Times in seconds. */
#pragma once

#include "base/buffer.h"
#include "leader/scheduler.h"

enum metric_time {
    METRIC_FIRST_TOKEN, /* from a request's arrival */
    METRIC_INTER_TOKEN, /* each token after the first */
    METRIC_PER_TOKEN,   /* a request's mean of these */
    METRIC_REQUEST,
    /* Its three parts: */
    METRIC_QUEUE,   /* from arrival to its first step */
    METRIC_PREFILL, /* from there to the first token */
    METRIC_DECODE,  /* from there to the last */
    METRIC_TIME_COUNT
};
enum { METRIC_BUCKETS = 16 };

struct metric_histogram {
    uint64_t bucket[METRIC_BUCKETS + 1]; /* the last: above all bounds */
    double sum;
};

struct metrics {
    struct metric_histogram times[METRIC_TIME_COUNT];
    uint64_t finished[FINISH_COUNT]; /* by reason; INTERRUPTED is what the server's end or an unload
                                        cut short */
    uint64_t failed, cancelled, refused;
    struct scheduler_stats scheduler; /* as of the last step */
};

void metrics_time(struct metrics *m, enum metric_time which, double seconds);

/* The two lines before a metric's values; and a label's value, as the format quotes it. For metrics
 * that others count. Errors: MEMORY. */
bool metrics_head(struct buffer *out, const char *name, const char *type, const char *help,
                  struct error *err);
bool metrics_quote(struct buffer *out, const char *text, struct error *err);

/* Prometheus' text format, version 0.0.4. model: as served. Errors: MEMORY. */
bool metrics_text(const struct metrics *m, const char *model, struct buffer *out,
                  struct error *err);
