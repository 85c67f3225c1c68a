/* From the residual stream to what a step asked for: final norm, vocabulary-parallel head, and one
 * gather to rank 0, of candidates or of sums of exponentials where they suffice, and of logits
 * where they do not. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/logprob.h"
#include "model/model_impl.h"

enum { N_OUTPUT = 6, CANDIDATE_BYTES = sizeof(float) + sizeof(int32_t) };

_Static_assert(sizeof(struct exp_sum) <= STEP_MAX_CANDIDATES * CANDIDATE_BYTES, "a row's digest");

struct output_buffer {
    void **p;
    size_t bytes;
};

static void output_plan(struct output *o, const struct model *m,
                        struct output_buffer out[N_OUTPUT]) {
    bool leader = m->nn.shard.rank == 0;
    size_t hidden = (size_t)m->config.hidden, vocab = (size_t)m->config.vocab;
    size_t digest = (size_t)OUTPUT_CHUNK * STEP_MAX_CANDIDATES * CANDIDATE_BYTES;
    const struct output_buffer all[N_OUTPUT] = {
        {(void **)&o->hidden, sizeof(float) * OUTPUT_CHUNK * hidden},
        {&o->normed, dtype_size(m->nn.device->act) * OUTPUT_CHUNK * hidden},
        {(void **)&o->logits, sizeof(float) * OUTPUT_CHUNK * (size_t)m->nn.shard.vocab.count},
        {(void **)&o->gathered, leader ? sizeof(float) * OUTPUT_CHUNK * vocab : 0},
        {&o->digest, digest},
        {&o->digests, leader ? digest * (size_t)m->nn.shard.world : 0},
    };
    memcpy(out, all, sizeof all);
}

bool output_init(struct output *o, const struct model *m, struct error *err) {
    struct comm *c = m->nn.comm;
    struct output_buffer plan[N_OUTPUT];
    output_plan(o, m, plan);
    for (int i = 0; i < N_OUTPUT; i++) {
        if (plan[i].bytes && !c->ops->alloc(c, plan[i].bytes, plan[i].p, err)) {
            return error_wrap(err, "output");
        }
    }
    o->bytes = calloc((size_t)m->nn.shard.world, sizeof *o->bytes);
    o->lists = calloc((size_t)m->nn.shard.world, sizeof *o->lists);
    o->wrong = calloc((size_t)m->params.max_tok, sizeof *o->wrong);
    return (o->bytes && o->lists && o->wrong) ||
           error_set(err, ERROR_MEMORY, "cannot allocate output buffers");
}

void output_finish(struct output *o, const struct model *m) {
    struct comm *c = m->nn.comm;
    struct output_buffer plan[N_OUTPUT];
    output_plan(o, m, plan);
    for (int i = 0; i < N_OUTPUT; i++) {
        c->ops->free(c, *plan[i].p, plan[i].bytes);
    }
    free(o->bytes);
    free(o->lists);
    free(o->wrong);
    free(o->landing);
    free(o->all_logits);
    free(o->values);
    free(o->ids);
    free(o->row_logits);
    free(o->logprobs);
    *o = (struct output){0};
}

/* Makes `p` hold n elements of `size` bytes; contents are not kept. */
static bool grow(void **p, size_t *capacity, size_t n, size_t size, struct error *err) {
    if (n <= *capacity) {
        return true;
    }
    void *bigger = malloc(n * size);
    if (!bigger) {
        return error_set(err, ERROR_MEMORY, "cannot allocate %zu bytes for results", n * size);
    }
    free(*p);
    *p = bigger;
    *capacity = n;
    return true;
}

/* Whether log-probabilities are made on rank 0, from all of the row's logits: in one order of the
 * sum, and so with the same bits for every number of ranks, where that is promised. */
static bool logprobs_from_logits(const struct model *m) {
    return m->nn.comm->ops->exact;
}

