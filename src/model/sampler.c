#include "model/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/realmath.h"

struct sampler {
    struct sampling options;
    struct random random;
    struct seen *seen; /* [n_seen] owns; by token id */
    int n_seen;
};

/* What has been said of a token so far. */
struct seen {
    bool anywhere;    /* in the prompt or the output */
    uint32_t outputs; /* how often in the output */
};

enum { MAX_TOKEN = 1 << 24 };

struct sampling sampling_default(void) {
    return (struct sampling){.top_p = 1, .repetition_penalty = 1};
}

struct sampling sampling_recommended(const struct model_config *c) {
    struct sampling s = sampling_default();
    s.temperature = 1;
    if (c->do_sample) {
        s.temperature = c->temperature >= 0 ? c->temperature : s.temperature;
        s.top_p = c->top_p >= 0 ? c->top_p : s.top_p;
        s.top_k = c->top_k >= 0 ? c->top_k : s.top_k;
        s.min_p = c->min_p >= 0 ? c->min_p : s.min_p;
    }
    if (c->repetition_penalty >= 0) {
        s.repetition_penalty = c->repetition_penalty;
    }
    return s;
}

static bool range(bool inside, const char *name, const char *bounds, double value,
                  struct error *err) {
    return inside || error_set(err, ERROR_USAGE, "%s: must be %s, not %g", name, bounds, value);
}

static bool check_biases(const struct sampling *s, struct error *err) {
    for (int i = 0; i < s->n_bias; i++) {
        const struct logit_bias *b = &s->biases[i];
        if (b->id < 0) {
            return error_set(err, ERROR_USAGE, "logit_bias: there is no token %d", (int)b->id);
        }
        if (!range(b->bias >= -100 && b->bias <= 100, "logit_bias", "from -100 to 100", b->bias,
                   err)) {
            return false;
        }
    }
    return true;
}

bool sampling_validate(const struct sampling *s, struct error *err) {
    /* Written so that NaN is outside every range. */
    return range(s->temperature >= 0 && s->temperature <= 100, "temperature", "from 0 to 100",
                 s->temperature, err) &&
           range(s->top_k >= 0, "top_k", "0 (off) or more", s->top_k, err) &&
           range(s->top_p > 0 && s->top_p <= 1, "top_p", "above 0 and at most 1", s->top_p, err) &&
           range(s->min_p >= 0 && s->min_p <= 1, "min_p", "from 0 to 1", s->min_p, err) &&
           range(s->repetition_penalty > 0 && s->repetition_penalty <= 100, "repetition_penalty",
                 "above 0 and at most 100", s->repetition_penalty, err) &&
           range(s->presence_penalty >= -100 && s->presence_penalty <= 100, "presence_penalty",
                 "from -100 to 100", s->presence_penalty, err) &&
           range(s->frequency_penalty >= -100 && s->frequency_penalty <= 100, "frequency_penalty",
                 "from -100 to 100", s->frequency_penalty, err) &&
           check_biases(s, err);
}

static bool has_penalties(const struct sampling *s) {
    return s->repetition_penalty != 1 || s->presence_penalty != 0 || s->frequency_penalty != 0;
}

int sampling_candidates(const struct sampling *s) {
    if (has_penalties(s) || s->n_bias > 0) {
        return 0;
    }
    return s->temperature == 0 ? 1 : s->top_k;
}

bool sampler_create(struct sampler **out, const struct sampling *s, struct error *err) {
    if (!sampling_validate(s, err)) {
        return false;
    }
    struct sampler *p = calloc(1, sizeof *p);
    if (!p) {
        return error_set(err, ERROR_MEMORY, "cannot allocate a sampler");
    }
    p->options = *s;
    random_init(&p->random, s->seed);
    *out = p;
    return true;
}

