#include <stdio.h>
#include <string.h>

#include "base/build_id.h"
#include "cli/bench.h"
#include "cli/stdio_util.h"
#include "config.h"

/* What every result begins with. */
static json_t *head_json(int world) {
    return json_pack("{s:s, s:s, s:i}", "version", LOCKSTEP_VERSION, "build", build_id(), "world",
                     world);
}

static bool flush(struct error *err) {
    bool ok = stdio_flush(err);
    stdio_waited();
    return ok;
}

static bool print_json(json_t *object, struct error *err) {
    stdio_may_wait();
    return stdio_print_json(object, JSON_INDENT(2) | JSON_REAL_PRECISION(6), err) && flush(err);
}

static const char *plural(int n) {
    return n == 1 ? "" : "s";
}

/* ---- speed ---- */

static double tok_s(const struct bench_row *row) {
    return row->n_tok / row->seconds.median;
}

/* The mean of all ranks. */
static struct bench_rank mean_rank(const struct bench_speed *b, const struct bench_row *row) {
    struct bench_rank mean = {0};
    for (int r = 0; r < b->world; r++) {
        mean.compute_s += row->ranks[r].compute_s / b->world;
        mean.wait_s += row->ranks[r].wait_s / b->world;
        mean.transfer_s += row->ranks[r].transfer_s / b->world;
    }
    return mean;
}

static void print_limit(const struct bench_speed *b, enum probe_limit which, const char *unit) {
    const struct spread *s = &b->limits[which];
    printf("  %-6s  %9.2f %s  (%.2f .. %.2f)\n", probe_limit_name(which), s->median / 1e9, unit,
           s->min / 1e9, s->max / 1e9);
}

static void print_head(const struct bench_speed *b) {
    bool host = strcmp(b->device, "host") == 0;
    printf("%s\n", b->model);
    printf(
        "%d rank%s x %d thread%s, %s %s; %s weights, %.1f MB read by a token; loaded in %.2f s\n",
        b->world, plural(b->world), b->threads, plural(b->threads), host ? b->isa : b->dtype,
        host ? "kernels" : "on GPUs", b->weights, b->model_bytes / 1e6, b->load_s);
    printf("%d round%s: medians, least and most\n\n", b->rounds, plural(b->rounds));
    if (b->limits[PROBE_MEMORY].n) {
        printf("limits of all ranks together, measured between the rows\n");
        print_limit(b, PROBE_MEMORY, "GB/s   read");
        print_limit(b, PROBE_F32, "GFLOP/s");
        print_limit(b, PROBE_INT8, "GOP/s  ");
        printf("\n");
    }
}

static void print_row(const struct bench_speed *b, const struct bench_row *row) {
    struct bench_rank mean = mean_rank(b, row);
    double all = mean.compute_s + mean.wait_s + mean.transfer_s;
    printf("%-7s  %5d  %6d  %7s  %9.2f  %9.2f  %9.2f  %7.2f", bench_kind_name(row->kind),
           row->batch, row->prompt, b->weights, tok_s(row), row->n_tok / row->seconds.max,
           row->n_tok / row->seconds.min, row->bytes / row->seconds.median / 1e9);
    if (row->fraction.n) {
        printf("  %6s  %8.3f  %5.3f  %5.3f", probe_limit_name(row->limit), row->fraction.median,
               row->fraction.min, row->fraction.max);
    } else {
        printf("  %6s  %8s  %5s  %5s", "-", "-", "-", "-");
    }
    printf("  %7.1f  %5.1f  %8.1f\n", 100 * mean.compute_s / all, 100 * mean.wait_s / all,
           100 * mean.transfer_s / all);
}

static void print_ranks(const struct bench_speed *b) {
    printf("\n%-7s  %5s  %6s  %4s  %10s  %8s  %11s\n", "kind", "batch", "prompt", "rank",
           "compute ms", "wait ms", "transfer ms");
    for (int i = 0; i < b->n_row; i++) {
        const struct bench_row *row = &b->rows[i];
        for (int r = 0; r < b->world; r++) {
            const struct bench_rank *k = &row->ranks[r];
            printf("%-7s  %5d  %6d  %4d  %10.2f  %8.2f  %11.2f\n", bench_kind_name(row->kind),
                   row->batch, row->prompt, r, 1e3 * k->compute_s, 1e3 * k->wait_s,
                   1e3 * k->transfer_s);
        }
    }
}

