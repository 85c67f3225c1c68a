/* The CUDA plug-in, lockstep-cuda.so: its table, and how it is found. The plug-in fills the same
 * device and communicator tables as the host; nothing else of CUDA or NCCL crosses this line. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "comm/comm.h"
#include "device/device.h"

enum { CUDA_PLUGIN_ABI = 3 };

/* What a GPU says about itself. */
struct cuda_description {
    char name[96];
    char pci[16]; /* bus id, "0000:65:00.0" */
    int cc_major, cc_minor;
    uint64_t memory_total; /* bytes */
};

/* Every function fails with DEVICE and CUDA's or NCCL's own words unless it says otherwise. */
struct cuda_plugin {
    uint32_t abi;         /* CUDA_PLUGIN_ABI: checked before anything else is read */
    const char *build_id; /* build_id() of the program it belongs to */
    /* The program's flight record, for the plug-in to write to. Never fails. */
    void (*use_flight)(struct flight *);
    /* n: devices this process sees, at least 1 on success. */
    bool (*count)(int *n, struct error *err);
    /* Creates no context. UNSUPPORTED: compute capability below 8.0, which it names. */
    bool (*describe)(int index, struct cuda_description *out, struct error *err);
    /* "2.28.9"; never fails. */
    const char *(*nccl_version)(void);
    int (*nccl_version_code)(void); /* 22809 */
    bool (*device_create)(const struct cuda_device_options *, struct device **out,
                          struct error *err);
    /* Rank 0's id, to be broadcast. NCCL_INIT. */
    bool (*unique_id)(uint8_t id[COMM_ID_BYTES], struct error *err);
    /* Collective; every rank at the same time, each with a device of its own (borrowed; must
     * outlive it). Polls `poll` while it waits. NCCL_INIT, DEADLINE, or what poll says. */
    bool (*comm_create)(struct device *device, const uint8_t id[COMM_ID_BYTES], int rank, int world,
                        double timeout_s, bool (*poll)(void *, struct error *), void *poll_user,
                        struct comm **out, struct error *err);
};

/* The plug-in's file, and its only symbol. */
#define CUDA_PLUGIN_FILE   "lockstep-cuda.so"
#define CUDA_PLUGIN_SYMBOL "lockstep_cuda_plugin"
typedef const struct cuda_plugin *cuda_plugin_get(void);

/* Where plugin_open would look first for a file that is there. False: there is none. Opens nothing.
 */
bool plugin_find(char *path, size_t size);

/* Whether this machine has NVIDIA's driver at all: a look that costs next to nothing, where opening
 * the plug-in brings in all of CUDA, some 0.1 s and 100 MB. Errors: DEVICE, with the dynamic
 * linker's words. */
bool plugin_driver(struct error *err);

/* Opens the plug-in: from LOCKSTEP_PLUGIN_DIR where that is set (and nowhere else), else beside the
 * program, else from lockstep/ in the install's libdir. Once per process; a second call gives the
 * same answer. Errors: DEVICE, with the dynamic linker's words (no plug-in built, no toolkit
 * library), VERSION (another ABI or build). */
bool plugin_open(const struct cuda_plugin **out, struct error *err);
