/* The scheduler under mpirun, on the demo model: what else is in the batch, and how the prompts
 * were cut, changes no bit of a sequence; nothing is lost, nobody is overtaken, all blocks come
 * back.
 *
 *   test_scheduler MODEL_DIR
 *
 * Rank 0 prints a hash of all tokens and log-probabilities: equal for every number of ranks. */
#include <inttypes.h>
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "leader/scheduler.h"

enum { N_TEXT = 8, MOST = 24, BATCH = 8, CHUNK = 48, CTX = 256, TOP = 3 };

#define CHECK(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            fprintf(stderr, "%s:%d: %s (%s)\n", __FILE__, __LINE__, #what, err.message);           \
            MPI_Abort(MPI_COMM_WORLD, 1);                                                          \
        }                                                                                          \
    } while (0)

static struct error err;

/* A request, and what came of it. */
struct text {
    int32_t prompt[CTX];
    struct generate_request request;
    struct ticket *ticket;
    int32_t ids[MOST];
    double logprobs[MOST], top[MOST][TOP];
    int n;
    char words[1000];
    size_t n_word;
    bool finished, failed;
    enum finish_reason finish;
    int cancel_at; /* tokens; 0: never */
    struct scheduler *scheduler;
};

static void on_event(void *user, const struct generation_event *event) {
    struct text *t = user;
    CHECK(!t->finished && t->n < MOST);
    if (event->has_token) {
        CHECK(event->n_top == (t->request.logprobs ? TOP : 0));
        for (int i = 0; i < event->n_top; i++) {
            t->top[t->n][i] = event->top[i].logprob;
            CHECK(i == 0 || event->top[i].logprob <= event->top[i - 1].logprob);
        }
        t->ids[t->n] = event->token.id;
        t->logprobs[t->n++] = event->token.logprob;
        CHECK(event->n_generated == t->n && event->n_prompt == t->request.n_prompt);
    }
    CHECK(t->n_word + event->n_text < sizeof t->words);
    memcpy(t->words + t->n_word, event->text, event->n_text);
    t->n_word += event->n_text;
    t->finished = event->finished;
    t->finish = event->finish;
    t->failed = event->error != NULL;
    if (t->cancel_at && t->n == t->cancel_at) {
        scheduler_cancel(t->scheduler, t->ticket);
    }
}

/* Prompts of 1, 14, 27, ... tokens; greedy and sampled ones in turn. */
static void make(struct text *t, int i) {
    *t = (struct text){0};
    int n = 1 + 13 * i;
    for (int j = 0; j < n; j++) {
        t->prompt[j] = 100 + (i * 131 + j * 17) % 1700;
    }
    t->request = (struct generate_request){.prompt = t->prompt,
                                           .n_prompt = n,
                                           .max_tokens = MOST - i,
                                           .sampling = sampling_default(),
                                           .ignore_eos = true,
                                           .logprobs = true,
                                           .top_logprobs = TOP};
    t->request.sampling.temperature = i % 2 ? 0.8 : 0;
    t->request.sampling.seed = (uint64_t)i;
}

static void add(struct scheduler *s, struct text *t) {
    t->scheduler = s;
    CHECK(scheduler_add(s, &t->request, on_event, t, &t->ticket, &err));
}

static void run(struct scheduler *s) {
    for (int i = 0; !scheduler_idle(s); i++) {
        CHECK(i < 10000 && scheduler_step(s, &err));
    }
    struct scheduler_stats stats = scheduler_stats(s);
    CHECK(stats.running == 0 && stats.waiting == 0 && stats.blocks_used == 0);
}

static struct scheduler *create(struct engine *e, struct tokenizer *tokenizer, int chunk, int batch,
                                int waiting) {
    struct scheduler *s = NULL;
    struct scheduler_options o = {
        .max_batch = batch, .prefill_chunk = chunk, .max_waiting = waiting};
    CHECK(scheduler_create(&s, e, tokenizer, &o, &err));
    return s;
}

static void same(const struct text *a, const struct text *b) {
    CHECK(a->finished && b->finished && !a->failed && !b->failed && a->finish == b->finish);
    CHECK(a->n == b->n && a->n_word == b->n_word);
    CHECK(memcmp(a->words, b->words, a->n_word) == 0);
    CHECK(memcmp(a->ids, b->ids, sizeof a->ids) == 0);
    CHECK(memcmp(a->logprobs, b->logprobs, sizeof a->logprobs) == 0);
    CHECK(memcmp(a->top, b->top, sizeof a->top) == 0);
}