static void speed_print(const struct bench_speed *b) {
    print_head(b);
    printf("%-7s  %5s  %6s  %7s  %9s  %9s  %9s  %7s  %6s  %8s  %5s  %5s  %7s  %5s  %8s\n", "kind",
           "batch", "prompt", "weights", "tok/s", "least", "most", "GB/s", "limit", "fraction",
           "least", "most", "compute", "wait", "transfer");
    for (int i = 0; i < b->n_row; i++) {
        print_row(b, &b->rows[i]);
    }
    printf("\ncompute, wait, transfer: %% of the forward pass, mean of the ranks\n");
    if (b->world > 1) {
        print_ranks(b);
    }
}

static const char *limit_name(const struct bench_row *row) {
    return row->fraction.n ? probe_limit_name(row->limit) : "";
}

static void speed_csv(const struct bench_speed *b) {
    printf("model,device,world,threads,weights,kind,batch,prompt,tokens,tok_s,tok_s_min,tok_s_max,"
           "bytes_s,operations_s,limit,fraction_of_limit,fraction_min,fraction_max,rank,compute_s,"
           "wait_s,transfer_s\n");
    for (int i = 0; i < b->n_row; i++) {
        const struct bench_row *row = &b->rows[i];
        for (int r = 0; r < b->world; r++) {
            const struct bench_rank *k = &row->ranks[r];
            printf("\"%s\",%s,%d,%d,%s,%s,%d,%d,%d,%.6g,%.6g,%.6g,%.6g,%.6g,%s,", b->model,
                   b->device, b->world, b->threads, b->weights, bench_kind_name(row->kind),
                   row->batch, row->prompt, row->n_tok, tok_s(row), row->n_tok / row->seconds.max,
                   row->n_tok / row->seconds.min, row->bytes / row->seconds.median,
                   row->operations / row->seconds.median, limit_name(row));
            if (row->fraction.n) {
                printf("%.6g,%.6g,%.6g,", row->fraction.median, row->fraction.min,
                       row->fraction.max);
            } else {
                printf(",,,");
            }
            printf("%d,%.6g,%.6g,%.6g\n", r, k->compute_s, k->wait_s, k->transfer_s);
        }
    }
}

static json_t *number_or_null(bool known, double x) {
    return known ? json_real(x) : json_null();
}

static json_t *row_json(const struct bench_speed *b, const struct bench_row *row) {
    bool known = row->fraction.n > 0;
    json_t *ranks = json_array();
    for (int r = 0; r < b->world; r++) {
        const struct bench_rank *k = &row->ranks[r];
        json_array_append_new(ranks, json_pack("{s:i, s:f, s:f, s:f}", "rank", r, "compute_s",
                                               k->compute_s, "wait_s", k->wait_s, "transfer_s",
                                               k->transfer_s));
    }
    json_t *j = json_pack(
        "{s:s, s:i, s:i, s:i, s:s, s:o, s:f, s:f, s:f}", "kind", bench_kind_name(row->kind),
        "batch", row->batch, "prompt", row->prompt, "tokens", row->n_tok, "weights", b->weights,
        "seconds", spread_json(&row->seconds, 1), "tok_s", tok_s(row), "tok_s_min",
        row->n_tok / row->seconds.max, "tok_s_max", row->n_tok / row->seconds.min);
    json_object_set_new(j, "bytes", json_real(row->bytes));
    json_object_set_new(j, "operations", json_real(row->operations));
    json_object_set_new(j, "bytes_s", json_real(row->bytes / row->seconds.median));
    json_object_set_new(j, "operations_s", json_real(row->operations / row->seconds.median));
    json_object_set_new(j, "limit", known ? json_string(limit_name(row)) : json_null());
    json_object_set_new(j, "fraction_of_limit", number_or_null(known, row->fraction.median));
    json_object_set_new(j, "fraction_min", number_or_null(known, row->fraction.min));
    json_object_set_new(j, "fraction_max", number_or_null(known, row->fraction.max));
    json_object_set_new(j, "ranks", ranks);
    return j;
}

