/* lockstep blame: what the flight records of a --dump-dir say. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cli/command.h"
#include "cli/dump_read.h"
#include "cli/launch_env.h"
#include "cli/stdio_util.h"
#include "rpc/blame.h"

enum { OWN_OPTIONS = 2 };

/* A rank is called slow that comes as much later than any other, as a rule, and so late at all. */
static const double slow_factor = 3, slow_ms = 1;

struct verdict {
    bool found; /* a rank at fault, in err */
    struct error err;
    char text[700]; /* one sentence */
    double *lag_ms; /* owns [world]: median; below 0: not known */
    int slow;       /* rank; -1: none */
    int n_compared; /* collectives behind the medians; of the host that has most */
};

/* ---- who was late before it happened ---- */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static bool same_host(const struct dump *a, const struct dump *b) {
    return a->known && b->known && strcmp(a->owner.host, b->owner.host) == 0;
}

/* When a collective was entered, on the host's monotonic clock; 0: not in its record. */
static double entered(const struct dump *d, uint64_t number) {
    for (int i = 0; i < d->n_entry; i++) {
        const struct flight_entry *e = &d->entries[i];
        if (e->kind == FLIGHT_COLLECTIVE && e->number == number) {
            return (double)e->enter_ns;
        }
    }
    return 0;
}

/* When the first of this rank's host entered it; 0: not all of them that have a record had. */
static double first_entered(const struct dump_set *s, const struct dump *of, uint64_t number) {
    double first = 0;
    for (int r = 0; r < s->world; r++) {
        if (same_host(&s->dumps[r], of)) {
            double t = entered(&s->dumps[r], number);
            if (t <= 0) {
                return 0;
            }
            first = first > 0 && first < t ? first : t;
        }
    }
    return first;
}

/* The collectives that every rank of this one's host has entered. Returns their number. */
static int common_collectives(const struct dump_set *s, const struct dump *d,
                              uint64_t numbers[FLIGHT_ENTRIES], double firsts[FLIGHT_ENTRIES]) {
    int n = 0;
    for (int i = 0; i < d->n_entry; i++) {
        const struct flight_entry *e = &d->entries[i];
        double first = e->kind == FLIGHT_COLLECTIVE ? first_entered(s, d, e->number) : 0;
        if (first > 0) {
            numbers[n] = e->number;
            firsts[n++] = first;
        }
    }
    return n;
}

static double median_lag(const struct dump *d, int n, const uint64_t numbers[FLIGHT_ENTRIES],
                         const double firsts[FLIGHT_ENTRIES]) {
    double lags[FLIGHT_ENTRIES];
    for (int i = 0; i < n; i++) {
        lags[i] = 1e-6 * (entered(d, numbers[i]) - firsts[i]);
    }
    qsort(lags, (size_t)n, sizeof *lags, by_value);
    return lags[n / 2];
}

/* The lags of a host's ranks, of which `first` is the first: no two hosts' clocks agree to the
 * millisecond that counts here. One alone on its host has none. Returns how many collectives were
 * compared. */
static int find_lags(const struct dump_set *s, int first, double *lag_ms) {
    uint64_t numbers[FLIGHT_ENTRIES];
    double firsts[FLIGHT_ENTRIES];
    const struct dump *d = &s->dumps[first];
    int n_rank = 0;
    for (int r = first; r < s->world; r++) {
        n_rank += same_host(&s->dumps[r], d);
    }
    int n = n_rank > 1 ? common_collectives(s, d, numbers, firsts) : 0;
    for (int r = first; n > 0 && r < s->world; r++) {
        if (same_host(&s->dumps[r], d)) {
            lag_ms[r] = median_lag(&s->dumps[r], n, numbers, firsts);
        }
    }
    return n;
}

static bool is_first_of_host(const struct dump_set *s, int rank) {
    int r = 0;
    while (r < rank && !same_host(&s->dumps[r], &s->dumps[rank])) {
        r++;
    }
    return r == rank && s->dumps[rank].known;
}

static void find_slow(const struct dump_set *s, struct verdict *v) {
    double worst = 0, second = 0;
    v->slow = -1;
    for (int r = 0; r < s->world; r++) {
        v->lag_ms[r] = -1;
    }
    for (int r = 0; r < s->world; r++) {
        int n = is_first_of_host(s, r) ? find_lags(s, r, v->lag_ms) : 0;
        v->n_compared = n > v->n_compared ? n : v->n_compared;
    }
    for (int r = 0; r < s->world; r++) {
        double lag = v->lag_ms[r];
        if (lag > worst) {
            second = worst;
            worst = lag;
            v->slow = r;
        } else if (lag > second) {
            second = lag;
        }
    }
    if (worst < slow_ms || worst < slow_factor * second) {
        v->slow = -1;
    }
}

/* ---- the verdict ---- */

