/* A --trace-rpc file, as lockstep replay reads it: request by request. What is read is compared
 * with itself, of which nothing may differ, and with what came before. */
#include "fuzz.h"

#include "rpc/exchange.h"
#include "rpc/message_compare.h"

static bool all_count(void *user, enum message_type type, const char *field) {
    (void)user;
    (void)type;
    return field[0] != 0;
}

static void compare(const struct message *a, const struct message *b) {
    struct message_difference d;
    if (!message_compare(a, b, all_count, NULL, &d)) {
        FUZZ_CHECK(a != b && d.field[0]);
        if (d.recorded[0]) {
            fuzz_message(d.recorded);
        }
        if (d.now[0]) {
            fuzz_message(d.now);
        }
    }
}

static void check(const struct exchange *x, int world, uint64_t number) {
    FUZZ_CHECK(x->number == number && x->rank >= -1 && x->rank < world && x->seconds >= 0);
    FUZZ_CHECK(message_side(x->request.type) == SIDE_REQUEST);
    for (int r = 0, last = -1; r < world; r++) {
        if (x->has_reply[r]) {
            FUZZ_CHECK(message_side(x->replies[r].type) == SIDE_REPLY);
            FUZZ_CHECK(x->replies[r].seq == x->request.seq);
            compare(&x->replies[r], &x->replies[r]);
            if (last >= 0) {
                compare(&x->replies[last], &x->replies[r]);
            }
            last = r;
        }
    }
}

void fuzz_one(struct fuzz_input in) {
    char path[300];
    struct exchange_reader *reader;
    struct exchange x;
    struct error err = {0};
    bool got = true;
    fuzz_put("trace", in.data, in.size, 0);
    snprintf(path, sizeof path, "%s/trace", fuzz_dir());
    if (!fuzz_result(exchange_reader_open(&reader, path, &err), &err)) {
        return;
    }
    const struct trace_reader *trace = exchange_reader_trace(reader);
    int world = trace_reader_world(trace);
    FUZZ_CHECK(world >= 1 && world <= TRACE_WORLD_MAX);
    for (uint64_t n = 1; got && fuzz_result(exchange_reader_next(reader, &x, &got, &err), &err);
         n++) {
        double share = trace_reader_share(trace);
        FUZZ_CHECK(share >= 0 && share <= 1);
        if (got) {
            check(&x, world, n);
        }
    }
    exchange_reader_close(reader);
}
