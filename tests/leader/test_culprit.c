/* Whom rank 0 blames where it cannot read the others' flight records, as on other hosts: the last
 * rank never comes to a sum.
 *   mpirun -n 3 test_culprit far|told
 * far: nobody can read its record. told: rank 1, on its host, can. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/flight_peers.h"
#include "leader/pool.h"
#include "worker/worker.h"

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "rank %d: line %d: %s\n", rank, __LINE__, #cond);                      \
            MPI_Abort(MPI_COMM_WORLD, 1);                                                          \
        }                                                                                          \
    } while (0)

static const double timeout_s = 0.7;
static int rank, world;

static void lead(const struct pool_options *o, bool told) {
    struct pool *p;
    struct error err = {0};
    char words[100];
    CHECK(pool_create(&p, o, &err));
    CHECK(pool_hello(p, &err));
    CHECK(pool_init(p, &err));
    double start = clock_now();
    CHECK(!pool_sanity(p, NULL, &err));
    printf("rank %d: %s: %s\n", err.rank, error_kind_name(err.kind), err.message);
    CHECK(err.kind == ERROR_DEADLINE && err.has_rank && err.rank == world - 1);
    CHECK(clock_now() - start < 2 * timeout_s + 1.5);
    snprintf(words, sizeof words, "the other %d ranks are at #2", world - 1);
    CHECK(strstr(err.message, told ? "hang: last entered set-up #1 " : "hang: last heard at #1, "));
    CHECK(strstr(err.message, told ? words : "the others wait in #2"));
    pool_shutdown(p, &err);
    pool_destroy(p);
}

/* A worker that is taken out of the world at its first sum. */
static void hang(const struct pool_options *o) {
    struct worker_options wo = {.control = o->control,
                                .tensor = o->tensor,
                                .facts = o->facts,
                                .threads = 1,
                                .timeout_s = timeout_s,
                                .gpu = {.device = "host"}};
    struct worker *w;
    struct transport *t;
    struct message_decoder d = {0};
    struct message request, reply;
    struct buffer frame = {0};
    struct error err = {0};
    struct frame f;
    CHECK(transport_create(&t, o->control, true, &err) && worker_create(&w, &wo, &err));
    for (;;) {
        CHECK(transport_receive(t, 0, SIDE_REQUEST, 20, &f, &err));
        CHECK(message_decode(&d, f.data, f.size, SIDE_REQUEST, &request, &err));
        if (request.type == MESSAGE_SANITY) {
            break;
        }
        CHECK(worker_handle(w, &request, &reply, &err) && message_encode(&frame, &reply, &err));
        CHECK(transport_post(t, 0, SIDE_REPLY, frame.data, frame.size, &err));
        CHECK(transport_flush(t, 20, &err));
        CHECK(request.type != MESSAGE_INIT || worker_join(w, true, &err));
    }
    clock_sleep(3 * timeout_s + 1);
    message_decoder_finish(&d);
    buffer_finish(&frame);
    worker_destroy(w);
    transport_destroy(t);
}

/* What host_facts_read does for all ranks of a host. */
static void let_neighbour_read(bool told) {
    struct flight_address a = flight_share(rank);
    if (told && rank == world - 1) {
        MPI_Send(&a, (int)sizeof a, MPI_BYTE, 1, 0, MPI_COMM_WORLD);
    } else if (told && rank == 1) {
        MPI_Recv(&a, (int)sizeof a, MPI_BYTE, world - 1, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        flight_map(&a);
        CHECK(flight_of_rank(world - 1));
    }
    const struct flight_owner owner = {.rank = rank, .world = world};
    flight_set_owner(&owner);
}

int main(int argc, char **argv) {
    int provided;
    struct error err = {0};
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    bool told = argc > 1 && strcmp(argv[1], "told") == 0;
    CHECK(world == 3 && argc == 2);
    struct pool_options o = {.threads = 1,
                             .timeout_s = timeout_s,
                             .device = "host",
                             .facts = {.local_size = 1, .cores = 1, .cores_host = 1, .sharers = 2}};
    snprintf(o.facts.host, sizeof o.facts.host, "node%d", rank);
    MPI_Comm_dup(MPI_COMM_WORLD, &o.control);
    MPI_Comm_dup(MPI_COMM_WORLD, &o.tensor);
    MPI_Comm_set_errhandler(o.control, MPI_ERRORS_RETURN);
    MPI_Comm_set_errhandler(o.tensor, MPI_ERRORS_RETURN);
    let_neighbour_read(told);
    if (rank == 0) {
        lead(&o, told);
    } else if (rank == 1) {
        CHECK(pool_serve(&o, &err));
    } else {
        hang(&o);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Finalize();
    return 0;
}
