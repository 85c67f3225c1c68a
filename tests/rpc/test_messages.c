#include "test.h"

#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "rpc/frame_check.h"
#include "rpc/frame_map.h"
#include "rpc/messages.h"

static const int32_t tokens_a[] = {1, -2, INT32_MAX, INT32_MIN};
static const int32_t tokens_b[] = {7};
static const int32_t blocks[] = {3, 0};
static const int32_t targets[] = {-1, 5, INT32_MAX, -1};

static struct step_seq seqs[] = {
    {.id = 4000000000u,
     .pos = 0,
     .n_tok = 4,
     .tokens = tokens_a,
     .n_block = 1,
     .blocks = blocks,
     .output = STEP_OUTPUT_NONE},
    {.id = 2,
     .pos = 70,
     .n_tok = 1,
     .tokens = tokens_b,
     .n_block = 2,
     .blocks = blocks,
     .output = STEP_OUTPUT_CANDIDATES,
     .top_k = 40},
    {.id = 3,
     .pos = 1,
     .n_tok = 0,
     .tokens = tokens_b,
     .n_block = 0,
     .blocks = blocks,
     .output = STEP_OUTPUT_ALL_LOGITS},
    {.id = 4,
     .pos = 9,
     .n_tok = 4,
     .tokens = tokens_a,
     .n_block = 2,
     .blocks = blocks,
     .output = STEP_OUTPUT_LOGPROBS,
     .targets = targets},
};

/* A message of each type with a value in every field. */
static struct message example(enum message_type type) {
    struct message m;
    memset(&m, 0, sizeof m);
    m.type = type;
    m.seq = UINT64_C(1) << 40;
    switch (type) {
    case MESSAGE_HELLO:
        m.hello = (struct message_hello){.protocol = 1, .build = "0123456789abcdef"};
        break;
    case MESSAGE_HELLO_OK:
        m.hello_ok = (struct message_hello_ok){.protocol = 1,
                                               .build = "b",
                                               .version = "0.1",
                                               .mpi = "Open MPI",
                                               .msgpack = "4",
                                               .rank = 3,
                                               .host = "node7",
                                               .pid = 123,
                                               .local_rank = 1,
                                               .local_size = 2,
                                               .cores = 8,
                                               .cores_host = 16,
                                               .sharers = 2,
                                               .threads = 4,
                                               .memory = UINT64_MAX,
                                               .isas = "generic avx2",
                                               .device = "cuda:1",
                                               .device_why = "no driver",
                                               .n_gpu = -1,
                                               .gpu = "NVIDIA H100",
                                               .gpu_pci = "0000:65:00.0",
                                               .gpu_cc = "9.0",
                                               .gpu_memory = UINT64_C(80) << 30,
                                               .nccl = "2.28.9",
                                               .nccl_code = 22809,
                                               .gpu_shared = 1};
        break;
    case MESSAGE_PONG:
        m.pong.rank = -1;
        break;
    case MESSAGE_ECHO:
        m.echo = (struct message_echo){.bytes = 20, .count = 5};
        break;
    case MESSAGE_INIT:
        m.init = (struct message_init){.device = "cuda",
                                       .isa = "avx2",
                                       .dtype = "bf16",
                                       .graphs = 1,
                                       .sharers = 2,
                                       .timeout_s = 0.25};
        break;
    case MESSAGE_SANITY_RESULT:
        m.sanity_result.observed_sum = 4;
        break;
    case MESSAGE_BANDWIDTH:
        m.bandwidth = (struct message_bandwidth){
            .collective = "broadcast", .bytes = 1 << 20, .iters = 20, .warmup = 5, .bare = 1};
        break;
    case MESSAGE_BANDWIDTH_RESULT:
        m.bandwidth_result = (struct message_bandwidth_result){1e-6, 2e-6, 3};
        break;
    case MESSAGE_PROBE:
        m.probe = (struct message_probe){
            .what = "memory", .pattern = 3, .bytes = 1u << 29, .seconds = 0.0625};
        break;
    case MESSAGE_PROBE_RESULT:
        m.probe_result.rate = 1.5e10;
        break;
    case MESSAGE_LOAD:
        m.load = (struct message_load){.dir = "/models/\xc3\xa9",
                                       .ctx = 4096,
                                       .n_block = 64,
                                       .max_tok = 256,
                                       .kv_dtype = "bf16",
                                       .measure = 1,
                                       .file = 3,
                                       .quant = "q8_0"};
        break;
    case MESSAGE_LOADED:
        m.loaded = (struct message_loaded){.bytes = 1u << 30,
                                           .seconds = 1.5,
                                           .bytes_held = 1u << 31,
                                           .nonfinite = 2,
                                           .config = 3,
                                           .headers = UINT64_MAX,
                                           .content = UINT64_C(1) << 63,
                                           .weights = 1u << 29,
                                           .kv = 1u << 28,
                                           .buffers = 1u << 27,
                                           .free_own = UINT64_MAX,
                                           .free_group = 1u << 20,
                                           .group = 4096,
                                           .free_host = 8};
        break;
    case MESSAGE_STEP:
        m.step = (struct step){.n_seq = 4, .seqs = seqs};
        break;
    case MESSAGE_STEPPED:
        m.stepped.digest = UINT64_MAX - 1;
        break;
    case MESSAGE_UNLOADED:
        m.unloaded = (struct message_unloaded){77, 1u << 20, 1u << 21};
        break;
    case MESSAGE_STATS_RESULT:
        m.stats = (struct message_stats){1, 2.5, 0.125, 0.25, 4, 5, 6};
        break;
    case MESSAGE_ERROR:
    case MESSAGE_TROUBLE:
        m.error = (struct message_error){.kind = "st_truncated", .message = "load: it is short"};
        break;
    case MESSAGE_PROGRESS:
        m.progress = (struct message_progress){5, 10};
        break;
    default:
        break;
    }
    return m;
}

