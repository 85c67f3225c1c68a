#include "test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "model/sampler.h"
#include "nn/step.h"

static struct sampler *make(struct sampling o) {
    struct sampler *s = NULL;
    struct error err;
    assert_ok(sampler_create(&s, &o, &err), &err);
    return s;
}

static int32_t pick_logits(struct sampler *s, const float *logits, int n) {
    float *copy = malloc((size_t)n * sizeof *copy);
    struct error err;
    int32_t out = -1;
    memcpy(copy, logits, (size_t)n * sizeof *copy);
    assert_ok(sampler_pick_logits(s, copy, n, &out, &err), &err);
    free(copy);
    return out;
}

static int32_t pick_once(struct sampling o, const float *logits, int n) {
    struct sampler *s = make(o);
    int32_t id = pick_logits(s, logits, n);
    sampler_destroy(s);
    return id;
}

static void random_logits(float *v, int n, uint64_t seed) {
    struct random r;
    random_init(&r, seed);
    for (int i = 0; i < n; i++) {
        v[i] = (float)(random_unit(&r) * 12 - 6);
    }
}

/* ---- greedy ---- */

static void greedy_takes_the_largest_and_the_lower_id_of_equals(void **state) {
    (void)state;
    float v[] = {1, 3, 2, 3};
    assert_int_equal(pick_once(sampling_default(), v, 4), 1);
    float zeros[] = {-0.0f, 0.0f};
    assert_int_equal(pick_once(sampling_default(), zeros, 2), 0);
}

static void nan_never_wins(void **state) {
    (void)state;
    float v[] = {NAN, -5, NAN, -4};
    float low[] = {NAN, -INFINITY};
    float all[] = {NAN, NAN, NAN};
    struct sampling o = sampling_default();
    assert_int_equal(pick_once(o, v, 4), 3);
    assert_int_equal(pick_once(o, low, 2), 0);
    assert_int_equal(pick_once(o, all, 3), 0);
    o.temperature = 1;
    for (o.seed = 0; o.seed < 50; o.seed++) {
        int32_t id = pick_once(o, v, 4);
        assert_true(id == 1 || id == 3);
        id = pick_once(o, all, 3);
        assert_in_range(id, 0, 2);
    }
}

static void infinities_are_numbers(void **state) {
    (void)state;
    float v[] = {0, INFINITY, 1, INFINITY};
    struct sampling o = sampling_default();
    assert_int_equal(pick_once(o, v, 4), 1);
    o.temperature = 1;
    bool seen[4] = {false};
    for (o.seed = 0; o.seed < 50; o.seed++) {
        seen[pick_once(o, v, 4)] = true;
    }
    assert_true(seen[1] && seen[3] && !seen[0] && !seen[2]);
}

/* ---- the distribution ---- */

enum { DRAWS = 40000, N = 8 };

static const float logits8[N] = {0.5f, 2, -1, 1.5f, 0, -3, 1, 1.75f};

/* Draws with `o` and compares with the probabilities by a chi-squared test; tokens of probability 0
 * must not come. */
static void assert_distribution(struct sampling o, const double *p) {
    int count[N] = {0};
    double chi = 0;
    int freedom = -1;
    struct sampler *s = make(o);
    for (int i = 0; i < DRAWS; i++) {
        count[pick_logits(s, logits8, N)]++;
    }
    sampler_destroy(s);
    for (int i = 0; i < N; i++) {
        if (p[i] == 0) {
            assert_int_equal(count[i], 0);
            continue;
        }
        double expected = p[i] * DRAWS;
        chi += (count[i] - expected) * (count[i] - expected) / expected;
        freedom++;
    }
    /* The 99.99 % points for 0 to 7 degrees of freedom; the seed is fixed, so this is no lottery.
     */
    static const double limit[N] = {1e-9, 15.14, 18.42, 21.11, 23.51, 25.74, 27.86, 29.88};
    assert_true(chi <= limit[freedom]);
}

