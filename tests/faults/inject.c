/* Preloaded into every rank by matrix.py, which decides when a rank shall do what: it dies, stops,
 * is stuck, slow or out of memory, from inside.
 *
 * LOCKSTEP_FAULT_DIR/RANK.in is a FIFO of orders, one a line; RANK.out gets what there is to tell.
 * "fail N" lets the Nth allocation of the main thread from then on find no memory, if lockstep or a
 * library that must bear it asks for it; "count" tells how many have been asked for since.
 * A rank holds at a point of its way, where it is told to ("hold free 1", or from its start by
 * LOCKSTEP_FAULT_HOLD="RANK POINT N"), says so and waits there for an order. */
#undef _FORTIFY_SOURCE /* which defines some of the functions that are to be replaced */

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <mpi.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PUBLIC __attribute__((visibility("default")))

enum { LARGE_BYTES = 64 << 10, SLOWER = 100, ABORT_CODE = 7 };

enum order {
    NOTHING,
    GO,
    KILL,
    SEGV,
    ABORT,
    STOP,
    STUCK,
    EXIT0,
    EXIT3,
    MPI_ABORT,
    NO_MEMORY,
    SLOW,
    MEND, /* neither slow nor out of memory any more */
    ORDER_COUNT
};

static const char *const order_names[] = {"",          "go",    "kill",  "segv",  "abort",
                                          "stop",      "stuck", "exit0", "exit3", "mpi_abort",
                                          "no_memory", "slow",  "mend"};
_Static_assert(sizeof order_names / sizeof *order_names == ORDER_COUNT, "named orders");

enum point { NOWHERE, AT_MPI_INIT, AT_BCAST, AT_PREAD, AT_FREE, POINT_COUNT };

static const char *const point_names[] = {"", "MPI_Init", "MPI_Ibcast", "pread", "free"};
_Static_assert(sizeof point_names / sizeof *point_names == POINT_COUNT, "named points");

static int out_fd = -1;
static FILE *orders;
static pthread_t main_thread;
static atomic_int order;                 /* given, and not taken yet */
static atomic_int hold_point, hold_left; /* where to hold, and after how many more passes */
static atomic_bool is_slow, is_out_of_memory;
static atomic_bool is_counting;
static atomic_long n_asked, failing; /* allocations since "fail", and which of them fails */

static void *real(const char *name) {
    return dlsym(RTLD_NEXT, name);
}

__attribute__((format(printf, 1, 2))) static void say(const char *fmt, ...) {
    char line[100];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    if (write(out_fd, line, (size_t)n) < 0) {
        /* nobody is there to hear it */
    }
}

static int find(const char *name, const char *const names[], int n) {
    for (int i = 1; i < n; i++) {
        if (strcmp(name, names[i]) == 0) {
            return i;
        }
    }
    return 0;
}

/* ---- events ---- */

static void obey(int what) {
    volatile int *volatile nowhere = NULL;
    switch (what) {
    case KILL:
        kill(getpid(), SIGKILL);
        break;
    case SEGV:
        *nowhere = 0;
        break;
    case ABORT:
        abort();
    case STOP:
        kill(getpid(), SIGSTOP);
        break;
    case STUCK:
        for (;;) {
            pause();
        }
    case EXIT0:
        exit(0);
    case EXIT3:
        exit(3);
    case MPI_ABORT:
        MPI_Abort(MPI_COMM_WORLD, ABORT_CODE);
        break;
    case NO_MEMORY:
        atomic_store(&is_out_of_memory, true);
        break;
    case SLOW:
        atomic_store(&is_slow, true);
        break;
    case MEND:
        atomic_store(&is_slow, false);
        atomic_store(&is_out_of_memory, false);
        break;
    default:
        break;
    }
}

/* What a thread does to itself the main thread does, where it comes by soon. */
static bool needs_main_thread(int what) {
    return what == GO || what == STUCK || what == EXIT0 || what == EXIT3 || what == MPI_ABORT ||
           what == SEGV || what == ABORT;
}

static void give(int what) {
    if (!needs_main_thread(what)) {
        obey(what);
        what = GO; /* to who holds */
    }
    atomic_store(&order, what);
    if (what == GO || what == STUCK) {
        return;
    }
    for (int ms = 0; ms < 100 && atomic_load(&order); ms++) {
        usleep(1000);
    }
    obey(atomic_exchange(&order, NOTHING));
}

