/* Whose page a browser's request comes from. A page may send requests to any address that its
 * reader's machine can reach, also to 127.0.0.1, and a browser tells the server by an Origin
 * header; whether that page may read the answer, the server says (CORS,
 * https://fetch.spec.whatwg.org). */
#pragma once

#include <stdbool.h>

enum origin {
    ORIGIN_NONE,    /* no page: curl, or a library */
    ORIGIN_OWN,     /* our own page */
    ORIGIN_ALLOWED, /* one that was let in */
    ORIGIN_FOREIGN
};

/* origin, host: the request's headers, NULL where it has none. allowed: the origin let in, "*" for
 * all, NULL for none. Own is an origin with the host and the port of the Host header; with
 * local_only these must also be an address or "localhost", as any name may be made to point here
 * (DNS rebinding). */
enum origin origin_of(const char *origin, const char *host, const char *allowed, bool local_only);

/* Whether it is "*", or a scheme, a host and perhaps a port, as browsers write them. */
bool origin_is_valid(const char *origin);
