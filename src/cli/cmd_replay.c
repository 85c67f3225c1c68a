/* lockstep replay: does the requests of a --trace-rpc file again, and compares the replies. */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "cli/command.h"
#include "cli/launch.h"
#include "cli/stdio_util.h"
#include "format/show.h"
#include "leader/replay.h"
#include "rpc/exchange.h"
#include "rpc/message_compare.h"
#include "text/utf8.h"

enum { OWN_OPTIONS = 4, MAX_SHOWN = 20 };

/* What is never as it was: who and where the ranks are, times, and memory. The manual has the list.
 */
static const char *const volatile_fields[] = {
    "hello_ok.version",
    "hello_ok.mpi",
    "hello_ok.msgpack",
    "hello_ok.host",
    "hello_ok.pid",
    "hello_ok.local_rank",
    "hello_ok.local_size",
    "hello_ok.cores",
    "hello_ok.cores_host",
    "hello_ok.sharers",
    "hello_ok.binding",
    "hello_ok.numa",
    "hello_ok.numa_nodes",
    "hello_ok.numa_host",
    "hello_ok.threads",
    "hello_ok.memory",
    "hello_ok.isas",
    "hello_ok.device",
    "hello_ok.device_why",
    "hello_ok.n_gpu",
    "hello_ok.gpu",
    "hello_ok.gpu_pci",
    "hello_ok.gpu_cc",
    "hello_ok.gpu_memory",
    "hello_ok.nccl",
    "hello_ok.nccl_code",
    "hello_ok.gpu_shared",
    "hello_ok.leftovers",
    "hello_ok.leftover_bytes",
    "hello_ok.leftover_pattern",
    "hello_ok.leftover_runs",
    "hello_ok.leftover_named",
    "loaded.seconds",
    "loaded.free_own",
    "loaded.free_group",
    "loaded.group",
    "loaded.free_host",
    "unloaded.resident_before",
    "unloaded.resident",
    "stats.step_s",
    "stats.wait_s",
    "stats.transfer_s",
    "stats.rss",
    "error.message",
};

struct replay_options {
    struct common_options common;
    const char *file;
    int rank; /* -1: all */
    struct option_strings ignore;
    bool json;
};

struct difference {
    uint64_t number;
    enum message_type request;
    int rank;
    struct message_difference d;
};

/* Of one type of request. */
struct tally {
    uint64_t n_request, n_skipped;
    uint64_t n_reply, n_compared, n_different;
    double recorded_s, now_s;
};

struct replay {
    const struct replay_options *options;
    struct exchange_reader *reader;
    struct exchange exchange;
    struct tally tallies[MESSAGE_COUNT];
    struct difference shown[MAX_SHOWN];
    uint64_t n_different;
    int world;
    struct shown build;
    double last_progress;
};

/* ---- comparing ---- */

static bool is_listed(const char *const *list, size_t n, const char *name) {
    for (size_t i = 0; i < n; i++) {
        if (strcmp(list[i], name) == 0) {
            return true;
        }
    }
    return false;
}

static bool counts(void *user, enum message_type type, const char *field) {
    const struct replay_options *o = user;
    char name[80];
    snprintf(name, sizeof name, "%s.%s", message_name(type), field);
    return !is_listed(volatile_fields, sizeof volatile_fields / sizeof volatile_fields[0], name) &&
           !is_listed(o->ignore.item, (size_t)o->ignore.n, name);
}

static void on_reply(void *user, int rank, const struct message *reply) {
    struct replay *r = user;
    const struct exchange *x = &r->exchange;
    struct tally *t = &r->tallies[x->request.type];
    struct difference found = {.number = x->number, .request = x->request.type, .rank = rank};
    bool wanted = r->options->rank < 0 || r->options->rank == rank;
    t->n_reply++;
    if (!x->has_reply[rank] || !wanted) {
        return;
    }
    t->n_compared++;
    if (message_compare(&x->replies[rank], reply, counts, (void *)r->options, &found.d)) {
        return;
    }
    t->n_different++;
    if (r->n_different < MAX_SHOWN) {
        r->shown[r->n_different] = found;
    }
    r->n_different++;
}

/* ---- replaying ---- */

static void show_progress(struct replay *r) {
    static const double every_s = 0.1;
    double now = clock_now();
    if (now - r->last_progress > every_s) {
        r->last_progress = now;
        common_progress(&r->options->common, "replaying request %" PRIu64 ", %3d %%",
                        r->exchange.number,
                        (int)(100 * trace_reader_share(exchange_reader_trace(r->reader))));
    }
}

static bool prepare(struct replay *r, struct message *m, struct error *err) {
    const char *dir = r->options->common.model;
    if (m->type != MESSAGE_LOAD || !dir) {
        return true;
    }
    if (strlen(dir) >= sizeof m->load.dir) {
        return error_set(err, ERROR_USAGE, "the model's path is longer than %zu bytes",
                         sizeof m->load.dir - 1);
    }
    snprintf(m->load.dir, sizeof m->load.dir, "%s", dir);
    return true;
}

