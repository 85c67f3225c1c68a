/* Log-probabilities of a text: each from where its logits lie, or, where a hash of all logits is
 * wanted, from these, a few rows at a time. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "leader/generate.h"
#include "model/logprob.h"

enum { ROWS = 32 }; /* logits of so many positions are held at once */

static void add_logprob(struct score_result *s, double logprob) {
    s->logprobs[s->n++] = logprob;
    s->sum += logprob;
}

static int smaller(int a, int b) {
    return a < b ? a : b;
}

static bool feed_logprobs(struct engine *e, struct sequence *seq, const struct score_request *q,
                          struct score_result *s, struct error *err) {
    int n, n_scored = q->n_ids - 1;
    struct step_result r;
    for (int pos = 0; pos < n_scored; pos += n) {
        n = smaller(engine_max_tok(e), n_scored - pos);
        struct engine_part part = {.seq = seq,
                                   .tokens = q->ids + pos,
                                   .n_tok = n,
                                   .output = STEP_OUTPUT_LOGPROBS,
                                   .targets = q->ids + pos + 1};
        if (!engine_feed(e, &part, &r, q->interrupted, err)) {
            return false;
        }
        for (int i = 0; i < n; i++) {
            add_logprob(s, r.logprobs[i]);
        }
    }
    if (q->last) {
        struct engine_part part = {
            .seq = seq, .tokens = q->ids + n_scored, .n_tok = 1, .output = STEP_OUTPUT_LOGITS};
        if (!engine_feed(e, &part, &r, q->interrupted, err)) {
            return false;
        }
        memcpy(s->last, r.logits, (size_t)engine_config(e)->vocab * sizeof *s->last);
    }
    return true;
}

static bool feed_logits(struct engine *e, struct sequence *seq, const struct score_request *q,
                        struct score_result *s, struct error *err) {
    size_t vocab = (size_t)engine_config(e)->vocab;
    int n;
    s->hash = HASH_START;
    for (int pos = 0; pos < q->n_ids; pos += n) {
        struct step_result r;
        n = smaller(smaller(engine_max_tok(e), ROWS), q->n_ids - pos);
        struct engine_part part = {
            .seq = seq, .tokens = q->ids + pos, .n_tok = n, .output = STEP_OUTPUT_ALL_LOGITS};
        if (!engine_feed(e, &part, &r, q->interrupted, err)) {
            return false;
        }
        for (int i = 0; i < n; i++) {
            const float *row = r.logits + (size_t)i * vocab;
            if (pos + i + 1 < q->n_ids) {
                add_logprob(s, logprob_of_row(row, (int)vocab, q->ids[pos + i + 1]));
            } else if (q->last) {
                memcpy(s->last, row, vocab * sizeof *row);
            }
        }
        s->hash = hash_bytes(s->hash, r.logits, (size_t)n * vocab * sizeof *r.logits);
    }
    return true;
}

static bool allocate(struct score_result *s, const struct score_request *q, int vocab,
                     struct error *err) {
    s->logprobs = malloc((size_t)q->n_ids * sizeof *s->logprobs);
    s->last = q->last ? malloc((size_t)vocab * sizeof *s->last) : NULL;
    return (s->logprobs && (s->last || !q->last)) ||
           error_set(err, ERROR_MEMORY, "cannot allocate the scores");
}

bool score(struct engine *e, const struct score_request *q, struct score_result *out,
           struct error *err) {
    const struct model_config *c = engine_config(e);
    struct score_result s = {0};
    struct sequence *seq = NULL;
    bool ok = engine_check_ids(c, engine_ctx(e), "text", q->ids, q->n_ids, err) &&
              allocate(&s, q, c->vocab, err) && sequence_create(e, &seq, err) &&
              (q->hash ? feed_logits(e, seq, q, &s, err) : feed_logprobs(e, seq, q, &s, err));
    sequence_destroy(seq);
    if (!ok) {
        score_result_finish(&s);
        return false;
    }
    *out = s; /* moves */
    return true;
}

void score_result_finish(struct score_result *r) {
    free(r->logprobs);
    free(r->last);
    *r = (struct score_result){0};
}
