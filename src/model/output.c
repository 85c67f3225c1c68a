/* From the residual stream to what a step asked for: final norm, vocabulary-parallel head, and one
 * gather to rank 0, of candidates where they suffice and of logits where they do not. */
#include <stdlib.h>
#include <string.h>

#include "model/model_impl.h"

/* One row of the step whose logits somebody wants. */
struct output_row {
    int32_t row; /* of m->act.x */
    enum step_output kind;
    int k; /* candidates wanted */
};

static int vocab_of_rank(const struct model *m, int rank) {
    return leaf_run_of_rank(m->config.vocab, m->nn.shard.world, rank).count;
}

bool output_init(struct output *o, const struct model *m, struct error *err) {
    struct device *d = m->nn.device;
    bool leader = m->nn.shard.rank == 0;
    size_t world = (size_t)m->nn.shard.world;
    size_t candidates = (size_t)OUTPUT_CHUNK * STEP_MAX_CANDIDATES * 8;
    struct {
        void **p;
        size_t bytes;
    } wanted[] = {
        {(void **)&o->hidden, sizeof(float) * OUTPUT_CHUNK * (size_t)m->config.hidden},
        {(void **)&o->logits, sizeof(float) * OUTPUT_CHUNK * (size_t)m->nn.shard.vocab.count},
        {(void **)&o->gathered,
         leader ? sizeof(float) * OUTPUT_CHUNK * (size_t)m->config.vocab : 0},
        {&o->candidates, candidates},
        {&o->gathered_candidates, leader ? candidates * world : 0},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        if (wanted[i].bytes && !d->ops->alloc(d, wanted[i].bytes, wanted[i].p, err)) {
            return false;
        }
    }
    o->bytes = calloc(world, sizeof *o->bytes);
    o->rows = calloc((size_t)m->params.max_tok, sizeof *o->rows);
    return (o->bytes && o->rows) || error_set(err, ERROR_MEMORY, "cannot allocate output buffers");
}

