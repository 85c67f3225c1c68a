/* What a rank says of itself in hello: versions, host, memory, kernels, GPU. */
#pragma once

#include <stdbool.h>

#include "rpc/messages.h"
#include "worker/gpu.h"
#include "worker/worker.h"

/* leftovers: the first rank of a host looks for what killed runs have left there, too. */
void hello_fill(struct message_hello_ok *out, int rank, const struct worker_options *options,
                const struct gpu *gpu, bool leftovers);
