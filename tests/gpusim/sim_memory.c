/* Device memory. Three address ranges of one size: the device's addresses, which nobody may touch;
 * their bytes; and for every byte whether it was ever written. Addresses are not used again, so
 * that what was freed is known for what it is. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sim.h"

enum { ALIGN = 512, GUARD = 4096 };
static const size_t RANGE_BYTES = (size_t)64 << 30;

struct allocation {
    struct ptx_block block;
    bool live;
};

static unsigned char *range, *bytes_of, *written_of;
static size_t range_used, memory_used;
static struct allocation **list; /* by address */
static size_t n_list, list_capacity;
static struct sigaction segv_before;

bool sim_is_device(const void *p) {
    const unsigned char *at = p;
    return range && at >= range && at < range + RANGE_BYTES;
}

/* Host code followed a device address, or touched pinned memory too soon. */
static void on_segv(int signal_number, siginfo_t *info, void *context) {
    sim_lock();
    bool goes_on = sim_pinned_fault(info->si_addr, context);
    if (!goes_on && sim_is_device(info->si_addr)) {
        gpusim_finding("host code used the device pointer %p", info->si_addr);
    }
    sim_unlock();
    if (!goes_on) { /* the instruction runs again, and ends the process */
        sigaction(signal_number, &segv_before, NULL);
    }
}

void sim_watch_host(void) {
    static bool watching;
    struct sigaction action = {.sa_sigaction = on_segv, .sa_flags = SA_SIGINFO | SA_NODEFER};
    if (!watching) {
        watching = true;
        sigaction(SIGSEGV, &action, &segv_before);
    }
}

static void *map(int protection) {
    void *p =
        mmap(NULL, RANGE_BYTES, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        perror("gpusim: mmap");
        _exit(2);
    }
    return p;
}

static void start(void) {
    if (range) {
        return;
    }
    range = map(PROT_NONE);
    bytes_of = map(PROT_READ | PROT_WRITE);
    written_of = map(PROT_READ | PROT_WRITE);
    range_used = GUARD;
    sim_watch_host();
}

/* The allocation, live or not, that begins last at or before the address. */
static struct allocation *at_or_before(uint64_t address) {
    size_t low = 0, high = n_list;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (list[mid]->block.address <= address) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low ? list[low - 1] : NULL;
}

const struct ptx_block *sim_find(uint64_t address) {
    struct allocation *a = at_or_before(address);
    bool inside = a && a->live && address - a->block.address < a->block.bytes;
    return inside ? &a->block : NULL;
}

void *sim_memory(const void *p, size_t bytes, enum gpusim_access access, bool allow_host,
                 const char *who) {
    if (!sim_is_device(p)) {
        if (!allow_host) {
            gpusim_finding("%s: %p is not device memory", who, p);
            return NULL;
        }
        void *device = sim_pinned_device(p);
        return device ? device : (void *)p;
    }
    struct allocation *a = at_or_before((uint64_t)p);
    size_t at = a ? (size_t)((uint64_t)p - a->block.address) : 0;
    if (!a || at >= a->block.bytes + GUARD) {
        gpusim_finding("%s: %p lies in no allocation", who, p);
        return NULL;
    }
    if (!a->live || at > a->block.bytes || bytes > a->block.bytes - at) {
        gpusim_finding("%s: %zu bytes at %p are byte %zu and on of %s allocation of %zu bytes", who,
                       bytes, p, at, a->live ? "an" : "a freed", a->block.bytes);
        return NULL;
    }
    unsigned char *written = a->block.written + at;
    if (access & GPUSIM_READ && sim_settings()->check) {
        for (size_t i = 0; i < bytes; i++) {
            if (!written[i]) {
                gpusim_finding("%s: reads %p, byte %zu of an allocation of %zu bytes, which was "
                               "never written",
                               who, (const void *)((const char *)p + i), at + i, a->block.bytes);
                break;
            }
        }
    }
    if (access & GPUSIM_WRITE) {
        memset(written, 1, bytes);
    }
    return a->block.data + at;
}

GPUSIM_API void *gpusim_memory(const void *p, size_t bytes, enum gpusim_access access,
                               bool allow_host, const char *who) {
    sim_lock();
    void *at = sim_memory(p, bytes, access, allow_host, who);
    sim_unlock();
    return at;
}

