/* What strangers may send to a vigil's port: only whole frames of this job count. */
#include "test.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/vigil_frame.h"

enum { WORLD = 4 };
static const uint64_t token = 0x1234567890abcdef;

struct ends {
    int near, far;
};

static struct ends connected(void) {
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    return (struct ends){fds[0], fds[1]};
}

static void put(struct ends e, const void *data, size_t n) {
    assert_int_equal(write(e.far, data, n), n);
}

static struct vigil_frame lost_frame(void) {
    struct error err;
    error_set(&err, ERROR_RANK_LOST, "its process has ended");
    error_at_rank(&err, 2);
    struct vigil_frame f = vigil_frame_make(token, VIGIL_LOST, "node7", "cuda:1", &err);
    f.from = 1;
    return f;
}

static void a_frame_says_all(void **state) {
    (void)state;
    struct vigil_frame f = lost_frame();
    struct error err;
    assert_true(vigil_frame_check(&f, token, WORLD));
    vigil_frame_error(&f, &err);
    assert_int_equal(err.kind, ERROR_RANK_LOST);
    assert_true(err.has_rank);
    assert_int_equal(err.rank, 2);
    assert_string_equal(err.message, "its process has ended");
    assert_string_equal(f.host, "node7");
    assert_string_equal(f.device, "cuda:1");
}

static void of_nobody_in_particular(void **state) {
    (void)state;
    struct error err;
    error_set(&err, ERROR_COMM, "x");
    struct vigil_frame f = vigil_frame_make(token, VIGIL_SAID, "", "", &err);
    assert_true(vigil_frame_check(&f, token, WORLD));
    vigil_frame_error(&f, &err);
    assert_false(err.has_rank);
}

static void only_frames_of_this_job_count(void **state) {
    (void)state;
    const struct vigil_frame good = lost_frame();
    struct vigil_frame f = good;
    assert_false(vigil_frame_check(&f, token + 1, WORLD));
    f.magic++;
    assert_false(vigil_frame_check(&f, token, WORLD));
    static const int32_t bad_ranks[] = {-2, WORLD, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof bad_ranks / sizeof *bad_ranks; i++) {
        f = good;
        f.from = bad_ranks[i];
        assert_false(vigil_frame_check(&f, token, WORLD));
        f = good;
        f.to = bad_ranks[i];
        assert_false(vigil_frame_check(&f, token, WORLD));
        f = good;
        f.about = bad_ranks[i];
        assert_false(vigil_frame_check(&f, token, WORLD));
    }
    f = good;
    f.word = VIGIL_WORD_COUNT;
    assert_false(vigil_frame_check(&f, token, WORLD));
    f.word = -1;
    assert_false(vigil_frame_check(&f, token, WORLD));
}

/* Texts without an end, and what a terminal would obey. */
static void texts_are_made_fit(void **state) {
    (void)state;
    struct vigil_frame f = lost_frame();
    struct error err;
    memset(f.host, 'h', sizeof f.host);
    memset(f.device, '\x1b', sizeof f.device);
    memset(f.kind, 'k', sizeof f.kind);
    memset(f.message, '\n', sizeof f.message);
    assert_true(vigil_frame_check(&f, token, WORLD));
    assert_int_equal(strlen(f.host), sizeof f.host - 1);
    assert_int_equal(strspn(f.device, "?"), sizeof f.device - 1);
    vigil_frame_error(&f, &err);
    assert_int_equal(err.kind, ERROR_INTERNAL);
    assert_int_equal(strspn(err.message, "?"), sizeof f.message - 1);
    strcpy(f.host, "a\xc2\x9b"
                   "b\xc3\xa9"); /* CSI, and a letter */
    assert_true(vigil_frame_check(&f, token, WORLD));
    assert_string_equal(f.host, "a?b\xc3\xa9");
}

static void an_end_has_a_reason(void **state) {
    (void)state;
    struct vigil_frame f = lost_frame();
    struct error err;
    strcpy(f.kind, "none");
    vigil_frame_error(&f, &err);
    assert_int_equal(err.kind, ERROR_INTERNAL);
}

static void frames_come_in_pieces(void **state) {
    (void)state;
    struct ends e = connected();
    struct vigil_reader r = {0};
    struct vigil_frame two[2] = {lost_frame(), lost_frame()}, got;
    const char *bytes = (const char *)two;
    two[1].about = 3;
    assert_int_equal(vigil_read(&r, e.near, &got), VIGIL_READ_NOTHING);
    put(e, bytes, 1);
    assert_int_equal(vigil_read(&r, e.near, &got), VIGIL_READ_NOTHING);
    put(e, bytes + 1, sizeof got);
    assert_int_equal(vigil_read(&r, e.near, &got), VIGIL_READ_FRAME);
    assert_memory_equal(&got, &two[0], sizeof got);
    assert_int_equal(vigil_read(&r, e.near, &got), VIGIL_READ_NOTHING);
    put(e, bytes + 1 + sizeof got, sizeof got - 1);
    assert_int_equal(vigil_read(&r, e.near, &got), VIGIL_READ_FRAME);
    assert_memory_equal(&got, &two[1], sizeof got);
    close(e.near);
    close(e.far);
}

/* One that was torn by its sender's end is none. */
static void a_torn_frame_is_none(void **state) {
    (void)state;
    struct ends e = connected();
    struct vigil_reader r = {0};
    struct vigil_frame f = lost_frame(), got;
    put(e, &f, sizeof f - 1);
    close(e.far);
    assert_int_equal(vigil_read(&r, e.near, &got), VIGIL_READ_NOTHING);
    assert_int_equal(vigil_read(&r, e.near, &got), VIGIL_READ_END);
    close(e.near);
}

/* As of a browser that came to the wrong port: never more than a frame of it is kept. */
static void garbage_is_no_frame(void **state) {
    (void)state;
    struct ends e = connected();
    struct vigil_reader r = {0};
    struct vigil_frame got;
    static char text[2 * sizeof got];
    memset(text, 'G', sizeof text);
    put(e, text, sizeof text);
    assert_int_equal(vigil_read(&r, e.near, &got), VIGIL_READ_FRAME);
    assert_false(vigil_frame_check(&got, token, WORLD));
    close(e.near);
    close(e.far);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_frame_says_all),
        cmocka_unit_test(of_nobody_in_particular),
        cmocka_unit_test(only_frames_of_this_job_count),
        cmocka_unit_test(texts_are_made_fit),
        cmocka_unit_test(an_end_has_a_reason),
        cmocka_unit_test(frames_come_in_pieces),
        cmocka_unit_test(a_torn_frame_is_none),
        cmocka_unit_test(garbage_is_no_frame),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
