#include "cli/interrupt.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/launch.h"

enum { GRACE_S = 5 };
static atomic_int grace_s = GRACE_S;

/* timeout(1) and launchers deliver one wish twice: to the process and to its group. */
static const double echo_s = 0.5;

static atomic_bool interrupted;
static int interrupt_fd = -1;
static char who[200];

bool launch_interrupted(void) {
    return atomic_load_explicit(&interrupted, memory_order_relaxed);
}

int launch_interrupt_fd(void) {
    return interrupt_fd;
}

void launch_grace(double more_s) {
    atomic_store(&grace_s, GRACE_S + (int)ceil(more_s));
}

static void end_process(const char *why) {
    char line[400];
    int n = snprintf(line, sizeof line, "lockstep: %s: %s: %s\n", who,
                     error_kind_name(ERROR_INTERRUPTED), why);
    if (write(STDERR_FILENO, line, (size_t)n) < 0) {
        /* nowhere left to complain */
    }
    _exit(error_exit_code(ERROR_INTERRUPTED));
}

static bool means_end(int signal_number) {
    return signal_number == SIGTERM || signal_number == SIGINT || signal_number == SIGHUP;
}

static void *read_signals(void *set_) {
    const sigset_t *set = set_;
    int got = 0;
    do {
        sigwait(set, &got); /* USR1 and USR2, which batch systems send as warnings, are nothing */
    } while (!means_end(got));
    atomic_store(&interrupted, true);
    uint64_t one = 1;
    if (write(interrupt_fd, &one, sizeof one) < 0) {
        /* the flag is set all the same */
    }
    double first = clock_now();
    for (;;) {
        double left = fmax(first + atomic_load(&grace_s) - clock_now(), 0);
        struct timespec t = {.tv_sec = (time_t)left,
                             .tv_nsec = (long)(1e9 * (left - (double)(time_t)left))};
        got = sigtimedwait(set, NULL, &t);
        if (means_end(got) && clock_now() - first > echo_s) {
            end_process("a second signal");
        }
        if (got < 0 && errno == EAGAIN) {
            end_process("did not come to an end in time after a signal");
        }
    }
    return NULL;
}

bool interrupt_start(const char *name, struct error *err) {
    static sigset_t set;
    pthread_t thread;
    snprintf(who, sizeof who, "%s", name);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGUSR2);
    interrupt_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (interrupt_fd < 0) {
        return error_set(err, ERROR_INTERNAL, "eventfd: %s", strerror(errno));
    }
    signal(SIGPIPE, SIG_IGN);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    int failed = pthread_create(&thread, NULL, read_signals, &set);
    if (failed) {
        return error_set(err, ERROR_INTERNAL, "cannot start a thread: %s", strerror(failed));
    }
    pthread_detach(thread);
    return true;
}
