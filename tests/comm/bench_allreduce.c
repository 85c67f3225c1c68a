/* all_reduce_tree through shared memory and by messages beside a bare MPI_Allreduce, interleaved.
 * Not a test:
 *   mpirun -n 2 build/tests/comm/bench_allreduce [leaves] */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "comm/mpi.h"

enum { ROUNDS = 41 };

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int n) {
    qsort(x, (size_t)n, sizeof(*x), by_value);
    return x[n / 2];
}

static double time_tree(struct comm *c, float *out, float *pieces, size_t n, int n_leaf,
                        int n_iter) {
    struct error err;
    double start = clock_now();
    for (int i = 0; i < n_iter; i++) {
        if (!c->ops->all_reduce_tree(c, out, pieces, n, n_leaf, &err)) {
            fprintf(stderr, "%s\n", err.message);
            MPI_Abort(MPI_COMM_WORLD, 1);
        }
    }
    return (clock_now() - start) / n_iter;
}

static double time_mpi(float *out, float *x, size_t n, int n_iter) {
    double start = clock_now();
    for (int i = 0; i < n_iter; i++) {
        MPI_Allreduce(x, out, (int)n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    }
    return (clock_now() - start) / n_iter;
}

/* Seconds, of one way of doing it. */
struct times {
    double each[ROUNDS];
};

/* Ratios to MPI_Allreduce: the median over rounds with quartiles, and that of the best rounds of
 * both, which says more on a busy machine. */
static void print(const char *name, struct times *t, const struct times *mpi) {
    double ratio[ROUNDS], best = (double)INFINITY, best_mpi = best;
    for (int i = 0; i < ROUNDS; i++) {
        ratio[i] = t->each[i] / mpi->each[i];
        best = fmin(best, t->each[i]);
        best_mpi = fmin(best_mpi, mpi->each[i]);
    }
    double middle = median(ratio, ROUNDS);
    printf("  %s %7.2f us, %.2f (%.2f to %.2f), best %.2f us, %.2f", name,
           1e6 * median(t->each, ROUNDS), middle, ratio[ROUNDS / 4], ratio[ROUNDS * 3 / 4],
           1e6 * best, best / best_mpi);
}

static void compare(struct comm *shared, struct comm *messages, size_t bytes, int n_leaf) {
    size_t n = bytes / sizeof(float);
    float *pieces = calloc(LEAF_TREE_MAX_PIECES, bytes);
    float *out = calloc(1, bytes);
    int n_iter = bytes <= 4096 ? 400 : bytes <= 65536 ? 100 : 10;
    struct times s, m, mpi;
    for (int i = -1; i < ROUNDS; i++) { /* the first warms up */
        int to = i < 0 ? 0 : i;
        s.each[to] = time_tree(shared, out, pieces, n, n_leaf, n_iter);
        mpi.each[to] = time_mpi(out, pieces, n, n_iter);
        m.each[to] = time_tree(messages, out, pieces, n, n_leaf, n_iter);
    }
    if (shared->rank == 0) {
        printf("%8zu B, %d leaves:", bytes, n_leaf);
        print("shared", &s, &mpi);
        print("messages", &m, &mpi);
        print("MPI", &mpi, &mpi);
        printf("\n");
        fflush(stdout);
    }
    free(pieces);
    free(out);
}

static struct comm *create(bool shared) {
    uint8_t id[COMM_ID_BYTES];
    struct comm *c = NULL;
    struct error err;
    MPI_Comm mpi;
    MPI_Comm_dup(MPI_COMM_WORLD, &mpi);
    setenv("LOCKSTEP_SHM_DISABLE", shared ? "0" : "1", 1);
    if (!comm_mpi_share_id(mpi, true, NULL, NULL, 60, id, &err) ||
        !comm_mpi_create(mpi, id, 10, &c, &err)) {
        fprintf(stderr, "%s\n", err.message);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    if (c->shares_memory != shared) {
        fprintf(stderr, "no shared memory: %s\n", c->why_not_shared);
    }
    return c;
}

int main(int argc, char **argv) {
    MPI_Init(&argc, &argv);
    struct comm *shared = create(true), *messages = create(false);
    int n_leaf = argc > 1 ? atoi(argv[1]) : shared->world;
    static const size_t sizes[] = {256,   2048,  4096,   8192,    16384,
                                   32768, 65536, 262144, 1048576, 4194304};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        compare(shared, messages, sizes[i], n_leaf);
    }
    comm_destroy(shared);
    comm_destroy(messages);
    MPI_Finalize();
    return 0;
}