/* Probabilities of the tokens in `keep`, at a temperature. */
static void softmax(double *p, double temperature, const bool *keep) {
    double sum = 0;
    for (int i = 0; i < N; i++) {
        p[i] = keep[i] ? exp((double)logits8[i] / temperature) : 0;
        sum += p[i];
    }
    for (int i = 0; i < N; i++) {
        p[i] /= sum;
    }
}

/* Order of logits8, best first. */
static const int order8[N] = {1, 7, 3, 6, 0, 4, 2, 5};

static void draws_follow_the_softmax(void **state) {
    (void)state;
    bool all[N];
    double p[N];
    memset(all, 1, sizeof all);
    for (int i = 0; i < 3; i++) {
        struct sampling o = sampling_default();
        o.temperature = i == 0 ? 1 : i == 1 ? 0.5 : 3;
        o.seed = 7;
        softmax(p, o.temperature, all);
        assert_distribution(o, p);
    }
}

static void top_k_keeps_k(void **state) {
    (void)state;
    for (int k = 1; k <= N; k++) {
        bool keep[N] = {false};
        double p[N];
        for (int i = 0; i < k; i++) {
            keep[order8[i]] = true;
        }
        struct sampling o = sampling_default();
        o.temperature = 0.8;
        o.top_k = k;
        o.seed = (uint64_t)k;
        softmax(p, o.temperature, keep);
        assert_distribution(o, p);
        o.top_k = k == N ? 1000 : k; /* more than there are is all of them */
        assert_distribution(o, p);
    }
}

static void top_p_keeps_the_fewest_that_reach_it(void **state) {
    (void)state;
    bool all[N];
    double full[N], p[N];
    memset(all, 1, sizeof all);
    softmax(full, 1, all);
    for (double top_p = 0.05; top_p < 1; top_p += 0.1) {
        bool keep[N] = {false};
        double sum = 0;
        for (int i = 0; i < N && sum < top_p; i++) {
            keep[order8[i]] = true;
            sum += full[order8[i]];
        }
        struct sampling o = sampling_default();
        o.temperature = 1;
        o.top_p = top_p;
        softmax(p, 1, keep);
        assert_distribution(o, p);
    }
    struct sampling tiny = sampling_default();
    tiny.temperature = 1;
    tiny.top_p = 1e-300;
    assert_int_equal(pick_once(tiny, logits8, N), 1);
}

/* top_p counts among what top_k left. */
static void top_k_comes_before_top_p(void **state) {
    (void)state;
    bool keep[N] = {false};
    double p[N];
    keep[1] = keep[7] = keep[3] = true; /* the best three; two of them hold 0.72 of their sum */
    softmax(p, 1, keep);
    assert_true(p[1] + p[7] > 0.7 && p[1] < 0.7);
    keep[3] = false;
    softmax(p, 1, keep);
    struct sampling o = sampling_default();
    o.temperature = 1;
    o.top_k = 3;
    o.top_p = 0.7;
    assert_distribution(o, p);
}

static void min_p_is_relative_to_the_best(void **state) {
    (void)state;
    for (double min_p = 0.01; min_p <= 1; min_p *= 1.9) {
        bool keep[N] = {false};
        double p[N];
        for (int i = 0; i < N; i++) {
            keep[i] = exp((double)logits8[i] - 2) >= min_p;
        }
        struct sampling o = sampling_default();
        o.temperature = 1;
        o.min_p = min_p;
        softmax(p, 1, keep);
        assert_distribution(o, p);
    }
}

/* ---- candidates and logits agree ---- */

static const float *sort_values;

static int by_logit(const void *pa, const void *pb) {
    int32_t a = *(const int32_t *)pa;
    int32_t b = *(const int32_t *)pb;
    float x = sort_values[a];
    float y = sort_values[b];
    return x != y ? (x < y) - (x > y) : (a > b) - (a < b);
}

