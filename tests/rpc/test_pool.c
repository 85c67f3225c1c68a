/* The pool against real workers, and against a last rank that misbehaves. Run by mpiexec; every
 * rank goes through the same cases, each on communicators of its own. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/build_id.h"
#include "base/clock.h"
#include "comm/mpi.h"
#include "leader/pool.h"
#include "leader/pool_impl.h"
#include "rpc/transport.h"

/* Bytes that are sent without an announcement: too many, but so few that MPI sends them at once.
 * More are fetched by the receiver, and where that is with process_vm_readv, Open MPI 4.1.4 fetches
 * all of them, past the end of what was posted. */
enum { UNANNOUNCED = 3000 };

static int rank, world;
static const char *current;

/* Aborts all ranks: a failed assertion of one would leave the others waiting. */
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s: rank %d: line %d: %s\n", current, rank, __LINE__, #condition);    \
            MPI_Abort(MPI_COMM_WORLD, 1);                                                          \
        }                                                                                          \
    } while (0)

#define CHECK_OK(call, err)                                                                        \
    do {                                                                                           \
        if (!(call)) {                                                                             \
            fprintf(stderr, "%s: rank %d: line %d: %s: %s: %s\n", current, rank, __LINE__, #call,  \
                    error_kind_name((err)->kind), (err)->message);                                 \
            MPI_Abort(MPI_COMM_WORLD, 1);                                                          \
        }                                                                                          \
    } while (0)

/* What a rank other than 0 does in a case. */
typedef void part(const struct pool_options *o);

static void serve(const struct pool_options *o) {
    struct error err;
    CHECK_OK(pool_serve(o, &err), &err);
}

/* The last rank plays `villain`, the others are honest. */
static void run_case(const char *name, double timeout_s, part *lead, part *villain) {
    current = name;
    struct pool_options o = {.threads = 1, .timeout_s = timeout_s, .device = "auto"};
    struct error err;
    MPI_Comm_dup(MPI_COMM_WORLD, &o.control);
    MPI_Comm_dup(MPI_COMM_WORLD, &o.tensor);
    MPI_Comm_set_errhandler(o.control, MPI_ERRORS_RETURN);
    CHECK_OK(host_facts_read(MPI_COMM_WORLD, &o.facts, &err), &err);
    if (rank == 0) {
        lead(&o);
    } else if (villain && rank == world - 1) {
        villain(&o);
    } else {
        serve(&o);
    }
    MPI_Barrier(MPI_COMM_WORLD);
}

static struct pool *new_pool(const struct pool_options *o) {
    struct pool *p = NULL;
    struct error err;
    CHECK_OK(pool_create(&p, o, &err), &err);
    return p;
}

static void end_pool(struct pool *p) {
    struct error err;
    CHECK_OK(pool_shutdown(p, &err), &err);
    pool_destroy(p);
}

/* ---- all is well ---- */

