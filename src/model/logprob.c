#include "model/logprob.h"

#include <math.h>

#include "base/realmath.h"
#include "device/host/row.h"

double logprob_of_row(const float *logits, int vocab, int32_t id) {
    float most = row_max(logits, vocab);
    double sum = row_exp_sum(NULL, NULL, logits, vocab, most, 1);
    return (double)logits[id] - (double)most - realmath_log(sum);
}

double logprob_of_parts(const struct exp_sum *parts, int n_part, size_t stride) {
    double most = -HUGE_VAL, sum = 0, target = 0;
    for (int i = 0; i < n_part; i++) {
        double x = (double)parts[(size_t)i * stride].max;
        most = x > most ? x : most;
    }
    for (int i = 0; i < n_part; i++) {
        const struct exp_sum *p = &parts[(size_t)i * stride];
        /* 0 * NaN where all parts are empty, as it is of a row that is -inf throughout. */
        sum += (double)p->sum * realmath_exp((double)p->max - most);
        target += (double)p->target;
    }
    return target - most - realmath_log(sum);
}
