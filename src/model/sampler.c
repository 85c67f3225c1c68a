#include "model/sampler.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/realmath.h"
#include "device/host/row.h"
#include "nn/step.h"

struct sampler {
    struct sampling options;
    struct random random;
    struct seen *seen; /* [n_seen] owns; by token id */
    int n_seen;
    int32_t *said; /* [n_seen] owns; the n_said ids that are anywhere */
    int n_said;
    /* Scratch, made with the first row of logits: */
    float *values; /* [STEP_MAX_CANDIDATES] owns */
    int32_t *ids;  /* [STEP_MAX_CANDIDATES] owns */
    float *blocks; /* owns, of the weights' sums */
    int n_block;
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

/* So that the counts have room for the token. */
static bool grow_seen(struct sampler *s, int32_t token, struct error *err) {
    int n = token + token / 2 + 256;
    struct seen *seen = realloc(s->seen, (size_t)n * sizeof *seen);
    s->seen = seen ? seen : s->seen;
    int32_t *said = seen ? realloc(s->said, (size_t)n * sizeof *said) : NULL;
    s->said = said ? said : s->said;
    if (!said) {
        return error_set(err, ERROR_MEMORY, "cannot allocate counts of %d tokens", n);
    }
    memset(seen + s->n_seen, 0, (size_t)(n - s->n_seen) * sizeof *seen);
    s->n_seen = n;
    return true;
}

bool sampler_accept(struct sampler *s, int32_t token, bool is_prompt, struct error *err) {
    if (token < 0 || token >= MAX_TOKEN) {
        return error_set(err, ERROR_INPUT, "token id %d is outside [0, %d)", (int)token, MAX_TOKEN);
    }
    if (!has_penalties(&s->options)) {
        return true;
    }
    if (token >= s->n_seen && !grow_seen(s, token, err)) {
        return false;
    }
    if (!s->seen[token].anywhere) {
        s->seen[token].anywhere = true;
        s->said[s->n_said++] = token;
    }
    s->seen[token].outputs += is_prompt ? 0 : 1;
    return true;
}

/* ---- from few candidates, in order ---- */

static double number(float v) {
    return isnan(v) ? -(double)INFINITY : (double)v;
}

/* exp((v - best) / T): a probability but for the sum. Infinities of equal sign are equals. */
static double weight(const struct sampling *o, float value, float best) {
    double v = number(value), max = number(best);
    return v == max ? 1 : realmath_exp((v - max) / o->temperature);
}

/* How many of the sorted n pass top_p and min_p, at least one; the sum of their weights in *sum. */
static int keep(const struct sampling *o, const float *values, int n, double *sum) {
    double total = 0;
    for (int i = 0; i < n; i++) {
        total += weight(o, values[i], values[0]);
    }
    int kept = 0;
    *sum = 0;
    while (kept < n && (kept == 0 || o->top_p >= 1 || *sum < o->top_p * total)) {
        double w = weight(o, values[kept], values[0]);
        if (kept > 0 && w < o->min_p) {
            break;
        }
        *sum += w;
        kept++;
    }
    return kept;
}

/* Walks the kept ones, best first, until the sum of their weights passes a random share of it all.
 */
static int choose_sorted(struct sampler *s, const float *values, int n) {
    const struct sampling *o = &s->options;
    if (o->temperature == 0) {
        return 0;
    }
    double sum, passed = 0;
    int kept = keep(o, values, o->top_k > 0 && o->top_k < n ? o->top_k : n, &sum);
    double target = random_unit(&s->random) * sum;
    for (int i = 0; i < kept; i++) {
        passed += weight(o, values[i], values[0]);
        if (target < passed) {
            return i;
        }
    }
    return kept - 1; /* rounding left the target a hair above the sum */
}

bool sampler_pick(struct sampler *s, const float *values, const int32_t *ids, int n, int32_t *out,
                  struct error *err) {
    if (n < 1) {
        return error_set(err, ERROR_SHAPE, "no candidates to sample from");
    }
    *out = ids[choose_sorted(s, values, n)];
    return true;
}

/* ---- from all logits ---- */

/* Floats in their order as integers, and back. */
static int32_t key_of(float v) {
    int32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits < 0 ? bits ^ INT32_MAX : bits;
}

static float value_of(int32_t key) {
    int32_t bits = key < 0 ? key ^ INT32_MAX : key;
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

/* The least value that at most k are above; *above: how many. */
static float limit_of_top(const float *x, int n, int k, int *above) {
    int64_t low = key_of(-INFINITY), high = key_of(row_max(x, n));
    *above = 0;
    while (low < high && *above < k) {
        int64_t middle = low + (high - low) / 2;
        int count = row_count_above(x, n, value_of((int32_t)middle));
        if (count <= k) {
            high = middle;
            *above = count;
        } else {
            low = middle + 1;
        }
    }
    return value_of((int32_t)high);
}

/* Leaves the k largest logits, ties by lower id, and makes the others -inf. */
static void keep_top(float *logits, int n, int k) {
    int above, i = 0;
    float limit = limit_of_top(logits, n, k, &above);
    for (; i < n && above < k; i++) {
        above += logits[i] == limit;
        logits[i] = logits[i] >= limit ? logits[i] : -INFINITY;
    }
    for (; i < n; i++) {
        logits[i] = logits[i] > limit ? logits[i] : -INFINITY;
    }
}

/* Where the largest is infinite: its equals get 0, the others -inf. */
static void level(float *logits, int n, float max) {
    for (int i = 0; i < n; i++) {
        logits[i] = (float)number(logits[i]) == max ? 0 : -INFINITY;
    }
}

/* Makes weights of the logits, in place; returns their sum, those of the blocks in s->blocks. */
static double weigh(struct sampler *s, float *logits, int n) {
    float scale = (float)fmin(1 / s->options.temperature, (double)FLT_MAX);
    float max = row_max(logits, n);
    if (isinf(max)) {
        level(logits, n, max);
        max = 0;
    }
    double total = row_exp_sum(logits, s->blocks, logits, n, max, scale);
    if (isnan(total)) {
        for (int i = 0; i < n; i++) {
            logits[i] = isnan(logits[i]) ? 0 : logits[i];
        }
        total = row_sum_above(s->blocks, logits, n, 0, 0);
    }
    return total;
}

/* What is still to choose from: weights above this one, or equal to it with an id below end. */
struct cut {
    float weight;
    int end;
};

/* The one where the sum, by id, of the weights that are left passes the target. */
static int draw(const float *blocks, const float *w, int n, struct cut cut, double target) {
    int block = 0, found = 0;
    for (int b = 0; b < row_blocks(n); b++) {
        if (blocks[b] > 0) {
            block = b; /* the last such where rounding left the target a hair above the sum */
            if (target < (double)blocks[b]) {
                break;
            }
            target -= (double)blocks[b];
        }
    }
    int end = (block + 1) * ROW_BLOCK < n ? (block + 1) * ROW_BLOCK : n;
    double passed = 0;
    for (int i = block * ROW_BLOCK; i < end; i++) {
        if (w[i] > cut.weight || (w[i] == cut.weight && i < cut.end)) {
            found = i;
            passed += (double)w[i];
            if (target < passed) {
                break;
            }
        }
    }
    return found;
}

/* Chooses without sorting, as in FlashInfer's sampling kernels (Ye et al., 2025): draws, and where
 * the better ones alone reach top_p, the drawn one is not kept: then draws again among the better
 * ones. Each time these are half of what is too many, on average. */
static int choose_weighted(struct sampler *s, const float *w, int n, double total) {
    const struct sampling *o = &s->options;
    struct cut cut = {0, 0};
    double left = total;
    if (o->min_p > 0) {
        float least = (float)o->min_p;
        least = (double)least < o->min_p ? nextafterf(least, 2) : least;
        cut = (struct cut){least, n};
        left = row_sum_above(s->blocks, w, n, cut.weight, cut.end);
    }
    for (;;) {
        int i = draw(s->blocks, w, n, cut, random_unit(&s->random) * left);
        if (o->top_p >= 1) {
            return i;
        }
        cut = (struct cut){w[i], i};
        left = row_sum_above(s->blocks, w, n, cut.weight, cut.end);
        if (left < o->top_p * total) {
            return i;
        }
    }
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
    for (int i = 0; i < s->n_said; i++) {
        int32_t id = s->said[i];
        if (id >= vocab) {
            continue;
        }
        double v = (double)logits[id];
        v = v > 0 ? v / o->repetition_penalty : v * o->repetition_penalty;
        if (s->seen[id].outputs) {
            v -= o->presence_penalty + o->frequency_penalty * s->seen[id].outputs;
        }
        logits[id] = (float)v;
    }
}

static bool reserve(struct sampler *s, int vocab, struct error *err) {
    int n = row_blocks(vocab);
    if (n > s->n_block) {
        free(s->blocks);
        s->blocks = malloc((size_t)n * sizeof *s->blocks);
        s->n_block = s->blocks ? n : 0;
    }
    if (!s->values) {
        s->values = malloc(STEP_MAX_CANDIDATES * sizeof *s->values);
    }
    if (!s->ids) {
        s->ids = malloc(STEP_MAX_CANDIDATES * sizeof *s->ids);
    }
    return (s->blocks && s->values && s->ids) ||
           error_set(err, ERROR_MEMORY, "cannot allocate room to sample from %d logits", vocab);
}

bool sampler_pick_logits(struct sampler *s, float *logits, int vocab, int32_t *out,
                         struct error *err) {
    const struct sampling *o = &s->options;
    if (vocab < 1) {
        return error_set(err, ERROR_SHAPE, "no logits to sample from");
    }
    if (!reserve(s, vocab, err)) {
        return false;
    }
    add_biases(o, logits, vocab);
    apply_penalties(s, logits, vocab);
    int k = o->top_k < vocab ? o->top_k : vocab;
    if (o->temperature == 0) {
        *out = row_first_max(logits, vocab);
    } else if (o->top_k > 0 && k <= STEP_MAX_CANDIDATES) {
        row_top_k(s->values, s->ids, logits, vocab, k);
        *out = s->ids[choose_sorted(s, s->values, k)];
    } else {
        if (o->top_k > 0) {
            keep_top(logits, vocab, k);
        }
        *out = choose_weighted(s, logits, vocab, weigh(s, logits, vocab));
    }
    return true;
}

void sampler_destroy(struct sampler *s) {
    if (s) {
        free(s->seen);
        free(s->said);
        free(s->values);
        free(s->ids);
        free(s->blocks);
        free(s);
    }
}