static bool replay_one(struct replay *r, struct pool *pool, struct error *err) {
    struct exchange *x = &r->exchange;
    struct tally *t = &r->tallies[x->request.type];
    t->n_request++;
    if (!replay_knows(x->request.type)) {
        t->n_skipped++;
        return true;
    }
    double start = clock_now();
    bool ok = prepare(r, &x->request, err) &&
              replay_request(pool, &x->request, x->rank, on_reply, r, err);
    t->recorded_s += x->seconds;
    t->now_s += clock_now() - start;
    return ok || error_wrap(err, "request #%" PRIu64, x->number);
}

static bool replay_all(struct replay *r, struct pool *pool, struct error *err) {
    for (;;) {
        bool got;
        if (launch_interrupted()) {
            return error_set(err, ERROR_INTERRUPTED, "interrupted");
        }
        if (!exchange_reader_next(r->reader, &r->exchange, &got, err)) {
            return false;
        }
        if (!got) {
            return true;
        }
        if (!replay_one(r, pool, err)) {
            return false;
        }
        show_progress(r);
    }
}

/* ---- output ---- */

static void difference_text(const struct difference *d, char *out, size_t size) {
    const char *reply = message_name(d->request + 1);
    bool type = strcmp(d->d.field, "type") == 0;
    snprintf(out, size, "request #%" PRIu64 " %s: rank %d: %s%s%s: recorded %.150s, now %.150s",
             d->number, message_name(d->request), d->rank, type ? "the reply" : reply,
             type ? "" : ".", type ? "" : d->d.field, d->d.recorded, d->d.now);
}

static void print_text(const struct replay *r) {
    printf("%-10s %8s %8s %8s %9s %11s %11s\n", "request", "number", "replies", "compared",
           "different", "recorded ms", "now ms");
    for (int i = 0; i < MESSAGE_COUNT; i++) {
        const struct tally *t = &r->tallies[i];
        if (t->n_request > 0 && t->n_skipped == t->n_request) {
            printf("%-10s %8" PRIu64 "  is not replayed\n", message_name((enum message_type)i),
                   t->n_request);
        } else if (t->n_request > 0) {
            printf("%-10s %8" PRIu64 " %8" PRIu64 " %8" PRIu64 " %9" PRIu64 " %11.2f %11.2f\n",
                   message_name((enum message_type)i), t->n_request, t->n_reply, t->n_compared,
                   t->n_different, 1e3 * t->recorded_s, 1e3 * t->now_s);
        }
    }
    for (uint64_t i = 0; i < r->n_different && i < MAX_SHOWN; i++) {
        char text[600];
        difference_text(&r->shown[i], text, sizeof text);
        printf("%s%s\n", i == 0 ? "\n" : "", text);
    }
    if (r->n_different > MAX_SHOWN) {
        printf("and %" PRIu64 " more\n", r->n_different - MAX_SHOWN);
    }
}

static json_t *tally_json(const struct tally *t) {
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:f, s:f}", "requests", (json_int_t)t->n_request,
                     "skipped", (json_int_t)t->n_skipped, "replies", (json_int_t)t->n_reply,
                     "compared", (json_int_t)t->n_compared, "different", (json_int_t)t->n_different,
                     "recorded_s", t->recorded_s, "now_s", t->now_s);
}

static bool is_cut(const struct replay *r) {
    return trace_reader_is_cut(exchange_reader_trace(r->reader));
}

/* What a trace has, as far as it is UTF-8. */
static json_t *words(const char *text) {
    return json_stringn(text, utf8_valid_prefix(text, strlen(text)));
}

static json_t *difference_json(const struct difference *d) {
    return json_pack("{s:I, s:s, s:i, s:s, s:s, s:o, s:o}", "number", (json_int_t)d->number,
                     "request", message_name(d->request), "rank", d->rank, "reply",
                     message_name(d->request + 1), "field", d->d.field, "recorded",
                     words(d->d.recorded), "now", words(d->d.now));
}

static bool print_json(const struct replay *r, bool whole, struct error *err) {
    json_t *requests = json_object(), *list = json_array();
    for (int i = 0; i < MESSAGE_COUNT; i++) {
        if (r->tallies[i].n_request > 0) {
            json_object_set_new(requests, message_name((enum message_type)i),
                                tally_json(&r->tallies[i]));
        }
    }
    for (uint64_t i = 0; i < r->n_different && i < MAX_SHOWN; i++) {
        json_array_append_new(list, difference_json(&r->shown[i]));
    }
    return stdio_print_json(json_pack("{s:b, s:b, s:b, s:i, s:o, s:o, s:I, s:o}", "ok",
                                      whole && r->n_different == 0, "whole", whole, "cut",
                                      is_cut(r), "world", r->world, "build", words(r->build.text),
                                      "requests", requests, "different", (json_int_t)r->n_different,
                                      "differences", list),
                            JSON_INDENT(2), err);
}

