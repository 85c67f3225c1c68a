#include "cli/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/flight_dump.h"
#include "base/flight_peers.h"
#include "base/log.h"
#include "cli/interrupt.h"
#include "cli/launch_env.h"
#include "cli/status.h"
#include "cli/vigil.h"
#include "cli/vigil_link.h"
#include "rpc/watchdog.h"
#include "worker/facts.h"
#include "worker/worker.h"

enum { FAREWELL_S = 10, MAX_TURNS = 3 };
static const double no_timeout_s = 1e9;         /* thirty years, and a number that one may add to */
static const double turn_s = 1, far_turn_s = 3; /* mpirun ends its own host's ranks first */

static struct {
    bool mpi_up;
    atomic_bool world_up; /* and its ranks are those that the launcher started */
    bool clean;           /* every rank is on its way to MPI_Finalize */
    int rank, world;
    double timeout_s;
    MPI_Comm control, tensor;
    struct host_facts facts;
} launch = {.control = MPI_COMM_NULL, .tensor = MPI_COMM_NULL};

bool launch_is_up(void) {
    return launch.world_up;
}

static const char communicators_phase[] = "the set-up of MPI communicators";

const char *launch_phase(void) {
    return launch.world_up ? communicators_phase : "MPI_Init";
}

int launch_rank(void) {
    return launch.rank;
}

bool launch_is_clean(void) {
    return launch.clean;
}

/* ---- before MPI_Init ---- */

static void set_default(const char *name, const char *value) {
    setenv(name, value, 0); /* the user's own choice stands */
}

/* Where the kernel or a container denies it, Open MPI's shared-memory transport crashes. */
static bool may_read_processes(void) {
    char from = 1, to = 0;
    struct iovec local = {&to, 1}, remote = {&from, 1};
    return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == 1;
}

static void prepare_environment(void) {
    struct launch_env env = launch_env_read();
    if (env.launcher == LAUNCHER_NONE && !env.has_pmix) {
        set_default("OMPI_MCA_ess_singleton_isolated", "1"); /* no daemon beside it */
        /* Its directory in /tmp has one name for all isolated singletons of a user: two that start
         * at once fail at each other's mkdir. It is for files that nobody will write. */
        set_default("OMPI_MCA_orte_create_session_dirs", "0");
        if (!getenv("OMPI_MCA_pml") && !getenv("OMPI_MCA_btl")) {
            set_default("OMPI_MCA_pml", "ob1"); /* nobody to talk to: no fabrics to look for */
            set_default("OMPI_MCA_btl", "self");
        }
    }
    int ranks = launch_env_local_size();
    bool bound = getenv("OMPI_MCA_orte_bound_at_launch") != NULL;
    if (ranks > host_cores_online() || (!bound && ranks > host_cores_usable())) {
        set_default("OMPI_MCA_mpi_yield_when_idle", "1");
    }
    if (!may_read_processes()) {
        set_default("OMPI_MCA_btl_vader_single_copy_mechanism", "none");
    }
}

/* More OpenMP threads than cores, and each waits by spinning: a token takes seconds. The runtime
 * reads its policy when it is loaded, so the program starts over with the one that sleeps. */
static void start_over_if_crowded(int asked) {
    int threads = host_threads_wanted(asked);
    struct buffer command = {0};
    char *argv[1024];
    size_t n = 0;
    if (threads < 2 || getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT") ||
        threads * launch_env_local_size() <= host_cores_usable()) {
        return;
    }
    setenv("OMP_WAIT_POLICY", "passive", 1);
    int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t got = 1;
    while (fd >= 0 && got > 0 && buffer_reserve(&command, 4096, NULL)) {
        got = read(fd, command.data + command.size, 4096);
        command.size += got > 0 ? (size_t)got : 0;
    }
    for (size_t i = 0; got == 0 && i < command.size && n < 1023; n++) {
        argv[n] = (char *)command.data + i;
        i += strlen(argv[n]) + 1;
    }
    argv[n] = NULL;
    if (n > 0 && n < 1023) {
        execv("/proc/self/exe",
              argv); /* returns only where it failed: then it is slow, not wrong */
    }
    buffer_finish(&command);
    close(fd);
}

/* ---- MPI ---- */

static bool mpi_try(int code, const char *what, struct error *err) {
    char text[MPI_MAX_ERROR_STRING] = "";
    int n = 0;
    if (code == MPI_SUCCESS) {
        return true;
    }
    MPI_Error_string(code, text, &n);
    return error_set(err, ERROR_COMM_INIT, "%s: %s", what, text);
}