static void lead_well(const struct pool_options *o) {
    struct pool *p = new_pool(o);
    struct error err;
    uint64_t *sums = calloc((size_t)world, sizeof *sums);
    double rtt[10];
    struct message_stats *stats = calloc((size_t)world, sizeof *stats);
    CHECK_OK(pool_start(p, &err), &err);
    CHECK_OK(pool_sanity(p, sums, &err), &err);
    for (int r = 0; r < world; r++) {
        CHECK(sums[r] == (uint64_t)world);
        CHECK(pool_rank(p, r)->rank == r);
        CHECK(pool_rank(p, r)->local_size >= 1 && pool_rank(p, r)->threads == 1);
    }
    if (world > 1) {
        CHECK_OK(pool_echo(p, world - 1, 10, rtt, &err), &err);
    }
    CHECK(strcmp(pool_device(p), "host") == 0 && strcmp(pool_dtype(p), "f32") == 0);
    CHECK(strcmp(pool_rank(p, world - 1)->device, "host") == 0);
    CHECK_OK(pool_stats(p, stats, &err), &err);
    CHECK(stats[world - 1].n_collective >= 1 || world == 1);
    CHECK(stats[world - 1].rss > 1 << 20 && stats[world - 1].step_s == 0);
    struct sweep_sample sample;
    CHECK_OK(pool_measure(p, SWEEP_ALL_REDUCE, 4096, 2, 1, &sample, &err), &err);
    CHECK(sample.wrong == 0);
    CHECK_OK(pool_measure_bare(p, SWEEP_GATHER, 4096 * (uint64_t)world, 2, 1, &sample, &err), &err);
    CHECK(sample.seconds > 0);
    double memory, f32, none;
    CHECK_OK(pool_probe(p, PROBE_MEMORY, 0, 0, &memory, &err), &err);
    CHECK_OK(pool_probe(p, PROBE_F32, 0, 0, &f32, &err), &err);
    CHECK_OK(pool_probe(p, PROBE_MEMORY, 99, 0, &none, &err), &err);
    CHECK(memory > 0 && f32 > 0 && none == 0);
    CHECK(!pool_probe(p, PROBE_INT8, 0, 1e6, &none, &err) && err.kind == ERROR_PROTOCOL);
    CHECK(!pool_init(p, &err) && err.kind == ERROR_PROTOCOL); /* a second one is refused, */
    CHECK_OK(pool_sanity(p, NULL, &err), &err);               /* and does no harm */
    end_pool(p);
    free(sums);
    free(stats);
}

/* ---- order ---- */

static void lead_too_early(const struct pool_options *o) {
    struct pool *p = new_pool(o);
    struct error err;
    struct sweep_sample sample;
    CHECK(!pool_sanity(p, NULL, &err) && err.kind == ERROR_COMM_NOT_INIT);
    CHECK(err.has_rank && err.rank == 0 && strstr(err.message, "sanity"));
    CHECK(!pool_measure(p, SWEEP_BROADCAST, 64, 1, 0, &sample, &err));
    CHECK(err.kind == ERROR_COMM_NOT_INIT);
    CHECK_OK(pool_start(p, &err), &err); /* nobody is the worse for it */
    CHECK(!pool_unload(p, NULL, &err) && err.kind == ERROR_PROTOCOL);
    int32_t token = 1, block = 0;
    struct step_seq seq = {.n_tok = 1, .tokens = &token, .n_block = 1, .blocks = &block};
    struct step step = {.n_seq = 1, .seqs = &seq};
    for (int i = 0; i < 3; i++) { /* no model: every rank says so, and lives on */
        CHECK(!pool_step(p, &step, NULL, &err) && err.kind == ERROR_PROTOCOL);
    }
    CHECK_OK(pool_sanity(p, NULL, &err), &err);
    end_pool(p);
}

static void lead_bad_isa(const struct pool_options *o) {
    struct pool_options bad = *o;
    struct error err;
    bad.isa = "quantum";
    struct pool *p = new_pool(&bad);
    CHECK(!pool_start(p, &err) && err.kind == ERROR_UNSUPPORTED && strstr(err.message, "quantum"));
    end_pool(p);
}

static void lead_bad_dtype(const struct pool_options *o) {
    struct pool_options bad = *o;
    struct error err;
    bad.dtype = "bf16";
    struct pool *p = new_pool(&bad);
    CHECK(!pool_start(p, &err) && err.kind == ERROR_UNSUPPORTED && strstr(err.message, "bf16"));
    end_pool(p);
}

/* No plug-in where one is looked for: CUDA by name names every rank, and auto does without. */
static void lead_no_cuda(const struct pool_options *o) {
    struct pool_options cuda = *o;
    struct error err;
    cuda.device = "cuda";
    struct pool *p = new_pool(&cuda);
    CHECK(!pool_start(p, &err) && err.kind == ERROR_DEVICE && !err.has_rank);
    /* The others look as "auto" does: with a driver here they say the same, without they say less.
     */
    CHECK(strstr(err.message, "rank 0 (") || strstr(err.message, "all "));
    CHECK(strstr(err.message, "/nonexistent/lockstep-cuda.so"));
    CHECK(pool_rank(p, world - 1)->n_gpu <= 0);
    end_pool(p);
}

