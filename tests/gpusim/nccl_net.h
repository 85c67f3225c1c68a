/* What the simulated libnccl sends between the ranks' processes: messages over stream sockets in
 * the abstract namespace (nothing is left on disk), one socket for every two ranks, never blocking.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum net_kind { NET_HELLO, NET_COLLECTIVE, NET_SEND, NET_BYE };

/* Before every payload. A collective's numbers must be the same on every rank. */
struct net_header {
    uint32_t kind;
    char call[24]; /* "ncclAllReduce" */
    int32_t dtype, redop, root;
    int32_t gave_up; /* of a bye: the rank leaves because of a fault */
    uint64_t count;
    uint64_t bytes; /* of the payload; may differ between ranks */
};

struct net_hello {
    int32_t world, rank;
    char device[32]; /* host and index: two ranks must not have the same */
};

struct net; /* opaque: one rank's sockets */

/* name: the communicator's. Never blocks; net_ready says when all are connected. */
struct net *net_create(const char *name, int rank, int world, const struct net_hello *hello);
void net_destroy(struct net *n);

/* Connects, sends and receives what it can. */
void net_progress(struct net *n);
/* All peers are connected and have said hello. */
bool net_ready(const struct net *n);
const struct net_hello *net_peer(const struct net *n, int rank);
/* The first peer that went away without a bye, or -1. */
int net_lost(const struct net *n);

/* Copies and queues. */
void net_send(struct net *n, int rank, const struct net_header *h, const void *payload);
/* The oldest message from that rank, if it has come whole; payload stays until net_pop. */
const struct net_header *net_peek(const struct net *n, int rank, const void **payload);
void net_pop(struct net *n, int rank);