static void last_collective(const struct dump *d, struct blame_rank *out) {
    for (int i = 0; i < d->n_entry; i++) {
        if (d->entries[i].kind == FLIGHT_COLLECTIVE &&
            d->entries[i].number > out->collective.number) {
            out->collective = d->entries[i];
        }
    }
}

static double seconds_before(const struct dump *d, const struct flight_entry *e) {
    return e->number > 0 && d->monotonic_ns > e->enter_ns
               ? 1e-9 * (double)(d->monotonic_ns - e->enter_ns)
               : 0;
}

static void to_blame(const struct dump *d, struct blame_rank *out) {
    *out = (struct blame_rank){.known = d->known, .state = d->state, .rpc = d->rpc};
    out->entries = d->known ? d->entries : NULL;
    out->n_entry = d->n_entry;
    last_collective(d, out);
    out->collective_s = seconds_before(d, &out->collective);
    out->rpc_s = seconds_before(d, &out->rpc);
    out->still_s = blame_still_seconds(d->pulse_ns, 1e-9 * (double)d->monotonic_ns);
}

static bool waits_for_gpu(const struct blame_rank *r) {
    const struct flight_entry *last = r->n_entry > 0 ? &r->entries[r->n_entry - 1] : NULL;
    return r->known && last && last->kind == FLIGHT_WAIT && last->leave_ns == 0;
}

/* The one that is in a request, for no reason of others', while no other is. */
static int find_suspect(const struct blame_rank *ranks, int world) {
    int suspect = -1, n = 0;
    for (int r = 0; r < world; r++) {
        const struct blame_rank *k = &ranks[r];
        if (k->known && k->rpc.number > 0 && k->rpc.leave_ns == 0 && !waits_for_gpu(k)) {
            n++;
            suspect = r > 0 || suspect < 0 ? r : suspect;
        }
    }
    return n == 1 || (n == 2 && suspect > 0) ? suspect : -1; /* rank 0 waits for it */
}

static void say_nobody(const struct blame_rank *ranks, int world, struct verdict *v) {
    int n_wait = 0, n_known = 0;
    for (int r = 0; r < world; r++) {
        n_known += ranks[r].known;
        n_wait += waits_for_gpu(&ranks[r]);
    }
    snprintf(v->text, sizeof v->text, "No rank stands out: none is behind%s.",
             n_wait == n_known ? ", and each waits for its GPU"
                               : ", and none called something else");
}

static void say(const struct dump_set *s, const struct blame_rank *ranks, struct verdict *v) {
    char who[120] = "";
    if (!v->found) {
        say_nobody(ranks, s->world, v);
        return;
    }
    const struct dump *d = &s->dumps[v->err.rank];
    if (d->known && *d->owner.host) {
        snprintf(who, sizeof who, " (%s, %s)", d->owner.host, d->owner.device);
    }
    snprintf(v->text, sizeof v->text, "rank %d%s: %s: %s", v->err.rank, who,
             error_kind_name(v->err.kind), v->err.message);
}

static bool judge(const struct dump_set *s, struct blame_rank *ranks, struct verdict *v,
                  struct error *err) {
    *v = (struct verdict){.lag_ms = calloc((size_t)s->world, sizeof(double))};
    if (!v->lag_ms) {
        return error_set(err, ERROR_MEMORY, "cannot compare %d ranks", s->world);
    }
    for (int r = 0; r < s->world; r++) {
        to_blame(&s->dumps[r], &ranks[r]);
    }
    v->found = blame_find(ranks, s->world, find_suspect(ranks, s->world), &v->err);
    find_slow(s, v);
    say(s, ranks, v);
    return true;
}

/* ---- output ---- */

static void print_rank(const struct dump *d, const struct blame_rank *b, int rank, double lag_ms) {
    char entry[BLAME_ENTRY_SIZE], lag[24] = "-", state[4] = "-";
    if (!d->known) {
        printf("%4d  no record\n", rank);
        return;
    }
    if (lag_ms >= 0) {
        snprintf(lag, sizeof lag, "%.3f", lag_ms);
    }
    if (d->state) {
        snprintf(state, sizeof state, "%c", d->state);
    }
    printf("%4d  %-16s %-8s %-8s %-5s %9.1f %9s  %s%s\n", rank, d->owner.host, d->owner.device,
           d->phase, state, b->collective_s, lag, blame_entry_text(&b->collective, entry),
           b->collective.number == 0 || b->collective.leave_ns ? "" : ", inside");
}