bool sampler_accept(struct sampler *s, int32_t token, bool is_prompt, struct error *err) {
    if (token < 0 || token >= MAX_TOKEN) {
        return error_set(err, ERROR_INPUT, "token id %d is outside [0, %d)", (int)token, MAX_TOKEN);
    }
    if (!has_penalties(&s->options)) {
        return true;
    }
    if (token >= s->n_seen) {
        int n = token + token / 2 + 256;
        struct seen *grown = realloc(s->seen, (size_t)n * sizeof *grown);
        if (!grown) {
            return error_set(err, ERROR_MEMORY, "cannot allocate counts of %d tokens", n);
        }
        memset(grown + s->n_seen, 0, (size_t)(n - s->n_seen) * sizeof *grown);
        s->seen = grown;
        s->n_seen = n;
    }
    s->seen[token].anywhere = true;
    s->seen[token].outputs += is_prompt ? 0 : 1;
    return true;
}

/* ---- candidates in order ---- */

/* A heap with the best candidate on top, so that only as many are sorted as are looked at. A sorted
 * list is such a heap already. */
struct candidate {
    double value; /* the logit; -inf where it was NaN */
    int32_t id;
};

static bool better(struct candidate a, struct candidate b) {
    return a.value > b.value || (a.value == b.value && a.id < b.id);
}

static void sift_down(struct candidate *c, int n, int i) {
    struct candidate moving = c[i];
    for (int child = 2 * i + 1; child < n; child = 2 * i + 1) {
        if (child + 1 < n && better(c[child + 1], c[child])) {
            child++;
        }
        if (!better(c[child], moving)) {
            break;
        }
        c[i] = c[child];
        i = child;
    }
    c[i] = moving;
}

static void make_heap(struct candidate *c, int n) {
    for (int i = n / 2 - 1; i >= 0; i--) {
        sift_down(c, n, i);
    }
}

/* Moves the best of the first n to c[n - 1]; what is left are the first n - 1. So the sorted ones
 * gather at the end of the array, best last. */
static void pop_best(struct candidate *c, int n) {
    struct candidate best = c[0];
    c[0] = c[n - 1];
    sift_down(c, n - 1, 0);
    c[n - 1] = best;
}

/* ---- choosing ---- */

/* exp((v - max) / T): a probability but for the sum. Infinities of equal sign are equals. */
static double weight(double v, double max, double temperature) {
    return v == max ? 1 : realmath_exp((v - max) / temperature);
}

/* The kept candidates are the best of a heap of n, one by one, until a filter stops. Sorts them to
 * the end of the array, the k-th best at c[n - 1 - k]; returns how many, at least one, with the sum
 * of their weights in *sum. `total` is the sum of all n weights. */
static int keep(const struct sampling *o, struct candidate *c, int n, double total, double *sum) {
    double max = c[0].value;
    double wanted = o->top_p * total;
    int kept = 0;
    *sum = 0;
    while (kept < n && (kept == 0 || o->top_p >= 1 || *sum < wanted)) {
        double w = weight(c[0].value, max, o->temperature);
        if (kept > 0 && w < o->min_p) {
            break;
        }
        pop_best(c, n - kept);
        *sum += w;
        kept++;
    }
    return kept;
}

/* Walks the kept ones, best first, until the sum of their weights passes `target`. */
static int32_t walk(const struct sampling *o, const struct candidate *c, int n, int kept,
                    double target) {
    double max = c[n - 1].value;
    double sum = 0;
    for (int k = 0; k < kept; k++) {
        sum += weight(c[n - 1 - k].value, max, o->temperature);
        if (target < sum) {
            return c[n - 1 - k].id;
        }
    }
    return c[n - kept].id; /* rounding left the target a hair above the sum */
}

/* Without filters there is no need to sort out who is kept: everyone is. Pops until the target is
 * passed. */
static int32_t walk_heap(const struct sampling *o, struct candidate *c, int n, double target) {
    double max = c[0].value;
    double sum = 0;
    for (int left = n; left > 1; left--) {
        sum += weight(c[0].value, max, o->temperature);
        if (target < sum) {
            break;
        }
        pop_best(c, left);
    }
    return c[0].id;
}

static double total_weight(const struct sampling *o, const struct candidate *c, int n) {
    double total = 0;
    for (int i = 0; i < n; i++) {
        total += weight(c[i].value, c[0].value, o->temperature);
    }
    return total;
}

