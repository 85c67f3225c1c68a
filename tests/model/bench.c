/* What the fixed summation tree costs: pairs of decode rounds in turns, one with the tree and one
 * with an unordered sum, one partial result per rank, as a ratio within this one run:
 *
 *   mpirun -np N model_bench MODEL_DIR [THREADS [PAIRS]]
 *
 * `lockstep bench` measures all else. */
#include "bench_steps.h"

enum { ROUND = 6, MAX_PAIRS = 200 };

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

int main(int argc, char **argv) {
    struct device *device;
    struct comm *comm;
    int rank, world, threads = argc > 2 ? atoi(argv[2]) : 1, pairs = argc > 3 ? atoi(argv[3]) : 15;
    MPI_Init(&argc, &argv);
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (argc < 2 || argc > 4 || threads < 1 || pairs < 1 || pairs > MAX_PAIRS) {
        fprintf(stderr, "usage: model_bench MODEL_DIR [THREADS [PAIRS]]\n");
        return 2;
    }
    start(threads, &device, &comm);
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