/* While the ranks do not know each other they take turns, lest all say at once that they are stuck:
 * the first's end is the launcher's to tell. */
static void enter_turn(const char *phase) {
    int rank = launch_env_read().rank, local = launch_env_local_rank();
    bool far = local >= 0 && local != rank;
    watchdog_phase(phase,
                   launch.timeout_s + fmin(rank, MAX_TURNS) * turn_s + (far ? far_turn_s : 0));
}

static bool start_mpi(struct error *err) {
    int provided = 0;
    enter_turn("MPI_Init");
    int code = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    watchdog_clear();
    if (!mpi_try(code, "MPI_Init_thread", err)) {
        return false;
    }
    launch.mpi_up = true;
    MPI_Comm_rank(MPI_COMM_WORLD, &launch.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &launch.world);
    if (provided < MPI_THREAD_FUNNELED) {
        return error_set(err, ERROR_COMM_INIT, "this MPI does not support threads");
    }
    return launch_env_check_world(launch.world, err);
}

/* Where ranks run on several hosts: for their vigils to find each other. */
static bool share_addresses(struct error *err) {
    struct vigil_address own, *all;
    const int size = (int)sizeof own;
    if (launch.facts.local_size == launch.world) {
        return true;
    }
    all = calloc((size_t)launch.world, sizeof *all);
    if (!all) {
        return error_set(err, ERROR_MEMORY, "cannot hold %d addresses", launch.world);
    }
    vigil_link_open(&own);
    bool ok = mpi_try(MPI_Allgather(&own, size, MPI_BYTE, all, size, MPI_BYTE, launch.control),
                      "MPI_Allgather", err) &&
              vigil_link_meet(launch.rank, launch.world, all, err);
    free(all);
    return ok;
}

static bool make_communicators(struct error *err) {
    enter_turn(communicators_phase);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    bool ok = mpi_try(MPI_Comm_dup(MPI_COMM_WORLD, &launch.control), "MPI_Comm_dup", err) &&
              mpi_try(MPI_Comm_dup(MPI_COMM_WORLD, &launch.tensor), "MPI_Comm_dup", err) &&
              host_facts_read(launch.control, &launch.facts, err) && share_addresses(err);
    watchdog_clear();
    return ok;
}

/* From now on this process's own words name it so. */
static void set_place(const char *device) {
    char who[240];
    snprintf(who, sizeof who, "rank %d (%s, %s)", launch.rank, launch.facts.host, device);
    watchdog_set_who(who);
    status_set_place(launch.rank, launch.facts.host, device);
}

static bool start(const struct common_options *options, struct error *err) {
    char who[200];
    launch.timeout_s = options->timeout_s > 0 ? options->timeout_s : no_timeout_s;
    if (!launch_env_check(err)) {
        return false;
    }
    start_over_if_crowded(options->threads);
    prepare_environment();
    gethostname(launch.facts.host, sizeof launch.facts.host - 1);
    snprintf(who, sizeof who, "rank %d (%s)", launch_env_read().rank, launch.facts.host);
    watchdog_set_who(who);
    if (!interrupt_start(who, err) || !vigil_begin(err) || !watchdog_start(err) ||
        !start_mpi(err)) {
        return false;
    }
    launch.world_up = true;
    log_set_rank(launch.rank);
    status_set_place(launch.rank, launch.facts.host, "host");
    bool ok = make_communicators(err) &&
              vigil_start(launch.rank, launch.world, launch.timeout_s, err) &&
              (!options->dump_dir || flight_dump_to(options->dump_dir, launch.rank, err));
    return ok || error_at_rank(err, launch.rank);
}

/* ---- the run ---- */

/* A bad file and the user's own end are no failures of the ranks'. */
static void dump_flight(const struct error *err) {
    int code = error_exit_code(err->kind);
    if (code != error_exit_code(ERROR_USAGE) && code != error_exit_code(ERROR_INTERRUPTED)) {
        flight_dump(err->message);
    }
}

/* Where CUDA or NCCL do not let go of a broken communicator, the watchdog has to say the reason. */
static void expect_the_worst(const struct error *err) {
    char line[STATUS_LINE_SIZE];
    status_error_line(err, line);
    watchdog_last_words(line, error_exit_code(err->kind));
    watchdog_phase("the status file", STATUS_FILE_S);
    status_write_file(err);
    watchdog_clear();
}

