/* Who is connected to the HTTP server, since when each has been at what it is at, and who has to
 * go: where there are too many, the one that has been at it longest and does not wait for the
 * model; and whoever takes too long to say what it wants. libmicrohttpd's own limit of time starts
 * anew with every byte. */
#pragma once

#include <netinet/in.h>
#include <pthread.h>
#include <stdbool.h>

enum connection_phase {
    CONNECTION_RESTING, /* no request, or not the whole head of one */
    CONNECTION_READING, /* its body is on the way */
    CONNECTION_WAITING, /* for the model: it is left alone */
    CONNECTION_SENDING, /* an answer that is complete */
    CONNECTION_PHASE_COUNT
};

enum { CONNECTION_HEAD_S = 75, CONNECTION_BODY_S = 300 }; /* RESTING, READING: so long at most */

struct connection {
    struct connections *all;
    struct connection *before, *after;
    int socket;
    enum connection_phase phase;
    double since;                   /* it has been in its phase */
    bool ended;                     /* by us; it is still to be removed */
    char address[INET6_ADDRSTRLEN]; /* of the client */
};

struct connections {
    pthread_mutex_t lock;
    struct connection *oldest, *newest; /* by since */
    int n, most;                        /* that are not ended */
};

void connections_init(struct connections *all, int most);
void connections_finish(struct connections *all);

/* Ends another one where there are `most`. NULL: no memory. */
struct connection *connections_add(struct connections *all, int socket,
                                   const struct sockaddr *address);
/* Before the socket is closed. */
void connections_remove(struct connection *c);

void connections_note(struct connection *c, enum connection_phase phase);

/* By us. */
bool connections_ended(struct connection *c);

/* There are more than there may be, as nobody could be ended. */
bool connections_full(struct connections *all);

/* Ends those that have taken too long. From any thread; now: clock_now(). */
void connections_expire(struct connections *all, double now);
