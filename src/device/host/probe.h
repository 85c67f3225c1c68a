/* The limits of this machine, measured: how fast its threads read memory and multiply-add. */
#pragma once

#include <stddef.h>

#include "base/error.h"

struct probe_options {
    int n_thread;
    const char *isa; /* NULL: the best */
    size_t bytes;    /* to stream through; far more than the caches hold */
    int n_round;     /* of which the median counts */
};

struct probe_result {
    double read_bytes; /* per second, all threads, in the best pattern */
    const char *read_pattern;
    double fma_flops; /* f32, per second, all threads; a multiply-add counts as two */
};

/* Errors: MEMORY, UNSUPPORTED. */
bool probe_run(const struct probe_options *, struct probe_result *out, struct error *err);
