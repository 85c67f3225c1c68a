/* Pinned host memory, and who may touch it when. Host code sees the bytes at the address that it
 * was given; the device reaches them through a second mapping. While an asynchronous copy waits in
 * a stream, the pages that host code sees are protected: writing what the copy has yet to read, or
 * touching what it has yet to write, faults, and is told as the synchronisation that is missing. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "sim.h"

/* Bytes that an operation which waits in a stream will use. */
struct use {
    size_t at, bytes;
    bool written; /* by the operation */
    const char *who;
};

struct pinned {
    unsigned char *p;      /* what host code sees */
    unsigned char *device; /* the same bytes */
    size_t bytes, room;    /* room: in whole pages */
    struct use *uses;      /* owns */
    size_t n_use, use_capacity;
};

static struct pinned *pinned;
static size_t n_pinned, pinned_capacity;

static struct pinned *pinned_of(const void *p) {
    for (size_t i = 0; i < n_pinned; i++) {
        const unsigned char *first = pinned[i].p;
        if ((const unsigned char *)p >= first &&
            (const unsigned char *)p < first + pinned[i].room) {
            return &pinned[i];
        }
    }
    return NULL;
}

bool sim_is_pinned(const void *p) {
    const struct pinned *m = pinned_of(p);
    return m && (const unsigned char *)p < m->p + m->bytes;
}

void *sim_pinned_device(const void *p) {
    const struct pinned *m = pinned_of(p);
    return m ? m->device + ((const unsigned char *)p - m->p) : NULL;
}

/* ---- protection ---- */

static size_t page(void) {
    return (size_t)sysconf(_SC_PAGESIZE);
}

static void protect(const struct pinned *m, size_t at, size_t bytes, int protection) {
    size_t first = at / page() * page(), end = (at + bytes + page() - 1) / page() * page();
    mprotect(m->p + first, end - first, protection);
}

/* What the uses that overlap these pages leave to host code: those that write come last. */
static void protect_again(const struct pinned *m, size_t at, size_t bytes) {
    size_t first = at / page() * page(), end = (at + bytes + page() - 1) / page() * page();
    for (int written = 0; written < 2; written++) {
        for (size_t i = 0; i < m->n_use; i++) {
            const struct use *u = &m->uses[i];
            if (u->written == written && u->at < end && u->at + u->bytes > first) {
                protect(m, u->at, u->bytes, written ? PROT_NONE : PROT_READ);
            }
        }
    }
}

void sim_pinned_use(const void *p, size_t bytes, bool written, const char *who) {
    struct pinned *m = bytes ? pinned_of(p) : NULL;
    if (!m || !sim_settings()->check) {
        return;
    }
    if (m->n_use == m->use_capacity) {
        m->use_capacity = m->use_capacity ? 2 * m->use_capacity : 8;
        m->uses = realloc(m->uses, m->use_capacity * sizeof *m->uses);
    }
    size_t at = (size_t)((const unsigned char *)p - m->p);
    m->uses[m->n_use++] = (struct use){at, bytes, written, who};
    protect_again(m, at, bytes);
}

void sim_pinned_used(const void *p, size_t bytes, bool written) {
    struct pinned *m = bytes ? pinned_of(p) : NULL;
    size_t at = m ? (size_t)((const unsigned char *)p - m->p) : 0;
    for (size_t i = 0; m && i < m->n_use; i++) {
        const struct use *u = &m->uses[i];
        if (u->at == at && u->bytes == bytes && u->written == written) {
            memmove(&m->uses[i], &m->uses[i + 1], (m->n_use - i - 1) * sizeof *u);
            m->n_use--;
            protect(m, at, bytes, PROT_READ | PROT_WRITE);
            protect_again(m, at, bytes);
            return;
        }
    }
}

static bool is_write(const void *context) {
#ifdef __x86_64__
    return ((const ucontext_t *)context)->uc_mcontext.gregs[REG_ERR] & 2;
#else
    (void)context;
    return false;
#endif
}

bool sim_pinned_fault(const void *address, const void *context) {
    struct pinned *m = pinned_of(address);
    bool writes = is_write(context);
    if (!m) {
        return false;
    }
    size_t at = (size_t)((const unsigned char *)address - m->p);
    for (size_t i = 0; i < m->n_use; i++) {
        const struct use *u = &m->uses[i];
        if (at >= u->at && at - u->at < u->bytes && (u->written || writes)) {
            gpusim_finding("missing synchronisation: host code %s %p, byte %zu of pinned memory of "
                           "%zu bytes, which a %s that nobody has waited for has yet to %s",
                           writes ? "writes" : "reads", address, at, m->bytes, u->who,
                           u->written ? "write" : "read");
            break;
        }
    }
    /* Host code goes on: with what is there, as it would on a GPU that is slow. */
    protect(m, at, 1, PROT_READ | PROT_WRITE);
    return true;
}

/* ---- memory ---- */

static unsigned char *map(int fd, size_t room) {
    void *p = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return p == MAP_FAILED ? NULL : p;
}

cudaError_t sim_pinned_allocate(void **out, size_t bytes) {
    struct pinned m = {.bytes = bytes, .room = (bytes / page() + 1) * page()};
    int fd = memfd_create("gpusim pinned memory", MFD_CLOEXEC);
    bool ok = fd >= 0 && ftruncate(fd, (off_t)m.room) == 0 && (m.p = map(fd, m.room)) &&
              (m.device = map(fd, m.room));
    if (fd >= 0) {
        close(fd);
    }
    if (!ok) {
        return cudaErrorMemoryAllocation;
    }
    memset(m.device, 0xa5, bytes); /* nobody may count on zeros */
    if (n_pinned == pinned_capacity) {
        pinned_capacity = pinned_capacity ? 2 * pinned_capacity : 64;
        pinned = realloc(pinned, pinned_capacity * sizeof *pinned);
    }
    pinned[n_pinned++] = m;
    *out = m.p;
    return cudaSuccess;
}

cudaError_t sim_pinned_release(void *p) {
    struct pinned *m = pinned_of(p);
    if (!m || m->p != p) {
        gpusim_finding("cudaFreeHost of %p, which is not pinned memory", p);
        return cudaErrorInvalidValue;
    }
    munmap(m->p, m->room);
    munmap(m->device, m->room);
    free(m->uses);
    *m = pinned[--n_pinned];
    return cudaSuccess;
}

void sim_pinned_report_leaks(void) {
    for (size_t i = 0; i < n_pinned; i++) {
        gpusim_finding("leak at exit: pinned memory %p, %zu bytes", (void *)pinned[i].p,
                       pinned[i].bytes);
    }
}
