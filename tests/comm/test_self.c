#include "test.h"

#include <string.h>

#include "comm/comm.h"

static void every_collective_is_a_copy(void **state) {
    (void)state;
    struct error err;
    struct comm *c;
    assert_ok(comm_self_create(&c, &err), &err);
    assert_int_equal(c->rank, 0);
    assert_int_equal(c->world, 1);
    assert_true(c->ops->exact);

    float piece[3] = {1.5f, -0.0f, 3e38f};
    float out[3] = {0};
    assert_ok(c->ops->all_reduce_tree(c, out, piece, 3, 9, &err), &err);
    assert_memory_equal(out, piece, sizeof(out));
    assert_ok(c->ops->all_reduce_tree(c, piece, piece, 3, 9, &err), &err);
    assert_memory_equal(out, piece, sizeof(out));

    uint32_t x[2] = {7, UINT32_MAX};
    assert_ok(c->ops->all_reduce_u32(c, x, 2, &err), &err);
    assert_ok(c->ops->all_reduce_max_u32(c, x, 2, &err), &err);
    assert_int_equal(x[0], 7);
    assert_int_equal(x[1], UINT32_MAX);

    char to[4] = "";
    size_t bytes = 4;
    assert_ok(c->ops->all_gather(c, to, "abc", 4, &err), &err);
    assert_string_equal(to, "abc");
    assert_ok(c->ops->gather(c, to, "xyz", &bytes, &err), &err);
    assert_string_equal(to, "xyz");
    assert_ok(c->ops->broadcast(c, to, 4, 0, &err), &err);
    assert_string_equal(to, "xyz");
    assert_int_equal(c->stats.n_collective, 7);
    comm_destroy(c);
}

static void bad_arguments_are_errors(void **state) {
    (void)state;
    struct error err;
    struct comm *c;
    float x = 1;
    assert_ok(comm_self_create(&c, &err), &err);
    assert_false(c->ops->all_reduce_tree(c, &x, &x, 1, 0, &err));
    assert_int_equal(err.kind, ERROR_SHAPE);
    assert_false(c->ops->broadcast(c, &x, 4, 1, &err));
    assert_int_equal(err.kind, ERROR_SHAPE);
    comm_destroy(c);
    comm_destroy(NULL);
}

static void agreement_of_one(void **state) {
    (void)state;
    struct error err;
    struct comm *c;
    assert_ok(comm_self_create(&c, &err), &err);
    assert_true(comm_agree(c, true, &err));
    error_set(&err, ERROR_MEMORY, "mine");
    assert_false(comm_agree(c, false, &err));
    assert_int_equal(err.kind, ERROR_MEMORY);
    assert_string_equal(err.message, "mine");
    comm_destroy(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_collective_is_a_copy),
        cmocka_unit_test(bad_arguments_are_errors),
        cmocka_unit_test(agreement_of_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
