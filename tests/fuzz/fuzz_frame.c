/* A frame of the control protocol. First byte: who sent it. What is understood is said again, and
 * must be the same frame then; a step is held against a model's limits. */
#include <string.h>

#include "fuzz.h"
#include "rpc/messages.h"

static struct message_decoder decoder, second;

static void finish(void) {
    message_decoder_finish(&decoder);
    message_decoder_finish(&second);
}

static void say_again(const struct message *m, enum message_side side) {
    struct buffer once = {0}, twice = {0};
    struct message again;
    struct error err = {0};
    FUZZ_CHECK(message_encode(&once, m, &err));
    FUZZ_CHECK(
        fuzz_result(message_decode(&second, once.data, once.size, side, &again, &err), &err));
    FUZZ_CHECK(again.type == m->type && again.seq == m->seq);
    FUZZ_CHECK(message_encode(&twice, &again, &err));
    FUZZ_CHECK(once.size == twice.size && memcmp(once.data, twice.data, once.size) == 0);
    buffer_finish(&once);
    buffer_finish(&twice);
}

void fuzz_one(struct fuzz_input in) {
    static const struct step_limits limits = {
        .max_tok = 64, .ctx = 512, .n_block = 32, .vocab = 300};
    static uint8_t claimed[32 / 8 + 1]; /* step_claim_bytes of that */
    static bool begun;
    enum message_side side = (enum message_side)(fuzz_byte(&in) % SIDE_COUNT);
    struct message m;
    struct error err = {0};
    if (!begun) {
        atexit(finish);
        begun = true;
    }
    if (!message_decode(&decoder, in.data, in.size, side, &m, &err)) {
        FUZZ_CHECK(err.kind == ERROR_PROTOCOL);
        fuzz_message(err.message);
        return;
    }
    FUZZ_CHECK(m.type < MESSAGE_COUNT && message_side(m.type) == side);
    say_again(&m, side);
    if (m.type == MESSAGE_STEP) {
        fuzz_result(step_validate(&m.step, &limits, claimed, &err), &err);
    } else if (m.type == MESSAGE_ERROR || m.type == MESSAGE_TROUBLE) {
        message_to_error(&m, &err);
        FUZZ_CHECK(err.kind < ERROR_KIND_COUNT);
    }
}
