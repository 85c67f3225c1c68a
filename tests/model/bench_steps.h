/* What the measuring programs of this folder share: a rank with a model, and steps of it. */
#pragma once

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "comm/mpi.h"
#include "model/model.h"

enum { PREFILL = 256, CTX = 1024, N_BLOCK = CTX / KV_BLOCK };

static _Noreturn void die(const char *what, const struct error *err) {
    fprintf(stderr, "bench: %s: %s\n", what, err->message);
    MPI_Abort(MPI_COMM_WORLD, 1);
    exit(1);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *x, int n) {
    qsort(x, (size_t)n, sizeof *x, by_value);
    return n % 2 ? x[n / 2] : 0.5 * (x[n / 2 - 1] + x[n / 2]);
}

/* Seconds of n_round steps of n tokens each, of one sequence that stands at pos. */
static double feed(struct model *m, int pos, int n, int n_round) {
    static int32_t tokens[PREFILL], blocks[N_BLOCK];
    struct step_result result;
    struct error err;
    for (int i = 0; i < N_BLOCK; i++) {
        blocks[i] = i;
    }
    for (int i = 0; i < n; i++) {
        tokens[i] = 100 + i * 7;
    }
    double start = clock_now();
    for (int i = 0; i < n_round; i++) {
        struct step_seq seq = {.id = 1,
                               .pos = pos + i * n,
                               .n_tok = n,
                               .tokens = tokens,
                               .n_block = N_BLOCK,
                               .blocks = blocks,
                               .output = STEP_OUTPUT_CANDIDATES,
                               .top_k = 1};
        struct step step = {1, &seq};
        if (!model_step(m, &step, &result, &err)) {
            die("step", &err);
        }
    }
    MPI_Barrier(MPI_COMM_WORLD);
    return clock_now() - start;
}

/* After MPI_Init: this rank's device and communicator. */
static void start(int threads, struct device **device, struct comm **comm) {
    struct host_options host = {.n_thread = threads};
    struct error err;
    uint8_t id[COMM_ID_BYTES];
    int world;
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    if (!host_device_create(&host, device, &err) ||
        !(world == 1 ? comm_self_create(comm, &err)
                     : comm_mpi_share_id(MPI_COMM_WORLD, true, NULL, NULL, 60, id, &err) &&
                           comm_mpi_create(MPI_COMM_WORLD, id, 60, comm, &err))) {
        die("start", &err);
    }
}

static struct model *load(const char *dir, struct device *device, struct comm *comm) {
    struct model_params params = {.dir = dir, .ctx = CTX, .n_block = N_BLOCK, .max_tok = PREFILL};
    struct model *m = NULL;
    struct error err;
    if (!model_load(&m, &params, device, comm, NULL, &err)) {
        die("load", &err);
    }
    return m;
}