static bool verdict(const struct replay *r, struct error *err) {
    const struct difference *d = &r->shown[0];
    char text[400];
    if (r->n_different == 0) {
        return true;
    }
    difference_text(d, text, sizeof text);
    return error_set(err, ERROR_WRONG_RESULT, "%" PRIu64 " repl%s not as recorded; the first: %s",
                     r->n_different, r->n_different == 1 ? "y is" : "ies are", text);
}

/* ---- the run ---- */

static bool check_world(const struct replay *r, int now, struct error *err) {
    if (r->options->rank >= r->world) {
        return error_set(err, ERROR_USAGE, "--rank %d: the trace has ranks 0 to %d",
                         r->options->rank, r->world - 1);
    }
    return r->world == now ||
           error_set(err, ERROR_INPUT,
                     "%s: recorded with %d rank%s, this run has %d: mpirun -np %d lockstep replay",
                     show_path(r->options->file).text, r->world, r->world == 1 ? "" : "s", now,
                     r->world);
}

static bool report(struct replay *r, bool whole, struct error *err) {
    common_progress_end(&r->options->common);
    stdio_may_wait();
    if (is_cut(r)) {
        log_warn("%s: its last entry is cut off", show_path(r->options->file).text);
    }
    if (r->options->json) {
        return print_json(r, whole, err);
    }
    print_text(r);
    return true;
}

static bool lead(struct pool *pool, void *user, struct error *err) {
    struct replay *r = user;
    struct error ignored;
    if (!exchange_reader_open(&r->reader, r->options->file, err)) {
        return false;
    }
    const struct trace_reader *trace = exchange_reader_trace(r->reader);
    r->world = trace_reader_world(trace);
    r->build = show_text(trace_reader_build(trace));
    /* The first hello is this run's own: it says who the ranks are. */
    bool begun = check_world(r, pool_world(pool), err) && pool_hello(pool, false, err);
    bool ok = begun && replay_all(r, pool, err);
    if (begun) {
        ok = report(r, ok, ok ? err : &ignored) && ok && verdict(r, err);
    }
    exchange_reader_close(r->reader);
    return ok;
}

static bool check_ignored(const struct option_strings *ignore, struct error *err) {
    for (size_t i = 0; i < sizeof volatile_fields / sizeof volatile_fields[0]; i++) {
        assert(message_has_field(volatile_fields[i]));
    }
    for (int i = 0; i < ignore->n; i++) {
        if (!message_has_field(ignore->item[i])) {
            return error_set(err, ERROR_USAGE,
                             "--ignore %s: no reply has such a field; one is "
                             "called hello_ok.build",
                             show_text(ignore->item[i]).text);
        }
    }
    return true;
}

static bool run(const struct command *self, int argc, char **argv, struct error *err) {
    struct replay_options o = {.rank = -1};
    int n_arg;
    const char *file[1] = {NULL};
    struct option table[OWN_OPTIONS + COMMON_OPTION_COUNT] = {
        {.type = OPTION_SECTION, .name = "Options of replay"},
        {.type = OPTION_INT,
         .name = "rank",
         .value = &o.rank,
         .arg = "R",
         .min = 0,
         .max = TRACE_WORLD_MAX,
         .help = "compare the replies of rank R alone (default: all)"},
        {.type = OPTION_STRINGS,
         .name = "ignore",
         .value = &o.ignore,
         .arg = "FIELD",
         .help = "do not compare FIELD, as hello_ok.build; may be repeated\n"
                 "(never compared: hosts, processes, times, memory; see the manual)"},
        {.type = OPTION_FLAG, .name = "json", .value = &o.json, .help = "print one JSON object"},
    };
    const int n = OWN_OPTIONS + COMMON_OPTION_COUNT;
    common_options_table(&o.common, table + OWN_OPTIONS);
    if (!command_parse(self, &o.common, table, n, argc, argv, file, 1, &n_arg, err)) {
        return false;
    }
    if (o.common.help) {
        return true;
    }
    if (n_arg == 0) {
        return error_set(err, ERROR_USAGE, "which file? The one that --trace-rpc named");
    }
    o.file = file[0];
    struct replay *r = calloc(1, sizeof *r);
    if (!r) {
        return error_set(err, ERROR_MEMORY, "cannot replay a trace");
    }
    r->options = &o;
    bool ok = check_ignored(&o.ignore, err) && launch_run(&o.common, lead, r, err);
    free(r);
    return ok;
}

const struct command command_replay = {
    .name = "replay",
    .summary = "Do the requests of a --trace-rpc file again, and compare the replies.",
    .synopsis = "FILE [--rank R] [--ignore FIELD] [--json]",
    .run = run,
};