static void candidates_and_logits_give_the_same_token(void **state) {
    (void)state;
    enum { VOCAB = 500, K = 40 };
    float v[VOCAB], top[K];
    int32_t ids[VOCAB];
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct sampling o = sampling_default();
        struct error err;
        int32_t from_candidates;
        random_logits(v, VOCAB, seed);
        v[7] = v[9]; /* a tie */
        for (int i = 0; i < VOCAB; i++) {
            ids[i] = i;
        }
        sort_values = v;
        qsort(ids, VOCAB, sizeof *ids, by_logit);
        for (int i = 0; i < K; i++) {
            top[i] = v[ids[i]];
        }
        o.temperature = seed % 4 ? 0.7 : 0;
        o.top_k = K;
        o.top_p = seed % 3 ? 0.9 : 1;
        o.min_p = seed % 5 ? 0.01 : 0;
        o.seed = seed;
        struct sampler *s = make(o);
        assert_ok(sampler_pick(s, top, ids, K, &from_candidates, &err), &err);
        sampler_destroy(s);
        assert_int_equal(from_candidates, pick_once(o, v, VOCAB));
    }
}

/* ---- a plain reference ---- */

enum { MAX_VOCAB = 2500 };

/* By sorting, in double precision. */
struct reference {
    int n, kept;              /* kept: by top_k */
    int32_t order[MAX_VOCAB]; /* ids, best first */
    int rank[MAX_VOCAB];      /* their places in it */
    double w[MAX_VOCAB];      /* by id; 0: not kept */
    double total, margin;     /* margin: how near a decision was, as a share of the total */
};

static void refer(struct reference *f, const float *logits, int n, const struct sampling *o) {
    static float v[MAX_VOCAB];
    f->n = n;
    for (int i = 0; i < n; i++) {
        v[i] = isnan(logits[i]) ? -INFINITY : logits[i];
        f->order[i] = i;
    }
    sort_values = v;
    qsort(f->order, (size_t)n, sizeof *f->order, by_logit);
    f->kept = o->top_k > 0 && o->top_k < n ? o->top_k : n;
    f->total = 0;
    f->margin = 1;
    double max = (double)v[f->order[0]];
    for (int i = 0; i < n; i++) {
        int32_t id = f->order[i];
        f->rank[id] = i;
        f->w[id] = (double)v[id] == max ? 1 : exp(((double)v[id] - max) / o->temperature);
        f->w[id] = i < f->kept ? f->w[id] : 0;
        f->total += f->w[id];
    }
}

/* Whether a < b, which rounding may decide otherwise where it is near. Equal are only sums of ones,
 * which are exact. */
static bool less(struct reference *f, double a, double b) {
    f->margin = a == b ? f->margin : fmin(f->margin, fabs(a - b) / f->total);
    return a < b;
}

/* Equal weights go by id, and in f32 they are equal sooner. */
static void note_neighbours(struct reference *f, int32_t id) {
    for (int i = f->rank[id] - 1; i <= f->rank[id] + 1; i += 2) {
        double w = i >= 0 && i < f->kept ? f->w[f->order[i]] : 0;
        if (w != f->w[id] && fabs(w - f->w[id]) < 1e-6 * f->w[id]) {
            f->margin = 0;
        }
    }
}

/* What the better ones than this id weigh. */
static double better_than(const struct reference *f, int32_t id) {
    double sum = 0;
    for (int i = 0; i < f->rank[id]; i++) {
        sum += f->w[f->order[i]];
    }
    return sum;
}

/* The one where the sum passes the target, of those that rank before `end`: by id, or in order. */
static int32_t refer_draw(struct reference *f, int end, double target, bool in_order) {
    double sum = 0;
    int32_t found = 0;
    for (int i = 0; i < f->n; i++) {
        int32_t id = in_order ? f->order[i] : i;
        if (f->w[id] > 0 && f->rank[id] < end) {
            found = id;
            sum += f->w[id];
            if (less(f, target, sum)) {
                break;
            }
        }
    }
    return found;
}

