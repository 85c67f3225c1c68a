/* A checkpoint's golden cases on GPUs, one per rank: logits of the prompt, and the id they would
 * choose, against the float64 reference; then the reference's own tokens fed one by one, all cases
 * side by side, the best candidate of each step against the reference's.
 *
 *   golden MODEL_DIR EXPECTED.json f32|bf16 graphs|plain
 *
 * The log-probabilities of the prompt's own tokens are held to the reference's, too.
 *
 * Rank 0 prints one line per case, "case ID MAXDIFF RMS MAXDIFF-OF-LOGPROBS", and how many ids it
 * compared. Exit 0 when all holds: f32: logits and log-probabilities within 1e-3, every id equal.
 * bf16: both within 1.0, root mean square of the logits' within 0.25, and ids equal wherever the
 * reference's best two are 1.0 apart, which must be somewhere. */
#include <jansson.h>
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/gpu_rank.h"
#include "model/model.h"

enum { MAX_CASES = 16, CTX = 512, SEQ_BLOCKS = CTX / KV_BLOCK, N_BLOCK = 80, CHUNK = 100 };

struct golden_case {
    const char *id;
    int n_prompt, n_ids;
    int32_t ids[CTX]; /* prompt, then the reference's greedy ids */
    int32_t blocks[SEQ_BLOCKS];
    int n_block;
    const json_t *json;
};

struct golden {
    struct gpu_rank gpu;
    struct model *model;
    struct golden_case cases[MAX_CASES];
    int n_case;
    double most, most_rms, gap; /* tolerances */
    int n_compared;             /* ids */
    int failures;
};

static void complain(struct golden *g, const char *id, const char *what, int step) {
    fprintf(stderr, "golden: case %s: %s (step %d)\n", id, what, step);
    g->failures++;
}

static _Noreturn void reject(const char *path, const char *why, size_t at) {
    fprintf(stderr, "golden: %s: %s (%zu)\n", path, why, at);
    MPI_Abort(MPI_COMM_WORLD, 1);
    exit(1);
}

static bool all_numbers(const json_t *list, size_t n) {
    bool ok = json_array_size(list) == n;
    for (size_t i = 0; ok && i < n; i++) {
        ok = json_is_number(json_array_get(list, i));
    }
    return ok;
}

/* Whether everything is there that the checks below look up: what is missing must not pass for 0.
 */
static bool complete(const struct golden_case *c) {
    const json_t *logits = json_object_get(c->json, "logits");
    const json_t *steps = json_object_get(c->json, "steps");
    size_t n_greedy = (size_t)(c->n_ids - c->n_prompt);
    bool ok =
        c->id && c->n_prompt > 0 && n_greedy > 1 && json_array_size(steps) == n_greedy &&
        all_numbers(logits, json_array_size(logits)) &&
        all_numbers(json_object_get(c->json, "prompt_token_logprobs"), (size_t)c->n_prompt - 1);
    for (size_t i = 0; ok && i < n_greedy; i++) {
        ok = json_number_value(json_object_get(json_array_get(steps, i), "gap")) > 0;
    }
    return ok;
}

/* Appends the list; false where it is none of numbers, or does not fit. */
static bool read_ids(struct golden_case *c, const char *key) {
    const json_t *list = json_object_get(c->json, key);
    size_t n = json_array_size(list);
    if (n > (size_t)(CTX - c->n_ids) || !all_numbers(list, n)) {
        return false;
    }
    for (size_t j = 0; j < n; j++) {
        c->ids[c->n_ids++] = (int32_t)json_integer_value(json_array_get(list, j));
    }
    return true;
}

