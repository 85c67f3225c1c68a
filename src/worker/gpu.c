#include "worker/gpu.h"

#include <stdio.h>
#include <string.h>

static bool not_usable(struct gpu *g, const struct error *why) {
    snprintf(g->why, sizeof g->why, "%.*s", (int)sizeof g->why - 1, why->message);
    /* A plug-in of another build is no machine without GPUs: that is worth a word to the user. */
    g->n = why->kind == ERROR_VERSION ? -1 : g->n;
    return true;
}

static bool pick(const struct gpu_wish *wish, const struct host_facts *facts, struct gpu *g,
                 struct error *err) {
    if (!wish->of_locals) {
        g->index = facts->local_rank % g->n;
        return true;
    }
    g->index = wish->of_locals[facts->local_rank];
    return g->index < g->n || error_set(err, ERROR_DEVICE,
                                        "--cuda-devices names GPU %d, but this rank sees %d, "
                                        "counted from 0",
                                        g->index, g->n);
}

bool gpu_find(const struct gpu_wish *wish, const struct host_facts *facts, struct gpu *out,
              struct error *err) {
    struct gpu g = {0};
    struct error why;
    *out = g;
    if (!wish->device || strcmp(wish->device, "host") == 0) {
        return true;
    }
    if (wish->of_locals && wish->n_of_locals != facts->local_size) {
        return error_set(err, ERROR_USAGE,
                         "--cuda-devices: expected %d entries, got %d: one for each rank on %s",
                         facts->local_size, wish->n_of_locals, facts->host);
    }
    /* Who insists on CUDA gets CUDA's own words of what is missing. */
    bool insists = strcmp(wish->device, "cuda") == 0;
    g.usable = (insists || plugin_driver(&why)) && plugin_open(&g.plugin, &why) &&
               g.plugin->count(&g.n, &why) && pick(wish, facts, &g, &why) &&
               g.plugin->describe(g.index, &g.about, &why);
    *out = g;
    return g.usable || not_usable(out, &why);
}