static int32_t refer_pick(struct reference *f, const struct sampling *o, struct random *r) {
    bool in_order = o->top_k > 0 && f->kept <= STEP_MAX_CANDIDATES;
    int end = 1;
    double p = o->top_p * f->total, sum = f->w[f->order[0]];
    while (end < f->kept && f->w[f->order[end]] >= o->min_p) {
        if (o->min_p > 0 && o->min_p < 1) {
            f->margin = fmin(f->margin, 0.1 * (f->w[f->order[end]] / o->min_p - 1));
        }
        sum += f->w[f->order[end++]];
    }
    if (in_order) {
        int all = end;
        for (sum = f->w[f->order[0]], end = 1; end < all; end++) {
            if (o->top_p < 1 && !less(f, sum, p)) {
                break;
            }
            sum += f->w[f->order[end]];
        }
        return refer_draw(f, end, random_unit(r) * sum, true);
    }
    for (;;) {
        int32_t id = refer_draw(f, end, random_unit(r) * sum, false);
        note_neighbours(f, id);
        end = f->rank[id];
        sum = better_than(f, id);
        if (o->top_p >= 1 || less(f, sum, p)) {
            return id;
        }
    }
}

enum { FLAT, TIED, PEAKED, MASKED, EQUAL, ALONE, BROKEN, LOGITS_COUNT };

static void make_logits(float *v, int n, int kind, struct random *r) {
    for (int i = 0; i < n; i++) {
        double u = random_unit(r);
        v[i] = (float)(kind == TIED     ? floor(u * 5) - 2
                       : kind == PEAKED ? pow(u, 20) * 30 + u
                       : kind == EQUAL  ? -3.5
                       : kind == ALONE  ? -(double)INFINITY
                                        : u * 12 - 6);
        if ((kind == MASKED && i % 3) || (kind == BROKEN && i % 5 == 0)) {
            v[i] = kind == MASKED || i % 2 ? -INFINITY : NAN;
        }
        if (kind == BROKEN && n % 2 && i % 50 == 7) {
            v[i] = INFINITY;
        }
    }
    if (kind == ALONE) {
        v[random_u64(r) % (uint64_t)n] = -7;
    }
}

static void the_plain_reference_gives_the_same_tokens(void **state) {
    (void)state;
    enum { CASES = 3000 };
    static const double temperatures[] = {0.7, 1, 1e-3, 0.2, 5, 100, 1e-300};
    static const double top_ps[] = {1, 0.9, 0.5, 0.1, 1e-9, 0.999};
    static const double min_ps[] = {0, 0.05, 1e-6, 0.5, 1, 1e-300};
    static const int top_ks[] = {0, 0, 1, 20, 1024, 1025, 2000, 5000};
    static const int sizes[] = {MAX_VOCAB, MAX_VOCAB - 1, 1, 2, 256, 257, 1100};
    static float v[MAX_VOCAB], copy[MAX_VOCAB];
    static struct reference f;
    int near = 0;
    struct random r;
    random_init(&r, 21);
    for (int i = 0; i < CASES; i++) {
        struct sampling o = sampling_default();
        struct random theirs;
        struct error err;
        int n = sizes[random_u64(&r) % 7], kind = i % LOGITS_COUNT;
        o.temperature = temperatures[random_u64(&r) % 7];
        o.top_p = top_ps[random_u64(&r) % 6];
        o.min_p = i % 2 ? min_ps[random_u64(&r) % 6] : 0;
        o.top_k = top_ks[random_u64(&r) % 8];
        o.seed = (uint64_t)i;
        make_logits(v, n, kind, &r);
        refer(&f, v, n, &o);
        random_init(&theirs, o.seed);
        struct sampler *s = make(o);
        for (int token = 0; token < 3; token++) {
            int32_t want = refer_pick(&f, &o, &theirs), got;
            memcpy(copy, v, (size_t)n * sizeof *v);
            assert_ok(sampler_pick_logits(s, copy, n, &got, &err), &err);
            if (f.margin < 1e-6) { /* what f32 weights may decide otherwise, and on from there */
                near++;
                break;
            }
            if (got != want) {
                fail_msg("case %d, token %d: kind %d of %d, T %g, top_k %d, top_p %g, min_p %g: %d "
                         "is not %d",
                         i, token, kind, n, o.temperature, o.top_k, o.top_p, o.min_p, (int)got,
                         (int)want);
            }
        }
        sampler_destroy(s);
    }
    print_message("%d of %d cases hang on a rounding\n", near, CASES);
    assert_true(near < CASES / 10);
}