static void assert_same_step(const struct step *a, const struct step *b) {
    assert_int_equal(a->n_seq, b->n_seq);
    for (int i = 0; i < a->n_seq; i++) {
        const struct step_seq *x = &a->seqs[i], *y = &b->seqs[i];
        assert_true(x->id == y->id && x->pos == y->pos && x->n_tok == y->n_tok &&
                    x->n_block == y->n_block && x->output == y->output && x->top_k == y->top_k);
        assert_memory_equal(x->tokens, y->tokens, 4 * (size_t)x->n_tok);
        assert_memory_equal(x->blocks, y->blocks, 4 * (size_t)x->n_block);
        assert_true(!x->targets == !y->targets);
        if (x->targets) {
            assert_memory_equal(x->targets, y->targets, 4 * (size_t)x->n_tok);
        }
    }
}

static void every_message_round_trips(void **state) {
    (void)state;
    struct message_decoder d = {0};
    struct buffer frame = {0}, again = {0};
    struct error err;
    for (int type = 0; type < MESSAGE_COUNT; type++) {
        struct message in = example((enum message_type)type), out;
        memset(&out, 0, sizeof out);
        assert_ok(message_encode(&frame, &in, &err), &err);
        assert_ok(message_decode(&d, frame.data, frame.size, message_side(in.type), &out, &err),
                  &err);
        assert_int_equal(out.type, type);
        assert_true(out.seq == in.seq);
        if (type == MESSAGE_STEP) {
            assert_same_step(&in.step, &out.step);
        } else {
            assert_memory_equal(&in, &out, sizeof in);
        }
        assert_ok(message_encode(&again, &out, &err), &err);
        assert_int_equal(frame.size, again.size);
        assert_memory_equal(frame.data, again.data, frame.size);
    }
    buffer_finish(&frame);
    buffer_finish(&again);
    message_decoder_finish(&d);
}

/* In a block of its own size, so that a sanitizer sees a read past the end. */
static bool decode_copy(struct message_decoder *d, const void *bytes, size_t n,
                        enum message_side side, struct message *out, struct error *err) {
    unsigned char *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, n);
    bool ok = message_decode(d, copy, n, side, out, err);
    free(copy);
    return ok;
}

