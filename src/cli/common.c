#include "config.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/command.h"
#include "cli/launch_env.h"
#include "cli/stdio_util.h"

#define DEMO_MODEL "kjv-qwen3-3m"

void common_options_table(struct common_options *c, struct option *table) {
    *c = (struct common_options){
        .device = "auto",
        .dtype = "auto",
        .kv_dtype = "auto",
        .timeout_s = 60,
        .log_level = "info",
        .progress = "auto",
    };
    const struct option options[COMMON_OPTION_COUNT] = {
        {.type = OPTION_SECTION, .name = "Options of every command"},
        {.type = OPTION_STRING,
         .name = "model",
         .short_name = 'm',
         .value = &c->model,
         .arg = "DIR",
         .help = "Hugging Face model directory (default: the demo model)"},
        {.type = OPTION_STRING,
         .name = "device",
         .value = &c->device,
         .arg = "NAME",
         .choices = "auto|host|cuda",
         .help = "auto, host or cuda (default: auto, which is cuda\n"
                 "where every rank can use a GPU)"},
        {.type = OPTION_STRING,
         .name = "cuda-devices",
         .value = &c->cuda_devices,
         .arg = "LIST",
         .help = "GPU of each rank of a host, as 0,1,2,3\n"
                 "(default: local rank modulo the number of GPUs)"},
        {.type = OPTION_STRING,
         .name = "dtype",
         .value = &c->dtype,
         .arg = "NAME",
         .choices = "auto|bf16|f32",
         .help = "arithmetic on GPUs: bf16 or f32 (default: bf16);\nthe host has f32 alone"},
        {.type = OPTION_STRING,
         .name = "quant",
         .value = &c->quant,
         .arg = "FORMAT",
         .choices = "q8_0|q4_0",
         .help = "quantize the weights as they are loaded: q8_0 or q4_0\n(on the host; default: as "
                 "they are stored)"},
        {.type = OPTION_FLAG,
         .name = "no-cuda-graphs",
         .value = &c->no_cuda_graphs,
         .help = "launch every kernel by itself"},
        {.type = OPTION_STRING,
         .name = "isa",
         .value = &c->isa,
         .arg = "NAME",
         .choices = "generic|avx2|avx512|avx512vnni",
         .help = "host kernels: generic, avx2, avx512 or avx512vnni\n(default: the best every rank "
                 "has)"},
        {.type = OPTION_INT,
         .name = "threads",
         .short_name = 't',
         .value = &c->threads,
         .arg = "N",
         .min = 1,
         .max = 1024,
         .help = "threads per rank (default: OMP_NUM_THREADS, or the\n"
                 "cores this rank may use / ranks on its host)"},
        {.type = OPTION_DOUBLE,
         .name = "timeout",
         .value = &c->timeout_s,
         .arg = "SECONDS",
         .min = 0,
         .max = 86400,
         .help = "deadline of every wait for another rank (default: 60;\n"
                 "0: none)"},
        {.type = OPTION_INT,
         .name = "ctx",
         .short_name = 'c',
         .value = &c->ctx,
         .arg = "N",
         .min = 1,
         .max = 1 << 26,
         .help = "context length in tokens\n(default: the smaller of the model's and 4096)"},
        {.type = OPTION_STRING,
         .name = "kv-dtype",
         .value = &c->kv_dtype,
         .arg = "NAME",
         .choices = "auto|f32|bf16",
         .help = "of the KV cache: f32 or bf16, which takes half the\n"
                 "memory (default: f32; on GPUs that of --dtype)"},
        {.type = OPTION_STRING,
         .name = "log-level",
         .value = &c->log_level,
         .arg = "LEVEL",
         .choices = "error|warn|info|debug",
         .help = "error, warn, info or debug (default: info)"},
        {.type = OPTION_STRING,
         .name = "progress",
         .value = &c->progress,
         .arg = "WHEN",
         .choices = "auto|always|never",
         .help = "auto, always or never (default: auto)"},
        {.type = OPTION_STRING,
         .name = "status-file",
         .value = &c->status_file,
         .arg = "FILE",
         .help = "write how the run ended to FILE, as JSON"},
        {.type = OPTION_STRING,
         .name = "trace-rpc",
         .value = &c->trace_rpc,
         .arg = "FILE",
         .help = "record every control message of rank 0 in FILE"},
        {.type = OPTION_STRING,
         .name = "dump-dir",
         .value = &c->dump_dir,
         .arg = "DIR",
         .help = "on a failure, write every rank's last collectives and\n"
                 "requests to DIR, for lockstep blame"},
        {.type = OPTION_FLAG,
         .name = "check-collectives",
         .value = &c->check_collectives,
         .help = "compare what the ranks call before every collective\n(slow; for finding bugs)"},
        {.type = OPTION_FLAG,
         .name = "help",
         .short_name = 'h',
         .value = &c->help,
         .help = "show this help"},
    };
    memcpy(table, options, sizeof options);
}

bool common_wants_progress(const struct common_options *c) {
    /* Under mpirun stderr is never a terminal; --progress always is for those who know better. */
    return strcmp(c->progress, "always") == 0 ||
           (strcmp(c->progress, "auto") == 0 && isatty(STDERR_FILENO));
}

void common_progress(const struct common_options *c, const char *fmt, ...) {
    if (!common_wants_progress(c)) {
        return;
    }
    char text[120];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    stdio_may_wait();
    fprintf(stderr, "\rlockstep: %s\033[K", text);
    stdio_waited();
}