static void the_seed_decides(void **state) {
    (void)state;
    enum { VOCAB = 300 };
    float v[VOCAB];
    int different = 0;
    random_logits(v, VOCAB, 1);
    struct sampling o = sampling_default();
    o.temperature = 1.5;
    o.seed = 11;
    struct sampler *a = make(o);
    struct sampler *b = make(o);
    o.seed = 12;
    struct sampler *c = make(o);
    for (int i = 0; i < 100; i++) {
        int32_t x = pick_logits(a, v, VOCAB);
        assert_int_equal(x, pick_logits(b, v, VOCAB));
        different += x != pick_logits(c, v, VOCAB);
    }
    assert_true(different > 50);
    sampler_destroy(a);
    sampler_destroy(b);
    sampler_destroy(c);
}

/* ---- penalties ---- */

static void penalties_change_the_logits_of_what_was_said(void **state) {
    (void)state;
    struct error err;
    float v[] = {2, 1.9f, -1, -1.05f};
    struct sampling o = sampling_default();
    o.repetition_penalty = 1.2;
    struct sampler *s = make(o);
    assert_int_equal(pick_logits(s, v, 4), 0);
    assert_ok(sampler_accept(s, 0, true, &err), &err);
    assert_int_equal(pick_logits(s, v, 4), 1); /* 2 / 1.2 < 1.9 */
    sampler_destroy(s);
    float negative[] = {-9, -9, -1, -1.05f};
    s = make(o);
    assert_ok(sampler_accept(s, 2, false, &err), &err);
    assert_int_equal(pick_logits(s, negative, 4), 3); /* -1 * 1.2 < -1.05 */
    sampler_destroy(s);
}

static void presence_and_frequency_look_at_the_output_alone(void **state) {
    (void)state;
    struct error err;
    float v[] = {2, 1.7f};
    struct sampling o = sampling_default();
    o.presence_penalty = 0.1;
    o.frequency_penalty = 0.15;
    struct sampler *s = make(o);
    assert_ok(sampler_accept(s, 0, true, &err), &err);
    assert_ok(sampler_accept(s, 0, true, &err), &err);
    assert_ok(sampler_accept(s, 0, true, &err), &err);
    assert_int_equal(pick_logits(s, v, 2), 0);
    assert_ok(sampler_accept(s, 0, false, &err), &err);
    assert_int_equal(pick_logits(s, v, 2), 0); /* 2 - 0.25 */
    assert_ok(sampler_accept(s, 0, false, &err), &err);
    assert_int_equal(pick_logits(s, v, 2), 1); /* 2 - 0.4 */
    assert_false(sampler_accept(s, -1, false, &err));
    assert_int_equal(err.kind, ERROR_INPUT);
    assert_false(sampler_accept(s, INT32_MAX, false, &err));
    assert_ok(sampler_accept(s, 100000, false, &err), &err); /* beyond these logits: no matter */
    assert_int_equal(pick_logits(s, v, 2), 1);
    sampler_destroy(s);
}

/* ---- options ---- */

