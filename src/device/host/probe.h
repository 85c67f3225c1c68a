/* The limits of this machine, measured on a host device's threads: how fast they read memory and
 * how fast they multiply and add. A measurement takes a few milliseconds, so that it can be
 * repeated right beside what is compared with it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "device/device.h"

struct probe;

/* d: a host device, borrowed. bytes: to stream through, round and round; far more than the caches
 * hold. Tries the read patterns and settles on the best. Errors: MEMORY. */
bool probe_create(struct device *d, size_t bytes, struct probe **out, struct error *err);
void probe_destroy(struct probe *);

/* Bytes read per second by all threads, now; and the median when the probe was made. */
double probe_read(struct probe *);
double probe_read_best(const struct probe *);
const char *probe_read_pattern(const struct probe *);
/* Reads by pattern i from now on, whichever was the best. False if there is no pattern i. */
bool probe_use_pattern(struct probe *, int i);

/* f32 operations per second by all threads, now; a multiply-add counts as two. */
double probe_fma(struct probe *);
