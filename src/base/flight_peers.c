#include "base/flight_peers.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/memory_file.h"
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

struct flight_address flight_share(int rank) {
    own_rank = rank;
    if (own_address.fd >= 0) {
        return own_address;
    }
    struct flight_address a = {.rank = rank, .pid = (int32_t)getpid(), .fd = -1};
    int fd;
    struct flight *memory = NULL;
    if (getrandom(&a.token, sizeof a.token, 0) == (ssize_t)sizeof a.token) {
        memory = memory_file_create(MEMORY_NAME, flight_size(), &fd);
    }
    if (memory) {
        a.fd = fd;
        flight_place_in(memory, a.token);
        own_address = a;
    }
    return a;
}

static const struct flight *map_record(const struct flight_address *a) {
    const struct flight *f = memory_file_map(MEMORY_NAME, flight_size(), a->pid, a->fd);
    if (f && !flight_is(f, a->token)) {
        munmap((void *)f, flight_size());
        return NULL;
    }
    return f;
}

void flight_map(const struct flight_address *a) {
    struct process_stat now;
    struct peer p = {.rank = a->rank, .pid = a->pid};
    if (a->rank == own_rank || a->fd < 0 || flight_of_rank(a->rank) ||
        !process_stat(a->pid, &now) || !(p.record = map_record(a))) {
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
