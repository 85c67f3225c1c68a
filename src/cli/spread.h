/* Repeated measurements in three numbers: what commands print of them. */
#pragma once

#include <jansson.h>

struct spread {
    int n;
    double min, median, max;
};

/* Sorts v [n]; all zero where n is 0. */
struct spread spread_of(double *v, int n);

/* {"n", "min", "median", "max"}, times `unit`; null where n is 0. */
json_t *spread_json(const struct spread *s, double unit);