static void start_counting(long which) {
    atomic_store(&n_asked, 0);
    atomic_store(&failing, which);
    atomic_store(&is_counting, which > 0);
    say("armed\n");
}

static void *read_orders(void *unused) {
    char line[100], point[20];
    int n;
    long which;
    (void)unused;
    while (fgets(line, sizeof line, orders)) {
        line[strcspn(line, "\n")] = 0;
        if (sscanf(line, "hold %19s %d", point, &n) == 2) {
            atomic_store(&order, NOTHING);
            atomic_store(&hold_left, n);
            atomic_store(&hold_point, find(point, point_names, POINT_COUNT));
            say("armed\n");
        } else if (sscanf(line, "fail %ld", &which) == 1) {
            start_counting(which);
        } else if (strcmp(line, "count") == 0) {
            say("asked %ld\n", atomic_load(&n_asked));
        } else {
            give(find(line, order_names, ORDER_COUNT));
        }
    }
    return NULL;
}

/* ---- points ---- */

static void pass(int point) {
    if (atomic_load(&hold_point) != point || atomic_fetch_sub(&hold_left, 1) != 1) {
        return;
    }
    int what;
    atomic_store(&hold_point, NOWHERE);
    say("at %s\n", point_names[point]);
    while ((what = atomic_exchange(&order, NOTHING)) == NOTHING) {
        usleep(200);
    }
    obey(what);
}

/* Sleeps for 99 times what this thread has computed since it was here last. */
static void lag(void) {
    static double before;
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    double now = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    double more = before > 0 ? (SLOWER - 1) * (now - before) : 0;
    struct timespec nap = {.tv_sec = (time_t)more,
                           .tv_nsec = (long)(1e9 * (more - (double)(time_t)more))};
    before = now;
    nanosleep(&nap, NULL);
}

/* The main thread comes by here all the time. */
static void look(void) {
    int what = atomic_load_explicit(&order, memory_order_relaxed);
    if (!pthread_equal(pthread_self(), main_thread)) {
        return;
    }
    if (what && what != GO) {
        obey(atomic_exchange(&order, NOTHING));
    }
    if (atomic_load_explicit(&is_slow, memory_order_relaxed)) {
        lag();
    }
}

PUBLIC int MPI_Init_thread(int *argc, char ***argv, int required, int *provided) {
    int (*init)(int *, char ***, int, int *);
    *(void **)&init = real("MPI_Init_thread");
    pass(AT_MPI_INIT);
    return init(argc, argv, required, provided);
}

PUBLIC int MPI_Ibcast(void *data, int n, MPI_Datatype type, int root, MPI_Comm comm,
                      MPI_Request *request) {
    int (*bcast)(void *, int, MPI_Datatype, int, MPI_Comm, MPI_Request *);
    *(void **)&bcast = real("MPI_Ibcast");
    pass(AT_BCAST);
    return bcast(data, n, type, root, comm, request);
}

PUBLIC int MPI_Test(MPI_Request *request, int *done, MPI_Status *status) {
    static int (*test)(MPI_Request *, int *, MPI_Status *);
    if (!test) {
        *(void **)&test = real("MPI_Test");
    }
    look();
    return test(request, done, status);
}

PUBLIC int MPI_Testall(int n, MPI_Request requests[], int *done, MPI_Status statuses[]) {
    static int (*testall)(int, MPI_Request[], int *, MPI_Status[]);
    if (!testall) {
        *(void **)&testall = real("MPI_Testall");
    }
    look();
    return testall(n, requests, done, statuses);
}

/* Where rank 0 is that has nothing to do. */
PUBLIC int poll(struct pollfd *fds, nfds_t n, int timeout_ms) {
    if (timeout_ms != 0) { /* else it only looks, and may hold a lock */
        look();
    }
    return (int)syscall(SYS_poll, fds, n, timeout_ms);
}

static bool is_of_the_weights(int fd) {
    static const char ending[] = ".safetensors";
    char link[40], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    path[n > 0 ? n : 0] = 0;
    return n >= (ssize_t)sizeof ending && strstr(path, ending);
}

/* With 64-bit offsets, as this project is compiled, the symbol is pread64. */
PUBLIC ssize_t pread(int fd, void *to, size_t n, off_t at) {
    static ssize_t (*read_at)(int, void *, size_t, off_t);
    if (!read_at) {
        *(void **)&read_at = real("pread64");
    }
    if (is_of_the_weights(fd)) {
        pass(AT_PREAD);
        look();
    }
    return read_at(fd, to, n, at);
}

