/* The metrics' text: histograms add up, and labels are quoted. */
#include "test.h"

#include <string.h>

#include "serve/metrics.h"

static void assert_line(const struct buffer *text, const char *line) {
    if (!memmem(text->data, text->size, line, strlen(line))) {
        fail_msg("%s\nis not in\n%.*s", line, (int)text->size, (char *)text->data);
    }
}

static void text(void **state) {
    (void)state;
    struct metrics m = {.finished = {[FINISH_LENGTH] = 3}, .failed = 1};
    struct buffer out = {0};
    struct error err;
    m.finished[FINISH_INTERRUPTED] = 2;
    metrics_time(&m, METRIC_INTER_TOKEN, 0.001);
    m.scheduler = (struct scheduler_stats){.running = 2, .blocks_used = 1, .blocks_total = 4};
    metrics_time(&m, METRIC_FIRST_TOKEN, 0.001);
    metrics_time(&m, METRIC_FIRST_TOKEN, 0.3);
    metrics_time(&m, METRIC_FIRST_TOKEN, 1e6);
    assert_ok(metrics_text(&m, "a\"b\\c\nd", &out, &err), &err);
#define LABEL "model_name=\"a\\\"b\\\\c\\nd\""
    assert_line(&out, "\n# TYPE lockstep_num_requests_waiting gauge\n");
    assert_line(&out, "lockstep_num_requests_running{" LABEL "} 2\n");
    assert_line(&out, "lockstep_kv_cache_usage_perc{" LABEL "} 0.25\n");
    assert_line(&out, "lockstep_request_success_total{" LABEL ",finished_reason=\"length\"} 3\n");
    assert_line(&out, "lockstep_request_success_total{" LABEL ",finished_reason=\"abort\"} 2\n");
    assert_line(&out, "_token_latency_seconds_bucket{" LABEL ",le=\"0.0005\"} 0\n");
    assert_line(&out, "_token_latency_seconds_bucket{" LABEL ",le=\"0.001\"} 1\n");
    assert_line(&out, "lockstep_request_failure_total{" LABEL "} 1\n");
    assert_line(&out, "_first_token_seconds_bucket{" LABEL ",le=\"0.005\"} 1\n");
    assert_line(&out, "_first_token_seconds_bucket{" LABEL ",le=\"0.25\"} 1\n");
    assert_line(&out, "_first_token_seconds_bucket{" LABEL ",le=\"0.5\"} 2\n");
    assert_line(&out, "_first_token_seconds_bucket{" LABEL ",le=\"7680\"} 2\n");
    assert_line(&out, "_first_token_seconds_bucket{" LABEL ",le=\"+Inf\"} 3\n");
    assert_line(&out, "_first_token_seconds_count{" LABEL "} 3\n");
    buffer_finish(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(text)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
