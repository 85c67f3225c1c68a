#include "serve/origin.h"

#include <string.h>
#include <strings.h>

/* "host:port" of "scheme://host:port"; NULL for "null" and what else has none. */
static const char *authority(const char *origin) {
    const char *slashes = strstr(origin, "://");
    return slashes ? slashes + 3 : NULL;
}

/* Only a resolver's answer makes a name point somewhere; these need none. */
static bool needs_no_resolver(const char *host) {
    size_t name = strcspn(host, ":");
    return host[0] == '[' || (name == 9 && strncasecmp(host, "localhost", name) == 0) ||
           (name > 0 && strspn(host, "0123456789.") >= name);
}

enum origin origin_of(const char *origin, const char *host, const char *allowed, bool local_only) {
    const char *own = origin ? authority(origin) : NULL;
    if (!origin) {
        return ORIGIN_NONE;
    }
    if (allowed && (strcmp(allowed, "*") == 0 || strcasecmp(origin, allowed) == 0)) {
        return ORIGIN_ALLOWED;
    }
    if (own && host && strcasecmp(own, host) == 0 && (!local_only || needs_no_resolver(host))) {
        return ORIGIN_OWN;
    }
    return ORIGIN_FOREIGN;
}

bool origin_is_valid(const char *origin) {
    const char *host = authority(origin);
    return strcmp(origin, "*") == 0 ||
           (host && host > origin + 3 && *host && strcspn(host, "/?#@ ,") == strlen(host));
}