/* Each rank checks the list it was given; here rank 0 alone has one. */
static void lead_bad_list(const struct pool_options *o) {
    static const int32_t list[] = {0, 1, 2, 3, 4, 5, 6};
    struct pool_options bad = *o;
    struct error err;
    bad.cuda_devices = list;
    bad.n_cuda_device = 7;
    struct pool *p = new_pool(&bad);
    CHECK(!pool_start(p, &err) && err.kind == ERROR_USAGE && err.rank == 0);
    CHECK(strstr(err.message, "got 7"));
    end_pool(p);
}

/* A model that is not there: an error of every rank, after which another request works. */
static void lead_bad_load(const struct pool_options *o) {
    struct pool *p = new_pool(o);
    struct error err;
    struct model_params params = {.dir = "/nonexistent", .ctx = 64, .n_block = 1, .max_tok = 64};
    const struct pool_load_options options = {0};
    CHECK_OK(pool_start(p, &err), &err);
    CHECK(!pool_load(p, &params, &options, NULL, &err) && err.kind == ERROR_IO && err.has_rank);
    CHECK(strstr(err.message, "load: ") && strstr(err.message, "/nonexistent"));
    CHECK_OK(pool_sanity(p, NULL, &err), &err);
    end_pool(p);
}

/* ---- frames that no leader sends ---- */