static void read_cases(struct golden *g, const char *path) {
    json_error_t json_err;
    json_t *cases = json_object_get(json_load_file(path, JSON_ALLOW_NUL, &json_err), "cases");
    size_t n = json_array_size(cases);
    int next_block = 0;
    if (n == 0 || n > MAX_CASES) {
        reject(path, "number of cases", n);
    }
    for (size_t i = 0; i < n; i++) {
        struct golden_case *c = &g->cases[g->n_case++];
        c->json = json_array_get(cases, i);
        c->id = json_string_value(json_object_get(c->json, "id"));
        bool ok = read_ids(c, "prompt_ids");
        c->n_prompt = c->n_ids;
        if (!ok || !read_ids(c, "greedy_ids") || !complete(c)) {
            reject(path, "something of this case is missing, or too long", i);
        }
        c->n_block = (c->n_ids + KV_BLOCK - 1) / KV_BLOCK;
        for (int b = 0; b < c->n_block; b++) { /* scattered: nothing works by being contiguous */
            c->blocks[b] = next_block++ * 37 % N_BLOCK;
        }
    }
    if (next_block > N_BLOCK) {
        reject(path, "too many KV blocks", (size_t)next_block);
    }
}

static struct step_seq seq_of(struct golden_case *c, int pos, int n, enum step_output output) {
    return (struct step_seq){.id = 1,
                             .pos = pos,
                             .n_tok = n,
                             .tokens = c->ids + pos,
                             .n_block = c->n_block,
                             .blocks = c->blocks,
                             .output = output,
                             .top_k = output == STEP_OUTPUT_CANDIDATES ? 5 : 0};
}

/* The reference's greedy id number `at`, where the gap to its second best allows that. */
static void check_id(struct golden *g, const struct golden_case *c, int32_t id, int at) {
    const json_t *step = json_array_get(json_object_get(c->json, "steps"), (size_t)at);
    if (json_number_value(json_object_get(step, "gap")) < g->gap) {
        return;
    }
    g->n_compared++;
    if (id != c->ids[c->n_prompt + at]) {
        complain(g, c->id, "the best candidate is not the reference's", at);
    }
}

static void check_logits(struct golden *g, const struct golden_case *c, const float *logits) {
    const json_t *want = json_object_get(c->json, "logits");
    double worst = 0, squares = 0;
    int n = model_get_config(g->model)->vocab, best = 0;
    if (json_array_size(want) != (size_t)n) {
        complain(g, c->id, "the reference has another number of logits", 0);
        return;
    }
    for (int i = 0; i < n; i++) {
        double diff = fabs((double)logits[i] - json_number_value(json_array_get(want, (size_t)i)));
        worst = diff > worst || isnan(diff) ? diff : worst;
        squares += diff * diff;
        best = logits[i] > logits[best] ? i : best;
    }
    double rms = sqrt(squares / (double)n);
    printf("case %s %.3g %.3g", c->id, worst, rms);
    if (!(worst <= g->most) || !(rms <= g->most_rms)) {
        complain(g, c->id, "logits differ from the reference", 0);
    }
    check_id(g, c, best, 0);
}

/* One chunk of the prompt. */
static struct step_result feed(struct golden *g, struct golden_case *c, int pos,
                               enum step_output output) {
    int n = c->n_prompt - pos < CHUNK ? c->n_prompt - pos : CHUNK;
    int32_t targets[CHUNK];
    struct step_seq seq = seq_of(c, pos, n, output);
    struct step step = {1, &seq};
    struct step_result result = {0};
    struct error err;
    for (int i = 0; i < n; i++) {
        targets[i] = pos + i + 1 < c->n_prompt ? c->ids[pos + i + 1] : -1;
    }
    seq.targets = targets;
    if (!model_step(g->model, &step, &result, &err)) {
        gpu_rank_die(c->id, &err);
    }
    return result;
}

/* The largest distance of a chunk's log-probabilities from the reference's. */
static double worst_logprob(const struct golden_case *c, int pos, const double *logprobs) {
    const json_t *want = json_object_get(c->json, "prompt_token_logprobs");
    double worst = 0;
    for (int i = pos; i < c->n_prompt && i < pos + CHUNK; i++) {
        double p = i + 1 < c->n_prompt ? json_number_value(json_array_get(want, (size_t)i)) : 0;
        double got = logprobs[i - pos];
        if (i + 1 == c->n_prompt) { /* nothing was looked for */
            got = isnan(got) ? 0 : HUGE_VAL;
        }
        double diff = fabs(got - p);
        worst = diff > worst || isnan(diff) ? diff : worst;
    }
    return worst;
}

