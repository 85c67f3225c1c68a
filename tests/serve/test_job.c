/* A job's buffer between the main thread and a connection, without a connection. */
#include "test.h"

#include <string.h>

#include "serve/job.h"

static struct job *make(bool stream) {
    struct api_request q = {.kind = API_COMPLETION, .stream = stream};
    struct job *j;
    struct error err;
    assert_ok(job_create(&j, &q, NULL, &err), &err);
    return j;
}

static void a_slow_reader(void **state) {
    (void)state;
    static char chunk[64 << 10];
    static char got[JOB_MAX_UNSENT + 3 * sizeof chunk];
    const struct buffer bytes = {.data = (unsigned char *)chunk, .size = sizeof chunk};
    struct job *j = make(true);
    size_t n = 0, put = 0;
    memset(chunk, 'x', sizeof chunk);
    for (int i = 0; i < 1000; i++) { /* as long as all is read, there is no end */
        assert_true(job_put(j, 200, &bytes, false));
        assert_int_equal(job_read(j, NULL, got, sizeof got), sizeof chunk);
    }
    while (job_put(j, 200, &bytes, false)) {
        put += sizeof chunk;
        assert_true(put <= JOB_MAX_UNSENT + sizeof chunk);
    }
    assert_true(put > JOB_MAX_UNSENT);
    assert_false(job_is_sent(j));
    for (long more; (more = job_read(j, NULL, got + n, sizeof got - 1 - n)) > 0;) {
        n += (size_t)more;
    }
    got[n] = 0;
    assert_true(job_is_sent(j));
    assert_true(n > put);
    assert_memory_equal(got + put, "data: {\"error\":{\"message\":\"the stream ends here", 45);
    assert_non_null(strstr(got + put, "\"slow_reader\""));
    assert_memory_equal(got + n - 2, "\n\n", 2);
    job_release(j);
}

/* A reader that is always a little behind costs no more memory than one that is not. */
static void a_reader_that_lags(void **state) {
    (void)state;
    static char chunk[64 << 10], got[sizeof chunk];
    struct job *j = make(true);
    for (int i = 0; i < 1000; i++) {
        memset(chunk, 'a' + i % 26, sizeof chunk);
        const struct buffer bytes = {.data = (unsigned char *)chunk, .size = sizeof chunk};
        assert_true(job_put(j, 200, &bytes, false));
        if (i >= 4) {
            assert_int_equal(job_read(j, NULL, got, sizeof got), sizeof got);
            assert_true(got[0] == 'a' + (i - 4) % 26 && got[sizeof got - 1] == got[0]);
        }
        assert_true(j->out.size <= 2 * JOB_MAX_UNSENT + sizeof chunk);
    }
    job_release(j);
}

/* What goes out in one piece may be as large as it is. */
static void a_whole_reply(void **state) {
    (void)state;
    static char chunk[JOB_MAX_UNSENT];
    const struct buffer bytes = {.data = (unsigned char *)chunk, .size = sizeof chunk};
    struct job *j = make(false);
    assert_true(job_put(j, 200, &bytes, false) && job_put(j, 503, &bytes, false) &&
                job_put(j, 0, &bytes, true));
    assert_int_equal(j->status, 200); /* the first stands */
    assert_true(job_await(j, NULL, -1, true));
    assert_int_equal(j->out.size, 3 * sizeof chunk);
    job_release(j);
}

static void a_client_gone(void **state) {
    (void)state;
    const struct buffer bytes = {.data = (unsigned char *)"x", .size = 1};
    struct job *j = make(true);
    job_hold(j);
    assert_false(job_is_gone(j));
    job_hang_up(j);
    assert_true(job_is_gone(j) && job_is_sent(j));
    assert_true(job_put(j, 200, &bytes, true)); /* for nobody */
    assert_int_equal(j->out.size, 0);
    job_release(j);
    job_release(j);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_slow_reader),
        cmocka_unit_test(a_reader_that_lags),
        cmocka_unit_test(a_whole_reply),
        cmocka_unit_test(a_client_gone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
