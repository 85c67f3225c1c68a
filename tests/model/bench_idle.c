/* What the first step after an idle time costs a rank, without any control plane:
 *
 *   mpirun -np N model_bench_idle MODEL_DIR [SECONDS [ROUNDS]]
 *
 * One thread a rank. Each round has steps of one token, SECONDS of naps as an idle rank takes them,
 * and steps again. Printed of each rank: a step's wall clock before (the median of seven) and
 * after, and of the first one after how much of it was this process's CPU time, its page faults and
 * the times that the kernel took the core away. */
#include <sys/resource.h>
#include <time.h>

#include "bench_steps.h"

enum { N_AWAKE = 7, N_AFTER = 4 };
static const double nap_s = 3e-3; /* rpc/waiter.c's longest */

static double cpu_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void round_of(struct model *m, double seconds, int rank, int world) {
    double awake[N_AWAKE], after[N_AFTER], cpu;
    struct rusage u0, u1;
    for (int i = 0; i < N_AWAKE; i++) {
        awake[i] = feed(m, PREFILL, 1, 1);
    }
    double end = clock_now() + seconds;
    while (clock_now() < end) {
        clock_sleep(nap_s);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    getrusage(RUSAGE_SELF, &u0);
    cpu = cpu_now();
    after[0] = feed(m, PREFILL, 1, 1);
    cpu = cpu_now() - cpu;
    getrusage(RUSAGE_SELF, &u1);
    for (int i = 1; i < N_AFTER; i++) {
        after[i] = feed(m, PREFILL, 1, 1);
    }
    for (int r = 0; r < world; r++) {
        MPI_Barrier(MPI_COMM_WORLD);
        if (r == rank) {
            printf("rank %d  before %7.2f ms  after %7.2f (cpu %.2f, faults %ld, switches %ld)", r,
                   1e3 * median(awake, N_AWAKE), 1e3 * after[0], 1e3 * cpu,
                   u1.ru_minflt - u0.ru_minflt, u1.ru_nivcsw - u0.ru_nivcsw);
            for (int i = 1; i < N_AFTER; i++) {
                printf(" %.2f", 1e3 * after[i]);
            }
            printf("\n");
            fflush(stdout);
        }
    }
}

int main(int argc, char **argv) {
    struct device *device;
    struct comm *comm;
    int rank, world, rounds = argc > 3 ? atoi(argv[3]) : 4;
    double seconds = argc > 2 ? atof(argv[2]) : 60;
    MPI_Init(&argc, &argv);
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (argc < 2 || argc > 4 || !(seconds >= 0) || rounds < 1) {
        fprintf(stderr, "usage: model_bench_idle MODEL_DIR [SECONDS [ROUNDS]]\n");
        return 2;
    }
    start(1, &device, &comm);
    struct model *m = load(argv[1], device, comm);
    feed(m, 0, PREFILL, 1);
    for (int i = 0; i < rounds; i++) {
        round_of(m, seconds, rank, world);
    }
    model_destroy(m);
    comm_destroy(comm);
    device_destroy(device);
    MPI_Finalize();
    return 0;
}