/* The prompt, in chunks: its tokens' log-probabilities and, from the last chunk, fed once more over
 * what the KV cache then holds, the last position's logits. */
static void feed_prompt(struct golden *g, struct golden_case *c) {
    bool leader = g->gpu.comm->rank == 0;
    double worst = 0;
    for (int pos = 0; pos < c->n_prompt; pos += CHUNK) {
        struct step_result r = feed(g, c, pos, STEP_OUTPUT_LOGPROBS);
        double most = leader ? worst_logprob(c, pos, r.logprobs) : 0;
        worst = most > worst || isnan(most) ? most : worst;
        if (pos + CHUNK >= c->n_prompt) {
            r = feed(g, c, pos, STEP_OUTPUT_LOGITS);
            if (leader) {
                check_logits(g, c, r.logits);
            }
        }
    }
    if (leader) {
        printf(" %.3g\n", worst);
        if (!(worst <= g->most)) {
            complain(g, c->id, "log-probabilities differ from the reference", 0);
        }
    }
}

/* All cases' greedy ids but the last, a token each in every step, as long as a case has some. */
static void feed_greedy(struct golden *g) {
    struct golden_case *fed[MAX_CASES];
    struct step_seq seqs[MAX_CASES];
    struct step_result results[MAX_CASES];
    struct error err;
    for (int at = 0;; at++) {
        struct step step = {0, seqs};
        for (int i = 0; i < g->n_case; i++) {
            struct golden_case *c = &g->cases[i];
            if (c->n_prompt + at + 1 < c->n_ids) {
                fed[step.n_seq] = c;
                seqs[step.n_seq++] = seq_of(c, c->n_prompt + at, 1, STEP_OUTPUT_CANDIDATES);
            }
        }
        if (step.n_seq == 0) {
            return;
        }
        if (!model_step(g->model, &step, results, &err)) {
            gpu_rank_die("greedy ids", &err);
        }
        for (int i = 0; g->gpu.comm->rank == 0 && i < step.n_seq; i++) {
            check_id(g, fed[i], results[i].ids[0], at + 1);
        }
    }
}

int main(int argc, char **argv) {
    static struct golden g;
    struct error err;
    if (argc != 5) {
        fprintf(stderr, "usage: golden MODEL_DIR EXPECTED.json f32|bf16 graphs|plain\n");
        return 2;
    }
    bool f32 = strcmp(argv[3], "f32") == 0;
    g.most = f32 ? 1e-3 : 1.0;
    g.most_rms = f32 ? 1e-3 : 0.25;
    g.gap = f32 ? 0 : 1.0;
    MPI_Init(&argc, &argv);
    gpu_rank_start(&g.gpu, f32, strcmp(argv[4], "graphs") == 0);
    read_cases(&g, argv[2]);
    struct model_params params = {
        .dir = argv[1], .ctx = CTX, .n_block = N_BLOCK, .max_tok = CHUNK, .kv = g.gpu.device->act};
    if (!model_load(&g.model, &params, g.gpu.device, g.gpu.comm, NULL, &err)) {
        gpu_rank_die("load", &err);
    }
    for (int i = 0; i < g.n_case; i++) {
        feed_prompt(&g, &g.cases[i]);
    }
    feed_greedy(&g);
    if (g.gpu.comm->rank == 0) {
        printf("compared %d ids\n", g.n_compared);
        if (g.n_compared == 0) {
            complain(&g, "all", "no id was compared", 0);
        }
    }
    model_destroy(g.model);
    gpu_rank_finish(&g.gpu);
    MPI_Finalize();
    return g.failures ? 1 : 0;
}
