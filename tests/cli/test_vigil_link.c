/* Links between processes of this host: each child is a rank, and says by its exit code what it
 * learned of the others. */
#include "test.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/flight_peers.h"
#include "cli/vigil_link.h"

enum { WORLD = 3, LIMIT_S = 20, SILENCE_S = 3 };
static const double quiet_s = 0.8;
/* What a rank knows at the end: its exit code, plus 10 times whom it knows that of. */
enum { FAILED = 1, NOTHING, ENDED, HEARD, SILENT };

/* What the ranks of a test share in place of MPI. */
static struct shared {
    struct vigil_address all[WORLD];
    volatile int n_open, n_whole, n_know, go;
    bool all_stay;
} * shared;

static double turn_s;

static void turn(void) {
    struct pollfd p = {.fd = vigil_link_fd(), .events = POLLIN};
    double before = clock_now();
    poll(&p, 1, 50);
    vigil_link_turn(turn_s);
    turn_s = clock_now() - before;
}

/* Turns until it is so; false: it never was. */
static bool turn_until(bool (*is_so)(void), double seconds) {
    double end = clock_now() + seconds;
    while (!is_so() && clock_now() < end) {
        turn();
    }
    return is_so();
}

static bool all_are_whole(void) {
    static bool told;
    if (vigil_link_is_whole() && !told) {
        __atomic_add_fetch(&shared->n_whole, 1, __ATOMIC_SEQ_CST);
        told = true;
    }
    return shared->n_whole == WORLD;
}

static bool may_go(void) {
    return shared->go;
}

static void join(int rank) {
    struct error err;
    struct flight_owner owner = {.rank = rank, .world = WORLD, .host = "here", .device = "host"};
    flight_share(rank);
    flight_set_owner(&owner);
    vigil_link_open(&shared->all[rank]);
    __atomic_add_fetch(&shared->n_open, 1, __ATOMIC_SEQ_CST);
    while (shared->n_open < WORLD) {
        clock_sleep(1e-3);
    }
    if (!vigil_link_meet(rank, WORLD, shared->all, &err) || !turn_until(all_are_whole, LIMIT_S)) {
        _exit(FAILED);
    }
}

static bool knows(void) {
    struct error why;
    return vigil_link_heard(&why) || vigil_link_ended() >= 0 || vigil_link_silent(SILENCE_S) >= 0;
}

static int what_it_knows(void) {
    struct error why;
    int ended = vigil_link_ended(), silent = vigil_link_silent(SILENCE_S);
    if (vigil_link_heard(&why)) {
        bool right = vigil_link_has_said() && why.kind == ERROR_DEVICE;
        return right ? HEARD + 10 * why.rank : FAILED;
    }
    if (silent >= 0 && (vigil_link_lives(silent) || vigil_link_is_out_of_reach(silent))) {
        return FAILED; /* it is stopped, and its host takes what it is sent */
    }
    return ended >= 0 ? ENDED + 10 * ended : silent >= 0 ? SILENT + 10 * silent : NOTHING;
}

static bool both_know(void) {
    return shared->n_know == WORLD - 1;
}

/* The exit code is what a survivor learns; it waits for the other one to learn it, too. */
static void survive(int rank) {
    join(rank);
    turn_until(knows, LIMIT_S);
    int code = what_it_knows();
    __atomic_add_fetch(&shared->n_know, 1, __ATOMIC_SEQ_CST);
    turn_until(both_know, LIMIT_S);
    _exit(code);
}

/* Where there is nothing to learn. */
static void be_left_alone(int rank) {
    join(rank);
    turn_until(may_go, LIMIT_S);
    turn_until(knows, quiet_s);
    int code = what_it_knows();
    for (int r = 0; r < WORLD && shared->all_stay; r++) {
        code = r == rank || vigil_link_lives(r) ? code : FAILED;
    }
    __atomic_add_fetch(&shared->n_know, 1, __ATOMIC_SEQ_CST);
    turn_until(both_know, LIMIT_S);
    _exit(code);
}

static void victim(int rank) {
    join(rank);
    turn_until(may_go, LIMIT_S);
    pause();
}

static void speaker(int rank) {
    struct error err;
    join(rank);
    turn_until(may_go, LIMIT_S);
    error_set(&err, ERROR_DEVICE, "it is broken");
    error_at_rank(&err, rank);
    vigil_link_say(VIGIL_SAID, &err);
    _exit(0);
}