static void every_truncation_is_refused(void **state) {
    (void)state;
    struct message_decoder d = {0};
    struct buffer frame = {0};
    struct error err;
    struct message out;
    for (int type = 0; type < MESSAGE_COUNT; type++) {
        struct message in = example((enum message_type)type);
        assert_ok(message_encode(&frame, &in, &err), &err);
        for (size_t n = 0; n < frame.size; n++) {
            assert_false(decode_copy(&d, frame.data, n, message_side(in.type), &out, &err));
            assert_int_equal(err.kind, ERROR_PROTOCOL);
        }
        assert_ok(buffer_append(&frame, "", 1, &err), &err); /* and one byte too many */
        assert_false(decode_copy(&d, frame.data, frame.size, message_side(in.type), &out, &err));
    }
    buffer_finish(&frame);
    message_decoder_finish(&d);
}

/* Whatever comes, decoding says yes or no; the sanitizers see the rest. */
static void random_damage_does_no_harm(void **state) {
    (void)state;
    struct message_decoder d = {0};
    struct buffer frame = {0};
    struct error err;
    struct message out;
    struct random r;
    int accepted = 0, refused = 0;
    random_init(&r, 42);
    for (int i = 0; i < 20000; i++) {
        struct message in = example((enum message_type)(i % MESSAGE_COUNT));
        assert_ok(message_encode(&frame, &in, &err), &err);
        int n = 1 + (int)(random_u64(&r) % 3);
        for (int j = 0; j < n; j++) {
            frame.data[random_u64(&r) % frame.size] = (unsigned char)random_u64(&r);
        }
        if (decode_copy(&d, frame.data, frame.size, message_side(in.type), &out, &err)) {
            accepted++;
        } else {
            assert_true(err.kind == ERROR_PROTOCOL);
            refused++;
        }
    }
    assert_true(accepted > 100 && refused > 100); /* both ways are exercised */
    for (int i = 0; i < 20000; i++) {             /* no frame at all */
        unsigned char noise[40];
        size_t n = random_u64(&r) % sizeof noise;
        for (size_t j = 0; j < n; j++) {
            noise[j] = (unsigned char)random_u64(&r);
        }
        assert_false(decode_copy(&d, noise, n, SIDE_REQUEST, &out, &err));
    }
    buffer_finish(&frame);
    message_decoder_finish(&d);
}

/* What is read directly is what msgpack-c reads, however a frame is damaged. */
static void both_ways_of_reading_agree(void **state) {
    (void)state;
    struct buffer frame = {0};
    struct error err;
    struct random r;
    msgpack_zone *zone = NULL;
    int direct = 0, refused = 0;
    random_init(&r, 7);
    for (int i = 0; i < 40000; i++) {
        struct message in = example((enum message_type)(i % MESSAGE_COUNT));
        in.seq = random_u64(&r) >> random_u64(&r) % 64;
        assert_ok(message_encode(&frame, &in, &err), &err);
        for (int j = (int)(random_u64(&r) % 3); j > 0; j--) {
            frame.data[random_u64(&r) % frame.size] = (unsigned char)random_u64(&r);
        }
        size_t n = random_u64(&r) % 4 ? frame.size : random_u64(&r) % frame.size;
        unsigned char *copy = malloc(n + !n);
        assert_non_null(copy);
        memcpy(copy, frame.data, n);
        struct frame_map_room room;
        msgpack_object_map a, b;
        if (!frame_map_read_flat(copy, n, &room, &a)) {
            refused++;
        } else {
            direct++;
            assert_ok(frame_map_unpack(copy, n, &zone, &b, &err), &err);
            assert_int_equal(a.size, b.size);
            for (uint32_t k = 0; k < a.size; k++) {
                assert_true(msgpack_object_equal(a.ptr[k].key, b.ptr[k].key));
                assert_true(msgpack_object_equal(a.ptr[k].val, b.ptr[k].val));
            }
        }
        free(copy);
    }
    assert_true(direct > 5000 && refused > 5000);
    msgpack_zone_free(zone);
    buffer_finish(&frame);
}

/* The frames of the hot path are among those that are read directly. */
static void pings_are_read_directly(void **state) {
    (void)state;
    static const enum message_type types[] = {MESSAGE_PING, MESSAGE_PONG, MESSAGE_SANITY_RESULT};
    struct buffer frame = {0};
    struct error err;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        for (uint64_t seq = 1; seq; seq = seq < UINT64_C(1) << 56 ? 131 * seq : 0) {
            struct message m = {.type = types[i], .seq = seq};
            struct frame_map_room room;
            msgpack_object_map map;
            m.pong.rank = 700;
            assert_ok(message_encode(&frame, &m, &err), &err);
            assert_true(frame_map_read_flat(frame.data, frame.size, &room, &map));
        }
    }
    buffer_finish(&frame);
}