static cudaError_t allocate(void **out, size_t bytes) {
    *out = NULL;
    if (bytes == 0) {
        return cudaSuccess;
    }
    size_t room = (bytes + GUARD + ALIGN - 1) / ALIGN * ALIGN;
    if (bytes > sim_settings()->memory - memory_used || room > RANGE_BYTES - range_used) {
        return cudaErrorMemoryAllocation;
    }
    start();
    if (n_list == list_capacity) {
        list_capacity = list_capacity ? 2 * list_capacity : 256;
        list = realloc(list, list_capacity * sizeof *list);
    }
    struct allocation *a = malloc(sizeof *a);
    *a = (struct allocation){.block = {.address = (uint64_t)(range + range_used),
                                       .bytes = bytes,
                                       .data = bytes_of + range_used,
                                       .written = written_of + range_used},
                             .live = true};
    list[n_list++] = a;
    range_used += room;
    memory_used += bytes;
    *out = (void *)a->block.address; // NOLINT: an address of the device
    return cudaSuccess;
}

static cudaError_t release(void *p) {
    if (!p) {
        return cudaSuccess;
    }
    struct allocation *a = sim_is_device(p) ? at_or_before((uint64_t)p) : NULL;
    if (!a || !a->live || a->block.address != (uint64_t)p) {
        gpusim_finding("cudaFree of %p, which %s", p,
                       a && !a->live ? "was freed before" : "is no allocation");
        return cudaErrorInvalidValue;
    }
    a->live = false;
    memory_used -= a->block.bytes;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t first = ((size_t)a->block.data + page - 1) / page * page;
    size_t end = ((size_t)a->block.data + a->block.bytes) / page * page;
    if (end > first) {
        madvise((void *)first, end - first, MADV_DONTNEED);
    }
    return cudaSuccess;
}

API cudaError_t cudaMalloc(void **out, size_t bytes) {
    cudaError_t e = sim_enter("cudaMalloc");
    if (e == cudaSuccess) {
        e = sim_breaks_capture() ? cudaErrorStreamCaptureUnsupported : allocate(out, bytes);
    }
    return sim_leave(e);
}

/* Waits for the device, as CUDA's does. */
API cudaError_t cudaFree(void *p) {
    cudaError_t e = sim_enter("cudaFree");
    if (e == cudaSuccess && p) {
        e = sim_breaks_capture() ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
        if (e == cudaSuccess && sim_run_all() == cudaErrorNotReady && !gpusim_gave_up()) {
            gpusim_finding("cudaFree of %p while operations wait for another process", p);
        }
        e = e == cudaSuccess ? release(p) : e;
    }
    return sim_leave(e);
}

static cudaError_t host_allocate(void **out, size_t bytes) {
    sim_watch_host();
    return sim_pinned_allocate(out, bytes);
}

API cudaError_t cudaMallocHost(void **out, size_t bytes) {
    cudaError_t e = sim_enter("cudaMallocHost");
    return sim_leave(e == cudaSuccess ? host_allocate(out, bytes) : e);
}

API cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned flags) {
    (void)flags;
    cudaError_t e = sim_enter("cudaHostAlloc");
    return sim_leave(e == cudaSuccess ? host_allocate(out, bytes) : e);
}

API cudaError_t cudaFreeHost(void *p) {
    cudaError_t e = sim_enter("cudaFreeHost");
    if (e != cudaSuccess || !p) {
        return sim_leave(e);
    }
    if (sim_run_all() == cudaErrorNotReady && !gpusim_gave_up()) {
        gpusim_finding("cudaFreeHost of %p while operations wait for another process", p);
    }
    return sim_leave(sim_pinned_release(p));
}

API cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
    cudaError_t e = sim_enter("cudaMemGetInfo");
    if (e == cudaSuccess) {
        *total = sim_settings()->memory;
        *available = *total - memory_used;
    }
    return sim_leave(e);
}

void sim_memory_report_leaks(void) {
    for (size_t i = 0; i < n_list; i++) {
        if (list[i]->live) {
            gpusim_finding("leak at exit: device memory %p, %zu bytes",
                           (void *)list[i]->block.address, list[i]->block.bytes);
        }
    }
}
