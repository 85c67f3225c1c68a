/* The limits of this machine, measured on a host device's threads: how fast they read memory and
 * how fast they multiply and add. A measurement takes a few milliseconds, so that it can be
 * repeated right beside what is compared with it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "device/device.h"

struct probe;

enum probe_limit {
    PROBE_MEMORY, /* bytes read a second */
    PROBE_F32,    /* f32 operations a second, by the device's instruction set */
    PROBE_INT8,   /* the same of products of bytes that are added up in 32 bits */
    PROBE_LIMIT_COUNT
};

/* "memory", "f32", "int8": names on the wire and in JSON. */
const char *probe_limit_name(enum probe_limit which);
/* False if the name is none of them. */
bool probe_limit_from_name(const char *name, enum probe_limit *out);

/* d: a host device, borrowed. bytes: to stream through, round and round; far more than the caches
 * hold. Errors: MEMORY. */
bool probe_create(struct device *d, size_t bytes, struct probe **out, struct error *err);
void probe_destroy(struct probe *);

/* Bytes read per second by all threads, now. */
double probe_read(struct probe *);
/* Reads by pattern i from now on. False if there is no pattern i. */
bool probe_use_pattern(struct probe *, int i);
/* Tries all patterns in turns, and reads by the best from now on: its median rate and its name. */
void probe_choose_pattern(struct probe *);
double probe_read_best(const struct probe *);
const char *probe_read_pattern(const struct probe *);

/* Operations per second by all threads, now; a multiply-add counts as two. */
double probe_fma(struct probe *);
double probe_int8(struct probe *);

/* A limit's rate over at least so many seconds, all threads together. */
double probe_measure(struct probe *, enum probe_limit which, double seconds);
