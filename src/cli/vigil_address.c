#include "cli/vigil_address.h"

#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum { SOCKET_TYPE = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, BACKLOG = 128 };

struct net {
    struct in6_addr address, mask;
};

static struct in6_addr mapped(const struct sockaddr *a) {
    struct in6_addr out = {0};
    if (a->sa_family == AF_INET6) {
        return ((const struct sockaddr_in6 *)(const void *)a)->sin6_addr;
    }
    out.s6_addr[10] = out.s6_addr[11] = 0xff;
    memcpy(&out.s6_addr[12], &((const struct sockaddr_in *)(const void *)a)->sin_addr, 4);
    return out;
}

/* ---- this host's ---- */

static struct net net_of(const struct ifaddrs *i) {
    struct net n = {.address = mapped(i->ifa_addr), .mask = mapped(i->ifa_netmask)};
    if (i->ifa_addr->sa_family == AF_INET) {
        memset(n.mask.s6_addr, 0xff, 12);
    }
    return n;
}

static bool is_usable(const struct ifaddrs *i, bool loopback) {
    if (!i->ifa_addr || !i->ifa_netmask || !(i->ifa_flags & IFF_UP) ||
        loopback != !!(i->ifa_flags & IFF_LOOPBACK)) {
        return false;
    }
    if (i->ifa_addr->sa_family == AF_INET) {
        return true;
    }
    struct in6_addr a = mapped(i->ifa_addr);
    return i->ifa_addr->sa_family == AF_INET6 && !IN6_IS_ADDR_LINKLOCAL(&a);
}

/* Loopback only where there is nothing else: the "hosts" are parts of one then. */
static int find_nets(struct net nets[VIGIL_ADDRESSES]) {
    struct ifaddrs *all = NULL;
    int n = 0;
    if (getifaddrs(&all) != 0) {
        return 0;
    }
    for (int loopback = 0; loopback < 2 && n == 0; loopback++) {
        for (const struct ifaddrs *i = all; i && n < VIGIL_ADDRESSES; i = i->ifa_next) {
            if (is_usable(i, loopback)) {
                nets[n++] = net_of(i);
            }
        }
    }
    freeifaddrs(all);
    return n;
}

/* Both kinds of IP where the kernel has them. */
static int listen_anywhere(int *port) {
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_addr = in6addr_any};
    struct sockaddr_in four = {.sin_family = AF_INET};
    socklen_t size = sizeof six;
    int off = 0, fd = socket(AF_INET6, SOCKET_TYPE, 0);
    bool bound = fd >= 0 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) == 0 &&
                 bind(fd, (struct sockaddr *)&six, sizeof six) == 0;
    if (!bound) {
        if (fd >= 0) {
            close(fd);
        }
        fd = socket(AF_INET, SOCKET_TYPE, 0);
        bound = fd >= 0 && bind(fd, (struct sockaddr *)&four, sizeof four) == 0;
    }
    if (bound && listen(fd, BACKLOG) == 0 && getsockname(fd, (struct sockaddr *)&six, &size) == 0) {
        *port = ntohs(six.sin6_port); /* which is in the same place in both */
        return fd;
    }
    if (fd >= 0) {
        close(fd);
    }
    return -1;
}

int vigil_address_open(struct vigil_address *out) {
    struct net nets[VIGIL_ADDRESSES];
    int port = 0;
    *out = (struct vigil_address){0};
    if (getrandom(&out->token, sizeof out->token, 0) != (ssize_t)sizeof out->token) {
        return -1;
    }
    int fd = listen_anywhere(&port);
    out->port = port;
    out->n = find_nets(nets);
    for (int i = 0; i < out->n; i++) {
        out->at[i] = nets[i].address;
    }
    return fd;
}

/* ---- others' ---- */

static bool is_near(const struct in6_addr *a, const struct net *nets, int n) {
    for (int i = 0; i < n; i++) {
        int b = 0;
        while (b < 16 &&
               ((a->s6_addr[b] ^ nets[i].address.s6_addr[b]) & nets[i].mask.s6_addr[b]) == 0) {
            b++;
        }
        if (b == 16) {
            return true;
        }
    }
    return false;
}

void vigil_address_sort(struct vigil_address *a) {
    struct net nets[VIGIL_ADDRESSES];
    struct vigil_address in = *a;
    int n_net = find_nets(nets);
    a->port = in.port > 0 && in.port <= 65535 ? in.port : 0;
    a->n = 0;
    for (int near = 1; near >= 0; near--) {
        for (int i = 0; i < in.n && i < VIGIL_ADDRESSES; i++) {
            if (is_near(&in.at[i], nets, n_net) == near) {
                a->at[a->n++] = in.at[i];
            }
        }
    }
}

bool vigil_address_connect(const struct in6_addr *at, int port, int *fd) {
    bool is_four = IN6_IS_ADDR_V4MAPPED(at);
    uint16_t wire_port = htons((uint16_t)port);
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = wire_port, .sin6_addr = *at};
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = wire_port};
    memcpy(&four.sin_addr, &at->s6_addr[12], 4);
    *fd = socket(is_four ? AF_INET : AF_INET6, SOCKET_TYPE, 0);
    if (*fd < 0) {
        return false;
    }
    int failed = is_four ? connect(*fd, (struct sockaddr *)&four, sizeof four)
                         : connect(*fd, (struct sockaddr *)&six, sizeof six);
    return failed == 0 || errno == EINPROGRESS;
}

struct in6_addr vigil_address_of_peer(int fd) {
    struct sockaddr_in6 from = {0};
    socklen_t size = sizeof from;
    getpeername(fd, (struct sockaddr *)&from, &size);
    return mapped((struct sockaddr *)&from);
}
