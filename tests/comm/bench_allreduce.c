/* all_reduce_tree beside a bare MPI_Allreduce, interleaved. Not a test:
 *   mpirun -n 2 build/tests/comm/bench_allreduce [leaves] */
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

static void compare(struct comm *c, size_t bytes, int n_leaf) {
    size_t n = bytes / sizeof(float);
    float *pieces = calloc(LEAF_TREE_MAX_PIECES, bytes);
    float *out = calloc(1, bytes);
    int n_iter = bytes <= 4096 ? 400 : bytes <= 65536 ? 100 : 10;
    double ours[ROUNDS], mpi[ROUNDS], ratio[ROUNDS];
    time_tree(c, out, pieces, n, n_leaf, n_iter);
    time_mpi(out, pieces, n, n_iter);
    for (int i = 0; i < ROUNDS; i++) {
        ours[i] = time_tree(c, out, pieces, n, n_leaf, n_iter);
        mpi[i] = time_mpi(out, pieces, n, n_iter);
        ratio[i] = ours[i] / mpi[i];
    }
    if (c->rank == 0) {
        double ratio_median = median(ratio, ROUNDS);
        printf("%8zu B, %d leaves: tree %8.2f us  MPI_Allreduce %8.2f us  ratio %.2f "
               "(quartiles %.2f %.2f)\n",
               bytes, n_leaf, 1e6 * median(ours, ROUNDS), 1e6 * median(mpi, ROUNDS), ratio_median,
               ratio[ROUNDS / 4], ratio[ROUNDS * 3 / 4]);
    }
    free(pieces);
    free(out);
}

int main(int argc, char **argv) {
    MPI_Init(&argc, &argv);
    uint8_t id[COMM_ID_BYTES];
    struct comm *c;
    struct error err;
    MPI_Comm world;
    MPI_Comm_dup(MPI_COMM_WORLD, &world);
    if (!comm_mpi_share_id(world, true, NULL, NULL, 60, id, &err) ||
        !comm_mpi_create(world, id, 10, &c, &err)) {
        fprintf(stderr, "%s\n", err.message);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    int n_leaf = argc > 1 ? atoi(argv[1]) : c->world;
    static const size_t sizes[] = {256, 2048, 4096, 8192, 16384, 32768, 65536, 262144, 1048576};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        compare(c, sizes[i], n_leaf);
    }
    comm_destroy(c);
    MPI_Comm_free(&world);
    MPI_Finalize();
    return 0;
}
