#include "cli/spread.h"

#include <stdlib.h>

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct spread spread_of(double *v, int n) {
    if (n == 0) {
        return (struct spread){0};
    }
    qsort(v, (size_t)n, sizeof *v, by_value);
    double median = n % 2 ? v[n / 2] : 0.5 * (v[n / 2 - 1] + v[n / 2]);
    return (struct spread){.n = n, .min = v[0], .median = median, .max = v[n - 1]};
}

json_t *spread_json(const struct spread *s, double unit) {
    return s->n ? json_pack("{s:i, s:f, s:f, s:f}", "n", s->n, "min", unit * s->min, "median",
                            unit * s->median, "max", unit * s->max)
                : json_null();
}
