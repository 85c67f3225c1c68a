#include "device/host/host.h"

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"
#include "device/host/host_limits.h"

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

size_t host_memory_available(void) {
    struct host_limits limits;
    host_limits_read("", &limits);
    return (size_t)host_limits_least(&limits);
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
