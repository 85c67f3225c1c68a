#include <poll.h>
#include <unistd.h>

#include "base/wakeup.h"
#include "test.h"

static bool is_readable(int fd) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

static void raised_until_lowered(void **state) {
    struct error err;
    int fd;
    (void)state;
    assert_true(wakeup_open(&fd, &err));
    assert_false(is_readable(fd));
    wakeup_lower(fd); /* does not wait */
    wakeup_raise(fd);
    wakeup_raise(fd);
    assert_true(is_readable(fd));
    assert_true(is_readable(fd));
    wakeup_lower(fd);
    assert_false(is_readable(fd));
    close(fd);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(raised_until_lowered)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
