/* The GPU that a rank would take, or why it takes none. Opens the CUDA plug-in. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "comm/plugin.h"
#include "worker/facts.h"

struct gpu_wish {
    const char *device;       /* "auto", "host" or "cuda"; NULL: "host" */
    const int32_t *of_locals; /* borrowed: device index by local rank; NULL: local rank modulo count
                               */
    int n_of_locals;
};

struct gpu {
    bool usable;
    int index;
    int n; /* that this process sees; -1: there should be one, but `why` */
    struct cuda_description about;
    const struct cuda_plugin *plugin; /* NULL: none, or not wished for */
    char why[320];                    /* not usable; empty: not wished for */
};

/* Never fails for want of a GPU: then out->why has the words. Creates nothing on the GPU.
 * Errors: USAGE (of_locals has not one entry for each rank of the host). */
bool gpu_find(const struct gpu_wish *wish, const struct host_facts *facts, struct gpu *out,
              struct error *err);
