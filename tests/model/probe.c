/* Runs a checkpoint's golden cases through the model at whatever world size it is started with:
 * logits and greedy ids against the float64 reference (with a KV cache in f32), and the logits'
 * bits of every way to feed a sequence (whole, in chunks, token by token, beside others) against
 * each other.
 *
 *   probe MODEL_DIR EXPECTED.json|- THREADS ISA [KV_DTYPE [q8_0|q4_0]]
 *
 * Rank 0 prints one line per case, "case ID HASH MAXDIFF", for test_bits.py to compare between
 * world sizes, thread counts and instruction sets. Exit 0 when all holds. */
#include <jansson.h>
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "comm/mpi.h"
#include "model/logprob.h"
#include "model/model.h"

enum { MAX_CASES = 16, MAX_TOK = 1024, N_BLOCK = 64, CTX = 512, SEQ_BLOCKS = CTX / KV_BLOCK };

struct test_case {
    const char *id;
    int n_prompt, n_ids;
    int32_t ids[CTX]; /* prompt, then the reference's greedy ids */
    const json_t *json;
};

struct probe {
    struct comm *comm;
    struct model *model;
    struct test_case cases[MAX_CASES];
    int n_case;
    int vocab;
    bool exact; /* nothing is rounded: the reference has the same logits */
    int failures;
};

static _Noreturn void die(const char *what, const struct error *err) {
    fprintf(stderr, "probe: %s: %s: %s\n", what, error_kind_name(err->kind), err->message);
    MPI_Abort(MPI_COMM_WORLD, 1);
    exit(1);
}

static void complain(struct probe *p, const char *id, const char *what) {
    if (p->comm->rank == 0) {
        fprintf(stderr, "probe: case %s: %s\n", id, what);
    }
    p->failures++;
}

/* Scattered blocks, so that nothing works by being contiguous. */
static void scatter_blocks(int32_t *blocks, int seq) {
    for (int i = 0; i < SEQ_BLOCKS; i++) {
        blocks[i] = (seq * SEQ_BLOCKS + i) * 37 % N_BLOCK;
    }
}

static uint64_t hash_logits(const struct probe *p, uint64_t h, const float *logits, int n_row) {
    return p->comm->rank == 0 ? hash_bytes(h, logits, sizeof *logits * (size_t)n_row * p->vocab)
                              : 0;
}

/* Feeds ids[0..n) of one case `chunk` tokens a step; returns the hash of all positions' logits. */
static uint64_t feed(struct probe *p, const struct test_case *c, int chunk, float *last) {
    int32_t blocks[SEQ_BLOCKS];
    scatter_blocks(blocks, chunk % 3);
    uint64_t h = HASH_START;
    for (int pos = 0; pos < c->n_ids; pos += chunk) {
        int n = c->n_ids - pos < chunk ? c->n_ids - pos : chunk;
        struct step_seq seq = {.id = 1,
                               .pos = pos,
                               .n_tok = n,
                               .tokens = c->ids + pos,
                               .n_block = SEQ_BLOCKS,
                               .blocks = blocks,
                               .output = STEP_OUTPUT_ALL_LOGITS};
        struct step step = {1, &seq};
        struct step_result result = {0};
        struct error err;
        if (!model_step(p->model, &step, &result, &err)) {
            die(c->id, &err);
        }
        h = hash_logits(p, h, result.logits, n);
        for (int i = 0; last && p->comm->rank == 0 && i < n; i++) {
            memcpy(last + (size_t)(pos + i) * p->vocab, result.logits + (size_t)i * p->vocab,
                   sizeof(float) * p->vocab);
        }
    }
    return h;
}

/* All cases in one step, in two halves of their tokens. */
static void feed_together(struct probe *p, uint64_t *hashes) {
    static int32_t blocks[MAX_CASES][SEQ_BLOCKS];
    struct step_seq seqs[MAX_CASES];
    struct step_result results[MAX_CASES];
    struct error err;
    for (int i = 0; i < p->n_case; i++) {
        hashes[i] = HASH_START;
        scatter_blocks(blocks[i], i);
    }
    for (int half = 0; half < 2; half++) {
        struct step step = {p->n_case, seqs};
        for (int i = 0; i < p->n_case; i++) {
            const struct test_case *c = &p->cases[i];
            int cut = c->n_ids / 2, pos = half ? cut : 0;
            seqs[i] = (struct step_seq){.id = (uint32_t)i,
                                        .pos = pos,
                                        .n_tok = half ? c->n_ids - cut : cut,
                                        .tokens = c->ids + pos,
                                        .n_block = SEQ_BLOCKS,
                                        .blocks = blocks[i],
                                        .output = STEP_OUTPUT_ALL_LOGITS};
        }
        if (!model_step(p->model, &step, results, &err)) {
            die("together", &err);
        }
        for (int i = 0; i < p->n_case; i++) {
            hashes[i] = hash_logits(p, hashes[i], results[i].logits, seqs[i].n_tok);
        }
    }
}