static bool show_text(const struct dump_set *s, const struct blame_rank *ranks,
                      const struct verdict *v, struct error *err) {
    for (int i = 0; i < s->n_ignored; i++) {
        log_warn("%s is left out: %s", s->ignored[i].name, s->ignored[i].why);
    }
    printf("rank  %-16s %-8s %-8s %-5s %9s %9s  %s\n", "host", "device", "phase", "state", "s ago",
           "lag ms", "last collective");
    for (int r = 0; r < s->world; r++) {
        print_rank(&s->dumps[r], &ranks[r], r, v->lag_ms[r]);
    }
    printf("\n%s\n", v->text);
    if (v->slow >= 0) {
        printf("Before that, rank %d was late: as a rule %.3f ms after the first of its host "
               "(median of %d collectives).\n",
               v->slow, v->lag_ms[v->slow], v->n_compared);
    }
    return stdio_flush(err);
}

static json_t *entry_json(const struct flight_entry *e, double seconds_ago) {
    return e->number == 0 ? json_null()
                          : json_pack("{s:I, s:s, s:i, s:s, s:I, s:s, s:b, s:f}", "number",
                                      (json_int_t)e->number, "op", e->op, "layer", e->layer, "part",
                                      flight_part_name(e->part), "bytes", (json_int_t)e->bytes,
                                      "dtype", flight_type_name(e->type), "inside",
                                      e->leave_ns == 0, "seconds_ago", seconds_ago);
}

static json_t *rank_json(const struct dump *d, const struct blame_rank *b, int rank,
                         double lag_ms) {
    char state[2] = {d->state, 0};
    if (!d->known) {
        return json_pack("{s:i, s:b}", "rank", rank, "record", false);
    }
    return json_pack(
        "{s:i, s:b, s:s, s:s, s:i, s:s, s:s, s:f, s:s, s:i, s:o, s:o, s:o}", "rank", rank, "record",
        true, "host", d->owner.host, "device", d->owner.device, "pid", (int)d->owner.pid, "phase",
        d->phase, "state", state, "still_seconds", b->still_s, "reason", d->reason, "written_by",
        d->written_by, "collective", entry_json(&b->collective, b->collective_s), "rpc",
        entry_json(&b->rpc, b->rpc_s), "lag_ms", lag_ms < 0 ? json_null() : json_real(lag_ms));
}

static bool show_json(const struct dump_set *s, const struct blame_rank *ranks,
                      const struct verdict *v, struct error *err) {
    json_t *list = json_array(), *ignored = json_array();
    for (int r = 0; r < s->world; r++) {
        json_array_append_new(list, rank_json(&s->dumps[r], &ranks[r], r, v->lag_ms[r]));
    }
    for (int i = 0; i < s->n_ignored; i++) {
        json_array_append_new(
            ignored, json_pack("{s:s, s:s}", "file", s->ignored[i].name, "why", s->ignored[i].why));
    }
    json_t *root =
        json_pack("{s:i, s:o, s:o, s:o, s:o, s:s, s:o, s:i}", "world", s->world, "ranks", list,
                  "ignored", ignored, "culprit", v->found ? json_integer(v->err.rank) : json_null(),
                  "kind", v->found ? json_string(error_kind_name(v->err.kind)) : json_null(),
                  "message", v->found ? v->err.message : v->text, "slow",
                  v->slow >= 0 ? json_integer(v->slow) : json_null(), "compared", v->n_compared);
    return stdio_print_json(root, JSON_INDENT(2), err);
}

static bool blame(const char *dir, bool json, struct error *err) {
    struct dump_set s = {0};
    struct verdict v = {0};
    if (!dump_set_read(&s, dir, err)) {
        return false;
    }
    struct blame_rank *ranks = calloc((size_t)s.world, sizeof *ranks);
    bool ok = ranks ? judge(&s, ranks, &v, err)
                    : error_set(err, ERROR_MEMORY, "cannot compare %d ranks", s.world);
    ok = ok && (json ? show_json : show_text)(&s, ranks, &v, err);
    free(v.lag_ms);
    free(ranks);
    dump_set_finish(&s);
    return ok;
}

static bool run(const struct command *self, int argc, char **argv, struct error *err) {
    struct common_options common;
    bool json = false;
    int n_arg;
    const char *dir[1] = {NULL};
    struct option table[OWN_OPTIONS + COMMON_OPTION_COUNT] = {
        {.type = OPTION_SECTION, .name = "Options of blame"},
        {.type = OPTION_FLAG, .name = "json", .value = &json, .help = "print one JSON object"},
    };
    const int n_option = OWN_OPTIONS + COMMON_OPTION_COUNT;
    common_options_table(&common, table + OWN_OPTIONS);
    if (!command_parse(self, &common, table, n_option, argc, argv, dir, 1, &n_arg, err)) {
        return false;
    }
    if (common.help) {
        return true;
    }
    if (n_arg == 0) {
        return error_set(err, ERROR_USAGE, "which directory? The one that --dump-dir named");
    }
    return !launch_env_is_leader() || blame(dir[0], json, err);
}

const struct command command_blame = {
    .name = "blame",
    .summary = "Which rank a failed run waited for, from what --dump-dir kept.",
    .synopsis = "DIR [--json]",
    .run = run,
};
