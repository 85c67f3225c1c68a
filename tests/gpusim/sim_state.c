/* Environment, findings, faults and errors of the simulated libcudart. */
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sim.h"

enum { MAX_FAULTS = 16, EXIT_FINDINGS = 86, MAX_COUNTED = 64 };

struct fault {
    int rank; /* -1: every one */
    char op[48];
    long k;
    char kind[16];
};

static pthread_mutex_t mutex = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP; /* operations call back */
static struct settings settings;
static bool have_settings;
static struct fault faults[MAX_FAULTS];
static int n_fault;
static struct {
    char op[48];
    long n;
} counted[MAX_COUNTED];
static int n_counted;
static int n_finding;
static bool gave_up;
static cudaError_t sticky, last;

void sim_lock(void) {
    pthread_mutex_lock(&mutex);
}

void sim_unlock(void) {
    pthread_mutex_unlock(&mutex);
}

static const char *env(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value && *value ? value : otherwise;
}

static void die(const char *name, const char *value) {
    fprintf(stderr, "gpusim: %s=%s is not understood\n", name, value);
    _exit(2);
}

static long number(const char *name, const char *otherwise) {
    const char *value = env(name, otherwise);
    char *end;
    long n = strtol(value, &end, 10);
    if (*end || n < 0) {
        die(name, value);
    }
    return n;
}

static bool is_kind(const char *kind) {
    static const char *const kinds[] = {"memory", "fault719", "fault700", "init", "hang",
                                        "remote", "async",    "exit",     "error"};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(kinds[i], kind) == 0) {
            return true;
        }
    }
    return false;
}

/* "R:OP:K:KIND[;...]" */
static void read_faults(void) {
    char *text = strdup(env("GPUSIM_FAULT", "")), *save = NULL;
    for (char *one = strtok_r(text, ";", &save); one; one = strtok_r(NULL, ";", &save)) {
        struct fault f = {.rank = -1};
        char rank[16];
        int used = 0;
        if (n_fault == MAX_FAULTS ||
            sscanf(one, "%15[0-9*]:%47[A-Za-z0-9_]:%ld:%15[a-z0-9]%n", rank, f.op, &f.k, f.kind,
                   &used) != 4 ||
            one[used] || f.k < 1 || !is_kind(f.kind)) {
            die("GPUSIM_FAULT", one);
        }
        f.rank = *rank == '*' ? -1 : atoi(rank);
        faults[n_fault++] = f;
    }
    free(text);
}

/* What a process that failed leaves behind is no finding of its own. */
static void at_end(int status, void *none) {
    (void)none;
    if (status == 0 && !gave_up) {
        sim_memory_report_leaks();
        sim_pinned_report_leaks();
        sim_stream_report_leaks();
        sim_event_report_leaks();
    }
    sim_launch_finish();
    if (status == 0 && n_finding > 0) {
        fflush(NULL);
        _exit(EXIT_FINDINGS);
    }
}

const struct settings *sim_settings(void) {
    if (have_settings) {
        return &settings;
    }
    have_settings = true;
    const char *rank = env("OMPI_COMM_WORLD_RANK", env("PMIX_RANK", env("SLURM_PROCID", "0")));
    const char *cc = env("GPUSIM_CC", "9.0");
    settings = (struct settings){.rank = atoi(rank),
                                 .n_device = (int)number("GPUSIM_DEVICES", "1"),
                                 .memory = (size_t)number("GPUSIM_MEMORY", "2147483648"),
                                 .name = env("GPUSIM_NAME", "Simulated GPU"),
                                 .driver = (int)number("GPUSIM_DRIVER", "13000"),
                                 .check = strcmp(env("GPUSIM_CHECK", "on"), "off") != 0};
    if (sscanf(cc, "%d.%d", &settings.cc_major, &settings.cc_minor) != 2) {
        die("GPUSIM_CC", cc);
    }
    read_faults();
    return &settings;
}

/* Early, so that it runs after the handlers of whoever uses the library. */
__attribute__((constructor)) static void begin(void) {
    on_exit(at_end, NULL);
}

GPUSIM_API int gpusim_rank(void) {
    return sim_settings()->rank;
}

