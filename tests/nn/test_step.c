#include "test.h"

#include <string.h>

#include "nn/step.h"

static const struct step_limits limits = {.max_tok = 100, .ctx = 256, .n_block = 8, .vocab = 50};
static const int32_t tokens[300];
static uint8_t claimed[2]; /* step_claim_bytes(8) */

static struct step_seq good(const int32_t *blocks) {
    return (struct step_seq){.pos = 60,
                             .n_tok = 10,
                             .tokens = tokens,
                             .n_block = 2,
                             .blocks = blocks,
                             .output = STEP_OUTPUT_CANDIDATES,
                             .top_k = 1};
}

static void refuse(struct step_seq *seqs, int n, const char *why) {
    struct error err = {0};
    struct step step = {n, seqs};
    assert_false(step_validate(&step, &limits, claimed, &err));
    assert_int_equal(err.kind, ERROR_PROTOCOL);
    if (!strstr(err.message, why)) {
        fail_msg("expected '%s' in '%s'", why, err.message);
    }
}

static void good_steps_pass(void **state) {
    (void)state;
    const int32_t a[] = {0, 1}, b[] = {3, 2};
    struct step_seq seqs[] = {good(a), good(b)};
    struct step step = {2, seqs};
    struct error err;
    assert_ok(step_validate(&step, &limits, claimed, &err), &err);
    const int32_t targets[10] = {-1, 49, 0};
    seqs[0].output = STEP_OUTPUT_LOGPROBS;
    seqs[0].targets = targets;
    assert_ok(step_validate(&step, &limits, claimed, &err), &err);
    seqs[0].n_tok = 3; /* what lies behind is nobody's business */
    assert_ok(step_validate(&step, &limits, claimed, &err), &err);
}

static void a_shared_prefix_passes_but_no_shared_writes(void **state) {
    (void)state;
    const int32_t a[] = {0, 1}, b[] = {0, 2};
    struct step_seq seqs[] = {good(a), good(b)};
    seqs[0].pos = seqs[1].pos = 64;
    struct step step = {2, seqs};
    struct error err;
    assert_ok(step_validate(&step, &limits, claimed, &err), &err);
    seqs[1].pos = 60;
    seqs[0].pos = 60;
    refuse(seqs, 2, "written twice");
    seqs[0].pos = 64; /* reads block 0, which the other, with a block of its own after it, writes */
    refuse(seqs, 2, "seqs[0]: blocks[0]: block 0 is read here and written elsewhere");
    const int32_t twice[] = {1, 1};
    struct step_seq alone = good(twice);
    alone.pos = 64;
    refuse(&alone, 1, "read here and written elsewhere");
}

static void bad_steps_are_named(void **state) {
    (void)state;
    const int32_t a[] = {0, 1}, out_of_range[] = {0, 8}, negative[] = {0, -1}, twice[] = {1, 1};
    const int32_t bad_token[] = {1, 50};
    struct step_seq s = good(a);
    refuse(&s, 0, "0 sequences");
    refuse(&s, STEP_MAX_SEQS + 1, "sequences");
    s.n_tok = 0;
    refuse(&s, 1, "0 tokens");
    s = good(a), s.n_tok = 197;
    refuse(&s, 1, "do not fit");
    s = good(a), s.pos = INT32_MAX, s.n_tok = 10;
    refuse(&s, 1, "do not fit");
    s = good(a), s.n_block = 1;
    refuse(&s, 1, "blocks: 1 given, 2 needed");
    s = good(out_of_range);
    refuse(&s, 1, "blocks[1] is 8");
    s = good(negative);
    refuse(&s, 1, "blocks[1] is -1");
    s = good(twice);
    refuse(&s, 1, "written twice");
    s = good(a), s.tokens = bad_token, s.n_tok = 2;
    refuse(&s, 1, "tokens[1] is 50");
    s = good(a), s.top_k = 0;
    refuse(&s, 1, "top_k");
    s = good(a), s.output = (enum step_output)9;
    refuse(&s, 1, "output 9");
    const int32_t targets[10] = {-1, 49, 0, 50}, no_target[10] = {-2};
    s = good(a), s.output = STEP_OUTPUT_LOGPROBS;
    refuse(&s, 1, "seqs[0]: no targets");
    s.targets = targets;
    refuse(&s, 1, "seqs[0]: targets[3] is 50, the vocabulary has 50");
    s.targets = no_target;
    refuse(&s, 1, "targets[0] is -2");
    struct step_seq many[11];
    int32_t blocks[11][2];
    for (int i = 0; i < 11; i++) {
        blocks[i][0] = i;
        many[i] = good(blocks[i]);
        many[i].pos = 0;
    }
    refuse(many, 11, "110 tokens");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_steps_pass),
        cmocka_unit_test(a_shared_prefix_passes_but_no_shared_writes),
        cmocka_unit_test(bad_steps_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