static json_t *speed_json(const struct bench_speed *b) {
    json_t *j = head_json(b->world), *rows = json_array(), *limits = json_object();
    json_object_update_new(j,
                           json_pack("{s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:I, s:f, s:I}", "model",
                                     b->model, "weights", b->weights, "device", b->device, "isa",
                                     b->isa, "dtype", b->dtype, "threads", b->threads, "rounds",
                                     b->rounds, "model_bytes", (json_int_t)b->model_bytes, "load_s",
                                     b->load_s, "load_bytes", (json_int_t)b->load_bytes));
    for (int i = 0; i < PROBE_LIMIT_COUNT; i++) {
        json_object_set_new(limits, probe_limit_name((enum probe_limit)i),
                            spread_json(&b->limits[i], 1));
    }
    for (int i = 0; i < b->n_row; i++) {
        json_array_append_new(rows, row_json(b, &b->rows[i]));
    }
    json_object_set_new(j, "limits", limits);
    json_object_set_new(j, "rows", rows);
    return j;
}

bool bench_speed_tell(const struct bench_speed *b, enum bench_form form, struct error *err) {
    if (form == BENCH_JSON) {
        return print_json(speed_json(b), err);
    }
    stdio_may_wait();
    (form == BENCH_CSV ? speed_csv : speed_print)(b);
    return flush(err);
}

/* ---- control messages ---- */

static void print_us(const struct spread *s) {
    if (s->n) {
        printf("  %9.2f  %9.2f  %9.2f", 1e6 * s->median, 1e6 * s->min, 1e6 * s->max);
    } else {
        printf("  %9s  %9s  %9s", "-", "-", "-");
    }
}

static void rpc_print(const struct bench_rpc *b) {
    printf("%4s  %9s  %9s  %9s  %9s  %9s  %9s  %9s\n", "rank", "ping us", "least", "most",
           "bare us", "least", "most", "ping/bare");
    for (int r = 0; r < b->world; r++) {
        printf("%4d", r);
        print_us(&b->links[r].ping);
        print_us(&b->links[r].bare);
        if (r) {
            printf("  %9.2f\n", ping_link_ratio(&b->links[r]));
        } else {
            printf("  %9s\n", "-");
        }
    }
    printf("\n%-12s  %9s  %9s  %9s\n", "of a step", "us", "least", "most");
    printf("%-12s", "all of it");
    print_us(&b->step);
    printf("\n%-12s", "around it");
    print_us(&b->around);
    printf("\n%-12s", "sending");
    print_us(&b->sending);
    printf(
        "\n\nbare: an MPI ping-pong of the same size; around it: what is not the forward pass\n");
}

static void csv_us(const char *what, int rank, const struct spread *s) {
    if (s->n) {
        printf("%s,%d,%.6g,%.6g,%.6g\n", what, rank, 1e6 * s->median, 1e6 * s->min, 1e6 * s->max);
    }
}

static void rpc_csv(const struct bench_rpc *b) {
    printf("what,rank,median_us,min_us,max_us\n");
    for (int r = 0; r < b->world; r++) {
        csv_us("ping", r, &b->links[r].ping);
        csv_us("bare", r, &b->links[r].bare);
    }
    csv_us("step", 0, &b->step);
    csv_us("around", 0, &b->around);
    csv_us("sending", 0, &b->sending);
}

static json_t *rpc_json(const struct bench_rpc *b) {
    json_t *j = head_json(b->world), *ranks = json_array();
    for (int r = 0; r < b->world; r++) {
        const struct ping_link *l = &b->links[r];
        json_array_append_new(ranks, json_pack("{s:i, s:o, s:o, s:o}", "rank", r, "ping_us",
                                               spread_json(&l->ping, 1e6), "bare_us",
                                               spread_json(&l->bare, 1e6), "ping_ratio",
                                               number_or_null(r > 0, ping_link_ratio(l))));
    }
    json_object_set_new(j, "rpc",
                        json_pack("{s:o, s:o, s:o, s:o}", "ranks", ranks, "step_us",
                                  spread_json(&b->step, 1e6), "around_us",
                                  spread_json(&b->around, 1e6), "sending_us",
                                  spread_json(&b->sending, 1e6)));
    return j;
}

