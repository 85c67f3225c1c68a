/* How much more memory this process may take, and with whom it shares that. */
#pragma once

#include <stdint.h>

/* Bytes; UINT64_MAX where nothing limits. */
struct host_limits {
    uint64_t own;      /* this process alone: RLIMIT_AS and RLIMIT_DATA */
    uint64_t group;    /* its control group, or the one above it that leaves least; v2 and v1 */
    uint64_t group_id; /* names that group, among those of the host */
    uint64_t host;     /* everybody */
};

/* root: a folder that holds the proc and sys to read, "" for the real ones. Page cache that the
 * kernel would give back counts as free. */
void host_limits_read(const char *root, struct host_limits *out);

uint64_t host_limits_least(const struct host_limits *l);
