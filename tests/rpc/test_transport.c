/* The transport between two ranks, run by mpiexec: what rank 1 sends, also by hand and wrongly, and
 * what rank 0 makes of it. Tags and announcements are those of docs/protocol.md. */
#include <endian.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "rpc/transport.h"

#define CHECK(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            fprintf(stderr, "%s:%d: rank %d: %s\n", __FILE__, __LINE__, rank, #what);              \
            MPI_Abort(MPI_COMM_WORLD, 1);                                                          \
        }                                                                                          \
    } while (0)
#define CHECK_OK(what, err)                                                                        \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            fprintf(stderr, "%s:%d: rank %d: %s\n", __FILE__, __LINE__, rank, (err)->message);     \
            MPI_Abort(MPI_COMM_WORLD, 1);                                                          \
        }                                                                                          \
    } while (0)

enum { TAG_REPLY = 65, TAG_NOTICE = 66, TAG_LARGE_REPLY = 73, MOST = 5 << 20 };

static int rank;
static MPI_Comm comm;
static unsigned char bytes[MOST];

/* Around the size from which a frame is announced, and around those where MPI changes its ways. */
static const size_t sizes[] = {0, 9, 2047, 2048, 2049, 1, 4096, 4097, 100000, 3, MOST, 2048, 70000};
enum { N_SIZE = sizeof sizes / sizeof sizes[0] };

static struct transport *new_transport(void) {
    struct transport *t;
    struct error err;
    CHECK_OK(transport_create(&t, comm, false, &err), &err);
    return t;
}

static void send_frame(struct transport *t, int peer, enum message_side side, size_t size) {
    struct error err;
    CHECK_OK(transport_post(t, peer, side, bytes, size, &err), &err);
    CHECK_OK(transport_flush(t, 20, &err), &err);
}

static void expect_frame(struct transport *t, int peer, enum message_side side, size_t size) {
    struct frame f;
    struct error err;
    bool any = rank == 0 && side == SIDE_NOTICE;
    CHECK_OK(transport_receive(t, any ? TRANSPORT_ANY_RANK : peer, side, 20, &f, &err), &err);
    CHECK(f.source == peer && f.side == side && f.size == size);
    CHECK(memcmp(f.data, bytes, size) == 0);
}

/* ---- honest frames ---- */

static void every_size_keeps_its_place(struct transport *t) {
    struct error err;
    for (int i = 0; i < N_SIZE && rank == 1; i++) {
        send_frame(t, 0, SIDE_REPLY, sizes[i]);
        expect_frame(t, 0, SIDE_REQUEST, sizes[i]);
    }
    for (int i = 0; i < N_SIZE && rank == 0; i++) {
        expect_frame(t, 1, SIDE_REPLY, sizes[i]);
        send_frame(t, 1, SIDE_REQUEST, sizes[i]);
    }
    MPI_Barrier(comm);
    if (rank == 1) { /* several at once, before anybody looks */
        for (int i = 0; i < 3; i++) {
            CHECK_OK(transport_post(t, 0, SIDE_REPLY, bytes, sizes[7 + i], &err), &err);
            CHECK_OK(transport_post(t, 0, SIDE_NOTICE, bytes, sizes[3 + i], &err), &err);
        }
        MPI_Barrier(comm);
        CHECK_OK(transport_flush(t, 20, &err), &err);
    } else {
        MPI_Barrier(comm);
        for (int i = 0; i < 3; i++) {
            expect_frame(t, 1, SIDE_NOTICE, sizes[3 + i]);
        }
        for (int i = 0; i < 3; i++) {
            expect_frame(t, 1, SIDE_REPLY, sizes[7 + i]);
        }
    }
}

/* ---- frames sent by hand ---- */

static void send_raw(const void *data, size_t size, int tag) {
    MPI_Send(data, (int)size, MPI_BYTE, 0, tag, comm);
}

static void announce_raw(uint64_t size) {
    unsigned char a[9] = {0xc1};
    size = htobe64(size);
    memcpy(a + 1, &size, sizeof size);
    send_raw(a, sizeof a, TAG_REPLY);
}