bool bench_rpc_tell(const struct bench_rpc *b, enum bench_form form, struct error *err) {
    if (form == BENCH_JSON) {
        return print_json(rpc_json(b), err);
    }
    stdio_may_wait();
    (form == BENCH_CSV ? rpc_csv : rpc_print)(b);
    return flush(err);
}

/* ---- collectives ---- */

static void collectives_print(const struct bench_collectives *b) {
    printf("# %d rank%s, %s; %s\n", b->world, plural(b->world), b->backend,
           b->rows[0].bare.n ? "bare: MPI's own collective, in turns with ours"
                             : "nothing to compare with");
    printf("#%10s  %9s  %9s  %9s  %9s  %7s  %7s  %9s  %6s  %6s  %6s\n", "collective", "size (B)",
           "time (us)", "least", "most", "algbw", "busbw", "bare (us)", "ratio", "least", "most");
    for (int i = 0; i < b->n_row; i++) {
        const struct bench_collective *row = &b->rows[i];
        printf("%11s  %9llu  %9.2f  %9.2f  %9.2f  %7.2f  %7.2f", sweep_name(row->which),
               (unsigned long long)row->bytes, 1e6 * row->ours.median, 1e6 * row->ours.min,
               1e6 * row->ours.max, row->algbw, row->busbw);
        if (row->bare.n) {
            printf("  %9.2f  %6.2f  %6.2f  %6.2f\n", 1e6 * row->bare.median, row->ratio.median,
                   row->ratio.min, row->ratio.max);
        } else {
            printf("  %9s  %6s  %6s  %6s\n", "-", "-", "-", "-");
        }
    }
    printf("# algbw, busbw: GB/s, as nccl-tests defines them\n");
}

static void collectives_csv(const struct bench_collectives *b) {
    printf("backend,world,collective,bytes,time_us,time_min_us,time_max_us,algbw_gbs,busbw_gbs,"
           "bare_us,ratio,ratio_min,ratio_max\n");
    for (int i = 0; i < b->n_row; i++) {
        const struct bench_collective *row = &b->rows[i];
        printf("%s,%d,%s,%llu,%.6g,%.6g,%.6g,%.6g,%.6g,", b->backend, b->world,
               sweep_name(row->which), (unsigned long long)row->bytes, 1e6 * row->ours.median,
               1e6 * row->ours.min, 1e6 * row->ours.max, row->algbw, row->busbw);
        if (row->bare.n) {
            printf("%.6g,%.6g,%.6g,%.6g\n", 1e6 * row->bare.median, row->ratio.median,
                   row->ratio.min, row->ratio.max);
        } else {
            printf(",,,\n");
        }
    }
}

static json_t *collectives_json(const struct bench_collectives *b) {
    json_t *j = head_json(b->world), *rows = json_array();
    for (int i = 0; i < b->n_row; i++) {
        const struct bench_collective *row = &b->rows[i];
        json_array_append_new(
            rows,
            json_pack("{s:s, s:I, s:o, s:f, s:f, s:o, s:o}", "collective", sweep_name(row->which),
                      "bytes", (json_int_t)row->bytes, "time_us", spread_json(&row->ours, 1e6),
                      "algbw_gbs", row->algbw, "busbw_gbs", row->busbw, "bare_us",
                      spread_json(&row->bare, 1e6), "ratio", spread_json(&row->ratio, 1)));
    }
    json_object_set_new(j, "collectives",
                        json_pack("{s:s, s:o}", "backend", b->backend, "rows", rows));
    return j;
}

bool bench_collectives_tell(const struct bench_collectives *b, enum bench_form form,
                            struct error *err) {
    if (form == BENCH_JSON) {
        return print_json(collectives_json(b), err);
    }
    stdio_may_wait();
    (form == BENCH_CSV ? collectives_csv : collectives_print)(b);
    return flush(err);
}
