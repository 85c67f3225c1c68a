/* What the fixed summation tree costs: pairs of decode rounds in turns, one with the tree and one
 * with an unordered sum, one partial result per rank, as a ratio within this one run:
 *
 *   mpirun -np N model_bench MODEL_DIR [THREADS [PAIRS]]
 *
 * `lockstep bench` measures all else. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "comm/mpi.h"
#include "model/model.h"

enum { PREFILL = 256, ROUND = 6, MAX_PAIRS = 200, CTX = 1024, N_BLOCK = CTX / KV_BLOCK };

/* A communicator that adds up one partial result per rank: what a plain all-reduce would do. */
struct unordered {
    struct comm base;
    struct comm *inner;
};

static bool unordered_reduce(struct comm *c, float *out, float *pieces, size_t n, int n_leaf,
                             struct error *err) {
    struct comm *inner = ((struct unordered *)c)->inner;
    (void)n_leaf;
    return inner->ops->all_reduce_tree(inner, out, pieces, n, inner->world, err);
}

static bool unordered_gather(struct comm *c, void *dst, const void *src, const size_t *bytes,
                             struct error *err) {
    struct comm *inner = ((struct unordered *)c)->inner;
    return inner->ops->gather(inner, dst, src, bytes, err);
}

static bool unordered_max(struct comm *c, uint32_t *x, size_t n, struct error *err) {
    struct comm *inner = ((struct unordered *)c)->inner;
    return inner->ops->all_reduce_max_u32(inner, x, n, err);
}

static const struct comm_ops unordered_ops = {.name = "unordered",
                                              .exact = false,
                                              .alloc = comm_host_alloc,
                                              .free = comm_host_free,
                                              .all_reduce_tree = unordered_reduce,
                                              .gather = unordered_gather,
                                              .all_reduce_max_u32 = unordered_max};

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

static struct model *load(const char *dir, struct device *device, struct comm *comm) {
    struct model_params params = {.dir = dir, .ctx = CTX, .n_block = N_BLOCK, .max_tok = PREFILL};
    struct model *m = NULL;
    struct error err;
    if (!model_load(&m, &params, device, comm, NULL, &err)) {
        die("load", &err);
    }
    return m;
}

int main(int argc, char **argv) {
    struct device *device;
    struct comm *comm;
    struct error err;
    uint8_t id[COMM_ID_BYTES];
    int rank, world, threads = argc > 2 ? atoi(argv[2]) : 1, pairs = argc > 3 ? atoi(argv[3]) : 15;
    MPI_Init(&argc, &argv);
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (argc < 2 || argc > 4 || threads < 1 || pairs < 1 || pairs > MAX_PAIRS) {
        fprintf(stderr, "usage: model_bench MODEL_DIR [THREADS [PAIRS]]\n");
        return 2;
    }
    struct host_options host = {.n_thread = threads};
    if (!host_device_create(&host, &device, &err) ||
        !(world == 1 ? comm_self_create(&comm, &err)
                     : comm_mpi_share_id(MPI_COMM_WORLD, true, NULL, NULL, 60, id, &err) &&
                           comm_mpi_create(MPI_COMM_WORLD, id, 60, &comm, &err))) {
        die("start", &err);
    }
    struct unordered plain = {*comm, comm};
    plain.base.ops = &unordered_ops;
    struct model *tree = load(argv[1], device, comm), *sum = load(argv[1], device, &plain.base);
    double ratio[MAX_PAIRS];
    feed(tree, 0, PREFILL, 1);
    feed(sum, 0, PREFILL, 1);
    for (int i = 0; i < pairs; i++) {
        double t, s;
        if (i % 2) {
            s = feed(sum, PREFILL, 1, ROUND), t = feed(tree, PREFILL, 1, ROUND);
        } else {
            t = feed(tree, PREFILL, 1, ROUND), s = feed(sum, PREFILL, 1, ROUND);
        }
        ratio[i] = t / s;
    }
    if (rank == 0) {
        double r = median(ratio, pairs);
        printf("ranks %d x %d threads, %s kernels\n", world, threads, host_isa_name(device));
        printf("tree / no tree  %8.4f  (%.4f .. %.4f, %d pairs)\n", r, ratio[0], ratio[pairs - 1],
               pairs);
    }
    model_destroy(sum);
    model_destroy(tree);
    comm_destroy(comm);
    device_destroy(device);
    MPI_Finalize();
    return 0;
}
