/* The commands, one file each. A command parses its own options, then runs; it never calls exit.
 *
 * main.c calls command->run(argc, argv) with argv[0] the command's name, before MPI_Init: parsing
 * comes first, so that usage errors need no launch. A command that needs ranks calls launch_start()
 * after parsing. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/error.h"
#include "cli/options.h"

struct command {
    const char *name;
    const char *summary;  /* one line, for `lockstep --help` */
    const char *synopsis; /* after "lockstep NAME " */
    /* Returns true when done; else err says why, and main prints it and picks the exit code.
     * A command that found "wrong result" style failures reports them through err as well. */
    bool (*run)(const struct command *self, int argc, char **argv, struct error *err);
};

extern const struct command command_check;
extern const struct command command_generate;
extern const struct command command_score;
extern const struct command command_tokenize;
extern const struct command command_plan;
extern const struct command command_serve;
extern const struct command command_blame;
extern const struct command command_replay;
extern const struct command command_bench;

/* ---- options common to all commands (cli/common.c) ---- */

struct common_options {
    const char *model; /* default: the demo model's directory */
    const char *device;
    const char *cuda_devices; /* "0,1": the GPU of each rank of a host; NULL: by their number */
    const char *dtype;
    const char *quant; /* "q8_0" or "q4_0"; NULL: none */
    bool no_cuda_graphs;
    const char *isa;
    int threads;
    double timeout_s;
    int ctx; /* 0: the smaller of the model's and 4096 */
    const char *kv_dtype;
    const char *log_level;
    const char *progress;
    const char *status_file;
    const char *trace_rpc;
    const char *dump_dir;
    bool check_collectives;
    bool help;
};

enum { COMMON_OPTION_COUNT = 19 };

/* Fills table[COMMON_OPTION_COUNT] and sets the defaults. */
void common_options_table(struct common_options *c, struct option *table);

/* The list of --cuda-devices, to be freed by the caller; NULL where there is none.
 * Errors: USAGE, MEMORY. */
bool common_cuda_devices(const struct common_options *c, int32_t **out, int *n_out,
                         struct error *err);

/* Where the demo model lives: LOCKSTEP_DEMO_MODEL, beside the source tree of a build, or installed.
 */
const char *common_demo_model(void);

/* The directory given with --model, or the demo model's. */
const char *common_model(const struct common_options *c);

/* What --quant says; F32: nothing. */
enum dtype common_quant(const struct common_options *c);

/* True where progress is to be shown on standard error: on a terminal, or where --progress says so.
 */
bool common_wants_progress(const struct common_options *c);

/* A line that is rewritten where progress is wanted, nothing elsewhere. A terminal that takes
 * nothing is not taken for a hang of ours. */
void common_progress(const struct common_options *c, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* Wipes it. */
void common_progress_end(const struct common_options *c);

/* Parses the command line into table, which common is part of; args, max_arg and n_arg as for
 * options_parse. --help, which it answers whatever else is there, leaves common->help set and
 * nothing to do; else the common options are checked, and the log level applied. Errors: USAGE. */
bool command_parse(const struct command *self, struct common_options *common,
                   const struct option *table, int n, int argc, char **argv, const char **args,
                   int max_arg, int *n_arg, struct error *err);
