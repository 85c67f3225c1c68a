/* Measures what rank 0 does with a row of logits, in milliseconds of CPU time a token:
 *
 *   bench_sampler [TOKENS [VOCAB]]
 *
 * for rows that are flat, as random weights make them, and peaked, as trained ones do, in every way
 * that a request may ask for. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/random.h"
#include "device/host/row.h"
#include "model/logprob.h"
#include "model/sampler.h"

enum { MAX_TOKENS = 10000, SAID = 500 };

struct way {
    const char *name;
    double temperature, top_p, min_p, repetition, presence;
    int top_k, logprobs;
};

static const struct way ways[] = {
    {"greedy, from all logits", 0, 1, 0, 1, 0, 0, 0},
    {"temperature 1", 1, 1, 0, 1, 0, 0, 0},
    {"temperature 1, logprobs 5", 1, 1, 0, 1, 0, 0, 5},
    {"temperature 1, logprobs 20", 1, 1, 0, 1, 0, 0, 20},
    {"temperature 0.7, top_p 0.9", 0.7, 0.9, 0, 1, 0, 0, 0},
    {"temperature 1, top_p 0.1", 1, 0.1, 0, 1, 0, 0, 0},
    {"temperature 1, min_p 0.05", 1, 1, 0.05, 1, 0, 0, 0},
    {"top_k 20, top_p 0.95", 0.6, 0.95, 0, 1, 0, 20, 0},
    {"top_k 1000", 1, 1, 0, 1, 0, 1000, 0},
    {"top_k 20000, top_p 0.9", 1, 0.9, 0, 1, 0, 20000, 0},
    {"penalties, top_p 0.9", 0.7, 0.9, 0, 1.1, 0.5, 0, 0},
};

static void die(const struct error *err) {
    fprintf(stderr, "bench_sampler: %s\n", err->message);
    exit(1);
}

/* About normal. */
static double noise(struct random *r) {
    double sum = -6;
    for (int i = 0; i < 12; i++) {
        sum += random_unit(r);
    }
    return sum;
}

/* Of this thread, for the machine may have other work. */
static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void make_row(float *row, int n, bool peaked) {
    struct random r;
    random_init(&r, 5);
    for (int i = 0; i < n; i++) {
        row[i] = (float)(peaked ? 2.5 * noise(&r) : 0.3 * noise(&r));
    }
    for (int i = 0; i < 30 && peaked; i++) {
        row[random_u64(&r) % (uint64_t)n] = (float)(22 - 0.5 * i);
    }
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static struct sampler *make_sampler(const struct way *way, int n) {
    struct sampling o = sampling_default();
    struct sampler *s;
    struct error err;
    o.temperature = way->temperature;
    o.top_k = way->top_k;
    o.top_p = way->top_p;
    o.min_p = way->min_p;
    o.repetition_penalty = way->repetition;
    o.presence_penalty = way->presence;
    if (!sampler_create(&s, &o, &err)) {
        die(&err);
    }
    for (int i = 0; i < SAID; i++) {
        if (!sampler_accept(s, (int32_t)((int64_t)i * 7919 % n), i % 2, &err)) {
            die(&err);
        }
    }
    return s;
}

/* What generation.c does. */
static double one_token(struct sampler *s, const struct way *way, float *logits, float *copy, int n,
                        int32_t *id) {
    struct error err;
    double start = cpu_seconds();
    if (way->logprobs) {
        memcpy(copy, logits, (size_t)n * sizeof *copy);
    }
    if (!sampler_pick_logits(s, logits, n, id, &err)) {
        die(&err);
    }
    if (way->logprobs) {
        float values[20];
        int32_t ids[20];
        row_top_k(values, ids, copy, n, way->logprobs);
        *id += logprob_of_row(copy, n, ids[0]) > 0;
    }
    return cpu_seconds() - start;
}

static void measure(const struct way *way, const float *row, int n, int tokens) {
    static double seconds[MAX_TOKENS];
    float *logits = malloc((size_t)n * sizeof *logits), *copy = malloc((size_t)n * sizeof *copy);
    struct sampler *s = make_sampler(way, n);
    int64_t sum = 0;
    for (int i = 0; i < tokens; i++) {
        int32_t id;
        memcpy(logits, row, (size_t)n * sizeof *logits);
        seconds[i] = one_token(s, way, logits, copy, n, &id);
        sum += id;
    }
    qsort(seconds, (size_t)tokens, sizeof *seconds, by_value);
    printf("  %-28s %8.3f  (%.3f .. %.3f)  %lld\n", way->name, 1e3 * seconds[tokens / 2],
           1e3 * seconds[tokens / 10], 1e3 * seconds[tokens * 9 / 10], (long long)(sum / tokens));
    sampler_destroy(s);
    free(logits);
    free(copy);
}

int main(int argc, char **argv) {
    int tokens = argc > 1 ? atoi(argv[1]) : 200, n = argc > 2 ? atoi(argv[2]) : 151936;
    if (tokens < 1 || tokens > MAX_TOKENS || n < 1) {
        fprintf(stderr, "usage: bench_sampler [TOKENS [VOCAB]]\n");
        return 2;
    }
    float *row = malloc((size_t)n * sizeof *row);
    for (int peaked = 0; peaked < 2; peaked++) {
        make_row(row, n, peaked);
        printf("%s, %d logits: ms a token, the median of %d (10 %% .. 90 %%), and the mean id\n",
               peaked ? "peaked" : "flat", n, tokens);
        for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
            measure(&ways[i], row, n, tokens);
        }
    }
    free(row);
    return 0;
}