static int argmax(const float *x, int n) {
    int best = 0;
    for (int i = 1; i < n; i++) {
        best = x[i] > x[best] ? i : best;
    }
    return best;
}

/* Candidates must be what the logits say. */
static void check_candidates(struct probe *p, const struct test_case *c, const float *row) {
    int32_t blocks[SEQ_BLOCKS];
    scatter_blocks(blocks, 2);
    struct step_seq seq = {.id = 2,
                           .pos = 0,
                           .n_tok = c->n_ids,
                           .tokens = c->ids,
                           .n_block = SEQ_BLOCKS,
                           .blocks = blocks,
                           .output = STEP_OUTPUT_CANDIDATES,
                           .top_k = 40};
    struct step step = {1, &seq};
    struct step_result r = {0};
    struct error err;
    if (!model_step(p->model, &step, &r, &err)) {
        die(c->id, &err);
    }
    if (p->comm->rank != 0) {
        return;
    }
    bool good = r.n_candidate == 40 && r.ids[0] == argmax(row, p->vocab);
    for (int i = 0; good && i < 40; i++) {
        good = r.values[i] == row[r.ids[i]] && (i == 0 || r.values[i] <= r.values[i - 1]);
    }
    if (!good) {
        complain(p, c->id, "candidates differ from the logits");
    }
}

/* Log-probabilities must be those of the logits, bit for bit, also beside a sequence that wants
 * something else; every seventh token wants none. */
static void check_logprobs(struct probe *p, const struct test_case *c, const float *logits) {
    int32_t blocks[2][SEQ_BLOCKS], targets[CTX];
    int n = c->n_ids < MAX_TOK / 2 ? c->n_ids : MAX_TOK / 2;
    for (int i = 0; i < n; i++) {
        targets[i] = i % 7 == 6 || i + 1 == n ? -1 : c->ids[i + 1];
    }
    struct step_seq seqs[2] = {{.id = 3,
                                .n_tok = 1,
                                .tokens = c->ids,
                                .n_block = SEQ_BLOCKS,
                                .blocks = blocks[0],
                                .output = STEP_OUTPUT_ALL_LOGITS}};
    seqs[1] = seqs[0];
    seqs[1].n_tok = n;
    seqs[1].blocks = blocks[1];
    seqs[1].output = STEP_OUTPUT_LOGPROBS;
    seqs[1].targets = targets;
    struct step step = {2, seqs};
    struct step_result r[2] = {0};
    struct error err;
    scatter_blocks(blocks[0], 0);
    scatter_blocks(blocks[1], 1);
    if (!model_step(p->model, &step, r, &err)) {
        die(c->id, &err);
    }
    for (int i = 0; p->comm->rank == 0 && i < n; i++) {
        const float *row = logits + (size_t)i * p->vocab;
        double got = r[1].logprobs[i];
        if (targets[i] < 0 ? !isnan(got) : got != logprob_of_row(row, p->vocab, targets[i])) {
            complain(p, c->id, "log-probabilities are not those of the logits");
            break;
        }
    }
}

static double check_reference(struct probe *p, const struct test_case *c, const float *logits) {
    const json_t *want = json_object_get(c->json, "logits");
    const float *row = logits + (size_t)(c->n_prompt - 1) * p->vocab;
    double worst = 0;
    for (int i = 0; i < p->vocab; i++) {
        double diff = fabs((double)row[i] - json_number_value(json_array_get(want, i)));
        worst = diff > worst || isnan(diff) ? diff : worst;
    }
    if (!(worst <= 1e-3)) {
        complain(p, c->id, "logits differ from the reference");
    }
    for (int i = c->n_prompt; i < c->n_ids; i++) {
        if (argmax(logits + (size_t)(i - 1) * p->vocab, p->vocab) != c->ids[i]) {
            complain(p, c->id, "greedy ids differ from the reference");
            break;
        }
    }
    return worst;
}

