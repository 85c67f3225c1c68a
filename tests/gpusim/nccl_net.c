#include "nccl_net.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct bytes {
    char *p;
    size_t n, used, capacity; /* p[used .. n) counts */
};

struct peer {
    int fd;
    bool greeted; /* its hello is here */
    bool bye, lost;
    struct net_hello hello;
    struct bytes in, out;
};

struct net {
    char name[64];
    int rank, world;
    int listener;
    struct net_hello hello;
    struct peer *peers;
    int strangers[64]; /* accepted, rank not known yet */
    int n_stranger;
};

static void append(struct bytes *b, const void *p, size_t n) {
    if (b->used > 0) {
        memmove(b->p, b->p + b->used, b->n - b->used);
        b->n -= b->used;
        b->used = 0;
    }
    if (b->n + n > b->capacity) {
        b->capacity = 2 * (b->n + n);
        b->p = realloc(b->p, b->capacity);
    }
    if (n > 0) {
        memcpy(b->p + b->n, p, n);
    }
    b->n += n;
}

static socklen_t address_of(struct sockaddr_un *a, const char *name, int rank) {
    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    int n = snprintf(a->sun_path + 1, sizeof a->sun_path - 1, "gpusim-%s-%d", name, rank);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
}

static int socket_create(void) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        perror("gpusim: socket");
        _exit(2);
    }
    return fd;
}

struct net *net_create(const char *name, int rank, int world, const struct net_hello *hello) {
    struct net *n = calloc(1, sizeof *n);
    struct sockaddr_un a;
    snprintf(n->name, sizeof n->name, "%s", name);
    n->rank = rank;
    n->world = world;
    n->hello = *hello;
    n->peers = calloc((size_t)world, sizeof *n->peers);
    for (int r = 0; r < world; r++) {
        n->peers[r].fd = -1;
    }
    n->listener = socket_create();
    socklen_t size = address_of(&a, name, rank);
    if (bind(n->listener, (struct sockaddr *)&a, size) != 0 || listen(n->listener, 64) != 0) {
        perror("gpusim: bind");
        _exit(2);
    }
    return n;
}

void net_destroy(struct net *n) {
    for (int r = 0; r < n->world; r++) {
        if (n->peers[r].fd >= 0) {
            close(n->peers[r].fd);
        }
        free(n->peers[r].in.p);
        free(n->peers[r].out.p);
    }
    for (int i = 0; i < n->n_stranger; i++) {
        close(n->strangers[i]);
    }
    close(n->listener);
    free(n->peers);
    free(n);
}

static void greet(struct net *n, int rank, int fd) {
    n->peers[rank].fd = fd;
    net_send(n, rank, &(struct net_header){.kind = NET_HELLO, .bytes = sizeof n->hello}, &n->hello);
}

/* Higher ranks call lower ones, which may not be there yet; their number is the first they send. */
static void connect_peers(struct net *n) {
    for (int r = 0; r < n->rank; r++) {
        struct sockaddr_un a;
        if (n->peers[r].fd >= 0) {
            continue;
        }
        int fd = socket_create();
        socklen_t size = address_of(&a, n->name, r);
        int32_t mine = n->rank;
        if (connect(fd, (struct sockaddr *)&a, size) == 0 &&
            send(fd, &mine, sizeof mine, MSG_NOSIGNAL) == sizeof mine) {
            greet(n, r, fd);
        } else {
            close(fd);
        }
    }
}

static void accept_peers(struct net *n) {
    int fd;
    while (n->n_stranger < 64 &&
           (fd = accept4(n->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        n->strangers[n->n_stranger++] = fd;
    }
    for (int i = 0; i < n->n_stranger; i++) {
        int32_t rank;
        ssize_t got = recv(n->strangers[i], &rank, sizeof rank, 0);
        if (got < 0) {
            continue;
        }
        if (got == sizeof rank && rank > n->rank && rank < n->world && n->peers[rank].fd < 0) {
            greet(n, rank, n->strangers[i]);
        } else {
            close(n->strangers[i]);
        }
        n->strangers[i--] = n->strangers[--n->n_stranger];
    }
}

static void flush(struct peer *p) {
    while (p->out.used < p->out.n) {
        ssize_t n = send(p->fd, p->out.p + p->out.used, p->out.n - p->out.used, MSG_NOSIGNAL);
        if (n < 0) {
            p->lost = p->lost || (errno != EAGAIN && errno != EINTR && !p->bye);
            return;
        }
        p->out.used += (size_t)n;
    }
}

static void fill(struct net *n, int rank) {
    struct peer *p = &n->peers[rank];
    char buffer[65536];
    ssize_t got;
    while ((got = recv(p->fd, buffer, sizeof buffer, 0)) > 0) {
        append(&p->in, buffer, (size_t)got);
    }
    bool gone = got == 0 || (errno != EAGAIN && errno != EINTR);
    const void *payload;
    const struct net_header *h = net_peek(n, rank, &payload);
    if (h && h->kind == NET_HELLO) {
        memcpy(&p->hello, payload, sizeof p->hello);
        p->greeted = true;
        net_pop(n, rank);
        h = net_peek(n, rank, &payload);
    }
    p->bye = p->bye || (h && h->kind == NET_BYE);
    /* What it said before it went is still to be heard. */
    p->lost = p->lost || (gone && !p->bye && !h);
}

void net_progress(struct net *n) {
    connect_peers(n);
    accept_peers(n);
    for (int r = 0; r < n->world; r++) {
        if (n->peers[r].fd >= 0 && !n->peers[r].lost) {
            flush(&n->peers[r]);
            fill(n, r);
        }
    }
}

bool net_ready(const struct net *n) {
    for (int r = 0; r < n->world; r++) {
        if (r != n->rank && !n->peers[r].greeted) {
            return false;
        }
    }
    return true;
}

const struct net_hello *net_peer(const struct net *n, int rank) {
    return n->peers[rank].greeted ? &n->peers[rank].hello : NULL;
}

int net_lost(const struct net *n) {
    for (int r = 0; r < n->world; r++) {
        if (n->peers[r].lost) {
            return r;
        }
    }
    return -1;
}

void net_send(struct net *n, int rank, const struct net_header *h, const void *payload) {
    struct peer *p = &n->peers[rank];
    append(&p->out, h, sizeof *h);
    append(&p->out, payload, h->bytes);
    if (p->fd >= 0 && !p->lost) {
        flush(p);
    }
}

const struct net_header *net_peek(const struct net *n, int rank, const void **payload) {
    const struct bytes *b = &n->peers[rank].in;
    static _Thread_local struct net_header h; /* in the buffer it need not be aligned */
    if (b->n - b->used < sizeof h) {
        return NULL;
    }
    memcpy(&h, b->p + b->used, sizeof h);
    *payload = b->p + b->used + sizeof h;
    return b->n - b->used - sizeof h >= h.bytes ? &h : NULL;
}

void net_pop(struct net *n, int rank) {
    const void *payload;
    const struct net_header *h = net_peek(n, rank, &payload);
    if (h) {
        n->peers[rank].in.used += sizeof *h + h->bytes;
    }
}