static void candidates_needed(void **state) {
    (void)state;
    struct sampling o = sampling_default();
    assert_int_equal(sampling_candidates(&o), 1);
    o.temperature = 1;
    assert_int_equal(sampling_candidates(&o), 0);
    o.top_k = 40;
    assert_int_equal(sampling_candidates(&o), 40);
    o.frequency_penalty = 0.1;
    assert_int_equal(sampling_candidates(&o), 0);
    o.temperature = 0;
    assert_int_equal(sampling_candidates(&o), 0);
    const struct logit_bias bias = {3, 1};
    o = sampling_default();
    o.biases = &bias;
    o.n_bias = 1;
    assert_int_equal(sampling_candidates(&o), 0);
}

/* ---- biases ---- */

static void biases_are_added_before_penalties(void **state) {
    (void)state;
    const float v[] = {1, 3, 1.75f, -1};
    struct sampling o = sampling_default();
    const struct logit_bias forbid[] = {{1, -100}, {9, 100}, {3, 2}}; /* there is no token 9 */
    const struct logit_bias demand[] = {{3, 100}};
    o.biases = forbid;
    o.n_bias = 3;
    assert_int_equal(pick_once(o, v, 4), 2);
    o.biases = demand;
    o.n_bias = 1;
    assert_int_equal(pick_once(o, v, 4), 3);
    o.temperature = 1;
    for (o.seed = 0; o.seed < 50; o.seed++) {
        assert_int_equal(pick_once(o, v, 4), 3);
    }

    /* Biased, -1 is 3, and 1.5 penalized: less than token 2's 1.75. The other way round it would be
     * -2 + 4. */
    const struct logit_bias lift[] = {{3, 4}, {1, -100}};
    o = sampling_default();
    o.biases = lift;
    o.n_bias = 2;
    assert_int_equal(pick_once(o, v, 4), 3);
    o.repetition_penalty = 2;
    struct sampler *s = make(o);
    struct error err;
    assert_ok(sampler_accept(s, 3, true, &err), &err);
    assert_int_equal(pick_logits(s, v, 4), 2);
    sampler_destroy(s);
}

static void biases_shift_the_distribution(void **state) {
    (void)state;
    float shifted[N];
    double p[N], sum = 0;
    const struct logit_bias biases[] = {{0, 1.5}, {5, 4}, {1, -0.75}};
    struct sampling o = sampling_default();
    o.temperature = 0.8;
    o.biases = biases;
    o.n_bias = 3;
    memcpy(shifted, logits8, sizeof shifted);
    shifted[0] += 1.5f;
    shifted[5] += 4;
    shifted[1] -= 0.75f;
    for (int i = 0; i < N; i++) {
        p[i] = exp((double)shifted[i] / 0.8);
        sum += p[i];
    }
    for (int i = 0; i < N; i++) {
        p[i] /= sum;
    }
    assert_distribution(o, p);
}

/* ---- what a model's makers recommend ---- */

static void recommendations(void **state) {
    (void)state;
    struct model_config c = {.do_sample = true,
                             .temperature = 0.6,
                             .top_p = 0.95,
                             .min_p = 0.05,
                             .repetition_penalty = 1.1,
                             .top_k = 20};
    struct sampling s = sampling_recommended(&c);
    struct error err;
    assert_true(s.temperature == 0.6 && s.top_p == 0.95 && s.min_p == 0.05 && s.top_k == 20);
    assert_true(s.repetition_penalty == 1.1 && s.presence_penalty == 0 && s.n_bias == 0);
    assert_ok(sampling_validate(&s, &err), &err);
    c.do_sample = false;
    s = sampling_recommended(&c);
    assert_true(s.temperature == 1 && s.top_p == 1 && s.min_p == 0 && s.top_k == 0);
    assert_true(s.repetition_penalty == 1.1);
    c = (struct model_config){.do_sample = true,
                              .temperature = -1,
                              .top_p = -1,
                              .min_p = -1,
                              .repetition_penalty = -1,
                              .top_k = -1};
    s = sampling_recommended(&c);
    assert_true(s.temperature == 1 && s.top_p == 1 && s.min_p == 0 && s.top_k == 0);
    assert_true(s.repetition_penalty == 1);
    assert_ok(sampling_validate(&s, &err), &err);
}