static void expect_refusal(struct transport *t, const char *why) {
    struct frame f;
    struct error err;
    CHECK(!transport_receive(t, 1, SIDE_REPLY, 20, &f, &err));
    CHECK(err.kind == ERROR_PROTOCOL && err.has_rank && err.rank == 1);
    if (!strstr(err.message, why)) {
        fprintf(stderr, "'%s' lacks '%s'\n", err.message, why);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    expect_frame(t, 1, SIDE_REPLY, 7); /* it is gone, and the next one arrives whole */
}

/* What is larger than its receiver expects stays below 4 KiB, which MPI sends at once: more is
 * fetched by the receiver, and where that is with process_vm_readv, Open MPI 4.1.4 fetches all of
 * it, past the end of what was posted. */
static void wrong_frames_are_refused(struct transport *t) {
    static const struct {
        uint64_t announced; /* 0: not at all */
        size_t size;
        const char *why;
    } cases[] = {
        {0, 2049, "2049 bytes is larger than the limit of 2048"},
        {0, 3900, "3900 bytes is larger"},
        {5000, 4999, "announced with 5000 bytes and has less"},
        {5000, 0, "has less"},
        {3000, 3001, "announced with 3000 bytes and has more"},
        {3, 3500, "has more"},
        {(64 << 20) + 1, 3000, "larger than the limit of 67108864"},
        {UINT64_MAX, 3500, "18446744073709551615 bytes is larger"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (rank == 0) {
            expect_refusal(t, cases[i].why);
        } else {
            if (cases[i].announced) {
                announce_raw(cases[i].announced);
            }
            send_raw(bytes, cases[i].size, cases[i].announced ? TAG_LARGE_REPLY : TAG_REPLY);
            send_frame(t, 0, SIDE_REPLY, 7);
        }
        MPI_Barrier(comm);
    }
}

/* ---- deadlines and ends ---- */

static void waits_end(struct transport *t) {
    struct frame f;
    struct error err;
    double start = clock_now();
    if (rank == 0) {
        CHECK(!transport_receive(t, 1, SIDE_REPLY, 0.05, &f, &err) && err.kind == ERROR_DEADLINE);
        CHECK(clock_now() - start >= 0.05 && clock_now() - start < 2);
        CHECK(!transport_receive(t, 1, SIDE_REQUEST, 0, &f, &err) && err.kind == ERROR_INTERNAL);
    }
    MPI_Barrier(comm);
    if (rank == 1) {
        send_frame(t, 0, SIDE_REPLY, 100);
    }
    MPI_Barrier(comm);
    if (rank == 0) { /* what is there is received, deadline or not */
        CHECK_OK(transport_receive(t, 1, SIDE_REPLY, 0, &f, &err), &err);
    }
}

static void a_frame_that_never_comes(struct transport *t) {
    struct frame f;
    struct error err;
    double start = clock_now();
    if (rank == 1) {
        announce_raw(5000);
    } else if (rank == 0) {
        transport_set_timeout(t, 0.05);
        CHECK(!transport_receive(t, 1, SIDE_REPLY, 20, &f, &err) && err.kind == ERROR_DEADLINE);
        CHECK(strstr(err.message, "5000 bytes began but never ended"));
        CHECK(clock_now() - start >= 0.05 && clock_now() - start < 5);
    }
    MPI_Barrier(comm);
}

/* A transport that ends takes its posted receives with it. */
static void the_next_transport_gets_the_next_frame(void) {
    for (int i = 0; i < 3; i++) {
        struct transport *t = new_transport();
        struct frame f;
        bool got;
        struct error err;
        CHECK_OK(transport_poll(t, TRANSPORT_ANY_RANK, TRANSPORT_ANY_SIDE, &f, &got, &err), &err);
        CHECK(!got);
        transport_destroy(t);
        MPI_Barrier(comm);
        t = new_transport();
        if (rank == 1) {
            send_frame(t, 0, SIDE_NOTICE, 10);
            expect_frame(t, 0, SIDE_REQUEST, 5000);
        } else {
            expect_frame(t, 1, SIDE_NOTICE, 10);
            send_frame(t, 1, SIDE_REQUEST, 5000);
        }
        transport_destroy(t);
        MPI_Barrier(comm);
    }
}

int main(int argc, char **argv) {
    int provided, world;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    MPI_Comm_dup(MPI_COMM_WORLD, &comm);
    MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
    CHECK(world == 2);
    for (size_t i = 0; i < MOST; i++) {
        bytes[i] = (unsigned char)(i * 2654435761u >> 13);
    }
    struct transport *t = new_transport();
    every_size_keeps_its_place(t);
    MPI_Barrier(comm);
    wrong_frames_are_refused(t);
    waits_end(t);
    a_frame_that_never_comes(t);
    MPI_Barrier(comm);
    transport_destroy(t);
    the_next_transport_gets_the_next_frame();
    MPI_Comm_free(&comm);
    MPI_Finalize();
    if (rank == 0) {
        printf("ok\n");
    }
    return 0;
}
