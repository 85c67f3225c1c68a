#include "cli/bandwidth.h"

#include <stdlib.h>

/* Without -n: about this many bytes per size, in no more calls than these. */
enum { AUTO_BYTES = 64 << 20, AUTO_ITERS_MAX = 200 };

static const char *const redops[SWEEP_COUNT] = {"sum", "none", "none", "none"};

struct bandwidth_options bandwidth_defaults(void) {
    return (struct bandwidth_options){
        .min_bytes = 1 << 10,
        .max_bytes = 16 << 20,
        .factor = 4,
        .warmup = 5,
        .want = {true, true, true, true},
    };
}

bool bandwidth_check_options(const struct bandwidth_options *options, struct error *err) {
    if (options->min_bytes < 1) {
        return error_set(err, ERROR_USAGE, "-b: the smallest size must be at least 1 byte");
    }
    if (options->max_bytes < options->min_bytes) {
        return error_set(err, ERROR_USAGE, "-e %llu is smaller than -b %llu",
                         (unsigned long long)options->max_bytes,
                         (unsigned long long)options->min_bytes);
    }
    if (options->factor < 2) {
        return error_set(err, ERROR_USAGE, "-f %d: the factor must be at least 2", options->factor);
    }
    if (options->iters < 0) {
        return error_set(err, ERROR_USAGE, "-n %d: the number of iterations is negative",
                         options->iters);
    }
    if (options->warmup < 0) {
        return error_set(err, ERROR_USAGE, "-w %d: the number of warm-up iterations is negative",
                         options->warmup);
    }
    return true;
}

int bandwidth_iters(uint64_t bytes, uint64_t total, int most) {
    enum { LEAST = 5 };
    uint64_t n = total / bytes;
    return n < LEAST ? LEAST : n > (uint64_t)most ? most : (int)n;
}

static bool measure_row(struct bandwidth_row *row, const struct bandwidth_options *options,
                        int world, const struct bandwidth_measurer *measurer, struct error *err) {
    row->count = sweep_count(row->which, row->bytes, world);
    row->iters = options->iters > 0 ? options->iters
                                    : bandwidth_iters(row->bytes, AUTO_BYTES, AUTO_ITERS_MAX);
    if (!measurer->measure(measurer->user, row->which, row->bytes, row->iters, options->warmup,
                           &row->sample, err)) {
        return error_wrap(err, "bandwidth: %s of %llu bytes", sweep_name(row->which),
                          (unsigned long long)row->bytes);
    }
    double seconds = row->sample.seconds;
    row->algbw = seconds > 0 ? (double)row->bytes / seconds / 1e9 : 0;
    row->busbw = row->algbw * sweep_bus_factor(row->which, world);
    return true;
}

/* Appends the rows of one collective; sizes that round to the same bytes are measured once. */
static bool run_collective(struct bandwidth_result *r, enum sweep_collective which,
                           const struct bandwidth_options *options,
                           const struct bandwidth_measurer *measurer, struct error *err) {
    uint64_t last = 0;
    for (uint64_t size = options->min_bytes;; size *= (uint64_t)options->factor) {
        struct bandwidth_row row = {.which = which, .bytes = sweep_bytes(which, size, r->world)};
        if (row.bytes != last) {
            if (!measure_row(&row, options, r->world, measurer, err)) {
                return false;
            }
            r->row[r->n_row++] = row;
            last = row.bytes;
        }
        if (size > options->max_bytes / (uint64_t)options->factor) {
            return true;
        }
    }
}

bool bandwidth_run(const struct bandwidth_options *options, int world, const char *backend,
                   const struct bandwidth_measurer *measurer, struct bandwidth_result *out,
                   struct error *err) {
    bool ok = false;
    struct bandwidth_result r = {.world = world, .backend = backend};

    if (!bandwidth_check_options(options, err)) {
        return false;
    }
    /* 64 doublings take any size past the largest uint64. */
    r.row = malloc(64 * SWEEP_COUNT * sizeof(*r.row));
    if (r.row == NULL) {
        error_set(err, ERROR_MEMORY, "out of memory for the bandwidth table");
        goto out;
    }
    for (int which = 0; which < SWEEP_COUNT; which++) {
        if (options->want[which] &&
            !run_collective(&r, (enum sweep_collective)which, options, measurer, err)) {
            goto out;
        }
    }
    *out = r; /* moves */
    r.row = NULL;
    ok = true;
out:
    bandwidth_result_finish(&r);
    return ok;
}

