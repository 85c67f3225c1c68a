/* Results that are none: a NaN anywhere in a network makes everything behind it NaN. Looked for on
 * rank 0, where all logits or what is made of them come together anyway. */
#include <math.h>
#include <string.h>

#include "model/model_impl.h"

/* From how many ranks' logits are not finite, and one of these. */
static int verdict(const struct model *m, int n_bad, int rank) {
    return n_bad == 0 ? OUTPUT_FINE : n_bad == 1 && m->nn.shard.world > 1 ? rank : OUTPUT_WRONG;
}

static bool all_finite(const float *x, size_t n) {
    static const uint32_t exponent = 0x7f800000;
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bad |= (bits & exponent) == exponent;
    }
    return !bad;
}

int output_judge_logits(const struct model *m, const float *row) {
    int n_bad = 0, rank = 0;
    if (all_finite(row, (size_t)m->config.vocab)) {
        return OUTPUT_FINE;
    }
    for (int r = 0; r < m->nn.shard.world; r++) {
        size_t n = (size_t)model_vocab_of_rank(m, r);
        if (!all_finite(row, n)) {
            n_bad++;
            rank = r;
        }
        row += n;
    }
    return verdict(m, n_bad, rank);
}

/* The largest of a rank is -inf where all of its logits are NaN. */
int output_judge_candidates(const struct model *m, const struct candidate_list *lists) {
    int n_bad = 0, rank = 0;
    for (int r = 0; r < m->nn.shard.world; r++) {
        if (lists[r].n > 0 && !isfinite(lists[r].values[0])) {
            n_bad++;
            rank = r;
        }
    }
    return verdict(m, n_bad, rank);
}

int output_judge_sums(const struct model *m, const struct exp_sum *sums, size_t stride) {
    int n_bad = 0, rank = 0;
    for (int r = 0; r < m->nn.shard.world; r++) {
        if (!isfinite(sums[(size_t)r * stride].sum)) {
            n_bad++;
            rank = r;
        }
    }
    return verdict(m, n_bad, rank);
}

void output_judge(struct model *m) {
    const struct batch *b = &m->batch;
    for (int i = 0; i < b->n_row; i++) {
        struct step_result *r = &m->out.results[b->out[i].seq];
        int wrong = m->out.wrong[i];
        if (wrong != OUTPUT_FINE) {
            r->wrong_rank = r->wrong && r->wrong_rank != wrong ? OUTPUT_WRONG : wrong;
            r->wrong = true;
        }
    }
}

bool step_result_check(const struct step_result *r, struct error *err) {
    if (!r->wrong) {
        return true;
    }
    bool one = r->wrong_rank >= 0;
    error_set(err, ERROR_WRONG_RESULT, "the model's logits are not finite (NaN or infinite)%s",
              one ? ", and only those of this rank's part of the vocabulary" : "");
    return one ? error_at_rank(err, r->wrong_rank) : false;
}