#define BYTES(s) s, sizeof(s) - 1

static void shapes_are_checked_before_they_are_believed(void **state) {
    (void)state;
    struct error err;
    static const struct {
        const char *bytes;
        size_t n;
        bool ok;
    } cases[] = {
        {BYTES("\x80"), true},                  /* {} */
        {BYTES("\xdd\xff\xff\xff\xff"), false}, /* an array of 2^32-1 */
        {BYTES("\xdf\xff\xff\xff\xff"), false}, /* a map of 2^32-1 */
        {BYTES("\xdf\x80\x00\x00\x00"), false}, /* twice its size overflows 32 bits */
        {BYTES("\xc6\xff\xff\xff\xff"
               "abc"),
         false}, /* a bin of 4 GiB */
        {BYTES("\xdb\x00\x00\x00\x04"
               "abc"),
         false}, /* a text one byte short */
        {BYTES("\xdb\x00\x00\x00\x03"
               "abc"),
         true},
        {BYTES("\xc1"), false}, /* never used */
        {BYTES("\xd8\x01"
               "0123456789abcdef"),
         true}, /* fixext 16 */
        {BYTES("\xc7\x02\x01"
               "ab"),
         true}, /* ext 8 */
        {BYTES("\xc7\x03\x01"
               "ab"),
         false},
        {BYTES("\x91\x91\x91\x91\x91\x91\x91\x01"), true},
        {BYTES("\x91\x91\x91\x91\x91\x91\x91\x91\x91\x01"), false}, /* too deep */
        {BYTES("\x92\x01"), false},
        {BYTES("\x01\x01"), false}, /* two objects */
        {BYTES(""), false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (frame_check(cases[i].bytes, cases[i].n, &err) != cases[i].ok) {
            fail_msg("case %zu", i);
        }
    }
}

static void errors_name_message_and_field(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        size_t n;
        enum message_side side;
        const char *expect;
        uint64_t seq;
    } cases[] = {
        {BYTES("\x82\xa1t\xa4nope\xa1s\x05"), SIDE_REQUEST, "unknown request 'nope'", 5},
        {BYTES("\x82\xa1t\xa4pong\xa1s\x05"), SIDE_REQUEST, "unknown request 'pong'", 5},
        {BYTES("\x82\xa1t\xa4pong\xa1s\x05"), SIDE_REPLY, "pong: field 'rank' is missing", 5},
        {BYTES("\x83\xa1t\xa4pong\xa1s\x05\xa4rank\xa1x"), SIDE_REPLY,
         "pong: field 'rank' is not a 32-bit integer", 5},
        {BYTES("\x83\xa1t\xa4pong\xa1s\x05\xa4rank\xce\xff\xff\xff\xff"), SIDE_REPLY,
         "pong: field 'rank' is not a 32-bit integer", 5},
        {BYTES("\x81\xa1t\xa4ping"), SIDE_REQUEST, "ping: field 's' is missing", 0},
        {BYTES("\x82\xa1t\xa4ping\xa1s\xff"), SIDE_REQUEST, "ping: field 's' is not", 0},
        {BYTES("\x81\xa1s\x05"), SIDE_REQUEST, "field 't' is missing", 5},
        {BYTES("\x82\xa1t\x01\xa1s\x05"), SIDE_REQUEST, "field 't' is not a text", 5},
        {BYTES("\x93\x01\x02\x03"), SIDE_REQUEST, "not a map", 0},
        {BYTES("\x83\xa1t\xa4step\xa1s\x05\xa4seqs\x01"), SIDE_REQUEST,
         "step: field 'seqs' is not a list", 5},
        {BYTES("\x83\xa1t\xa4step\xa1s\x05\xa4seqs\x91\x01"), SIDE_REQUEST, "step: seqs[0]", 5},
        {BYTES("\x83\xa1t\xa4step\xa1s\x05\xa4seqs\x91\x83\xa2id\x01\xa3pos\x00\xa6tokens"
               "\xc4\x03"
               "abc"),
         SIDE_REQUEST, "step: seqs[0].tokens is not a bin of 32-bit integers", 5},
    };
    struct message_decoder d = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct message out;
        struct error err = {0};
        assert_false(decode_copy(&d, cases[i].bytes, cases[i].n, cases[i].side, &out, &err));
        assert_int_equal(err.kind, ERROR_PROTOCOL);
        assert_true(out.seq == cases[i].seq);
        if (!strstr(err.message, cases[i].expect)) {
            fail_msg("case %zu: '%s' lacks '%s'", i, err.message, cases[i].expect);
        }
    }
    message_decoder_finish(&d);
}