/* Chooses from a heap of n >= 1. */
static int32_t choose(struct sampler *s, struct candidate *c, int n) {
    const struct sampling *o = &s->options;
    if (o->temperature == 0) {
        return c[0].id;
    }
    double u = random_unit(&s->random);
    if (o->top_k > 0 && o->top_k < n) {
        for (int k = 0; k < o->top_k; k++) {
            pop_best(c, n - k);
        }
        c += n - o->top_k;
        n = o->top_k;
        for (int i = 0; i < n / 2; i++) { /* best first: sorted, so a heap again */
            struct candidate swap = c[i];
            c[i] = c[n - 1 - i];
            c[n - 1 - i] = swap;
        }
    }
    double total = total_weight(o, c, n);
    if (o->top_p >= 1 && o->min_p <= 0) {
        return walk_heap(o, c, n, u * total);
    }
    double sum;
    int kept = keep(o, c, n, total, &sum);
    return walk(o, c, n, kept, u * sum);
}

static double number(float v) {
    return isnan(v) ? -(double)INFINITY : (double)v;
}

bool sampler_pick(struct sampler *s, const float *values, const int32_t *ids, int n, int32_t *out,
                  struct error *err) {
    if (n < 1) {
        return error_set(err, ERROR_SHAPE, "no candidates to sample from");
    }
    struct candidate *c = malloc((size_t)n * sizeof *c);
    if (!c) {
        return error_set(err, ERROR_MEMORY, "cannot allocate %d candidates", n);
    }
    for (int i = 0; i < n; i++) {
        c[i] = (struct candidate){.value = number(values[i]), .id = ids[i]};
    }
    make_heap(c, n);
    *out = choose(s, c, n);
    free(c);
    return true;
}

static void add_biases(const struct sampling *o, float *logits, int vocab) {
    for (int i = 0; i < o->n_bias; i++) {
        const struct logit_bias *b = &o->biases[i];
        if (b->id < vocab) {
            logits[b->id] = (float)((double)logits[b->id] + b->bias);
        }
    }
}

/* Repetition as in Keskar et al., "CTRL" (2019), over prompt and output; presence and frequency
 * over the output alone, as the OpenAI API documents them. */
static void apply_penalties(const struct sampler *s, float *logits, int vocab) {
    const struct sampling *o = &s->options;
    int n = s->n_seen < vocab ? s->n_seen : vocab;
    for (int i = 0; i < n; i++) {
        const struct seen *seen = &s->seen[i];
        if (!seen->anywhere) {
            continue;
        }
        double v = (double)logits[i];
        v = v > 0 ? v / o->repetition_penalty : v * o->repetition_penalty;
        if (seen->outputs) {
            v -= o->presence_penalty + o->frequency_penalty * seen->outputs;
        }
        logits[i] = (float)v;
    }
}

bool sampler_pick_logits(struct sampler *s, float *logits, int vocab, int32_t *out,
                         struct error *err) {
    if (vocab < 1) {
        return error_set(err, ERROR_SHAPE, "no logits to sample from");
    }
    add_biases(&s->options, logits, vocab);
    if (has_penalties(&s->options)) {
        apply_penalties(s, logits, vocab);
    }
    if (s->options.temperature == 0) {
        int32_t best = 0;
        for (int i = 1; i < vocab; i++) {
            best = number(logits[i]) > number(logits[best]) ? i : best;
        }
        *out = best;
        return true;
    }
    struct candidate *c = malloc((size_t)vocab * sizeof *c);
    if (!c) {
        return error_set(err, ERROR_MEMORY, "cannot allocate %d candidates", vocab);
    }
    for (int i = 0; i < vocab; i++) {
        c[i] = (struct candidate){.value = number(logits[i]), .id = i};
    }
    make_heap(c, vocab);
    *out = choose(s, c, vocab);
    free(c);
    return true;
}

void sampler_destroy(struct sampler *s) {
    if (s) {
        free(s->seen);
        free(s);
    }
}