/* Alone and amid the others, with prompts whole and in chunks, in order and one after another. */
static void test_same_bits(struct engine *e, struct tokenizer *tokenizer) {
    static const struct {
        int chunk, batch, apart; /* apart: steps between requests */
    } ways[] = {{CHUNK, BATCH, 0}, {5, BATCH, 0}, {1, 3, 0}, {7, BATCH, 3}, {CHUNK, 2, 1}};
    static struct text alone[N_TEXT], amid[N_TEXT];
    struct scheduler *s = create(e, tokenizer, CHUNK, BATCH, N_TEXT);
    uint64_t hash = HASH_START;
    for (int i = 0; i < N_TEXT; i++) {
        make(&alone[i], i);
        add(s, &alone[i]);
        run(s);
        CHECK(alone[i].n == MOST - i && alone[i].finish == FINISH_LENGTH);
        CHECK(i % 2 || alone[i].logprobs[0] == alone[i].top[0][0]); /* greedy takes the likeliest */
        hash = hash_bytes(hash, alone[i].ids, sizeof alone[i].ids);
        hash = hash_bytes(hash, alone[i].logprobs, sizeof alone[i].logprobs);
        hash = hash_bytes(hash, alone[i].top, sizeof alone[i].top);
    }
    scheduler_destroy(s);
    for (size_t w = 0; w < sizeof ways / sizeof ways[0]; w++) {
        s = create(e, tokenizer, ways[w].chunk, ways[w].batch, N_TEXT);
        for (int i = N_TEXT - 1; i >= 0; i--) {
            make(&amid[i], i);
            add(s, &amid[i]);
            for (int k = 0; k < ways[w].apart; k++) {
                CHECK(scheduler_step(s, &err));
            }
        }
        run(s);
        for (int i = 0; i < N_TEXT; i++) {
            same(&alone[i], &amid[i]);
        }
        scheduler_destroy(s);
    }
    printf("hash %016" PRIx64 "\n", hash);
}

/* Without log-probabilities only candidates come, and lead to the same tokens. */
static void test_candidates(struct engine *e, struct tokenizer *tokenizer) {
    static struct text with, without;
    struct scheduler *s = create(e, tokenizer, CHUNK, BATCH, 2);
    make(&with, 4);
    make(&without, 4);
    without.request.logprobs = false;
    without.request.top_logprobs = 0;
    add(s, &with);
    add(s, &without);
    run(s);
    CHECK(with.n == without.n && memcmp(with.ids, without.ids, sizeof with.ids) == 0);
    scheduler_destroy(s);
}

/* First come first served, a full queue, and requests that are called off. */
static void test_queue(struct engine *e, struct tokenizer *tokenizer) {
    static struct text t[6];
    struct scheduler *s = create(e, tokenizer, CHUNK, 2, 2);
    struct ticket *none = NULL;
    for (int i = 0; i < 4; i++) {
        make(&t[i], i);
        add(s, &t[i]);
    }
    make(&t[4], 4);
    CHECK(!scheduler_add(s, &t[4].request, on_event, &t[4], &none, &err) && err.kind == ERROR_BUSY);
    CHECK(scheduler_step(s, &err));
    struct scheduler_stats stats = scheduler_stats(s);
    CHECK(stats.running == 2 && stats.waiting == 2 && stats.blocks_used > 0);
    CHECK(t[0].n == 1 && t[1].n == 1 && t[2].n == 0);
    scheduler_cancel(s, t[0].ticket); /* runs */
    scheduler_cancel(s, t[3].ticket); /* waits, last */
    stats = scheduler_stats(s);
    CHECK(stats.running == 1 && stats.waiting == 1);
    add(s, &t[4]);
    t[1].cancel_at = 3; /* by itself, in an event */
    run(s);
    CHECK(t[0].n == 1 && t[3].n == 0 && t[1].n == 3 && !t[1].finished);
    CHECK(t[2].finished && t[4].finished);
    CHECK(scheduler_step(s, &err)); /* nothing to do */
    make(&t[5], 1);
    t[5].request.n_prompt = 0;
    CHECK(!scheduler_add(s, &t[5].request, on_event, &t[5], &none, &err) &&
          err.kind == ERROR_INPUT);
    scheduler_destroy(s);
}

/* A request that takes more blocks than are free waits, and so do those behind it. */
static void test_room(struct engine *e, struct tokenizer *tokenizer) {
    static struct text t[4];
    struct scheduler *s = create(e, tokenizer, CHUNK, BATCH, 8);
    int whole = engine_blocks(e) / 2; /* the engine's cache holds two contexts */
    for (int i = 0; i < 4; i++) {
        make(&t[i], 2);
        t[i].request.max_tokens = i == 3 ? 5 : 0; /* 0: a whole context is set aside */
        t[i].cancel_at = i == 3 ? 0 : 10 + i;
        add(s, &t[i]);
    }
    CHECK(scheduler_step(s, &err));
    struct scheduler_stats stats = scheduler_stats(s);
    CHECK(stats.running == 2 && stats.waiting == 2 && stats.blocks_used == 2 * whole);
    while (!t[3].finished) {
        CHECK(t[3].n == 0 || t[2].n > 0); /* the small one does not overtake */
        CHECK(scheduler_step(s, &err));
    }
    run(s);
    scheduler_destroy(s);
}