static void leaver(int rank) {
    join(rank);
    turn_until(may_go, LIMIT_S);
    vigil_link_say(VIGIL_BYE, NULL);
    _exit(0);
}

/* As a firewall does that forgets what it let pass. */
static void breaker(int rank) {
    struct sockaddr_storage peer;
    int n_broken = 0;
    join(rank);
    turn_until(may_go, LIMIT_S);
    for (int fd = 3; fd < 64; fd++) {
        socklen_t size = sizeof peer;
        if (getpeername(fd, (struct sockaddr *)&peer, &size) == 0) {
            n_broken += shutdown(fd, SHUT_RDWR) == 0;
        }
    }
    turn_until(both_know, LIMIT_S);
    _exit(n_broken >= WORLD - 1 ? 0 : FAILED);
}

/* Comes to another rank's port with what is no frame, with a frame of another job, and with
 * nothing.
 */
static void stranger(int rank) {
    struct vigil_frame f = vigil_frame_make(shared->all[0].token + 1, VIGIL_LOST, "", "", NULL);
    char garbage[3 * sizeof f];
    int fds[3];
    join(rank);
    memset(garbage, 'G', sizeof garbage);
    f.from = WORLD - 1;
    for (int i = 0; i < 3; i++) {
        vigil_address_connect(&shared->all[0].at[0], shared->all[0].port, &fds[i]);
        struct pollfd p = {.fd = fds[i], .events = POLLOUT};
        poll(&p, 1, 1000);
        const void *data = i == 0 ? (const void *)garbage : &f;
        size_t size = i == 0 ? sizeof garbage : i == 1 ? sizeof f : 0;
        if (send(fds[i], data, size, MSG_NOSIGNAL) != (ssize_t)size) {
            _exit(FAILED);
        }
    }
    turn_until(both_know, LIMIT_S);
    _exit(0);
}

/* Runs two ranks that `stay` beside rank `odd`, which does what it does; their exit codes must be
 * `expected`. */
static void play(void (*stay)(int), int odd, void (*act)(int), int signal_number, int expected) {
    pid_t pids[WORLD];
    int status;
    memset(shared, 0, sizeof *shared);
    shared->all_stay = act == breaker || act == stranger;
    for (int r = 0; r < WORLD; r++) {
        pids[r] = fork();
        if (pids[r] == 0) {
            (r == odd ? act : stay)(r);
            _exit(FAILED);
        }
    }
    for (double end = clock_now() + LIMIT_S; shared->n_whole < WORLD && clock_now() < end;) {
        clock_sleep(1e-3);
    }
    shared->go = 1;
    if (signal_number) {
        kill(pids[odd], signal_number);
    }
    for (int r = 0; r < WORLD; r++) {
        if (r != odd) {
            waitpid(pids[r], &status, 0);
            assert_int_equal(status, expected << 8);
        }
    }
    if (!shared->all_stay) {
        kill(pids[odd], SIGKILL);
    }
    waitpid(pids[odd], &status, 0);
    assert_true(!shared->all_stay || status == 0); /* it has done what it is here for */
}

static void a_killed_rank_has_ended(void **state) {
    (void)state;
    play(survive, 1, victim, SIGKILL, ENDED + 10 * 1);
    play(survive, 0, victim, SIGKILL, ENDED + 10 * 0);
}

static void a_stopped_rank_is_silent(void **state) {
    (void)state;
    play(survive, 2, victim, SIGSTOP, SILENT + 10 * 2);
}

static void words_arrive_before_the_end(void **state) {
    (void)state;
    play(survive, 1, speaker, 0, HEARD + 10 * 1);
}

static void who_says_goodbye_is_not_missed(void **state) {
    (void)state;
    play(be_left_alone, 1, leaver, 0, NOTHING);
}

static void a_broken_link_is_made_again(void **state) {
    (void)state;
    play(be_left_alone, 1, breaker, 0, NOTHING);
    play(be_left_alone, 0, breaker, 0, NOTHING);
}

static void strangers_change_nothing(void **state) {
    (void)state;
    play(be_left_alone, 1, stranger, 0, NOTHING);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_killed_rank_has_ended),
        cmocka_unit_test(a_stopped_rank_is_silent),
        cmocka_unit_test(words_arrive_before_the_end),
        cmocka_unit_test(who_says_goodbye_is_not_missed),
        cmocka_unit_test(a_broken_link_is_made_again),
        cmocka_unit_test(strangers_change_nothing),
    };
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
