/* Measures what the host path is worth, each figure as a ratio within this one run:
 *
 *   mpirun -np N model_bench MODEL_DIR THREADS [PAIRS [q8_0|q4_0]]
 *
 * load time; prefill; decode of 1 and of 8 sequences; decode of one, with the weights' bytes over
 * its time as a fraction of the streaming-read bandwidth probed between the rounds; and the price
 * of the fixed summation tree: pairs of decode rounds, one with the tree and one with an unordered
 * sum (one partial result per rank), interleaved. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "comm/mpi.h"
#include "device/host/probe.h"
#include "model/model.h"

enum {
    PREFILL = 256,
    ROUND = 6,
    PROBE_READS = 16,
    MAX_PAIRS = 200,
    CTX = 1024,
    BATCH = 8,      /* sequences, side by side */
    SEQ_BLOCKS = 8, /* of each */
    N_BLOCK = BATCH * SEQ_BLOCKS,
};
_Static_assert(N_BLOCK >= CTX / KV_BLOCK, "a context fits");

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

/* What all ranks at once read per second, as in a step, by the pattern that is the best just now.
 */
/* Seconds of n_round steps of one token of each of n_seq sequences, which stand at PREFILL. */
static double decode(struct model *m, int n_seq, int n_round) {
    static int32_t blocks[BATCH][SEQ_BLOCKS];
    int32_t token = 100;
    struct step_seq seqs[BATCH];
    struct step_result results[BATCH];
    struct error err;
    for (int s = 0; s < n_seq; s++) {
        for (int i = 0; i < SEQ_BLOCKS; i++) {
            blocks[s][i] = s * SEQ_BLOCKS + i;
        }
        seqs[s] = (struct step_seq){.id = (uint32_t)s,
                                    .pos = PREFILL,
                                    .n_tok = 1,
                                    .tokens = &token,
                                    .n_block = SEQ_BLOCKS,
                                    .blocks = blocks[s],
                                    .output = STEP_OUTPUT_CANDIDATES,
                                    .top_k = 1};
    }
    struct step step = {n_seq, seqs};
    MPI_Barrier(MPI_COMM_WORLD);
    double start = clock_now();
    for (int i = 0; i < n_round; i++) {
        if (!model_step(m, &step, results, &err)) {
            die("step", &err);
        }
    }
    MPI_Barrier(MPI_COMM_WORLD);
    return clock_now() - start;
}

