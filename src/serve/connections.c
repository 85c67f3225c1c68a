#include "serve/connections.h"

#include <math.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "base/clock.h"

void connections_init(struct connections *all, int most) {
    *all = (struct connections){.most = most};
    pthread_mutex_init(&all->lock, NULL);
}

void connections_finish(struct connections *all) {
    while (all->oldest) {
        connections_remove(all->oldest);
    }
    pthread_mutex_destroy(&all->lock);
}

static void unlink_one(struct connections *all, struct connection *c) {
    *(c->before ? &c->before->after : &all->oldest) = c->after;
    *(c->after ? &c->after->before : &all->newest) = c->before;
}

static void link_newest(struct connections *all, struct connection *c) {
    c->before = all->newest;
    c->after = NULL;
    *(all->newest ? &all->newest->after : &all->oldest) = c;
    all->newest = c;
}

/* The thread that owns the socket sees an end, and closes it. */
static void end(struct connections *all, struct connection *c) {
    c->ended = true;
    all->n--;
    shutdown(c->socket, SHUT_RDWR);
}

static void make_room(struct connections *all) {
    for (struct connection *c = all->oldest; c && all->n >= all->most; c = c->after) {
        if (!c->ended && c->phase != CONNECTION_WAITING) {
            end(all, c);
        }
    }
}

static void write_address(struct connection *c, const struct sockaddr *address) {
    socklen_t size = !address                         ? 0
                     : address->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6)
                                                      : sizeof(struct sockaddr_in);
    if (!address ||
        getnameinfo(address, size, c->address, sizeof c->address, NULL, 0, NI_NUMERICHOST) != 0) {
        snprintf(c->address, sizeof c->address, "-");
    }
}

struct connection *connections_add(struct connections *all, int socket,
                                   const struct sockaddr *address) {
    struct connection *c = calloc(1, sizeof *c);
    if (!c) {
        return NULL;
    }
    c->all = all;
    c->socket = socket;
    c->since = clock_now();
    write_address(c, address);
    pthread_mutex_lock(&all->lock);
    make_room(all);
    link_newest(all, c);
    all->n++;
    pthread_mutex_unlock(&all->lock);
    return c;
}

void connections_remove(struct connection *c) {
    struct connections *all = c->all;
    pthread_mutex_lock(&all->lock);
    unlink_one(all, c);
    all->n -= !c->ended;
    pthread_mutex_unlock(&all->lock);
    free(c);
}

void connections_note(struct connection *c, enum connection_phase phase) {
    struct connections *all = c->all;
    pthread_mutex_lock(&all->lock);
    if (c->phase != phase) {
        c->phase = phase;
        c->since = clock_now();
        unlink_one(all, c);
        link_newest(all, c);
    }
    pthread_mutex_unlock(&all->lock);
}

bool connections_ended(struct connection *c) {
    pthread_mutex_lock(&c->all->lock);
    bool ended = c->ended;
    pthread_mutex_unlock(&c->all->lock);
    return ended;
}

bool connections_full(struct connections *all) {
    pthread_mutex_lock(&all->lock);
    bool full = all->n > all->most;
    pthread_mutex_unlock(&all->lock);
    return full;
}

void connections_expire(struct connections *all, double now) {
    static const double most_s[CONNECTION_PHASE_COUNT] = {CONNECTION_HEAD_S, CONNECTION_BODY_S,
                                                          (double)INFINITY, (double)INFINITY};
    pthread_mutex_lock(&all->lock);
    for (struct connection *c = all->oldest; c; c = c->after) {
        if (!c->ended && now - c->since > most_s[c->phase]) {
            end(all, c);
        }
    }
    pthread_mutex_unlock(&all->lock);
}
