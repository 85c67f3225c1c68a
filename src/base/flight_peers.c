#include "base/flight_peers.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/process.h"

#define MEMORY_NAME "lockstep-flight"

struct peer {
    int rank, pid;
    uint64_t started; /* of the process: a later one may have its number */
    const struct flight *record;
};

static struct peer *peers; /* owns [n_peer]; lives as long as the process */
static int n_peer;
static int own_rank = -1;
static struct flight_address own_address = {.fd = -1};

/* Shrinking is sealed off: a neighbour that reads must never meet the end of the file. */
static int make_memory(size_t size) {
    int fd = memfd_create(MEMORY_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd >= 0 && (ftruncate(fd, (off_t)size) != 0 ||
                    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)) {
        close(fd);
        fd = -1;
    }
    return fd;
}

struct flight_address flight_share(int rank) {
    size_t size = flight_size();
    own_rank = rank;
    if (own_address.fd >= 0) {
        return own_address;
    }
    struct flight_address a = {.rank = rank, .pid = (int32_t)getpid(), .fd = make_memory(size)};
    void *memory = MAP_FAILED;
    if (a.fd >= 0 && getrandom(&a.token, sizeof a.token, 0) == (ssize_t)sizeof a.token) {
        memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, a.fd, 0);
    }
    if (memory == MAP_FAILED) {
        if (a.fd >= 0) {
            close(a.fd);
        }
        a.fd = -1;
        return a;
    }
    flight_place_in(memory, a.token);
    own_address = a;
    return a;
}

/* Another process may have that number by now, and its file may be anything. */
static int open_memory(const struct flight_address *a) {
    static const char prefix[] = "/memfd:" MEMORY_NAME;
    char path[64], target[sizeof prefix];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)a->pid, (int)a->fd);
    ssize_t n = readlink(path, target, sizeof target);
    if (n < (ssize_t)sizeof prefix - 1 || memcmp(target, prefix, sizeof prefix - 1) != 0) {
        return -1;
    }
    return open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
}

static const struct flight *map_memory(const struct flight_address *a) {
    struct stat about;
    size_t size = flight_size();
    int fd = open_memory(a);
    void *memory = MAP_FAILED;
    if (fd < 0) {
        return NULL;
    }
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals >= 0 && (seals & F_SEAL_SHRINK) && fstat(fd, &about) == 0 &&
        about.st_size == (off_t)size) {
        memory = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    }
    close(fd);
    if (memory != MAP_FAILED && !flight_is(memory, a->token)) {
        munmap(memory, size);
        memory = MAP_FAILED;
    }
    return memory == MAP_FAILED ? NULL : memory;
}

void flight_map(const struct flight_address *a) {
    struct process_stat now;
    struct peer p = {.rank = a->rank, .pid = a->pid};
    if (a->rank == own_rank || a->fd < 0 || flight_of_rank(a->rank) ||
        !process_stat(a->pid, &now) || !(p.record = map_memory(a))) {
        return;
    }
    p.started = now.started;
    struct peer *more = realloc(peers, (size_t)(n_peer + 1) * sizeof *more);
    if (more) {
        peers = more;
        peers[n_peer++] = p;
    }
}

static const struct peer *find_peer(int rank) {
    for (int i = 0; i < n_peer; i++) {
        if (peers[i].rank == rank) {
            return &peers[i];
        }
    }
    return NULL;
}

const struct flight *flight_of_rank(int rank) {
    const struct peer *p = find_peer(rank);
    return rank == own_rank ? flight_own() : p ? p->record : NULL;
}

bool flight_neighbour_has_said(void) {
    bool said = false;
    for (int i = 0; i < n_peer; i++) {
        said = said || flight_said(peers[i].record) >= 0;
    }
    return said;
}

char flight_process_state(int rank) {
    const struct peer *p = find_peer(rank);
    struct process_stat now;
    if (!p) {
        return 0;
    }
    return process_stat(p->pid, &now) && now.started == p->started ? now.state : 'X';
}

bool flight_has_ended_well(int rank) {
    const struct peer *p = find_peer(rank);
    char state = flight_process_state(rank);
    return p && flight_said(p->record) == 0 && (state == 'Z' || state == 'X');
}

int flight_watch(int rank) {
    const struct peer *p = find_peer(rank);
    int fd = p ? (int)syscall(SYS_pidfd_open, (pid_t)p->pid, 0U) : -1;
    if (fd >= 0 && flight_process_state(rank) == 'X') { /* the number is another's by now */
        close(fd);
        fd = -1;
    }
    return fd;
}