static bool lead_pool(const struct pool_options *options, const char *trace, launch_lead *lead,
                      void *user, struct error *err) {
    struct pool *pool = NULL;
    struct error at_end;
    if (!pool_create(&pool, options, err)) {
        return false;
    }
    bool ok = (!trace || pool_trace(pool, trace, err)) && lead(pool, user, err);
    if (!ok) {
        dump_flight(err);
    }
    for (int r = 0; r < pool_world(pool); r++) {
        const struct message_hello_ok *h = pool_rank(pool, r);
        if (*h->host) { /* else it never said hello */
            status_set_place(r, h->host, h->device);
        }
    }
    launch.clean = pool_shutdown(pool, &at_end);
    struct error lost;
    if (!ok && pool_is_broken(pool) && !vigil_lost(&lost)) {
        expect_the_worst(err);
    }
    pool_destroy(pool);
    watchdog_last_words(NULL, 0);
    if (ok && !launch.clean) {
        *err = at_end;
        return false;
    }
    return ok;
}

/* A rank that rank 0 does not answer names who is at fault itself: as a rule rank 0. */
static bool blame(struct error *err) {
    error_at_rank(err, launch.rank);
    if (err->rank != launch.rank) {
        vigil_note_place(err->rank);
    }
    dump_flight(err);
    return false;
}

bool launch_run(const struct common_options *options, launch_lead *lead, void *user,
                struct error *err) {
    if (!start(options, err)) {
        return false;
    }
    int32_t *cuda_devices;
    int n_cuda_device;
    if (!common_cuda_devices(options, &cuda_devices, &n_cuda_device, err)) {
        return false;
    }
    struct pool_options pool = {
        .control = launch.control,
        .tensor = launch.tensor,
        .facts = launch.facts,
        .threads = host_facts_threads(&launch.facts, options->threads),
        .timeout_s = launch.timeout_s,
        .device = options->device,
        .isa = options->isa,
        .dtype = options->dtype,
        .no_graphs = options->no_cuda_graphs,
        .check_collectives = options->check_collectives,
        .cuda_devices = cuda_devices,
        .n_cuda_device = n_cuda_device,
        .on_device = set_place,
    };
    bool ok;
    if (launch.rank == 0) {
        ok = lead_pool(&pool, options->trace_rpc, lead, user, err);
    } else {
        ok = pool_serve(&pool, err) || blame(err);
        launch.clean = ok;
    }
    free(cuda_devices);
    return ok;
}

/* Stands before the library's own (MPI 3.1, section 14.2), for what calls it in this process by
 * name; an end that MPI itself decides on does not come by here. Under srun an abort kills all
 * ranks within 0.2 s, before one of them can say a word; an end that nobody explains is told by the
 * others, who end then. */
__attribute__((visibility("default"))) int MPI_Abort(MPI_Comm comm, int code) {
    if (launch_env_read().launcher == LAUNCHER_SRUN && launch.world_up && launch.world > 1) {
        _exit((code & 0xff) ? code : 1);
    }
    return PMPI_Abort(comm, code);
}

int launch_finish(int code) {
    if (launch.mpi_up) {
        if (launch.world_up && launch.world > 1 && !launch.clean) {
            watchdog_phase("MPI_Abort", launch.timeout_s);
            PMPI_Abort(MPI_COMM_WORLD, code);
        }
        /* Rank 0 may still wait for the bye of another rank, and says so itself if it waits in
         * vain. */
        watchdog_phase("MPI_Finalize", launch.timeout_s + (launch.rank == 0 ? 0 : FAREWELL_S));
        if (launch.control != MPI_COMM_NULL) {
            MPI_Comm_free(&launch.control);
        }
        if (launch.tensor != MPI_COMM_NULL) {
            MPI_Comm_free(&launch.tensor);
        }
        MPI_Finalize();
        watchdog_clear();
        flight_note_said(0); /* nobody is to miss this process */
        vigil_link_say(VIGIL_BYE, NULL);
    }
    bool leader = launch.world_up ? launch.rank == 0 : launch_env_is_leader();
    code = leader ? code : 0;
    if (worker_left_gpu()) { /* CUDA's exit handlers may wait for what never ends */
        fflush(NULL);
        _exit(code);
    }
    return code;
}