static void expect_error_reply(struct transport *t, const char *what) {
    struct message_decoder d = {0};
    struct message reply;
    struct frame f;
    struct error err;
    CHECK_OK(transport_receive(t, world - 1, SIDE_REPLY, 5, &f, &err), &err);
    CHECK_OK(message_decode(&d, f.data, f.size, SIDE_REPLY, &reply, &err), &err);
    CHECK(reply.type == MESSAGE_ERROR && strcmp(reply.error.kind, "protocol") == 0);
    if (!strstr(reply.error.message, what)) {
        fprintf(stderr, "'%s' lacks '%s'\n", reply.error.message, what);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    message_decoder_finish(&d);
}

static void expect_error(struct transport *t, const void *bytes, size_t n, const char *what) {
    struct error err;
    CHECK_OK(transport_post(t, world - 1, SIDE_REQUEST, bytes, n, &err), &err);
    CHECK_OK(transport_flush(t, 5, &err), &err);
    expect_error_reply(t, what);
}

/* What a worker has no use for, and does not answer. */
static void send_strays(struct transport *t) {
    static const struct {
        enum message_side side;
        const char *bytes;
        size_t n;
    } strays[] = {
        {SIDE_NOTICE, "", 0},
        {SIDE_NOTICE, "\xdd\xff\xff\xff\xff", 5},
        {SIDE_NOTICE, "\x82\xa1t\xa4nope\xa1s\x05", 11},
        {SIDE_NOTICE,
         "\x82\xa1t\xa5"
         "error\xa1s\x05",
         12},
        {SIDE_NOTICE, "\x82\xa1t\xa8progress\xa1s\x05", 15},
        {SIDE_REPLY, "\xff\xff", 2},
        {SIDE_REPLY,
         "\x82\xa1t\xa3"
         "bye\xa1s\x05",
         10},
    };
    struct error err;
    for (size_t i = 0; i < sizeof strays / sizeof strays[0]; i++) {
        CHECK_OK(transport_post(t, world - 1, strays[i].side, strays[i].bytes, strays[i].n, &err),
                 &err);
        CHECK_OK(transport_flush(t, 5, &err), &err);
    }
}

static void lead_malformed(const struct pool_options *o) {
    struct transport *t;
    struct error err;
    CHECK_OK(transport_create(&t, o->control, false, &err), &err);
    expect_error(t, "", 0, "frame");
    expect_error(t, "\xff\xff\xff", 3, "frame");
    expect_error(t, "\xdd\xff\xff\xff\xff", 5, "claims");
    expect_error(t, "\x82\xa1t\xa4nope\xa1s\x05", 11, "unknown request 'nope'");
    expect_error(t, "\x82\xa1t\xa4init\xa1s\x05", 11, "init: field 'device' is missing");
    expect_error(t,
                 "\x82\xa1t\xa3"
                 "bye\xa1s\x05",
                 10, "unknown request 'bye'");
    char *large = calloc(1, 100000);
    CHECK(large);
    expect_error(t, large, 100000, "frame");                           /* one that is announced */
    MPI_Send(large, UNANNOUNCED, MPI_BYTE, world - 1, 64, o->control); /* and one that is not */
    expect_error_reply(t, "3000 bytes is larger than the limit of 2048");
    free(large);
    send_strays(t);
    expect_error(t, "", 0, "frame"); /* and that is all it says */
    transport_destroy(t);
    struct pool *p = new_pool(o); /* the worker lives */
    CHECK_OK(pool_start(p, &err), &err);
    end_pool(p);
}

/* ---- a villain with a transport of its own ---- */

struct villain {
    struct transport *t;
    struct message_decoder d;
    struct message request;
    struct buffer frame;
};

static void villain_start(struct villain *v, const struct pool_options *o) {
    struct error err;
    *v = (struct villain){0};
    CHECK_OK(transport_create(&v->t, o->control, false, &err), &err);
}

static void villain_receive(struct villain *v, enum message_type expect) {
    struct frame f;
    struct error err;
    CHECK_OK(transport_receive(v->t, 0, SIDE_REQUEST, 10, &f, &err), &err);
    CHECK_OK(message_decode(&v->d, f.data, f.size, SIDE_REQUEST, &v->request, &err), &err);
    CHECK(v->request.type == expect);
}

static void villain_send(struct villain *v, struct message *m) {
    struct error err;
    m->seq = v->request.seq;
    CHECK_OK(message_encode(&v->frame, m, &err), &err);
    CHECK_OK(transport_post(v->t, 0, message_side(m->type), v->frame.data, v->frame.size, &err),
             &err);
    CHECK_OK(transport_flush(v->t, 10, &err), &err);
}

static void villain_end(struct villain *v, bool say_bye) {
    if (say_bye) {
        villain_receive(v, MESSAGE_SHUTDOWN);
        struct message bye = {.type = MESSAGE_BYE};
        villain_send(v, &bye);
    }
    message_decoder_finish(&v->d);
    buffer_finish(&v->frame);
    transport_destroy(v->t);
}

/* ---- another rank's pong ---- */

static void wrong_pong(const struct pool_options *o) {
    struct villain v;
    villain_start(&v, o);
    villain_receive(&v, MESSAGE_PING);
    struct message pong = {.type = MESSAGE_PONG};
    pong.pong.rank = 0;
    villain_send(&v, &pong);
    villain_end(&v, true);
}

static void lead_wrong_pong(const struct pool_options *o) {
    struct pool *p = new_pool(o);
    struct error err;
    CHECK(!pool_ping(p, world - 1, NULL, &err));
    CHECK(err.kind == ERROR_RANK_MISMATCH && err.has_rank && err.rank == world - 1);
    end_pool(p);
}

/* ---- replies that no worker sends ---- */

/* Where a frame has an 'N', its request's number goes. */
static const struct wrong_reply {
    const char *bytes;
    size_t n;
    enum error_kind kind;
    const char *words;
} wrong_replies[] = {
    {"", 0, ERROR_PROTOCOL, "frame"},
    {"\xff\xff\xff", 3, ERROR_PROTOCOL, "frame"},
    {"\xdd\xff\xff\xff\xff", 5, ERROR_PROTOCOL, "claims"},
    {"\xdf\xff\xff\xff\xff", 5, ERROR_PROTOCOL, "claims"},
    {"\x82\xa1t\xa4nope\xa1sN", 11, ERROR_PROTOCOL, "unknown reply 'nope'"},
    {"\x82\xa1t\xa4ping\xa1sN", 11, ERROR_PROTOCOL, "unknown reply 'ping'"},
    {"\x82\xa1t\xa4pong\xa1sN", 11, ERROR_PROTOCOL, "pong: field 'rank' is missing"},
    {"\x83\xa1t\xa4pong\xa1sN\xa4rank\xa1x", 18, ERROR_PROTOCOL, "pong: field 'rank' is not"},
    {"\x82\xa1t\xa4pong\xa1s\xa1x", 12, ERROR_PROTOCOL, "field 's' is"},
    {"\x82\xa1t\xa7init_ok\xa1sN", 14, ERROR_PROTOCOL, "answered with init_ok"},
    {"\x83\xa1t\xa4pong\xa1s\x7f\xa4rank\x00", 17, ERROR_PROTOCOL, "with 127"},
    {"\x84\xa1t\xa5"
     "error\xa1sN\xa4kind\xa1?\xa7message\xa3\x1b[2",
     31, ERROR_INTERNAL, "[2"},
};
enum { N_WRONG_REPLY = sizeof wrong_replies / sizeof wrong_replies[0] };

static void villain_post(struct villain *v, enum message_side side, const char *bytes, size_t n) {
    char frame[100];
    struct error err;
    for (size_t i = 0; i < n; i++) {
        frame[i] = (char)(bytes[i] == 'N' ? (int)v->request.seq : bytes[i]);
    }
    CHECK_OK(transport_post(v->t, 0, side, frame, n, &err), &err);
    CHECK_OK(transport_flush(v->t, 10, &err), &err);
}

static void villain_pong(struct villain *v) {
    struct message pong = {.type = MESSAGE_PONG};
    pong.pong.rank = rank;
    villain_send(v, &pong);
}

static void garble(const struct pool_options *o) {
    static char large[UNANNOUNCED];
    struct villain v;
    villain_start(&v, o);
    for (int i = 0; i < N_WRONG_REPLY; i++) {
        villain_receive(&v, MESSAGE_PING);
        villain_post(&v, SIDE_REPLY, wrong_replies[i].bytes, wrong_replies[i].n);
    }
    villain_receive(&v, MESSAGE_PING);
    MPI_Send(large, sizeof large, MPI_BYTE, 0, 65, o->control); /* one that is not announced */
    villain_receive(&v, MESSAGE_PING);
    villain_post(&v, SIDE_NOTICE, "", 0); /* nobody has any use for these */
    villain_post(&v, SIDE_NOTICE, "\xdd\xff\xff\xff\xff", 5);
    villain_post(&v, SIDE_NOTICE, "\x82\xa1t\xa4nope\xa1sN", 11);
    villain_post(&v, SIDE_NOTICE, "\x82\xa1t\xa8progress\xa1sN", 15);
    villain_post(&v, SIDE_REQUEST, "\x82\xa1t\xa8shutdown\xa1sN", 15);
    struct message m = {.type = MESSAGE_PLACE};
    m.place.rank = INT32_MAX; /* of nobody */
    villain_send(&v, &m);
    m.place.rank = -1;
    villain_send(&v, &m);
    m = (struct message){.type = MESSAGE_PROGRESS};
    m.progress = (struct message_progress){UINT64_MAX, UINT64_MAX};
    villain_send(&v, &m);
    villain_pong(&v);
    villain_end(&v, true);
}

static void lead_garble(const struct pool_options *o) {
    struct pool *p = new_pool(o);
    struct error err;
    for (int i = 0; i < N_WRONG_REPLY; i++) {
        const struct wrong_reply *w = &wrong_replies[i];
        CHECK(!pool_ping(p, world - 1, NULL, &err));
        if (err.kind != w->kind || !err.has_rank || err.rank != world - 1 ||
            !strstr(err.message, w->words) || strchr(err.message, 27)) {
            fprintf(stderr, "%d: %s: '%s' lacks '%s'\n", i, error_kind_name(err.kind), err.message,
                    w->words);
            MPI_Abort(MPI_COMM_WORLD, 1);
        }
    }
    CHECK(!pool_ping(p, world - 1, NULL, &err) && err.kind == ERROR_PROTOCOL);
    CHECK(err.rank == world - 1 && strstr(err.message, "3000 bytes is larger"));
    CHECK_OK(pool_ping(p, world - 1, NULL, &err), &err);
    CHECK_OK(pool_read_notices(p, &err), &err);
    end_pool(p);
}

/* One that answers without end what it was not asked. */
static void babble(const struct pool_options *o) {
    struct villain v;
    villain_start(&v, o);
    villain_receive(&v, MESSAGE_PING);
    villain_pong(&v);
    v.request.seq = 0;
    for (double end = clock_now() + 1.5 * o->timeout_s; clock_now() < end; clock_sleep(0.01)) {
        villain_pong(&v); /* an old one */
    }
    villain_receive(&v, MESSAGE_PING);
    villain_end(&v, true);
}

static void lead_babble(const struct pool_options *o) {
    struct pool *p = new_pool(o);
    struct error err;
    CHECK_OK(pool_ping(p, world - 1, NULL, &err), &err);
    double start = clock_now();
    CHECK(!pool_ping(p, world - 1, NULL, &err) && err.kind == ERROR_DEADLINE);
    CHECK(clock_now() - start < 2 * o->timeout_s); /* not with each of them anew */
    end_pool(p);
}

/* ---- another build, another protocol ---- */

static void other_build(const struct pool_options *o) {
    struct villain v;
    villain_start(&v, o);
    villain_receive(&v, MESSAGE_HELLO);
    struct message m = {.type = MESSAGE_HELLO_OK};
    m.hello_ok = (struct message_hello_ok){
        .protocol = PROTOCOL_VERSION, .build = "feedfacefeedface", .rank = rank, .host = "far"};
    villain_send(&v, &m);
    villain_receive(&v, MESSAGE_HELLO);
    /* {"t": "hello_ok", "s": .., "protocol": 99}: what is missing does not matter then */
    char frame[] = "\x83\xa1t\xa8hello_ok\xa1s\x02\xa8protocol\x63";
    struct error err;
    CHECK(v.request.seq == 2);
    CHECK_OK(transport_post(v.t, 0, SIDE_REPLY, frame, sizeof frame - 1, &err), &err);
    CHECK_OK(transport_flush(v.t, 10, &err), &err);
    villain_end(&v, true);
}

static void lead_other_build(const struct pool_options *o) {
    struct pool *p = new_pool(o);
    struct error err;
    CHECK(!pool_hello(p, false, &err) && err.kind == ERROR_VERSION && err.rank == world - 1);
    CHECK(strstr(err.message, "feedfacefeedface") && strstr(err.message, "far"));
    CHECK(!pool_hello(p, false, &err) && err.kind == ERROR_VERSION && strstr(err.message, "99"));
    end_pool(p);
}

static void receive_id(MPI_Comm control, uint8_t id[128]) {
    MPI_Request request;
    MPI_Ibcast(id, 128, MPI_BYTE, 0, control, &request);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
}

/* ---- one rank has a GPU, the others have none ---- */

static void rich(const struct pool_options *o) {
    struct villain v;
    struct message m = {.type = MESSAGE_HELLO_OK};
    villain_start(&v, o);
    villain_receive(&v, MESSAGE_HELLO);
    m.hello_ok = (struct message_hello_ok){.protocol = PROTOCOL_VERSION,
                                           .rank = rank,
                                           .host = "far",
                                           .isas = "generic",
                                           .device = "cuda:1",
                                           .n_gpu = 2,
                                           .gpu = "a GPU",
                                           .gpu_pci = "0000:65:00.0"};
    snprintf(m.hello_ok.build, sizeof m.hello_ok.build, "%s", build_id());
    villain_send(&v, &m);
    villain_receive(&v, MESSAGE_INIT);
    CHECK(strcmp(v.request.init.device, "host") == 0 && strcmp(v.request.init.dtype, "f32") == 0);
    CHECK(v.request.init.sharers == 1);
    struct error err;
    uint8_t id[128];
    error_set(&err, ERROR_DEVICE, "init: not me");
    message_from_error(&m, MESSAGE_ERROR, 0, &err);
    villain_send(&v, &m);
    receive_id(o->control, id);
    villain_end(&v, true);
}

static void lead_rich(const struct pool_options *o) {
    struct pool *p = new_pool(o);
    struct error err;
    CHECK_OK(pool_hello(p, false, &err), &err);
    CHECK(strcmp(pool_rank(p, world - 1)->device, "cuda:1") == 0);
    CHECK(!pool_init(p, &err) && err.kind == ERROR_DEVICE && err.rank == world - 1);
    CHECK(strcmp(pool_device(p), "host") == 0);
    CHECK(strcmp(pool_rank(p, world - 1)->device, "host") == 0); /* what it was to take */
    CHECK(strstr(pool_device_note(p), "rank 0") || strstr(pool_device_note(p), "ranks 0"));
    end_pool(p);
}

/* ---- a rank that does not answer ---- */

static void mute(const struct pool_options *o) {
    (void)o;
}

static void lead_mute(const struct pool_options *o) {
    struct pool *p = new_pool(o);
    struct error err;
    double start = clock_now();
    CHECK(!pool_start(p, &err) && err.kind == ERROR_DEADLINE);
    CHECK(err.has_rank && err.rank == world - 1 && strstr(err.message, "hello"));
    double took = clock_now() - start;
    CHECK(took >= o->timeout_s && took < o->timeout_s + 2);
    start = clock_now(); /* the others must get their shutdown all the same: they are in serve() */
    CHECK(!pool_shutdown(p, &err) && err.kind == ERROR_DEADLINE && err.rank == world - 1);
    CHECK(clock_now() - start < 7);
    pool_destroy(p);
}

/* ---- a rank that answers too late ---- */

static void late(const struct pool_options *o) {
    struct villain v;
    struct message pong = {.type = MESSAGE_PONG};
    pong.pong.rank = rank;
    villain_start(&v, o);
    villain_receive(&v, MESSAGE_PING);
    clock_sleep(2 * o->timeout_s);
    villain_send(&v, &pong);
    villain_receive(&v, MESSAGE_PING);
    villain_send(&v, &pong);
    villain_end(&v, true);
}

static void lead_late(const struct pool_options *o) {
    struct pool *p = new_pool(o);
    struct error err;
    CHECK(!pool_ping(p, world - 1, NULL, &err) && err.kind == ERROR_DEADLINE);
    clock_sleep(2 * o->timeout_s);
    CHECK_OK(pool_ping(p, world - 1, NULL, &err), &err); /* the old pong is not taken for the new */
    end_pool(p);
}

/* ---- villains from sanity on ---- */

/* An honest worker until it is asked for sanity; returns its communicator. */
static struct comm *villain_join(struct villain *v, const struct pool_options *o) {
    struct message m;
    uint8_t id[128];
    villain_start(v, o);
    villain_receive(v, MESSAGE_HELLO);
    m.type = MESSAGE_HELLO_OK;
    m.hello_ok = (struct message_hello_ok){
        .protocol = PROTOCOL_VERSION, .rank = rank, .host = "near", .isas = "generic"};
    snprintf(m.hello_ok.build, sizeof m.hello_ok.build, "%s", build_id());
    villain_send(v, &m);
    villain_receive(v, MESSAGE_INIT);
    CHECK(strcmp(v->request.init.isa, "generic") == 0); /* the best that all have */
    m.type = MESSAGE_INIT_OK;
    villain_send(v, &m);
    receive_id(o->control, id);
    struct comm *comm;
    struct error err;
    CHECK_OK(comm_mpi_create(o->tensor, id, o->timeout_s, &comm, &err), &err);
    villain_receive(v, MESSAGE_SANITY);
    return comm;
}

static void miscount(const struct pool_options *o) {
    struct villain v;
    struct message m = {.type = MESSAGE_SANITY_RESULT};
    struct comm *comm = villain_join(&v, o);
    struct error err;
    uint32_t one = 1;
    CHECK_OK(comm->ops->all_reduce_u32(comm, &one, 1, &err), &err);
    m.sanity_result.observed_sum = one + 1;
    villain_send(&v, &m);
    villain_end(&v, true);
    comm_destroy(comm);
}

static void lead_miscount(const struct pool_options *o) {
    struct pool *p = new_pool(o);
    struct error err;
    uint64_t *sums = calloc((size_t)world, sizeof *sums);
    CHECK_OK(pool_hello(p, false, &err), &err);
    CHECK_OK(pool_init(p, &err), &err);
    CHECK(!pool_sanity(p, sums, &err) && err.kind == ERROR_WRONG_RESULT);
    CHECK(error_exit_code(err.kind) == 7 && err.has_rank && err.rank == world - 1);
    CHECK(sums[0] == (uint64_t)world && sums[world - 1] == (uint64_t)world + 1);
    end_pool(p);
    free(sums);
}

/* One that reports trouble instead of joining in. */
static void trouble(const struct pool_options *o) {
    struct villain v;
    struct message m;
    struct comm *comm = villain_join(&v, o);
    struct error cause;
    error_set(&cause, ERROR_DEVICE, "sanity: out of magic");
    message_from_error(&m, MESSAGE_TROUBLE, 0, &cause);
    villain_send(&v, &m);
    error_set(&cause, ERROR_COMM, "sanity: the reply that follows");
    message_from_error(&m, MESSAGE_ERROR, 0, &cause);
    villain_send(&v, &m);
    villain_end(&v, true);
    comm_destroy(comm);
}

static void lead_trouble(const struct pool_options *o) {
    struct pool *p = new_pool(o);
    struct error err;
    CHECK_OK(pool_hello(p, false, &err), &err);
    double start = clock_now();
    CHECK_OK(pool_init(p, &err), &err);
    CHECK(!pool_sanity(p, NULL, &err));
    CHECK(err.kind == ERROR_DEVICE && err.rank == world - 1 && strstr(err.message, "magic"));
    CHECK(clock_now() - start < o->timeout_s / 2); /* it did not sit out the deadline */
    end_pool(p);
}

int main(int argc, char **argv) {
    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    if (argc > 1 && atoi(argv[1]) != world) {
        fprintf(stderr, "a world of %d, not of %s\n", world, argv[1]);
        return 1;
    }
    setenv("LOCKSTEP_PLUGIN_DIR", "/nonexistent", 1); /* the same on every machine */
    run_case("well", 30, lead_well, NULL);
    run_case("too early", 30, lead_too_early, NULL);
    run_case("bad isa", 30, lead_bad_isa, NULL);
    run_case("bad dtype", 30, lead_bad_dtype, NULL);
    run_case("no cuda", 30, lead_no_cuda, NULL);
    run_case("bad list", 30, lead_bad_list, NULL);
    run_case("bad load", 30, lead_bad_load, NULL);
    if (world > 1) {
        run_case("malformed", 30, lead_malformed, NULL);
        run_case("wrong pong", 30, lead_wrong_pong, wrong_pong);
        run_case("garble", 30, lead_garble, garble);
        run_case("babble", 1, lead_babble, babble);
        run_case("other build", 30, lead_other_build, other_build);
        run_case("rich", 30, lead_rich, rich);
        run_case("miscount", 30, lead_miscount, miscount);
        run_case("mute", 0.5, lead_mute, mute);
        run_case("late", 0.2, lead_late, late);
    }
    if (world == 2) {
        run_case("trouble", 20, lead_trouble, trouble);
    }
    MPI_Finalize();
    if (rank == 0) {
        printf("ok\n");
    }
    return 0;
}