/* ---- memory ---- */

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

/* Not MPI's and OpenMP's, which end the process, and not those that libc makes for itself. */
static bool must_bear_it(void *caller, Dl_info *who) {
    static const char *const names[] = {"/lockstep", "/libjansson.", "/libmsgpack"};
    if (!dladdr(caller, who) || !who->dli_fname) {
        return false;
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strstr(who->dli_fname, names[i])) {
            return true;
        }
    }
    return false;
}

static bool is_the_one(void *caller) {
    Dl_info who;
    if (!pthread_equal(pthread_self(), main_thread) || !must_bear_it(caller, &who) ||
        atomic_fetch_add(&n_asked, 1) + 1 != atomic_load(&failing)) {
        return false;
    }
    say("failed %s+%#lx\n", strrchr(who.dli_fname, '/') + 1,
        (unsigned long)((char *)caller - (char *)who.dli_fbase));
    errno = ENOMEM;
    return true;
}

static bool is_refused(size_t bytes, void *caller) {
    if (atomic_load_explicit(&is_counting, memory_order_relaxed) && is_the_one(caller)) {
        return true;
    }
    if (bytes < LARGE_BYTES || !atomic_load_explicit(&is_out_of_memory, memory_order_relaxed)) {
        return false;
    }
    errno = ENOMEM;
    return true;
}

#define CALLER __builtin_return_address(0)

PUBLIC void *malloc(size_t n) {
    return is_refused(n, CALLER) ? NULL : __libc_malloc(n);
}

PUBLIC void *calloc(size_t n, size_t size) {
    return size && is_refused(n > SIZE_MAX / size ? SIZE_MAX : n * size, CALLER)
               ? NULL
               : __libc_calloc(n, size);
}

PUBLIC void *realloc(void *p, size_t n) {
    return is_refused(n, CALLER) ? NULL : __libc_realloc(p, n);
}

PUBLIC void *aligned_alloc(size_t alignment, size_t n) {
    return is_refused(n, CALLER) ? NULL : __libc_memalign(alignment, n);
}

PUBLIC int posix_memalign(void **out, size_t alignment, size_t n) {
    void *p = is_refused(n, CALLER) ? NULL : __libc_memalign(alignment, n);
    if (!p) {
        return ENOMEM;
    }
    *out = p;
    return 0;
}

PUBLIC void *mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset) {
    if (is_refused(n, CALLER)) {
        return MAP_FAILED;
    }
    return (void *)syscall(SYS_mmap, at, n, protection, flags, fd, offset);
}

PUBLIC void free(void *p) {
    if (atomic_load_explicit(&hold_point, memory_order_relaxed) == AT_FREE && p &&
        pthread_equal(pthread_self(), main_thread) && malloc_usable_size(p) >= LARGE_BYTES) {
        pass(AT_FREE);
    }
    __libc_free(p);
}

/* ---- start ---- */

static int own_rank(void) {
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    rank = rank ? rank : getenv("SLURM_PROCID");
    return rank ? atoi(rank) : 0;
}

static FILE *open_orders(const char *dir, int rank) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%d.out", dir, rank);
    out_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    snprintf(path, sizeof path, "%s/%d.in", dir, rank);
    int fd = open(path, O_RDWR | O_CLOEXEC); /* which does not wait for a writer */
    return fd < 0 || out_fd < 0 ? NULL : fdopen(fd, "r");
}

__attribute__((constructor)) static void start(void) {
    const char *dir = getenv("LOCKSTEP_FAULT_DIR"), *hold = getenv("LOCKSTEP_FAULT_HOLD");
    char point[20];
    int who, n, rank = own_rank();
    pthread_t thread;
    sigset_t all, old;
    main_thread = pthread_self();
    orders = dir ? open_orders(dir, rank) : NULL;
    if (!orders) {
        return;
    }
    say("pid %d\n", (int)getpid());
    if (hold && sscanf(hold, "%d %19s %d", &who, point, &n) == 3 && who == rank) {
        atomic_store(&hold_left, n);
        atomic_store(&hold_point, find(point, point_names, POINT_COUNT));
    }
    sigfillset(&all); /* signals are for the program's own threads */
    pthread_sigmask(SIG_BLOCK, &all, &old);
    if (pthread_create(&thread, NULL, read_orders, NULL) == 0) {
        pthread_detach(thread);
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}
