/* Log-probabilities of a text: every position's logits, a few rows at a time. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "leader/generate.h"
#include "model/logprob.h"

enum { ROWS = 32 }; /* logits of so many positions are held at once */

static void score_rows(struct score_result *s, const float *logits, int vocab, const int32_t *ids,
                       int n_ids, int pos, int n) {
    for (int i = 0; i < n; i++) {
        const float *row = logits + (size_t)i * (size_t)vocab;
        if (pos + i + 1 < n_ids) {
            double lp = logprob_of_row(row, vocab, ids[pos + i + 1]);
            s->logprobs[s->n++] = lp;
            s->sum += lp;
        } else {
            memcpy(s->last, row, (size_t)vocab * sizeof *row);
        }
    }
    s->hash = hash_bytes(s->hash, logits, (size_t)n * (size_t)vocab * sizeof *logits);
}

bool score(struct engine *e, const int32_t *ids, int n_ids, bool (*interrupted)(void),
           struct score_result *out, struct error *err) {
    int vocab = engine_config(e)->vocab;
    struct score_result s = {.hash = HASH_START};
    struct sequence *seq = NULL;
    bool ok = engine_check_ids(engine_config(e), engine_ctx(e), "text", ids, n_ids, err);
    if (ok) {
        s.logprobs = malloc((size_t)n_ids * sizeof *s.logprobs);
        s.last = malloc((size_t)vocab * sizeof *s.last);
        ok = (s.logprobs && s.last) || error_set(err, ERROR_MEMORY, "cannot allocate the scores");
    }
    ok = ok && sequence_create(e, &seq, err);
    int step = engine_max_tok(e) < ROWS ? engine_max_tok(e) : ROWS;
    for (int pos = 0; ok && pos < n_ids; pos += step) {
        int n = n_ids - pos < step ? n_ids - pos : step;
        struct engine_part part = {seq, ids + pos, n, STEP_OUTPUT_ALL_LOGITS, 0};
        struct step_result r;
        ok = engine_feed(e, &part, &r, interrupted, err);
        if (ok) {
            score_rows(&s, r.logits, vocab, ids, n_ids, pos, n);
        }
    }
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