/* What all ranks together send of one row. */
static size_t gathered_bytes(const struct model *m, const struct output_row *row) {
    size_t world = (size_t)m->nn.shard.world;
    if (row->kind == STEP_OUTPUT_CANDIDATES) {
        return (size_t)row->k * CANDIDATE_BYTES * world;
    }
    if (row->kind == STEP_OUTPUT_LOGPROBS && !logprobs_from_logits(m)) {
        return sizeof(struct exp_sum) * world;
    }
    return (size_t)m->config.vocab * sizeof(float);
}

/* Bytes of the step's largest gather, of one chunk of rows. */
static size_t landing_bytes(const struct model *m) {
    const struct batch *b = &m->batch;
    size_t most = 0;
    /* The device may have padded the chunk, never past its size. */
    size_t rows = b->n_row < OUTPUT_CHUNK / 2 ? 2 * (size_t)b->n_row : OUTPUT_CHUNK;
    for (int i = 0; i < b->n_row; i++) {
        size_t per_row = gathered_bytes(m, &b->out[i]);
        most = per_row > most ? per_row : most;
    }
    return rows * most;
}

/* Elements of the results of some sequences. */
struct result_sizes {
    size_t logits, candidates, logprobs;
};

static void sizes_add(struct result_sizes *s, const struct step_seq *q, size_t vocab) {
    size_t n_tok = (size_t)q->n_tok;
    s->candidates += q->output == STEP_OUTPUT_CANDIDATES ? (size_t)q->top_k : 0;
    s->logprobs += q->output == STEP_OUTPUT_LOGPROBS ? n_tok : 0;
    s->logits += q->output == STEP_OUTPUT_LOGITS       ? vocab
                 : q->output == STEP_OUTPUT_ALL_LOGITS ? n_tok * vocab
                                                       : 0;
}

static bool grow_results(struct model *m, const struct result_sizes *n, struct error *err) {
    struct output *o = &m->out;
    size_t id_capacity = o->candidate_capacity, vocab = (size_t)m->config.vocab;
    size_t rows = n->logprobs < OUTPUT_CHUNK ? n->logprobs : OUTPUT_CHUNK;
    rows = logprobs_from_logits(m) ? rows : 0;
    return grow((void **)&o->all_logits, &o->all_logits_capacity, n->logits, sizeof(float), err) &&
           grow((void **)&o->landing, &o->landing_capacity, landing_bytes(m), 1, err) &&
           grow((void **)&o->ids, &id_capacity, n->candidates, sizeof(int32_t), err) &&
           grow((void **)&o->values, &o->candidate_capacity, n->candidates, sizeof(float), err) &&
           grow((void **)&o->row_logits, &o->row_logits_capacity, rows * vocab, sizeof(float),
                err) &&
           grow((void **)&o->logprobs, &o->logprob_capacity, n->logprobs, sizeof(double), err);
}

bool output_prepare(struct model *m, const struct step *step, struct step_result *results,
                    struct error *err) {
    struct output *o = &m->out;
    size_t vocab = (size_t)m->config.vocab;
    struct result_sizes all = {0}, at = {0};
    for (int i = 0; i < step->n_seq; i++) {
        sizes_add(&all, &step->seqs[i], vocab);
    }
    if (!grow_results(m, &all, err)) {
        return false;
    }
    o->results = results;
    for (int i = 0; i < step->n_seq; i++) {
        const struct step_seq *q = &step->seqs[i];
        results[i] = (struct step_result){0};
        if (q->output == STEP_OUTPUT_CANDIDATES) {
            results[i].values = o->values + at.candidates;
            results[i].ids = o->ids + at.candidates;
            results[i].n_candidate = q->top_k < m->config.vocab ? q->top_k : m->config.vocab;
        } else if (q->output == STEP_OUTPUT_LOGPROBS) {
            results[i].logprobs = o->logprobs + at.logprobs;
        } else if (q->output != STEP_OUTPUT_NONE) {
            results[i].logits = o->all_logits + at.logits;
        }
        sizes_add(&at, q, vocab);
    }
    return true;
}