/* One line, to stderr and to the report. */
static void __attribute__((format(printf, 2, 0)))
say_v(const char *what, const char *fmt, va_list args) {
    char text[1024], line[1200];
    vsnprintf(text, sizeof text, fmt, args);
    int n = snprintf(line, sizeof line, "gpusim: rank %d: %s: %s\n", gpusim_rank(), what, text);
    (void)!write(STDERR_FILENO, line, (size_t)n);
    const char *file = getenv("GPUSIM_REPORT");
    int fd = file ? open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
    if (fd >= 0) {
        (void)!write(fd, line, (size_t)n);
        close(fd);
    }
}

static void __attribute__((format(printf, 2, 3))) say(const char *what, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    say_v(what, fmt, args);
    va_end(args);
}

GPUSIM_API void gpusim_finding(const char *fmt, ...) {
    va_list args;
    n_finding++;
    va_start(args, fmt);
    say_v("FINDING", fmt, args);
    va_end(args);
}

static long count_call(const char *op) {
    for (int i = 0; i < n_counted; i++) {
        if (strcmp(counted[i].op, op) == 0) {
            return ++counted[i].n;
        }
    }
    if (n_counted < MAX_COUNTED) {
        snprintf(counted[n_counted].op, sizeof counted[n_counted].op, "%s", op);
        counted[n_counted++].n = 1;
    }
    return 1;
}

const char *sim_fault(const char *op) {
    const struct settings *s = sim_settings();
    const char *kind = NULL;
    bool named = false;
    for (int i = 0; i < n_fault; i++) {
        named = named || strcmp(faults[i].op, op) == 0;
    }
    long k = named ? count_call(op) : 0;
    for (int i = 0; i < n_fault; i++) {
        if (strcmp(faults[i].op, op) == 0 && faults[i].k == k &&
            (faults[i].rank < 0 || faults[i].rank == s->rank)) {
            kind = faults[i].kind;
        }
    }
    if (kind) {
        say("fault", "%s number %ld%s: %s", op, k, sim_replaying() ? " (in a replayed graph)" : "",
            kind);
    }
    if (kind && strcmp(kind, "exit") == 0) {
        _exit(1);
    }
    gave_up = gave_up || kind;
    return kind;
}

GPUSIM_API const char *gpusim_fault(const char *op) {
    sim_lock();
    const char *kind = sim_fault(op);
    sim_unlock();
    return kind;
}

cudaError_t sim_fault_error(const char *kind) {
    return strcmp(kind, "memory") == 0     ? cudaErrorMemoryAllocation
           : strcmp(kind, "fault700") == 0 ? cudaErrorIllegalAddress
           : strcmp(kind, "fault719") == 0 ? cudaErrorLaunchFailure
                                           : cudaErrorUnknown;
}

cudaError_t sim_enter(const char *name) {
    sim_lock();
    if (sim_settings()->driver == 0) {
        return cudaErrorInsufficientDriver;
    }
    if (sim_settings()->n_device == 0) {
        return cudaErrorNoDevice;
    }
    const char *kind = sim_fault(name);
    if (!kind) {
        return sticky;
    }
    cudaError_t e = sim_fault_error(kind);
    if (e == cudaErrorIllegalAddress || e == cudaErrorLaunchFailure) {
        sim_stick(e);
    }
    return e;
}

cudaError_t sim_leave(cudaError_t e) {
    if (e != cudaSuccess) { /* "not ready" of a query, too: so does CUDA */
        last = e;
    }
    sim_unlock();
    return e;
}

void sim_stick(cudaError_t e) {
    gave_up = true;
    if (sticky == cudaSuccess) {
        sticky = e;
    }
}

GPUSIM_API void gpusim_give_up(void) {
    gave_up = true;
}

GPUSIM_API bool gpusim_gave_up(void) {
    return gave_up;
}

cudaError_t sim_sticky(void) {
    return sticky;
}

cudaError_t sim_last_error(bool forget) {
    if (sim_settings()->driver == 0) { /* as measured: it never goes away */
        return cudaErrorInsufficientDriver;
    }
    cudaError_t e = sticky != cudaSuccess ? sticky : last;
    if (forget) {
        last = cudaSuccess;
    }
    return e;
}
