/* Collectives of device memory through NCCL, in the CUDA plug-in. The communicator is non-blocking,
 * so that it can be aborted: every NCCL call may answer "in progress", and is seen through under
 * the deadline. Collectives are enqueued on the device's stream; the device's waits watch them. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "comm/comm.h"
#include "device/device.h"

/* "2.28.9" and 22809: the library that was loaded. */
const char *nccl_comm_version(void);
int nccl_comm_version_code(void);

/* As struct cuda_plugin has them. */
bool nccl_comm_unique_id(uint8_t id[COMM_ID_BYTES], struct error *err);
bool nccl_comm_create(struct device *device, const uint8_t id[COMM_ID_BYTES], int rank, int world,
                      double timeout_s, bool (*poll)(void *, struct error *), void *poll_user,
                      struct comm **out, struct error *err);