static double probe_all(struct probe *probe) {
    double best = 0;
    for (int pattern = 0; probe_use_pattern(probe, pattern); pattern++) {
        double all, seconds = 0; /* per byte */
        MPI_Barrier(MPI_COMM_WORLD);
        for (int i = 0; i < PROBE_READS; i++) {
            seconds += 1 / probe_read(probe);
        }
        double mine = PROBE_READS / seconds;
        MPI_Allreduce(&mine, &all, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
        best = all > best ? all : best;
    }
    return best;
}

static struct model *load(const struct model_params *params, struct device *device,
                          struct comm *comm) {
    struct model *m = NULL;
    struct error err;
    if (!model_load(&m, params, device, comm, NULL, &err)) {
        die("load", &err);
    }
    return m;
}

/* Of this rank, as they are held. */
static double weight_bytes(const struct model_params *params, struct device *device,
                           struct comm *comm) {
    struct model_needs needs;
    struct error err;
    if (!model_measure(params, device, comm, NULL, &needs, NULL, &err)) {
        die("measure", &err);
    }
    return (double)needs.own.weights;
}

int main(int argc, char **argv) {
    struct device *device;
    struct comm *comm;
    struct probe *probe;
    struct error err;
    uint8_t id[COMM_ID_BYTES];
    struct model_params params = {.ctx = CTX, .n_block = N_BLOCK, .max_tok = PREFILL};
    int rank, world, threads = argc > 2 ? atoi(argv[2]) : 1, pairs = argc > 3 ? atoi(argv[3]) : 15;
    MPI_Init(&argc, &argv);
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (argc < 2 || threads < 1 || pairs < 1 || pairs > MAX_PAIRS ||
        (argc > 4 && !dtype_parse_quantized(&params.quant, argv[4]))) {
        fprintf(stderr, "usage: model_bench MODEL_DIR [THREADS [PAIRS [q8_0|q4_0]]]\n");
        return 2;
    }
    params.dir = argv[1];
    struct host_options host = {.n_thread = threads};
    if (!host_device_create(&host, &device, &err) ||
        !(world == 1 ? comm_self_create(&comm, &err)
                     : comm_mpi_share_id(MPI_COMM_WORLD, true, NULL, NULL, 60, id, &err) &&
                           comm_mpi_create(MPI_COMM_WORLD, id, 60, &comm, &err))) {
        die("start", &err);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    double start = clock_now();
    struct model *tree = load(&params, device, comm);
    MPI_Barrier(MPI_COMM_WORLD);
    double load_s = clock_now() - start;
    struct unordered plain = {*comm, comm};
    plain.base.ops = &unordered_ops;
    struct model *sum = load(&params, device, &plain.base);

    if (!probe_create(device, (size_t)512 << 20, &probe, &err)) {
        die("probe", &err);
    }
    double prefill[5], ratio[MAX_PAIRS], token[MAX_PAIRS], read[MAX_PAIRS], fraction[MAX_PAIRS];
    double batch[MAX_PAIRS], gain[MAX_PAIRS];
    double bytes = weight_bytes(&params, device, comm), all_bytes;
    MPI_Allreduce(&bytes, &all_bytes, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    for (int i = 0; i < 5; i++) {
        prefill[i] = feed(tree, 0, PREFILL, 1);
        feed(sum, 0, PREFILL, 1);
    }
    for (int i = 0; i < pairs; i++) {
        double t, s;
        if (i % 2) {
            s = feed(sum, PREFILL, 1, ROUND), t = feed(tree, PREFILL, 1, ROUND);
        } else {
            t = feed(tree, PREFILL, 1, ROUND), s = feed(sum, PREFILL, 1, ROUND);
        }
        ratio[i] = t / s;
        token[i] = t / ROUND;
        read[i] = probe_all(probe);
        fraction[i] = all_bytes / token[i] / read[i];
        batch[i] = decode(tree, BATCH, ROUND) / ROUND;
        gain[i] = BATCH * token[i] / batch[i];
    }
    if (rank == 0) {
        double token_s = median(token, pairs), fastest = token[0], slowest = token[pairs - 1];
        double batch_s = median(batch, pairs), g = median(gain, pairs);
        double bw = median(read, pairs), r = median(ratio, pairs), f = median(fraction, pairs);
        printf("ranks %d x %d threads, %s kernels, %.0f MB of weights%s%s\n", world, threads,
               host_isa_name(device), all_bytes / 1e6, argc > 4 ? " in " : "",
               argc > 4 ? argv[4] : "");
        printf("load            %8.2f s\n", load_s);
        printf("prefill %d     %8.1f tok/s\n", PREFILL, PREFILL / median(prefill, 5));
        printf("decode          %8.2f tok/s  (%.2f .. %.2f)\n", 1 / token_s, 1 / slowest,
               1 / fastest);
        printf("decode of %d     %8.2f tok/s in all: %.2f times one (%.2f .. %.2f)\n", BATCH,
               BATCH / batch_s, g, gain[0], gain[pairs - 1]);
        printf("weights read    %8.2f GB/s\n", all_bytes / token_s / 1e9);
        printf("memory reads    %8.2f GB/s  (%.2f .. %.2f, best pattern of each round)\n", bw / 1e9,
               read[0] / 1e9, read[pairs - 1] / 1e9);
        printf("fraction        %8.3f  (%.3f .. %.3f, median of the rounds' ratios)\n", f,
               fraction[0], fraction[pairs - 1]);
        printf("tree / no tree  %8.4f  (%.4f .. %.4f, %d pairs)\n", r, ratio[0], ratio[pairs - 1],
               pairs);
    }
    probe_destroy(probe);
    model_destroy(sum);
    model_destroy(tree);
    comm_destroy(comm);
    device_destroy(device);
    MPI_Finalize();
    return 0;
}
