/* What a server counts, and its text for Prometheus. Times in seconds. */
#pragma once

#include "base/buffer.h"
#include "leader/scheduler.h"

enum metric_time { METRIC_FIRST_TOKEN, METRIC_PER_TOKEN, METRIC_REQUEST, METRIC_TIME_COUNT };
enum { METRIC_BUCKETS = 14 };

struct metric_histogram {
    uint64_t bucket[METRIC_BUCKETS + 1]; /* the last: above all bounds */
    double sum;
};

struct metrics {
    struct metric_histogram times[METRIC_TIME_COUNT];
    uint64_t finished[FINISH_COUNT]; /* by reason */
    uint64_t failed, cancelled, refused;
    struct scheduler_stats scheduler; /* as of the last step */
};

void metrics_time(struct metrics *m, enum metric_time which, double seconds);

/* Prometheus' text format, version 0.0.4. model: as served. Errors: MEMORY. */
bool metrics_text(const struct metrics *m, const char *model, struct buffer *out,
                  struct error *err);
