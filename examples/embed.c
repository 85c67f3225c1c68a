/* An MPI program of its own that lets lockstep write on a part of its ranks.
 *
 *   cc embed.c -o embed $(pkg-config --cflags --libs lockstep)
 *   mpirun -np 3 ./embed MODEL_DIR "In the beginning"
 *
 * The last rank stays outside: the engine lives on the communicator that it is given. */
#include <mpi.h>
#include <stdio.h>

#include <lockstep/lockstep.h>

static int print(void *user, const char *text, size_t n) {
    return fwrite(text, 1, n, user) == n ? 0 : 1;
}

static int use_engine(MPI_Comm comm, int rank, const char *model, const char *prompt) {
    struct lockstep_options options = LOCKSTEP_OPTIONS_DEFAULT;
    struct lockstep_sampling sampling = LOCKSTEP_SAMPLING_GREEDY;
    struct lockstep_error error;
    struct lockstep *engine;
    options.model = model;

    int status = lockstep_open(&engine, comm, &options, &error);
    if (status == 0 && rank == 0) {
        int n_tokens = 0;
        status = lockstep_generate(engine, prompt, 24, &sampling, print, stdout, &n_tokens, &error);
        printf("\n%d tokens\n", n_tokens);
    } else if (status == 0) {
        status = lockstep_serve(engine, &error);
    }
    if (status != 0) {
        fprintf(stderr, "rank %d: %s: %s\n", rank, error.kind, error.message);
    }
    lockstep_close(engine);
    return status;
}

int main(int argc, char **argv) {
    int rank, size, status = 0;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);

    MPI_Comm comm;
    int outside = size > 1 && rank == size - 1;
    MPI_Comm_split(MPI_COMM_WORLD, outside ? MPI_UNDEFINED : 0, rank, &comm);
    if (argc != 3) {
        fprintf(stderr, "usage: embed MODEL_DIR PROMPT\n");
        status = 2;
    } else if (comm != MPI_COMM_NULL) {
        status = use_engine(comm, rank, argv[1], argv[2]);
    }
    if (comm != MPI_COMM_NULL) {
        MPI_Comm_free(&comm);
    }
    MPI_Finalize();
    return status ? 1 : 0;
}
