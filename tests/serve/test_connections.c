/* The connections' limits, on socket pairs: an end that has been shut down reads as an end. */
#include "test.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "serve/connections.h"

struct pair {
    int ours, theirs;
    struct connection *c;
};

static struct pair enter(struct connections *all) {
    const struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000203)};
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    struct pair p = {fds[0], fds[1], connections_add(all, fds[0], (const struct sockaddr *)&from)};
    assert_non_null(p.c);
    return p;
}

static bool is_ended(const struct pair *p) {
    char c;
    return recv(p->theirs, &c, 1, 0) == 0;
}

static void leave(struct pair *p) {
    connections_remove(p->c);
    close(p->ours);
    close(p->theirs);
}

static void the_oldest_makes_room(void **state) {
    (void)state;
    struct connections all;
    struct pair p[6];
    connections_init(&all, 3);
    for (int i = 0; i < 3; i++) {
        p[i] = enter(&all);
    }
    assert_string_equal(p[0].c->address, "127.0.2.3");
    connections_note(p[0].c, CONNECTION_WAITING); /* is left alone */
    connections_note(p[1].c, CONNECTION_READING); /* has just moved */
    assert_false(connections_full(&all));
    p[3] = enter(&all);
    assert_true(is_ended(&p[2]) && !is_ended(&p[0]) && !is_ended(&p[1]));
    leave(&p[2]);
    connections_note(p[1].c, CONNECTION_WAITING);
    connections_note(p[3].c, CONNECTION_WAITING);
    p[4] = enter(&all); /* nobody can go */
    assert_true(connections_full(&all) && !is_ended(&p[4]));
    p[5] = enter(&all); /* but the one that is too many */
    assert_true(connections_full(&all) && is_ended(&p[4]) && !is_ended(&p[5]));
    leave(&p[0]);
    assert_false(connections_full(&all));
    connections_finish(&all); /* of all that are left */
    for (int i = 1; i < 6; i++) {
        if (i != 2) {
            close(p[i].ours);
            close(p[i].theirs);
        }
    }
}

static void who_takes_too_long_is_ended(void **state) {
    (void)state;
    struct connections all;
    struct pair p[CONNECTION_PHASE_COUNT];
    connections_init(&all, 100);
    for (int i = 0; i < CONNECTION_PHASE_COUNT; i++) {
        p[i] = enter(&all);
        connections_note(p[i].c, (enum connection_phase)i);
    }
    double now = clock_now();
    connections_expire(&all, now + CONNECTION_HEAD_S - 1);
    assert_false(is_ended(&p[CONNECTION_RESTING]));
    connections_expire(&all, now + CONNECTION_HEAD_S + 1);
    assert_true(is_ended(&p[CONNECTION_RESTING]) && !is_ended(&p[CONNECTION_READING]));
    connections_expire(&all, now + CONNECTION_BODY_S + 1);
    assert_true(is_ended(&p[CONNECTION_READING]));
    connections_expire(&all, now + 1e6);
    assert_false(is_ended(&p[CONNECTION_WAITING]) || is_ended(&p[CONNECTION_SENDING]));
    for (int i = 0; i < CONNECTION_PHASE_COUNT; i++) {
        leave(&p[i]);
    }
    connections_finish(&all);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_oldest_makes_room),
        cmocka_unit_test(who_takes_too_long_is_ended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