void output_finish(struct output *o, const struct model *m) {
    struct device *d = m->nn.device;
    size_t candidates = (size_t)OUTPUT_CHUNK * STEP_MAX_CANDIDATES * 8;
    d->ops->free(d, o->hidden, sizeof(float) * OUTPUT_CHUNK * (size_t)m->config.hidden);
    d->ops->free(d, o->logits, sizeof(float) * OUTPUT_CHUNK * (size_t)m->nn.shard.vocab.count);
    d->ops->free(d, o->gathered, sizeof(float) * OUTPUT_CHUNK * (size_t)m->config.vocab);
    d->ops->free(d, o->candidates, candidates);
    d->ops->free(d, o->gathered_candidates, candidates * (size_t)m->nn.shard.world);
    free(o->bytes);
    free(o->rows);
    free(o->all_logits);
    free(o->values);
    free(o->ids);
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

bool output_prepare(struct model *m, const struct step *step, struct step_result *results,
                    struct error *err) {
    struct output *o = &m->out;
    size_t n_logit = 0, n_candidate = 0, vocab = (size_t)m->config.vocab;
    for (int i = 0; i < step->n_seq; i++) {
        const struct step_seq *q = &step->seqs[i];
        n_logit += q->output == STEP_OUTPUT_LOGITS       ? 1
                   : q->output == STEP_OUTPUT_ALL_LOGITS ? (size_t)q->n_tok
                                                         : 0;
        n_candidate += q->output == STEP_OUTPUT_CANDIDATES ? (size_t)q->top_k : 0;
    }
    size_t id_capacity = o->candidate_capacity;
    if (!grow((void **)&o->all_logits, &o->all_logits_capacity, n_logit * vocab, sizeof(float),
              err) ||
        !grow((void **)&o->ids, &id_capacity, n_candidate, sizeof(int32_t), err) ||
        !grow((void **)&o->values, &o->candidate_capacity, n_candidate, sizeof(float), err)) {
        return false;
    }
    n_logit = n_candidate = 0;
    for (int i = 0; i < step->n_seq; i++) {
        const struct step_seq *q = &step->seqs[i];
        results[i] = (struct step_result){0};
        if (q->output == STEP_OUTPUT_CANDIDATES) {
            results[i].values = o->values + n_candidate;
            results[i].ids = o->ids + n_candidate;
            results[i].n_candidate = q->top_k < m->config.vocab ? q->top_k : m->config.vocab;
            n_candidate += (size_t)q->top_k;
        } else if (q->output != STEP_OUTPUT_NONE) {
            results[i].logits = o->all_logits + n_logit * vocab;
            n_logit += q->output == STEP_OUTPUT_LOGITS ? 1 : (size_t)q->n_tok;
        }
    }
    return true;
}

/* Lists the rows that are wanted, in the order of the results. */
static int list_rows(struct output *o, const struct step *step) {
    int n = 0, row = 0;
    for (int i = 0; i < step->n_seq; i++) {
        const struct step_seq *q = &step->seqs[i];
        int first = q->output == STEP_OUTPUT_ALL_LOGITS ? 0 : q->n_tok - 1;
        for (int t = first; q->output != STEP_OUTPUT_NONE && t < q->n_tok; t++) {
            o->rows[n++] = (struct output_row){row + t, q->output, q->top_k};
        }
        row += q->n_tok;
    }
    return n;
}

/* Gathers n rows of logits, [n, V] on each rank, and lays them out as [n, vocab] at dst on rank 0.
 */
static bool gather_logits(struct model *m, const float *logits, int n, float *dst,
                          struct error *err) {
    struct comm *c = m->nn.comm;
    struct device *d = m->nn.device;
    struct output *o = &m->out;
    for (int r = 0; r < c->world; r++) {
        o->bytes[r] = sizeof(float) * (size_t)n * (size_t)vocab_of_rank(m, r);
    }
    if (!c->ops->gather(c, o->gathered, logits, o->bytes, err)) {
        return false;
    }
    const float *src = o->gathered;
    size_t column = 0;
    for (int r = 0; c->rank == 0 && r < c->world; r++) {
        size_t width = (size_t)vocab_of_rank(m, r);
        for (int i = 0; i < n; i++, src += width) {
            if (!d->ops->download(d, dst + (size_t)i * (size_t)m->config.vocab + column, src,
                                  width * sizeof(float), err)) {
                return false;
            }
        }
        column += width;
    }
    return true;
}

/* One rank's candidates of one row while they are merged. */
struct candidate_list {
    const float *values;
    const int32_t *ids;
    int n;
};

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

/* Every rank's k largest of n rows (all rows with the same k), merged on rank 0 into values, ids.
 */
static bool gather_candidates(struct model *m, const float *logits, int n, int k, float *values,
                              int32_t *ids, struct error *err) {
    struct comm *c = m->nn.comm;
    struct device *d = m->nn.device;
    struct output *o = &m->out;
    int mine = m->nn.shard.vocab.count;
    int my_k = k < mine ? k : mine;
    float *my_values = o->candidates;
    int32_t *my_ids = (int32_t *)o->candidates + (size_t)n * (size_t)my_k;
    for (int r = 0; r < c->world; r++) {
        int have = vocab_of_rank(m, r);
        o->bytes[r] = (size_t)n * (size_t)(k < have ? k : have) * 8;
    }
    if (my_k > 0 &&
        !d->ops->top_k(d, my_values, my_ids, logits, n, mine, my_k, m->nn.shard.vocab.first, err)) {
        return false;
    }
    if (!c->ops->gather(c, o->gathered_candidates, o->candidates, o->bytes, err)) {
        return false;
    }
    if (c->rank != 0) {
        return true;
    }
    struct candidate_list *lists = malloc((size_t)c->world * sizeof *lists);
    if (!lists) {
        return error_set(err, ERROR_MEMORY, "cannot allocate the candidate lists");
    }
    for (int i = 0; i < n; i++) {
        const char *p = o->gathered_candidates;
        for (int r = 0; r < c->world; r++) {
            int rank_k = k < vocab_of_rank(m, r) ? k : vocab_of_rank(m, r);
            const float *v = (const float *)(const void *)p;
            lists[r] = (struct candidate_list){
                v + (size_t)i * (size_t)rank_k,
                (const int32_t *)(const void *)(v + (size_t)n * (size_t)rank_k) +
                    (size_t)i * (size_t)rank_k,
                rank_k};
            p += o->bytes[r];
        }
        merge(lists, c->world, k, values + (size_t)i * (size_t)k, ids + (size_t)i * (size_t)k);
    }
    free(lists);
    return true;
}

/* Logits of n rows from the residual stream, into o->logits [n, V]. */
static bool head(struct model *m, const struct output_row *rows, int n, struct error *err) {
    struct device *d = m->nn.device;
    struct output *o = &m->out;
    int32_t index[OUTPUT_CHUNK];
    int hidden = m->config.hidden;
    for (int i = 0; i < n; i++) {
        index[i] = rows[i].row;
    }
    return d->ops->gather_rows(d, o->hidden, m->act.x, index, n, hidden, err) &&
           d->ops->rmsnorm(d, o->hidden, o->hidden, m->weights.final_norm, n, hidden,
                           m->config.rms_eps, err) &&
           d->ops->linear(d, o->logits, o->hidden, (size_t)hidden, m->weights.head, n, NULL, err);
}

/* Rows from `rows` on, at most n, that can travel together. */
static int same_kind(const struct output_row *rows, int n) {
    int i = 1;
    while (i < n &&
           (rows[i].kind == STEP_OUTPUT_CANDIDATES) == (rows[0].kind == STEP_OUTPUT_CANDIDATES) &&
           rows[i].k == rows[0].k) {
        i++;
    }
    return i;
}

bool output_run(struct model *m, const struct step *step, struct error *err) {
    struct output *o = &m->out;
    size_t vocab = (size_t)m->config.vocab;
    bool leader = m->nn.shard.rank == 0;
    int n_row = list_rows(o, step);
    float *logits_at = o->all_logits, *values_at = o->values;
    int32_t *ids_at = o->ids;
    for (int first = 0; first < n_row; first += OUTPUT_CHUNK) {
        int n = n_row - first < OUTPUT_CHUNK ? n_row - first : OUTPUT_CHUNK;
        if (!head(m, o->rows + first, n, err)) {
            return false;
        }
        for (int i = 0, run; i < n; i += run) {
            const struct output_row *row = &o->rows[first + i];
            const float *src = o->logits + (size_t)i * (size_t)m->nn.shard.vocab.count;
            run = same_kind(row, n - i);
            size_t k = (size_t)row->k * (size_t)run;
            if (row->kind == STEP_OUTPUT_CANDIDATES) {
                if (!gather_candidates(m, src, run, row->k, values_at, ids_at, err)) {
                    return false;
                }
                values_at = leader ? values_at + k : NULL;
                ids_at = leader ? ids_at + k : NULL;
            } else {
                if (!gather_logits(m, src, run, logits_at, err)) {
                    return false;
                }
                logits_at = leader ? logits_at + (size_t)run * vocab : NULL;
            }
        }
    }
    return true;
}