/* Gathers n rows of logits, [n, V] on each rank, and lays them out as [n, vocab] at dst on rank 0.
 */
static bool gather_logits(struct model *m, const float *logits, int n, float *dst,
                          struct error *err) {
    struct comm *c = m->nn.comm;
    struct device *d = m->nn.device;
    struct output *o = &m->out;
    size_t vocab = (size_t)m->config.vocab;
    bool in_order = n == 1 || c->world == 1; /* rank by rank is the order of the vocabulary */
    for (int r = 0; r < c->world; r++) {
        o->bytes[r] = sizeof(float) * (size_t)n * (size_t)model_vocab_of_rank(m, r);
    }
    if (!c->ops->gather(c, o->gathered, logits, o->bytes, err)) {
        return false;
    }
    if (c->rank != 0) {
        return true;
    }
    size_t bytes = sizeof(float) * (size_t)n * vocab;
    if (in_order) {
        return d->ops->download(d, dst, o->gathered, bytes, err);
    }
    if (!d->ops->download(d, o->landing, o->gathered, bytes, err)) {
        return false;
    }
    const char *from = o->landing;
    float *column = dst;
    for (int r = 0; r < c->world; r++) {
        size_t width = (size_t)model_vocab_of_rank(m, r);
        for (int i = 0; i < n; i++, from += width * sizeof(float)) {
            memcpy(column + (size_t)i * vocab, from, width * sizeof(float));
        }
        column += width;
    }
    return true;
}

/* Takes the k best of the ranks' sorted lists. Ranks hold ascending ids, so that on a tie the lower
 * rank's candidate, which comes first, has the lower id. */
static void merge(struct candidate_list *lists, int n_list, int k, float *values, int32_t *ids) {
    for (int i = 0; i < k; i++) {
        struct candidate_list *best = NULL;
        for (int r = 0; r < n_list; r++) {
            if (lists[r].n && (!best || lists[r].values[0] > best->values[0])) {
                best = &lists[r];
            }
        }
        if (!best) {
            return;
        }
        values[i] = *best->values++;
        ids[i] = *best->ids++;
        best->n--;
    }
}

/* Candidates of one row that rank r has, of k wanted. */
static int candidates_of_rank(const struct model *m, int r, int k) {
    int have = model_vocab_of_rank(m, r);
    return k < have ? k : have;
}

/* This rank's k largest of n rows of logits, gathered to rank 0: [n, k_r] values, then as many ids,
 * rank by rank. Enqueued. */
static bool gather_candidates(struct model *m, const float *logits, int n, int k,
                              struct error *err) {
    struct comm *c = m->nn.comm;
    struct device *d = m->nn.device;
    struct output *o = &m->out;
    int mine = candidates_of_rank(m, c->rank, k);
    float *values = o->digest;
    int32_t *ids = (int32_t *)o->digest + (size_t)n * (size_t)mine;
    for (int r = 0; r < c->world; r++) {
        o->bytes[r] = (size_t)n * (size_t)candidates_of_rank(m, r, k) * CANDIDATE_BYTES;
    }
    if (mine > 0 && !d->ops->top_k(d, values, ids, logits, n, m->nn.shard.vocab.count, mine,
                                   m->nn.shard.vocab.first, err)) {
        return false;
    }
    return c->ops->gather(c, o->digests, o->digest, o->bytes, err);
}

/* Rank 0: merges what was gathered for n rows, n_used of which count, into values and ids
 * [n_used, k]. They are the wanted rows from `first` on. */
