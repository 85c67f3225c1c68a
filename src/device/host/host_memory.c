#include "device/host/host.h"

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"

enum { CACHE_LINE = 64 };
static const size_t huge_page = (size_t)2 << 20;

/* A mapping that begins at a huge page, so that the kernel can back it with them. */
static void *map_huge(size_t bytes) {
    size_t size, with_slack;
    if (!checked_add(bytes, huge_page, &with_slack)) {
        return NULL;
    }
    size = round_up(bytes, (size_t)4096);
    unsigned char *p =
        mmap(NULL, with_slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        return NULL;
    }
    unsigned char *aligned = (unsigned char *)round_up((uintptr_t)p, huge_page);
    unsigned char *end = p + round_up(with_slack, (size_t)4096);
    if (aligned > p) {
        munmap(p, (size_t)(aligned - p));
    }
    if (end > aligned + size) {
        munmap(aligned + size, (size_t)(end - (aligned + size)));
    }
    madvise(aligned, size, MADV_HUGEPAGE);
    return aligned;
}

void *host_memory_alloc(size_t bytes) {
    if (bytes >= huge_page) {
        return map_huge(bytes);
    }
    size_t size = round_up(bytes ? bytes : 1, CACHE_LINE);
    void *p = aligned_alloc(CACHE_LINE, size);
    if (p) {
        memset(p, 0, size);
    }
    return p;
}

void host_memory_free(void *p, size_t bytes) {
    if (p && bytes >= huge_page) {
        munmap(p, round_up(bytes, (size_t)4096));
    } else {
        free(p);
    }
}

bool host_scratch_reserve(struct host_scratch *s, size_t bytes, struct error *err) {
    if (bytes <= s->size) {
        return true;
    }
    size_t size = round_up(bytes, (size_t)4096);
    void *p = host_memory_alloc(size);
    if (!p) {
        return error_set(err, ERROR_MEMORY, "cannot allocate %zu bytes of scratch memory", size);
    }
    host_memory_free(s->data, s->size);
    *s = (struct host_scratch){p, size};
    return true;
}

void host_scratch_finish(struct host_scratch *s) {
    host_memory_free(s->data, s->size);
    *s = (struct host_scratch){0};
}

/* The number in a one-line file; false for "max", or where there is none. */
static bool read_number(const char *path, uint64_t *out) {
    FILE *f = fopen(path, "re");
    bool ok = f && fscanf(f, "%lu", out) == 1;
    if (f) {
        fclose(f);
    }
    return ok;
}

/* The value of "key value" (or "key: value kB") in a file of such lines; 0 where there is none. */
static uint64_t read_field(const char *path, const char *key) {
    FILE *f = fopen(path, "re");
    char line[256];
    uint64_t value = 0;
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

/* What this process' cgroup (v2) and the ones above it still allow. Page cache that the kernel
 * would give back counts as free. */
static uint64_t cgroup_available(void) {
    uint64_t least = UINT64_MAX;
    char line[1024] = "";
    FILE *f = fopen("/proc/self/cgroup", "re");
    while (f && fgets(line, sizeof line, f) && strncmp(line, "0::", 3) != 0) {
    }
    if (f) {
        fclose(f);
    }
    if (strncmp(line, "0::/", 4) != 0) {
        return least;
    }
    char *group = line + 3;
    group[strcspn(group, "\n")] = 0;
    for (;;) {
        char path[1200];
        uint64_t limit, used;
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.max", group);
        bool limited = read_number(path, &limit);
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.current", group);
        if (limited && read_number(path, &used)) {
            snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.stat", group);
            uint64_t cache = read_field(path, "inactive_file") + read_field(path, "active_file");
            used = used > cache ? used - cache : 0;
            uint64_t left = limit > used ? limit - used : 0;
            least = left < least ? left : least;
        }
        char *slash = strrchr(group, '/');
        if (!slash || group[0] == 0 || group[1] == 0) {
            return least;
        }
        slash[slash == group] = 0;
    }
}

size_t host_memory_available(void) {
    uint64_t system = read_field("/proc/meminfo", "MemAvailable") * 1024;
    uint64_t group = cgroup_available();
    return (size_t)(group < system ? group : system);
}

uint64_t host_memory_resident(void) {
    uint64_t pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f) {
        if (fscanf(f, "%*u %" SCNu64, &pages) != 1) {
            pages = 0;
        }
        fclose(f);
    }
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}