static void bad_options_are_named(void **state) {
    (void)state;
    struct {
        const char *name;
        struct sampling o;
    } cases[14];
    const struct logit_bias bad_bias[] = {{1, 100.5}, {-1, 0}};
    int n = 0;
#define CASE(field, value)                                                                         \
    do {                                                                                           \
        cases[n].name = #field;                                                                    \
        cases[n].o = sampling_default();                                                           \
        cases[n++].o.field = value;                                                                \
    } while (0)
    CASE(temperature, -1);
    CASE(temperature, (double)NAN);
    CASE(temperature, (double)INFINITY);
    CASE(top_k, -1);
    CASE(top_p, 0);
    CASE(top_p, 1.5);
    CASE(min_p, -0.1);
    CASE(min_p, 2);
    CASE(repetition_penalty, 0);
    CASE(presence_penalty, (double)NAN);
    CASE(frequency_penalty, 1e9);
    for (int i = 0; i < 2; i++) {
        cases[n].name = "logit_bias";
        cases[n].o = sampling_default();
        cases[n].o.biases = &bad_bias[i];
        cases[n++].o.n_bias = 1;
    }
    for (int i = 0; i < n; i++) {
        struct error err;
        struct sampler *s;
        assert_false(sampler_create(&s, &cases[i].o, &err));
        assert_int_equal(err.kind, ERROR_USAGE);
        assert_non_null(strstr(err.message, cases[i].name));
    }
    struct sampling good = sampling_default();
    struct sampler *s = make(good);
    struct error err;
    int32_t id;
    assert_false(sampler_pick(s, NULL, NULL, 0, &id, &err));
    assert_false(sampler_pick_logits(s, NULL, 0, &id, &err));
    sampler_destroy(s);
}

/* Not a benchmark: a sort of the whole vocabulary per token would show. */
static void a_large_vocabulary_is_quick(void **state) {
    (void)state;
    enum { VOCAB = 151936, TOKENS = 10 };
    float *v = malloc(VOCAB * sizeof *v);
    random_logits(v, VOCAB, 3);
    for (int kind = 0; kind < 3; kind++) {
        struct sampling o = sampling_default();
        o.temperature = 0.7;
        o.top_k = kind == 0 ? 40 : 0;
        o.top_p = kind == 1 ? 0.9 : 1;
        struct sampler *s = make(o);
        double start = clock_now();
        for (int i = 0; i < TOKENS; i++) {
            pick_logits(s, v, VOCAB);
        }
        print_message("%s: %.2f ms a token\n",
                      kind == 0   ? "top_k"
                      : kind == 1 ? "top_p, flat"
                                  : "temperature, flat",
                      (clock_now() - start) / TOKENS * 1e3);
        sampler_destroy(s);
    }
    free(v);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_largest_and_the_lower_id_of_equals),
        cmocka_unit_test(nan_never_wins),
        cmocka_unit_test(infinities_are_numbers),
        cmocka_unit_test(draws_follow_the_softmax),
        cmocka_unit_test(top_k_keeps_k),
        cmocka_unit_test(top_p_keeps_the_fewest_that_reach_it),
        cmocka_unit_test(top_k_comes_before_top_p),
        cmocka_unit_test(min_p_is_relative_to_the_best),
        cmocka_unit_test(candidates_and_logits_give_the_same_token),
        cmocka_unit_test(the_plain_reference_gives_the_same_tokens),
        cmocka_unit_test(the_seed_decides),
        cmocka_unit_test(penalties_change_the_logits_of_what_was_said),
        cmocka_unit_test(presence_and_frequency_look_at_the_output_alone),
        cmocka_unit_test(candidates_needed),
        cmocka_unit_test(biases_are_added_before_penalties),
        cmocka_unit_test(biases_shift_the_distribution),
        cmocka_unit_test(recommendations),
        cmocka_unit_test(bad_options_are_named),
        cmocka_unit_test(a_large_vocabulary_is_quick),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
