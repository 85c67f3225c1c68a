/* lockstep: the table of commands, and the one place that ends the process. */
#include "config.h"

#include <limits.h>
#include <math.h>
#include <mpi.h>
#include <msgpack.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/build_id.h"
#include "base/clock.h"
#include "base/flight.h"
#include "cli/command.h"
#include "cli/interrupt.h"
#include "cli/launch.h"
#include "cli/launch_env.h"
#include "cli/status.h"
#include "cli/stdio_util.h"
#include "cli/vigil.h"
#include "comm/plugin.h"
#include "rpc/watchdog.h"

static const struct command *const commands[] = {
    &command_check, &command_generate, &command_score, &command_tokenize, &command_plan,
    &command_bench, &command_serve,    &command_blame, &command_replay,   NULL,
};

static void print_help(FILE *out) {
    fprintf(out, "usage: lockstep COMMAND [options]\n"
                 "       mpirun -np N lockstep COMMAND [options]\n"
                 "       srun -n N lockstep COMMAND [options]\n\n"
                 "Runs a large language model tensor-parallel: each of N ranks holds 1/N of it.\n\n"
                 "Commands:\n");
    for (int i = 0; commands[i]; i++) {
        fprintf(out, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
    }
    fprintf(out, "\nOptions:\n"
                 "  --help     show this help; lockstep COMMAND --help shows a command's\n"
                 "  --version  show the versions of lockstep and of what it uses\n\n"
                 "Exit codes: 0 done, 2 usage or bad file, 3 communicator, 4 deadline passed,\n"
                 "5 rank lost, 7 wrong result, 130 interrupted.\n");
}

static void print_version(void) {
    char mpi[MPI_MAX_LIBRARY_VERSION_STRING];
    int len = 0;
    MPI_Get_library_version(mpi, &len); /* may be called before MPI_Init */
    mpi[strcspn(mpi, ",\n")] = 0;
    char plugin[PATH_MAX];
    bool found = plugin_find(plugin, sizeof plugin);
    printf("lockstep %s\nmpi      %s\nmsgpack  %s\nbuild    %s\ncuda     %s\n", LOCKSTEP_VERSION,
           mpi, msgpack_version(), build_id(), found ? plugin : "no plug-in");
}

static const struct command *find_command(const char *name) {
    for (int i = 0; commands[i]; i++) {
        if (strcmp(commands[i]->name, name) == 0) {
            return commands[i];
        }
    }
    return NULL;
}

/* The command or option of the program itself that `typed` is a slip of; NULL when it is none. */
static const char *nearest(const char *typed) {
    static const char *const options[] = {"--help", "--version"};
    const char *near = NULL;
    int best = INT_MAX;
    for (int i = 0; commands[i]; i++) {
        if (options_near(typed, commands[i]->name, &best)) {
            near = commands[i]->name;
        }
    }
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
        if (options_near(typed, options[i], &best)) {
            near = options[i];
        }
    }
    return near;
}

static int unknown_command(const char *name) {
    const char *near = nearest(name);
    bool is_option = name[0] == '-';
    fprintf(stderr, "lockstep: unknown %s %s%s%s%s; try: lockstep --help\n",
            is_option ? "option" : "command", *name ? name : "''", near ? "; did you mean " : "",
            near ? near : "",
            near        ? "?"
            : is_option ? "; a command comes first, its options after it"
                        : "");
    return error_exit_code(ERROR_USAGE);
}

/* Results that could not be written are not results. */
static bool flush_results(struct error *err) {
    if (fflush(stdout) != 0 || ferror(stdout)) {
        return error_set(err, ERROR_IO, "cannot write to standard output");
    }
    return true;
}

/* Exit code of a command that only prints. */
static int end_of_output(void) {
    struct error err;
    if (flush_results(&err)) {
        return 0;
    }
    status_print_error(&err);
    return error_exit_code(err.kind);
}

/* For the vigil, which knows sooner or later that a rank is lost, while MPI only says that a
 * connection is. */
static const double vigil_first_s = 0.5;

/* What mpirun leaves its ranks between TERM and KILL, and some more. */
static const double killed_s = 2;

/* Where another thread tells of this end it, or the launcher, also ends this process. */
static void leave_it_to_others(bool ok, const struct error *err) {
    struct error lost;
    if (!ok && launch_is_up() && err->kind == ERROR_COMM) {
        clock_sleep(vigil_first_s);
    } else if (ok && isfinite(interrupt_killed_at())) { /* that is no good end, and told as such */
        clock_sleep(killed_s);
    }
    if (vigil_lost(&lost) || (!ok && !status_claim())) {
        flight_pulse((double)INFINITY);
        for (;;) {
            pause();
        }
    }
}

/* The command is at its end, and the vigil does not look at who has said so: standard error may be
 * a full pipe, and the status file on a file system that is gone. */
static void tell(const struct error *err, bool says, bool ends_all, bool writes) {
    char line[STATUS_LINE_SIZE];
    if (err) {
        status_error_line(err, line);
        watchdog_last_words(line, error_exit_code(err->kind));
    }
    watchdog_phase("the status file", STATUS_FILE_S);
    if (says) {
        vigil_note_said(err, ends_all);
        status_print_error(err);
    }
    if (writes) {
        status_write_file(err);
    }
    watchdog_clear();
}

static int run_command(const struct command *command, int argc, char **argv) {
    struct error err = {0};
    status_set_command(command->name);
    status_find_file(argc, argv);
    bool ok = command->run(command, argc, argv, &err) && flush_results(&err);
    /* Before the ranks are up, all of them stop for the same reason, and rank 0 says it. */
    bool speaks = launch_is_up() || launch_env_is_leader();
    leave_it_to_others(ok, &err);
    bool ends_all = !ok && launch_is_up() && !launch_is_clean();
    if (ends_all && !vigil_is_first()) {
        vigil_pass_on(&err);
    }
    if (!ok) {
        vigil_let_others_first();
    }
    bool says = !ok && speaks && !vigil_has_been_said();
    bool is_leader = launch_is_up() ? launch_rank() == 0 : launch_env_is_leader();
    tell(ok ? NULL : &err, says, ends_all, says || is_leader);
    return launch_finish(ok ? 0 : error_exit_code(err.kind));
}

int main(int argc, char **argv) {
    stdio_fill_closed();
    bool leader = launch_env_is_leader();
    if (argc < 2) {
        if (leader) {
            print_help(stderr);
        }
        return leader ? error_exit_code(ERROR_USAGE) : 0;
    }
    const char *word = argv[1];
    bool help_word = strcmp(word, "help") == 0;
    bool help_of_command = help_word && argc > 2;
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || (help_word && !help_of_command)) {
        if (leader) {
            print_help(stdout);
        }
        return end_of_output();
    }
    if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0) {
        if (leader) {
            print_version();
        }
        return end_of_output();
    }
    const char *name = help_of_command ? argv[2] : word;
    const struct command *command = find_command(name);
    if (!command) {
        return leader ? unknown_command(name) : 0;
    }
    if (help_of_command) {
        char *words[] = {argv[2], "--help", NULL};
        return run_command(command, 2, words);
    }
    return run_command(command, argc - 1, argv + 1);
}
