/* What lockstep-cuda.so gives the program: see comm/plugin.h. */
#include <stdio.h>

#include "base/build_id.h"
#include "base/flight.h"
#include "comm/nccl/nccl_comm.h"
#include "comm/plugin.h"
#include "device/cuda/cuda_device.h"

enum { OLDEST_CC_MAJOR = 8 };

static bool count(int *n, struct error *err) {
    int found = 0;
    CUDA_TRY(cudaGetDeviceCount(&found), "cudaGetDeviceCount");
    if (found < 1) {
        return error_set(err, ERROR_DEVICE, "cudaGetDeviceCount: no CUDA device");
    }
    *n = found;
    return true;
}

static bool describe(int index, struct cuda_description *out, struct error *err) {
    struct cudaDeviceProp p;
    struct cuda_description made = {0};
    CUDA_TRY(cudaGetDeviceProperties(&p, index), "cudaGetDeviceProperties");
    CUDA_TRY(cudaDeviceGetPCIBusId(made.pci, sizeof made.pci, index), "cudaDeviceGetPCIBusId");
    snprintf(made.name, sizeof made.name, "%.*s", (int)sizeof made.name - 1, p.name);
    made.cc_major = p.major;
    made.cc_minor = p.minor;
    made.memory_total = p.totalGlobalMem;
    if (p.major < OLDEST_CC_MAJOR) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "cuda:%d is a %s of compute capability %d.%d; 8.0 and newer are supported",
                         index, p.name, p.major, p.minor);
    }
    *out = made;
    return true;
}

static struct cuda_plugin plugin = {
    .abi = CUDA_PLUGIN_ABI,
    .use_flight = flight_use,
    .count = count,
    .describe = describe,
    .nccl_version = nccl_comm_version,
    .nccl_version_code = nccl_comm_version_code,
    .device_create = cuda_device_create,
    .unique_id = nccl_comm_unique_id,
    .comm_create = nccl_comm_create,
};

__attribute__((visibility("default"))) const struct cuda_plugin *lockstep_cuda_plugin(void);

const struct cuda_plugin *lockstep_cuda_plugin(void) {
    plugin.build_id = build_id();
    return &plugin;
}