/* A target for every token, or the step is refused before anybody looks at it. */
static void targets_are_as_many_as_tokens(void **state) {
    (void)state;
    static const struct {
        const char *last; /* the fields after the blocks */
        size_t n;
        const char *expect; /* NULL: it is good */
    } cases[] = {
        {BYTES("\xa3out\xa8logprobs\xa7targets\xc4\x04\xff\xff\xff\xff"), NULL},
        {BYTES("\xa3out\xa8logprobs\xa7nothing\xc4\x00"), "seqs[0].targets is missing"},
        {BYTES("\xa3out\xa8logprobs\xa7targets\xc4\x05zzzzz"), "seqs[0].targets is not a bin"},
        {BYTES("\xa3out\xa8logprobs\xa7targets\xc4\x00"), "seqs[0].targets are not as many"},
        {BYTES("\xa3out\xa8logprobs\xa7targets\xc4\x08zzzzzzzz"), "seqs[0].targets are not as"},
        {BYTES("\xa3out\xa8logprobz\xa7targets\xc4\x04zzzz"), "seqs[0].out is not none, top"},
    };
    struct message_decoder d = {0};
    struct buffer frame = {0};
    struct message out;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error err = {0};
        buffer_clear(&frame);
        assert_ok(buffer_append(&frame,
                                BYTES("\x83\xa1t\xa4step\xa1s\x05\xa4seqs\x91\x86\xa2id\x01"
                                      "\xa3pos\x00\xa6tokens\xc4\x04zzzz\xa6"
                                      "blocks\xc4\x00"),
                                &err) &&
                      buffer_append(&frame, cases[i].last, cases[i].n, &err),
                  &err);
        bool ok = decode_copy(&d, frame.data, frame.size, SIDE_REQUEST, &out, &err);
        if (ok != !cases[i].expect || (!ok && !strstr(err.message, cases[i].expect))) {
            fail_msg("case %zu: '%s'", i, ok ? "accepted" : err.message);
        }
        if (ok) {
            assert_int_equal(out.step.seqs[0].targets[0], -1);
        }
    }
    buffer_finish(&frame);
    message_decoder_finish(&d);
}

static void unknown_keys_are_ignored(void **state) {
    (void)state;
    struct message_decoder d = {0};
    struct message out;
    struct error err;
    /* {"later": [1, {}], 7: nil, "t": "ping", "s": 9} */
    static const char frame[] = "\x84\xa5later\x92\x01\x80\x07\xc0\xa1t\xa4ping\xa1s\x09";
    assert_ok(decode_copy(&d, frame, sizeof frame - 1, SIDE_REQUEST, &out, &err), &err);
    assert_int_equal(out.type, MESSAGE_PING);
    assert_true(out.seq == 9);
    message_decoder_finish(&d);
}

static void errors_travel_by_name(void **state) {
    (void)state;
    struct message m;
    struct error in, out;
    error_set(&in, ERROR_ST_TRUNCATED, "load: model.safetensors: too short");
    message_from_error(&m, MESSAGE_ERROR, 3, &in);
    assert_string_equal(m.error.kind, "st_truncated");
    assert_false(message_to_error(&m, &out));
    assert_int_equal(out.kind, in.kind);
    assert_string_equal(out.message, in.message);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_message_round_trips),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(random_damage_does_no_harm),
        cmocka_unit_test(both_ways_of_reading_agree),
        cmocka_unit_test(pings_are_read_directly),
        cmocka_unit_test(shapes_are_checked_before_they_are_believed),
        cmocka_unit_test(errors_name_message_and_field),
        cmocka_unit_test(targets_are_as_many_as_tokens),
        cmocka_unit_test(unknown_keys_are_ignored),
        cmocka_unit_test(errors_travel_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
