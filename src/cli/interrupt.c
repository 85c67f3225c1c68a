#include "cli/interrupt.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/end_limit.h"
#include "base/flight_dump.h"
#include "base/wakeup.h"
#include "cli/launch.h"
#include "cli/launch_env.h"
#include "cli/status.h"
#include "cli/vigil.h"
#include "rpc/watchdog.h"

enum { GRACE_S = 5, END_LIMIT_S = 4 };
static atomic_int grace_s = GRACE_S;

/* timeout(1) and launchers deliver one wish twice: to the process and to its group. */
static const double echo_s = 0.5;

/* For the vigil of a rank that was stopped to find that it is missed. */
static const double vigil_first_s = 0.1;

/* Between mpirun's SIGCONT and its SIGTERM: a second, or what its settings say. */
static const double ladder_s = 5;

static atomic_bool interrupted, usr1_ends;
static _Atomic double killed_at = (double)INFINITY;
static int interrupt_fd = -1, kill_fd = -1;
static char who[200];

bool launch_interrupted(void) {
    return atomic_load_explicit(&interrupted, memory_order_relaxed);
}

int launch_interrupt_fd(void) {
    return interrupt_fd;
}

int launch_kill_fd(void) {
    return kill_fd;
}

void interrupt_raise_kill(void) {
    wakeup_raise(kill_fd);
}

double interrupt_killed_at(void) {
    return atomic_load(&killed_at);
}

void launch_usr1_ends(void) {
    atomic_store(&usr1_ends, true);
}

void launch_grace(double more_s) {
    atomic_store(&grace_s, GRACE_S + (int)ceil(more_s));
}

static void end_process(const char *why) {
    char line[400];
    struct error err, lost;
    clock_sleep(vigil_first_s);
    while (
        vigil_lost(&lost)) { /* which is why there are signals, and the vigil ends this process */
        pause();
    }
    error_set(&err, ERROR_INTERRUPTED, "%s", why);
    error_at_rank(&err, launch_env_read().rank);
    end_limit(END_LIMIT_S, error_exit_code(err.kind));
    int n = snprintf(line, sizeof line, "lockstep: %s: %s: %s\n", who, error_kind_name(err.kind),
                     err.message);
    bool says = vigil_may_say();
    vigil_note_said(&err, says);
    if (says && write(STDERR_FILENO, line, (size_t)n) < 0) {
        /* nowhere left to complain */
    }
    if (says) {
        status_write_file(&err);
    }
    _exit(error_exit_code(err.kind));
}

static bool means_end(int signal_number) {
    return signal_number == SIGTERM || signal_number == SIGINT || signal_number == SIGHUP ||
           (signal_number == SIGUSR1 && atomic_load(&usr1_ends));
}

/* Whether a signal is the middle of mpirun's three; continued: when the last SIGCONT came. */
static bool is_ladder(int signal_number, double continued) {
    sigset_t pending; /* where both have come, the other has the larger number */
    bool both = sigpending(&pending) == 0 && sigismember(&pending, SIGCONT) == 1;
    return signal_number == SIGTERM && (both || clock_now() - continued < ladder_s) &&
           launch_env_read().launcher == LAUNCHER_MPIRUN;
}

/* The next signal, or 0 after so many seconds. */
static int next_signal(const sigset_t *set, double seconds) {
    struct timespec t = {0};
    int got;
    if (isfinite(seconds)) {
        t.tv_sec = (time_t)seconds;
        t.tv_nsec = (long)(1e9 * (seconds - (double)t.tv_sec));
    }
    do {
        got = isfinite(seconds) ? sigtimedwait(set, NULL, &t) : sigwaitinfo(set, NULL);
    } while (got < 0 && errno == EINTR);
    return got < 0 ? 0 : got;
}

static void *read_signals(void *set) {
    bool told = false;
    double first = (double)INFINITY, continued = -(double)INFINITY;
    for (;;) {
        double end = first + atomic_load(&grace_s);
        int got = next_signal(set, fmax(end - clock_now(), 0));
        if (got == 0) {
            end_process("did not come to an end in time after a signal");
        } else if (got == SIGCONT) {
            continued = clock_now();
            if (launch_env_read().launcher == LAUNCHER_MPIRUN) {
                watchdog_postpone(ladder_s); /* who ends the job has spoken */
            }
            if (launch_env_read().launcher == LAUNCHER_MPIRUN && !told) {
                vigil_look_at_siblings();
            }
        } else if (got == SIGUSR2) { /* from another rank: see vigil.c */
            told = true;
            watchdog_postpone(ladder_s);
        } else if (is_ladder(got, continued)) { /* no need to end what will be killed */
            vigil_end_in_init(told);
            atomic_store(&killed_at, clock_now());
            interrupt_raise_kill();
            flight_dump("the launcher ends this rank"); /* as after another one's death */
            if (!told) {
                vigil_say_ended();
            }
        } else if (means_end(got)) {
            if (launch_env_read().launcher == LAUNCHER_SRUN) { /* which kills half a minute later */
                vigil_end_in_init(told);
            }
            if (clock_now() - first > echo_s) {
                end_process("a second signal");
            }
        }
        if (means_end(got) && !launch_interrupted()) {
            first = clock_now();
            atomic_store(&interrupted, true);
            wakeup_raise(interrupt_fd);
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
    sigaddset(&set, SIGCONT);
    if (!wakeup_open(&interrupt_fd, err) || !wakeup_open(&kill_fd, err)) {
        return false;
    }
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error like a full disk */
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    int failed = pthread_create(&thread, NULL, read_signals, &set);
    if (failed) {
        return error_set(err, ERROR_INTERNAL, "cannot start a thread: %s", strerror(failed));
    }
    pthread_detach(thread);
    return true;
}
