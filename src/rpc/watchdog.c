#include "rpc/watchdog.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/end_limit.h"
#include "base/flight.h"
#include "base/flight_dump.h"

enum { END_LIMIT_S = 3 };

static const double overslept_s = 0.5, grace_s = 3, say_s = 0.1;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed;
static bool running;
static bool (*may_say)(void);
static void (*on_said)(const struct error *err);
static char who[160] = "";
static char last_words[1000] = "";
static int last_code;
static const char *phase; /* NULL: none */
static double phase_deadline, phase_seconds;
static double next_look; /* of the thread, at the latest */

static void end_process(void) {
    char line[sizeof last_words];
    struct error err;
    bool known = *last_words;
    int code = known ? last_code : error_exit_code(ERROR_DEADLINE);
    error_set(&err, ERROR_DEADLINE, "stuck in %s for %.3g s", phase, phase_seconds);
    int n = known ? snprintf(line, sizeof line, "%s", last_words)
                  : snprintf(line, sizeof line, "lockstep: %s%s%s: %s\n", who, *who ? ": " : "",
                             error_kind_name(err.kind), err.message);
    n = n < (int)sizeof line ? n : (int)sizeof line - 1;
    end_limit(END_LIMIT_S, code);
    bool says = !may_say || may_say();
    flight_note_said(code);
    if (says && write(STDERR_FILENO, line, (size_t)n) < 0) {
        /* nowhere left to complain */
    }
    line[n > 0 ? n - 1 : 0] = 0;
    flight_dump(line);
    if (says && on_said) {
        on_said(known ? NULL : &err);
    }
    _exit(code);
}

/* Under the lock. Lets the thread of signals have its say first: a process that was stopped until
 * just now has them waiting. */
static bool is_final(void) {
    pthread_mutex_unlock(&lock);
    clock_sleep(say_s);
    pthread_mutex_lock(&lock);
    return phase && clock_now() >= phase_deadline;
}

static void *watch(void *unused) {
    (void)unused;
    pthread_mutex_lock(&lock);
    for (;;) {
        if (!phase) {
            next_look = (double)INFINITY;
            pthread_cond_wait(&changed, &lock);
            continue;
        }
        double late = clock_now() - phase_deadline;
        if (late >
            overslept_s) { /* this process was stopped, and may have been let go to be ended */
            phase_deadline += late + grace_s;
        } else if (late >= 0 && is_final()) {
            end_process();
        }
        next_look = phase_deadline;
        struct timespec until = {.tv_sec = (time_t)phase_deadline};
        until.tv_nsec = (long)((phase_deadline - (double)until.tv_sec) * 1e9);
        pthread_cond_timedwait(&changed, &lock, &until);
    }
    return NULL;
}

bool watchdog_start(struct error *err) {
    pthread_condattr_t attr;
    pthread_t thread;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&changed, &attr);
    pthread_condattr_destroy(&attr);
    int failed = pthread_create(&thread, NULL, watch, NULL);
    if (failed) {
        return error_set(err, ERROR_INTERNAL, "cannot start a thread: %s", strerror(failed));
    }
    pthread_detach(thread);
    running = true;
    return true;
}

void watchdog_set_who(const char *name) {
    pthread_mutex_lock(&lock);
    snprintf(who, sizeof who, "%s", name);
    pthread_mutex_unlock(&lock);
}

void watchdog_last_words(const char *line, int exit_code) {
    pthread_mutex_lock(&lock);
    snprintf(last_words, sizeof last_words, "%s", line ? line : "");
    last_code = exit_code;
    pthread_mutex_unlock(&lock);
}

static void set_phase(const char *name, double seconds) {
    double deadline = clock_now() + seconds;
    if (!running) {
        return;
    }
    flight_pulse(deadline); /* until then the phase is this thread's to watch */
    pthread_mutex_lock(&lock);
    phase = name;
    phase_seconds = seconds;
    phase_deadline = deadline;
    if (name && phase_deadline < next_look) { /* else it looks early enough: steps come fast */
        pthread_cond_signal(&changed);
    }
    pthread_mutex_unlock(&lock);
}

void watchdog_on_end(bool (*may)(void), void (*said)(const struct error *err)) {
    may_say = may;
    on_said = said;
}

void watchdog_postpone(double seconds) {
    pthread_mutex_lock(&lock);
    phase_deadline += seconds;
    pthread_mutex_unlock(&lock);
}

void watchdog_phase(const char *name, double seconds) {
    set_phase(name, seconds);
}

void watchdog_clear(void) {
    set_phase(NULL, 0);
}
