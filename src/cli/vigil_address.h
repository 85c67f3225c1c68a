/* Where the vigil of a rank can be reached. */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

enum { VIGIL_ADDRESSES = 8 };

/* As bytes that ranks tell each other at start-up. IPv4 addresses are mapped into IPv6. */
struct vigil_address {
    uint64_t token; /* that of rank 0 is the job's */
    int32_t n;
    int32_t port; /* 0: nowhere */
    struct in6_addr at[VIGIL_ADDRESSES];
};

/* Listens on all interfaces, at a port that the kernel chooses, and makes a token. Returns the
 * socket, which does not block; -1: it cannot be had, and then the port is 0. */
int vigil_address_open(struct vigil_address *out);

/* Puts those that this host shares a network with first, and drops what is no number of addresses.
 */
void vigil_address_sort(struct vigil_address *a);

/* Begins to connect, without waiting. False, with errno: it has failed already. *fd is the caller's
 * to close, either way; -1: there is none. */
bool vigil_address_connect(const struct in6_addr *at, int port, int *fd);

/* That of the other end of a connection. */
struct in6_addr vigil_address_of_peer(int fd);