void bandwidth_result_finish(struct bandwidth_result *result) {
    free(result->row);
    result->row = NULL;
    result->n_row = 0;
}

bool bandwidth_verdict(const struct bandwidth_result *result, struct error *err) {
    for (int i = 0; i < result->n_row; i++) {
        const struct bandwidth_row *row = &result->row[i];
        if (row->sample.wrong > 0) {
            return error_set(err, ERROR_WRONG_RESULT, "%s of %llu bytes: %llu wrong elements",
                             sweep_name(row->which), (unsigned long long)row->bytes,
                             (unsigned long long)row->sample.wrong);
        }
    }
    return true;
}

/* What the footer says about the rows of one collective. */
struct summary {
    int n_row;
    int n_wrong; /* sizes with wrong elements, as nccl-tests counts them */
    double busbw;
};

static struct summary summarize(const struct bandwidth_result *r, enum sweep_collective which) {
    struct summary s = {0};
    for (int i = 0; i < r->n_row; i++) {
        if (r->row[i].which == which) {
            s.n_row++;
            s.n_wrong += r->row[i].sample.wrong > 0;
            s.busbw += r->row[i].busbw;
        }
    }
    if (s.n_row > 0) {
        s.busbw /= s.n_row;
    }
    return s;
}

static void print_collective(const struct bandwidth_result *r, enum sweep_collective which,
                             FILE *out) {
    struct summary s = summarize(r, which);
    if (s.n_row == 0) {
        return;
    }
    fprintf(out, "# %s: %d rank%s, %s\n", sweep_name(which), r->world, r->world == 1 ? "" : "s",
            r->backend);
    if (r->world == 1) {
        fputs("# one rank has no bus: busbw is 0\n", out);
    }
    fprintf(out, "#%11s %12s %8s %6s %9s %7s %7s %6s\n", "size", "count", "type", "redop", "time",
            "algbw", "busbw", "#wrong");
    fprintf(out, "#%11s %12s %8s %6s %9s %7s %7s %6s\n", "(B)", "(elements)", "", "", "(us)",
            "(GB/s)", "(GB/s)", "");
    for (int i = 0; i < r->n_row; i++) {
        const struct bandwidth_row *row = &r->row[i];
        if (row->which == which) {
            fprintf(out, "%12llu %12llu %8s %6s %9.2f %7.2f %7.2f %6llu\n",
                    (unsigned long long)row->bytes, (unsigned long long)row->count, "float",
                    redops[which], 1e6 * row->sample.seconds, row->algbw, row->busbw,
                    (unsigned long long)row->sample.wrong);
        }
    }
    fprintf(out, "# Out of bounds values : %d %s\n", s.n_wrong, s.n_wrong == 0 ? "OK" : "FAILED");
    fprintf(out, "# Avg bus bandwidth    : %g\n#\n", s.busbw);
}

void bandwidth_print(const struct bandwidth_result *result, FILE *out) {
    for (int which = 0; which < SWEEP_COUNT; which++) {
        print_collective(result, (enum sweep_collective)which, out);
    }
}

static json_t *row_json(const struct bandwidth_row *row) {
    return json_pack("{s:s, s:I, s:I, s:s, s:s, s:i, s:f, s:f, s:f, s:f, s:I}", "collective",
                     sweep_name(row->which), "bytes", (json_int_t)row->bytes, "count",
                     (json_int_t)row->count, "type", "float", "redop", redops[row->which], "iters",
                     row->iters, "time_us", 1e6 * row->sample.seconds, "median_us",
                     1e6 * row->sample.median_seconds, "algbw_gbs", row->algbw, "busbw_gbs",
                     row->busbw, "wrong", (json_int_t)row->sample.wrong);
}

json_t *bandwidth_json(const struct bandwidth_result *result) {
    json_t *rows = json_array();
    json_t *average = json_object();
    json_int_t wrong = 0;
    for (int i = 0; i < result->n_row; i++) {
        json_array_append_new(rows, row_json(&result->row[i]));
        wrong += (json_int_t)result->row[i].sample.wrong;
    }
    for (int which = 0; which < SWEEP_COUNT; which++) {
        struct summary s = summarize(result, (enum sweep_collective)which);
        if (s.n_row > 0) {
            json_object_set_new(average, sweep_name((enum sweep_collective)which),
                                json_real(s.busbw));
        }
    }
    /* json_pack takes rows and average over, also when it fails. */
    return json_pack("{s:i, s:s, s:o, s:o, s:I}", "world", result->world, "backend",
                     result->backend, "rows", rows, "avg_busbw_gbs", average, "wrong", wrong);
}