void common_progress_end(const struct common_options *c) {
    if (common_wants_progress(c)) {
        stdio_may_wait();
        fprintf(stderr, "\r\033[K");
        stdio_waited();
    }
}

bool common_cuda_devices(const struct common_options *c, int32_t **out, int *n_out,
                         struct error *err) {
    *out = NULL;
    *n_out = 0;
    if (!c->cuda_devices) {
        return true;
    }
    if (!options_parse_ints(c->cuda_devices, "--cuda-devices", out, n_out, err)) {
        return false;
    }
    bool ok = *n_out > 0 || error_set(err, ERROR_USAGE, "--cuda-devices: the list is empty");
    for (int i = 0; ok && i < *n_out; i++) {
        ok = (*out)[i] >= 0 || error_set(err, ERROR_USAGE,
                                         "--cuda-devices %s: GPUs are counted from 0, there is no "
                                         "%d",
                                         c->cuda_devices, (int)(*out)[i]);
    }
    if (!ok) {
        free(*out);
        *out = NULL;
    }
    return ok;
}

/* What only a GPU can do must not be asked of the host, nor the other way round. */
static bool check_device_options(const struct common_options *c, struct error *err) {
    int32_t *list;
    int n;
    bool host = strcmp(c->device, "host") == 0;
    if (!common_cuda_devices(c, &list, &n, err)) {
        return false;
    }
    free(list);
    if (host && c->cuda_devices) {
        return error_set(err, ERROR_USAGE, "--cuda-devices does not go with --device host");
    }
    if (c->quant && strcmp(c->device, "cuda") == 0) {
        return error_set(err, ERROR_USAGE,
                         "--quant %s does not go with --device cuda: quantized weights are for the "
                         "host alone",
                         c->quant);
    }
    return !host || strcmp(c->dtype, "bf16") != 0 ||
           error_set(err, ERROR_USAGE, "--dtype bf16: the host computes in f32 alone");
}

/* Such as the value of a shell's variable that is not set. */
static bool check_names(const struct common_options *c, struct error *err) {
    const struct {
        const char *option, *value, *what;
    } names[] = {
        {"model", c->model, "directory"},
        {"status-file", c->status_file, "file"},
        {"trace-rpc", c->trace_rpc, "file"},
        {"dump-dir", c->dump_dir, "directory"},
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (names[i].value && !*names[i].value) {
            return error_set(err, ERROR_USAGE, "--%s: no %s is named", names[i].option,
                             names[i].what);
        }
    }
    return true;
}

/* Checks what was parsed and applies the log level. Errors: USAGE. */
static bool apply(const struct common_options *c, struct error *err) {
    enum log_level level;
    if (!log_level_from_name(c->log_level, &level)) {
        return error_set(err, ERROR_USAGE, "--log-level %s: must be error, warn, info or debug",
                         c->log_level);
    }
    log_set_level(level);
    if (c->timeout_s > 0 && c->timeout_s < 0.1) {
        return error_set(err, ERROR_USAGE, "--timeout %g: must be between 0.1 and 86400, or 0",
                         c->timeout_s);
    }
    return check_names(c, err) && check_device_options(c, err);
}

static bool is_model_dir(const char *dir) {
    char path[4200];
    snprintf(path, sizeof path, "%s/config.json", dir);
    return access(path, R_OK) == 0;
}

/* PREFIX/share/lockstep/models/kjv-qwen3-3m for a program that runs as PREFIX/bin/lockstep,
 * wherever it was moved to after the installation. */
static bool beside_program(char *out, size_t size) {
    char exe[2000];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n <= 0) {
        return false;
    }
    exe[n] = 0;
    for (int up = 0; up < 2; up++) {
        char *slash = strrchr(exe, '/');
        if (!slash) {
            return false;
        }
        *slash = 0;
    }
    snprintf(out, size, "%s/share/lockstep/models/" DEMO_MODEL, exe);
    return true;
}

const char *common_demo_model(void) {
    static char found[2100];
    const char *given = getenv("LOCKSTEP_DEMO_MODEL");
    if (given && *given) {
        return given;
    }
    if (is_model_dir(LOCKSTEP_SOURCE_DIR "/models/" DEMO_MODEL)) {
        return LOCKSTEP_SOURCE_DIR "/models/" DEMO_MODEL;
    }
    if (beside_program(found, sizeof found) && is_model_dir(found)) {
        return found;
    }
    return LOCKSTEP_DATADIR "/models/" DEMO_MODEL;
}

const char *common_model(const struct common_options *c) {
    return c->model ? c->model : common_demo_model();
}

enum dtype common_quant(const struct common_options *c) {
    enum dtype quant = DTYPE_F32;
    if (c->quant) {
        dtype_from_quantized_word(c->quant, &quant);
    }
    return quant;
}

static void print_help(const struct command *self, const struct option *table, int n) {
    if (!launch_env_is_leader()) {
        return;
    }
    printf("usage: lockstep %s %s\n\n%s\n", self->name, self->synopsis, self->summary);
    options_print_help(table, n);
}

bool command_parse(const struct command *self, struct common_options *common,
                   const struct option *table, int n, int argc, char **argv, const char **args,
                   int max_arg, int *n_arg, struct error *err) {
    common->help = options_has_flag(table, n, argc, argv, &common->help);
    if (common->help) { /* answered whatever else is asked for, and however wrongly */
        print_help(self, table, n);
        return true;
    }
    return options_parse(table, n, argc, argv, args, max_arg, n_arg, err) && apply(common, err);
}
