/* Whom rank 0 blames for a sum that the last rank does not come to.
 *   mpirun -n 3 test_culprit far|told|other|checked [DUMP-DIR]
 * far: nobody can read its record, as on another host. told: rank 1, on its host, can.
 * other: all can, and it called something else. checked: that, with --check-collectives. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/flight_dump.h"
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
static const char *mode;

static bool is(const char *name) {
    return strcmp(mode, name) == 0;
}

static void check_words(const struct error *err) {
    const char *words = is("far")    ? "hang: last heard at #1, "
                        : is("told") ? "hang: last entered set-up #1 "
                        : is("other")
                            ? "called gather #2 of 12 bytes (bytes) where the other 2 ranks "
                              "called all-reduce of 4 bytes (u32)"
                            : "sanity: the ranks call different collectives: all-gather #2 of 16 "
                              "bytes (bytes) by rank 2, but all-reduce #2 of 4 bytes (u32) by "
                              "ranks 0, 1";
    CHECK(strncmp(err->message, words, strlen(words)) == 0);
    words = is("far") ? "the others wait in #2" : is("told") ? "the other 2 ranks are at #2" : "";
    CHECK(strstr(err->message, words));
}

static void lead(const struct pool_options *o) {
    struct pool *p;
    struct error err = {0};
    CHECK(pool_create(&p, o, &err));
    CHECK(pool_hello(p, false, &err));
    CHECK(pool_init(p, &err));
    double start = clock_now();
    CHECK(!pool_sanity(p, NULL, &err));
    printf("rank %d: %s: %s\n", err.rank, error_kind_name(err.kind), err.message);
    CHECK(err.kind == (is("far") || is("told") ? ERROR_DEADLINE : ERROR_RANK_MISMATCH));
    CHECK(err.has_rank && err.rank == world - 1);
    CHECK(clock_now() - start < (is("checked") ? timeout_s : 2 * timeout_s + 1.5));
    check_words(&err);
    pool_shutdown(p, &err);
    pool_destroy(p);
}

static void do_something_else(struct worker *w) {
    struct error err = {0};
    struct comm *c = worker_comm(w);
    static char all[16 * 3];
    static const size_t bytes[3] = {4, 4, 4};
    if (is("checked")) {
        CHECK(!c->ops->all_gather(c, all, all, 16, &err) && err.kind == ERROR_RANK_MISMATCH);
    } else { /* rank 0 takes what it sends for its part of the sum; rank 1 gets nothing */
        CHECK(c->ops->gather(c, all, all, bytes, &err));
    }
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
    if (is("other") || is("checked")) {
        do_something_else(w);
    }
    clock_sleep(3 * timeout_s + 1);
    message_decoder_finish(&d);
    buffer_finish(&frame);
    worker_destroy(w);
    transport_destroy(t);
}

/* What host_facts_read does for all ranks of a host. */
static void share_records(void) {
    struct flight_address a = flight_share(rank), all[3];
    const int size = (int)sizeof a;
    MPI_Allgather(&a, size, MPI_BYTE, all, size, MPI_BYTE, MPI_COMM_WORLD);
    for (int r = 0; r < world; r++) {
        if (is("other") || (is("told") && rank == 1 && r == 2)) {
            flight_map(&all[r]);
            CHECK(flight_of_rank(r));
        }
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
    mode = argc > 1 ? argv[1] : "";
    CHECK(world == 3 && (is("far") || is("told") || is("other") || is("checked")));
    struct pool_options o = {.threads = 1,
                             .timeout_s = timeout_s,
                             .device = "host",
                             .facts = {.local_size = 1, .cores = 1, .cores_host = 1, .sharers = 2}};
    o.check_collectives = is("checked");
    snprintf(o.facts.host, sizeof o.facts.host, "node%d", rank);
    MPI_Comm_dup(MPI_COMM_WORLD, &o.control);
    MPI_Comm_dup(MPI_COMM_WORLD, &o.tensor);
    MPI_Comm_set_errhandler(o.control, MPI_ERRORS_RETURN);
    MPI_Comm_set_errhandler(o.tensor, MPI_ERRORS_RETURN);
    share_records();
    CHECK(argc < 3 || flight_dump_to(argv[2], rank, &err));
    if (rank == 0) {
        lead(&o);
    } else if (rank == 1) {
        CHECK(pool_serve(&o, &err));
    } else {
        hang(&o);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Finalize();
    return 0;
}