static void run_cases(struct probe *p) {
    uint64_t together[MAX_CASES];
    float *logits = malloc(sizeof *logits * CTX * (size_t)p->vocab);
    feed_together(p, together);
    for (int i = 0; i < p->n_case; i++) {
        const struct test_case *c = &p->cases[i];
        uint64_t whole = feed(p, c, CTX, logits);
        if (feed(p, c, 7, NULL) != whole) {
            complain(p, c->id, "bits differ when fed in chunks of 7");
        }
        if (c->n_ids < 100 && feed(p, c, 1, NULL) != whole) {
            complain(p, c->id, "bits differ when fed token by token");
        }
        if (together[i] != whole) {
            complain(p, c->id, "bits differ beside other sequences");
        }
        check_logprobs(p, c, logits);
        check_candidates(p, c, logits + (size_t)(c->n_ids - 1) * p->vocab);
        if (p->comm->rank == 0) {
            double worst = c->json && p->exact ? check_reference(p, c, logits) : 0;
            printf("case %s %016llx %.3g\n", c->id, (unsigned long long)whole, worst);
        }
    }
    free(logits);
}

static void read_ids(struct test_case *c, const char *key, int *n) {
    const json_t *list = json_object_get(c->json, key);
    for (size_t i = 0; i < json_array_size(list) && c->n_ids < CTX; i++) {
        c->ids[c->n_ids++] = (int32_t)json_integer_value(json_array_get(list, i));
    }
    *n = c->n_ids;
}

static void read_cases(struct probe *p, const char *path) {
    if (strcmp(path, "-") == 0) { /* no reference: bits only */
        p->cases[0] = (struct test_case){.id = "counting", .n_prompt = 90, .n_ids = 90};
        for (int i = 0; i < 90; i++) {
            p->cases[0].ids[i] = i * 7 % p->vocab;
        }
        p->n_case = 1;
        return;
    }
    json_error_t json_err;
    json_t *root = json_load_file(path, JSON_ALLOW_NUL, &json_err);
    const json_t *cases = json_object_get(root, "cases");
    int ignored;
    for (size_t i = 0; i < json_array_size(cases) && i < MAX_CASES; i++) {
        struct test_case *c = &p->cases[p->n_case++];
        c->json = json_array_get(cases, i);
        c->id = json_string_value(json_object_get(c->json, "id"));
        read_ids(c, "prompt_ids", &c->n_prompt);
        read_ids(c, "greedy_ids", &ignored);
    }
    if (!p->n_case) {
        struct error err;
        error_set(&err, ERROR_IO, "no cases in %s", path);
        die("start", &err);
    }
}

int main(int argc, char **argv) {
    struct probe p = {0};
    struct device *device = NULL;
    struct error err;
    int world;
    uint8_t id[COMM_ID_BYTES];
    if (argc < 5 || argc > 7) {
        fprintf(stderr,
                "usage: probe MODEL_DIR EXPECTED.json|- THREADS ISA [KV_DTYPE [q8_0|q4_0]]\n");
        return 2;
    }
    MPI_Init(&argc, &argv);
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    struct host_options host = {.n_thread = atoi(argv[3]), .isa = argv[4]};
    if (!host_device_create(&host, &device, &err)) {
        die("device", &err);
    }
    bool ok = world == 1 ? comm_self_create(&p.comm, &err)
                         : comm_mpi_share_id(MPI_COMM_WORLD, true, NULL, NULL, 60, id, &err) &&
                               comm_mpi_create(MPI_COMM_WORLD, id, 60, &p.comm, &err);
    struct model_params params = {
        .dir = argv[1], .ctx = CTX, .n_block = N_BLOCK, .max_tok = MAX_TOK};
    if (argc > 5 && !dtype_from_word(argv[5], &params.kv)) {
        error_set(&err, ERROR_USAGE, "no dtype '%s'", argv[5]);
        die("start", &err);
    }
    if (argc > 6 && !dtype_from_quantized_word(argv[6], &params.quant)) {
        error_set(&err, ERROR_USAGE, "no quantized format '%s'", argv[6]);
        die("start", &err);
    }
    p.exact = params.kv == DTYPE_F32 && !dtype_is_quantized(params.quant);
    if (!ok || !model_load(&p.model, &params, device, p.comm, NULL, &err)) {
        die("load", &err);
    }
    p.vocab = model_get_config(p.model)->vocab;
    read_cases(&p, argv[2]);
    run_cases(&p);
    model_destroy(p.model);
    comm_destroy(p.comm);
    device_destroy(device);
    MPI_Finalize();
    return p.failures ? 1 : 0;
}
