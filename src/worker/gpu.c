#include "worker/gpu.h"

#include <stdio.h>
#include <string.h>

/* The reasons of the driver and of CUDA, of which either may be "". */
static void not_usable(struct gpu *g, const char *driver, const char *cuda) {
    snprintf(g->why, sizeof g->why, "%.150s%s%.160s", driver, *driver && *cuda ? "; " : "", cuda);
    /* A machine with a driver is meant to have GPUs: that is worth a word to the user. */
    g->n = !*driver && g->n == 0 ? -1 : g->n;
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
    struct error driver = {0}, why = {0};
    *out = g;
    if (!wish->device || strcmp(wish->device, "host") == 0) {
        return true;
    }
    if (wish->of_locals && wish->n_of_locals != facts->local_size) {
        return error_set(err, ERROR_USAGE,
                         "--cuda-devices: expected %d entries, got %d: one for each rank on %s",
                         facts->local_size, wish->n_of_locals, facts->host);
    }
    /* Who insists on CUDA gets CUDA's own words, too. */
    bool insists = strcmp(wish->device, "cuda") == 0;
    g.usable = (plugin_driver(&driver) || insists) && plugin_open(&g.plugin, &why) &&
               g.plugin->count(&g.n, &why) && pick(wish, facts, &g, &why) &&
               g.plugin->describe(g.index, &g.about, &why);
    if (!g.usable) {
        not_usable(&g, driver.message, why.message);
    }
    *out = g;
    return true;
}
