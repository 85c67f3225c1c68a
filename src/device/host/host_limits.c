#include "device/host/host_limits.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/cgroup.h"
#include "base/hash.h"

enum { PATH_SIZE = 1400 };

static uint64_t least(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

static uint64_t left_of(uint64_t limit, uint64_t used) {
    return limit > used ? limit - used : 0;
}

/* The number in a one-line file; false for "max", or where there is none. */
static bool read_number(const char *root, const char *path, uint64_t *out) {
    FILE *f = root_open(root, path);
    bool ok = f && fscanf(f, "%" SCNu64, out) == 1;
    if (f) {
        fclose(f);
    }
    return ok;
}

/* The value of "key value" (or "key: value kB") in a file of such lines; `none` where there is
 * no such. */
static uint64_t read_field(const char *root, const char *path, const char *key, uint64_t none) {
    FILE *f = root_open(root, path);
    char line[256];
    uint64_t value = none;
    size_t length = strlen(key);
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, key, length) == 0 && (line[length] == ' ' || line[length] == ':')) {
            value = strtoull(line + length + 1, NULL, 10);
            break;
        }
    }
    if (f) {
        fclose(f);
    }
    return value;
}

/* ---- control groups ---- */

static const struct memory_controller {
    const char *controller; /* "" is version 2 */
    const char *mount, *limit, *used;
    const char *cache[2]; /* fields of memory.stat */
} versions[] = {
    {"", "/sys/fs/cgroup", "memory.max", "memory.current", {"inactive_file", "active_file"}},
    {"memory",
     "/sys/fs/cgroup/memory",
     "memory.limit_in_bytes",
     "memory.usage_in_bytes",
     {"total_inactive_file", "total_active_file"}},
};

static void look_at_group(const char *root, const struct memory_controller *v, const char *group,
                          struct host_limits *out) {
    char path[PATH_SIZE];
    uint64_t limit, used;
    snprintf(path, sizeof path, "%s%s/%s", v->mount, group, v->limit);
    if (!read_number(root, path, &limit)) {
        return;
    }
    snprintf(path, sizeof path, "%s%s/%s", v->mount, group, v->used);
    if (!read_number(root, path, &used)) {
        return;
    }
    snprintf(path, sizeof path, "%s%s/memory.stat", v->mount, group);
    uint64_t cache =
        read_field(root, path, v->cache[0], 0) + read_field(root, path, v->cache[1], 0);
    uint64_t left = left_of(limit, left_of(used, cache));
    if (left < out->group) {
        out->group = left;
        out->group_id = hash_bytes(HASH_START, group, strlen(group));
    }
}

static void look_at_groups(const char *root, const struct memory_controller *v,
                           struct host_limits *out) {
    char group[CGROUP_NAME];
    for (bool more = cgroup_find(root, v->controller, group); more; more = cgroup_up(group)) {
        look_at_group(root, v, group, out);
    }
}

/* ---- this process ---- */

static uint64_t limit_of(int resource, uint64_t used) {
    struct rlimit limit;
    bool limited = getrlimit(resource, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
    return limited ? left_of(limit.rlim_cur, used) : UINT64_MAX;
}

static uint64_t look_at_process(const char *root) {
    uint64_t pages = 0, data = 0, page = (uint64_t)sysconf(_SC_PAGESIZE);
    FILE *f = root_open(root, "/proc/self/statm");
    if (f) {
        if (fscanf(f, "%" SCNu64 " %*u %*u %*u %*u %" SCNu64, &pages, &data) != 2) {
            pages = data = 0;
        }
        fclose(f);
    }
    return least(limit_of(RLIMIT_AS, pages * page), limit_of(RLIMIT_DATA, data * page));
}

void host_limits_read(const char *root, struct host_limits *out) {
    *out = (struct host_limits){.own = look_at_process(root), .group = UINT64_MAX};
    uint64_t kib = read_field(root, "/proc/meminfo", "MemAvailable", UINT64_MAX);
    out->host = kib > UINT64_MAX / 1024 ? UINT64_MAX : kib * 1024;
    for (size_t i = 0; i < sizeof versions / sizeof versions[0]; i++) {
        look_at_groups(root, &versions[i], out);
    }
}

uint64_t host_limits_least(const struct host_limits *l) {
    return least(l->own, least(l->group, l->host));
}
