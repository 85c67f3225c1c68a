/* What every layer of a network needs to know about where it runs. Borrows all of it. */
#pragma once

#include "comm/comm.h"
#include "device/device.h"
#include "nn/shard.h"

struct nn_context {
    struct device *device;
    struct comm *comm;
    struct shard_dims dims;
    struct shard shard;
};