/* The leader's time is what passes between steps, and none of it where there is nothing to do. */
static void test_leader_time(struct engine *e, struct tokenizer *tokenizer) {
    static struct text t[2];
    const double nap = 0.05;
    struct scheduler *s = create(e, tokenizer, CHUNK, 2, 2);
    make(&t[0], 0);
    make(&t[1], 1);
    double start = clock_now();
    add(s, &t[0]);
    CHECK(scheduler_step(s, &err));
    clock_sleep(nap);
    CHECK(scheduler_step(s, &err));
    struct scheduler_stats stats = scheduler_stats(s);
    CHECK(stats.leader_seconds >= nap);
    CHECK(stats.leader_seconds + stats.step_seconds <= clock_now() - start);
    scheduler_cancel(s, t[0].ticket);
    double busy = clock_now() - start;
    clock_sleep(nap);
    start = clock_now();
    add(s, &t[1]);
    CHECK(scheduler_step(s, &err));
    stats = scheduler_stats(s);
    CHECK(stats.leader_seconds + stats.step_seconds <= busy + clock_now() - start);
    scheduler_destroy(s);
}

/* What breaks ends every request with its reason. */
static void test_failure(struct engine *e, struct tokenizer *tokenizer) {
    static struct text t[3];
    struct scheduler *s = create(e, tokenizer, CHUNK, 2, 2);
    struct error why;
    for (int i = 0; i < 3; i++) {
        make(&t[i], i);
        add(s, &t[i]);
    }
    CHECK(scheduler_step(s, &err));
    error_set(&why, ERROR_RANK_LOST, "rank 1 is gone");
    scheduler_fail(s, &why);
    for (int i = 0; i < 3; i++) {
        CHECK(t[i].finished && t[i].failed);
    }
    CHECK(scheduler_idle(s) && scheduler_stats(s).blocks_used == 0);
    scheduler_destroy(s);
}

/* Once more while the model is held: how a load that finds other files names them. */
static void test_measure(struct pool *p, const char *dir) {
    const struct model_params params = {.dir = dir, .ctx = 64, .n_block = 1, .max_tok = 64};
    struct pool_fit fit;
    CHECK(pool_measure_load(p, &params, &fit, &err) && fit.fits);
}

/* What is fed after a seek is all that counts: the same bits as in a fresh sequence. */
static void test_seek(struct engine *e) {
    static const int32_t ids[] = {5, 6, 7, 8, 9, 10}, others[] = {5, 6, 11, 12, 13};
    struct sequence *s[2];
    struct step_result r;
    float best[2];
    for (int i = 0; i < 2; i++) {
        CHECK(sequence_create(e, &s[i], &err));
        if (i == 0) {
            const struct engine_part part = {
                .seq = s[i], .tokens = others, .n_tok = 5, .output = STEP_OUTPUT_NONE};
            CHECK(engine_feed(e, &part, &r, NULL, &err));
            sequence_seek(s[i], 2);
        }
        const struct engine_part rest = {.seq = s[i],
                                         .tokens = ids + (i == 0 ? 2 : 0),
                                         .n_tok = i == 0 ? 4 : 6,
                                         .output = STEP_OUTPUT_CANDIDATES,
                                         .top_k = 1};
        CHECK(engine_feed(e, &rest, &r, NULL, &err));
        best[i] = r.values[0];
    }
    CHECK(memcmp(&best[0], &best[1], sizeof best[0]) == 0);
    sequence_destroy(s[0]);
    sequence_destroy(s[1]);
}

static void lead(const struct pool_options *o, const char *dir) {
    struct pool *p = NULL;
    struct engine *e = NULL;
    struct tokenizer *tokenizer = NULL;
    struct engine_options options = {.dir = dir,
                                     .ctx = CTX,
                                     .max_seqs = BATCH,
                                     .max_tok = BATCH + CHUNK,
                                     .n_block = 2 * engine_blocks_for(CTX)};
    CHECK(pool_create(&p, o, &err) && pool_start(p, &err) && engine_open(&e, p, &options, &err));
    test_measure(p, dir);
    test_seek(e);
    CHECK(tokenizer_load(&tokenizer, dir, engine_config(e)->vocab, &err));
    test_same_bits(e, tokenizer);
    test_candidates(e, tokenizer);
    test_queue(e, tokenizer);
    test_room(e, tokenizer);
    test_leader_time(e, tokenizer);
    test_failure(e, tokenizer);
    tokenizer_destroy(tokenizer);
    CHECK(engine_close(e, NULL, &err) && pool_shutdown(p, &err));
    pool_destroy(p);
}

int main(int argc, char **argv) {
    int rank, provided;
    MPI_Comm control, tensor;
    struct pool_options o = {.threads = 1, .timeout_s = 30, .device = "host"};
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_dup(MPI_COMM_WORLD, &control);
    MPI_Comm_dup(MPI_COMM_WORLD, &tensor);
    o.control = control;
    o.tensor = tensor;
    CHECK(argc == 2 && host_facts_read(MPI_COMM_WORLD, &o.facts, &err));
    if (rank == 0) {
        lead(&o, argv[1]);
    } else {
        CHECK(pool_serve(&o, &err));
    }
    MPI_Comm_free(&control);
    MPI_Comm_free(&tensor);
    MPI_Finalize();
    return 0;
}
