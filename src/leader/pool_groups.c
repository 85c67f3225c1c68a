/* Naming ranks of which the same is to be said. */
#include <string.h>

#include "leader/pool_impl.h"

static bool in_group(const struct pool *p, int rank, pool_group_key *key, const char *value) {
    const char *own = rank < p->world ? key(p, rank) : NULL;
    return own && strcmp(own, value) == 0;
}

/* "rank 3 (node7)", "ranks 0-3 (node1), ranks 4, 5 (node2)", or "all 8 ranks". */
static void name_group(const struct pool *p, pool_group_key *key, const char *value,
                       struct buffer *out) {
    int n = 0;
    for (int r = 0; r < p->world; r++) {
        n += in_group(p, r, key, value);
    }
    if (n == p->world && n > 1) {
        buffer_printf(out, NULL, "all %d ranks", n);
        return;
    }
    const char *between = "";
    for (int r = 0; r < p->world; r++) {
        if (!in_group(p, r, key, value)) {
            continue;
        }
        int last = r; /* of a run on one host */
        while (in_group(p, last + 1, key, value) &&
               strcmp(p->ranks[last + 1].host, p->ranks[r].host) == 0) {
            last++;
        }
        const char *host = p->ranks[r].host;
        if (last == r) {
            buffer_printf(out, NULL, "%srank %d (%s)", between, r, host);
        } else {
            buffer_printf(out, NULL, "%sranks %d%s%d (%s)", between, r, last > r + 1 ? "-" : ", ",
                          last, host);
        }
        between = ", ";
        r = last;
    }
}

void pool_describe_groups(const struct pool *p, pool_group_key *key, struct buffer *out) {
    for (int r = 0; r < p->world; r++) {
        const char *value = key(p, r);
        bool named = !value;
        for (int before = 0; before < r && !named; before++) {
            named = in_group(p, before, key, value);
        }
        if (!named) {
            buffer_printf(out, NULL, "%s", out->size ? "; " : "");
            name_group(p, key, value, out);
            buffer_printf(out, NULL, ": %s", value);
        }
    }
    buffer_append(out, "", 1, NULL);
}