static bool merge_candidates(struct model *m, int first, int n, int n_used, int k, float *values,
                             int32_t *ids, struct error *err) {
    struct device *d = m->nn.device;
    struct output *o = &m->out;
    int world = m->nn.comm->world;
    size_t bytes = 0;
    struct candidate_list *lists = o->lists;
    for (int r = 0; r < world; r++) {
        bytes += (size_t)n * (size_t)candidates_of_rank(m, r, k) * CANDIDATE_BYTES;
    }
    bool ok = d->ops->download(d, o->landing, o->digests, bytes, err);
    for (int i = 0; ok && i < n_used; i++) {
        const char *p = o->landing;
        for (int r = 0; r < world; r++) {
            size_t rank_k = (size_t)candidates_of_rank(m, r, k);
            const float *v = (const float *)(const void *)p;
            const int32_t *id = (const int32_t *)(const void *)(v + (size_t)n * rank_k);
            lists[r] = (struct candidate_list){v + (size_t)i * rank_k, id + (size_t)i * rank_k,
                                               (int)rank_k};
            p += (size_t)n * rank_k * CANDIDATE_BYTES;
        }
        o->wrong[first + i] = output_judge_candidates(m, lists);
        merge(lists, world, k, values + (size_t)i * (size_t)k, ids + (size_t)i * (size_t)k);
    }
    return ok;
}

/* Logits of n of the wanted rows, from `first` on, into o->logits [n, V]. */
static bool head(struct model *m, int first, int n, struct error *err) {
    struct device *d = m->nn.device;
    struct output *o = &m->out;
    int hidden = m->config.hidden;
    return d->ops->gather_rows(d, o->hidden, m->act.x, first, n, hidden, err) &&
           d->ops->rmsnorm(d, o->normed, o->hidden, NULL, m->weights.final_norm, n, hidden,
                           m->config.rms_eps, err) &&
           d->ops->linear(d, o->logits, DTYPE_F32, o->normed, (size_t)hidden, m->weights.head, n,
                          NULL, err);
}

int output_candidates_only(const struct model *m) {
    const struct batch *b = &m->batch;
    if (b->n_row == 0 || b->size.n_row > OUTPUT_CHUNK) {
        return 0;
    }
    for (int i = 0; i < b->n_row; i++) {
        if (b->out[i].kind != STEP_OUTPUT_CANDIDATES || b->out[i].k != b->out[0].k) {
            return 0;
        }
    }
    return b->out[0].k;
}

bool output_enqueue(struct model *m, int k, struct error *err) {
    int n = m->batch.size.n_row;
    return head(m, 0, n, err) && gather_candidates(m, m->out.logits, n, k, err);
}

bool output_collect(struct model *m, int k, struct error *err) {
    const struct batch *b = &m->batch;
    return m->nn.shard.rank != 0 ||
           merge_candidates(m, 0, b->size.n_row, b->n_row, k, m->out.values, m->out.ids, err);
}

/* Rows from `rows` on, at most n, that can travel together. */
static int same_kind(const struct output_row *rows, int n) {
    int i = 1;
    while (i < n && rows[i].kind == rows[0].kind && rows[i].k == rows[0].k) {
        i++;
    }
    return i;
}

/* Where the next row's results go, on rank 0. */
struct output_cursor {
    float *logits, *values;
    int32_t *ids;
    double *logprobs;
};

/* n of the wanted rows, from `first` on, whose logits are gathered; rank 0 does the rest. */
static bool logprobs_of_logits(struct model *m, int first, int n, const float *logits,
                               double *logprobs, struct error *err) {
    const int32_t *targets = m->batch.targets + first;
    const float *row = m->out.row_logits;
    if (!gather_logits(m, logits, n, m->out.row_logits, err)) {
        return false;
    }
    for (int i = 0; m->nn.shard.rank == 0 && i < n; i++, row += m->config.vocab) {
        logprobs[i] =
            targets[i] < 0 ? (double)NAN : logprob_of_row(row, m->config.vocab, targets[i]);
        bool is_number = targets[i] < 0 || isfinite(logprobs[i]);
        m->out.wrong[first + i] = is_number ? OUTPUT_FINE : output_judge_logits(m, row);
    }
    return true;
}

