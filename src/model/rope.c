#include "model/rope.h"

#include "base/realmath.h"

/* Long wavelengths are stretched by `factor`, short ones kept, those between blended. */
static double llama3_scale(double inv_freq, const struct rope_config *rope) {
    const double two_pi = 6.283185307179586;
    double turns = rope->original_positions * inv_freq / two_pi; /* over the original context */
    if (turns > rope->high_freq_factor) {
        return inv_freq;
    }
    if (turns < rope->low_freq_factor) {
        return inv_freq / rope->factor;
    }
    double smooth =
        (turns - rope->low_freq_factor) / (rope->high_freq_factor - rope->low_freq_factor);
    return (1.0 - smooth) * inv_freq / rope->factor + smooth * inv_freq;
}

void rope_table_fill(float *table, const struct rope_config *rope, int head_dim, int n_position) {
    int half = head_dim / 2;
    double log_theta = realmath_log(rope->theta);
    for (int i = 0; i < half; i++) {
        double inv_freq = realmath_exp(-2.0 * i / head_dim * log_theta);
        if (rope->kind == ROPE_LLAMA3) {
            inv_freq = llama3_scale(inv_freq, rope);
        }
        for (int p = 0; p < n_position; p++) {
            double s, c;
            realmath_sincos(p * inv_freq, &s, &c);
            table[(size_t)p * (size_t)head_dim + (size_t)i] = (float)c;
            table[(size_t)p * (size_t)head_dim + (size_t)(half + i)] = (float)s;
        }
    }
}
