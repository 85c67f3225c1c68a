/* What `lockstep check` found, as a table with advice, or as JSON. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "cli/bandwidth.h"
#include "cli/ping.h"
#include "rpc/messages.h"

struct check_rank {
    struct message_hello_ok hello;
    struct ping_link link;
    uint64_t sum;
};

struct check_report {
    int world;
    struct check_rank *ranks; /* [world] */
    /* How far the check came. */
    bool has_hello, has_ping, has_init, has_sanity, has_bandwidth;
    double init_s;
    const char *isa;            /* the kernels that all ranks use */
    const char *comm;           /* "mpi", "self", "nccl" */
    bool shares_memory;         /* see comm.h */
    const char *why_not_shared; /* NULL: not known yet */
    const char *device, *dtype; /* "cuda", "bf16" */
    const char *device_note;    /* why GPUs that are there are not used; "" */
    struct bandwidth_result bandwidth;
};

void check_report_print(const struct check_report *r);

/* failure NULL: none. */
void check_report_json(const struct check_report *r, const struct error *failure);
