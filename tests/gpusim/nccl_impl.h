/* Inside the simulated libnccl: what its files share. */
#pragma once

#include <nccl.h>
#include <stdbool.h>
#include <stddef.h>

#include "gpusim.h"
#include "nccl_net.h"

#define API __attribute__((visibility("default")))

struct ncclComm {
    struct net *net;
    int rank, world, device;
    ncclResult_t state; /* what ncclCommGetAsyncError says */
    bool ready, finalized, slow_once;
    bool init_fault;
    int n_registered;
    struct ncclComm *next;
};

/* Notes the words that ncclGetLastError gives, and returns r. */
ncclResult_t nccl_fail(ncclResult_t r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A fault that is due: what the call returns at once, or ncclSuccess where it takes its effect
 * later (*kind says which). */
ncclResult_t nccl_fault(const char *name, struct ncclComm *c, const char **kind);
/* Sends and receives what it can, and sees who has gone. */
void nccl_progress(struct ncclComm *c);
/* A call as its caller wrote it. */
void nccl_describe(char *out, size_t size, const struct net_header *h);