/* The same from what each rank's device makes of its part. */
static bool logprobs_of_sums(struct model *m, int first, int n, const float *logits,
                             double *logprobs, struct error *err) {
    struct comm *c = m->nn.comm;
    struct device *d = m->nn.device;
    struct output *o = &m->out;
    const struct leaf_run *vocab = &m->nn.shard.vocab;
    const int32_t *targets = m->batch.targets + first;
    size_t bytes = (size_t)n * sizeof(struct exp_sum);
    for (int r = 0; r < c->world; r++) {
        o->bytes[r] = bytes;
    }
    if (!d->ops->log_sum_exp(d, o->digest, logits, first, n, vocab->count, vocab->first, err) ||
        !c->ops->gather(c, o->digests, o->digest, o->bytes, err)) {
        return false;
    }
    if (c->rank != 0) {
        return true;
    }
    const struct exp_sum *sums = (const struct exp_sum *)(const void *)o->landing;
    bool ok = d->ops->download(d, o->landing, o->digests, bytes * (size_t)c->world, err);
    for (int i = 0; ok && i < n; i++) {
        logprobs[i] =
            targets[i] < 0 ? (double)NAN : logprob_of_parts(sums + i, c->world, (size_t)n);
        o->wrong[first + i] =
            targets[i] < 0 ? OUTPUT_FINE : output_judge_sums(m, sums + i, (size_t)n);
    }
    return ok;
}

static bool deliver_logprobs(struct model *m, int first, int n, const float *logits,
                             struct output_cursor *at, struct error *err) {
    bool ok = logprobs_from_logits(m) ? logprobs_of_logits(m, first, n, logits, at->logprobs, err)
                                      : logprobs_of_sums(m, first, n, logits, at->logprobs, err);
    at->logprobs = m->nn.shard.rank == 0 ? at->logprobs + n : NULL;
    return ok;
}

static bool deliver_logits(struct model *m, int first, int n, const float *logits,
                           struct output_cursor *at, struct error *err) {
    if (!gather_logits(m, logits, n, at->logits, err)) {
        return false;
    }
    for (int i = 0; m->nn.shard.rank == 0 && i < n; i++, at->logits += m->config.vocab) {
        m->out.wrong[first + i] = output_judge_logits(m, at->logits);
    }
    return true;
}

static bool deliver_candidates(struct model *m, int first, int n, int k, const float *logits,
                               struct output_cursor *at, struct error *err) {
    if (!gather_candidates(m, logits, n, k, err)) {
        return false;
    }
    if (m->nn.shard.rank == 0) {
        if (!merge_candidates(m, first, n, n, k, at->values, at->ids, err)) {
            return false;
        }
        at->values += (size_t)k * (size_t)n;
        at->ids += (size_t)k * (size_t)n;
    }
    return true;
}

/* n of the wanted rows, from `first` on, which are of one kind and whose logits begin at `logits`.
 */
static bool deliver(struct model *m, int first, int n, const float *logits,
                    struct output_cursor *at, struct error *err) {
    const struct output_row *row = &m->batch.out[first];
    switch (row->kind) {
    case STEP_OUTPUT_CANDIDATES:
        return deliver_candidates(m, first, n, row->k, logits, at, err);
    case STEP_OUTPUT_LOGPROBS:
        return deliver_logprobs(m, first, n, logits, at, err);
    default:
        return deliver_logits(m, first, n, logits, at, err);
    }
}

bool output_run(struct model *m, struct error *err) {
    struct output *o = &m->out;
    const struct batch *b = &m->batch;
    struct output_cursor at = {o->all_logits, o->values, o->ids, o->logprobs};
    for (int first = 0; first < b->n_row; first += OUTPUT_CHUNK) {
        int n = b->n_row - first < OUTPUT_CHUNK ? b->n_row - first : OUTPUT_CHUNK;
        if (!head(m, first, n, err)) {
            return false;
        }
        for (int i = 0, run; i < n; i += run) {
            const float *logits = o->logits + (size_t)i * (size_t)m->nn.shard.vocab.count;
            run = same_kind(&b->out[first + i], n - i);
            if (!deliver(m, first + i, run, logits, &at, err)) {
                return false;
            }
        }
    }
    return true;
}
