#include "cli/check_report.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/check_advice.h"
#include "config.h"

static const char *last_word(const char *words) {
    const char *space = strrchr(words, ' ');
    return space ? space + 1 : words;
}

/* Of the columns that are as wide as what stands in them. */
struct widths {
    int host, binding;
};

static int wider(int width, const char *text) {
    int n = (int)strlen(text);
    return n > width ? n : width;
}

static struct widths column_widths(const struct check_report *r) {
    struct widths w = {wider(0, "host"), wider(0, "binding")};
    for (int i = 0; i < r->world; i++) {
        w.host = wider(w.host, r->ranks[i].hello.host);
        w.binding = wider(w.binding, r->ranks[i].hello.binding);
    }
    return w;
}

/* Median over the other ranks; 0 in a world of one. */
static double ping_ratio(const struct check_report *r) {
    double ratios[64];
    int n = 0;
    for (int i = 1; i < r->world && n < 64; i++) {
        ratios[n++] = ping_link_ratio(&r->ranks[i].link);
    }
    return n ? spread_of(ratios, n).median : 0;
}

/* "0/2": on node 0 of 2. */
static void numa_text(char *out, size_t size, const struct message_hello_ok *h) {
    if (h->numa_host > 0) {
        snprintf(out, size, "%s/%d", h->numa, h->numa_host);
    } else {
        snprintf(out, size, "-");
    }
}

static void print_rank(const struct check_report *r, int i, const struct widths *w) {
    const struct check_rank *k = &r->ranks[i];
    const struct message_hello_ok *h = &k->hello;
    char cores[32], numa[64];
    snprintf(cores, sizeof cores, "%d/%d", h->cores, h->cores_host);
    numa_text(numa, sizeof numa, h);
    printf("%4d  %-*s  %7d  %5d  %-6s  %7s  %-*s  %5s  %7d  %6.1f GB  %-7s", i, w->host, h->host,
           h->pid, h->local_rank, h->device, cores, w->binding, h->binding, numa, h->threads,
           (double)h->memory / 1e9, last_word(h->isas));
    if (r->has_ping) {
        printf("  %8.1f  %8.1f  %8.1f", 1e6 * k->link.ping.min, 1e6 * k->link.ping.median,
               1e6 * k->link.ping.max);
    }
    printf("\n");
}

/* ---- GPUs ---- */

static void print_gpus(const struct check_report *r) {
    bool head = false;
    for (int i = 0; i < r->world; i++) {
        const struct message_hello_ok *h = &r->ranks[i].hello;
        if (!*h->gpu) {
            continue;
        }
        if (!head) {
            printf("rank  device   %-32s    cc    memory  %-12s  NCCL\n", "GPU", "PCI bus id");
            head = true;
        }
        printf("%4d  %-7s  %-32s  %4s  %5.1f GB  %-12s  %s\n", i, h->device, h->gpu, h->gpu_cc,
               (double)h->gpu_memory / 1e9, h->gpu_pci, h->nccl);
    }
    if (head) {
        printf("\n");
    }
}

static bool same_why(const struct check_report *r, int i, int j) {
    return strcmp(r->ranks[i].hello.device_why, r->ranks[j].hello.device_why) == 0;
}

/* One line for each reason, with its ranks. */
static void print_why_no_cuda(const struct check_report *r) {
    for (int i = 0; i < r->world; i++) {
        const char *why = r->ranks[i].hello.device_why;
        int first = 0, n = 0;
        while (!same_why(r, first, i)) {
            first++;
        }
        if (!*why || first < i) {
            continue;
        }
        for (int j = i; j < r->world; j++) {
            n += same_why(r, i, j);
        }
        printf("cuda    not on ");
        if (n == r->world && n > 1) {
            printf("any of %d ranks", n);
        } else {
            printf("rank");
            for (int j = i; j < r->world; j++) {
                if (same_why(r, i, j)) {
                    printf("%s %d", j > i ? "," : "", j);
                }
            }
        }
        printf(": %s\n", why);
    }
    if (r->has_init && *r->device_note) {
        printf("cuda    not used: %s\n", r->device_note);
    }
}

void check_report_print(const struct check_report *r) {
    if (!r->has_hello) {
        return;
    }
    const struct message_hello_ok *first = &r->ranks[0].hello;
    struct widths w = column_widths(r);
    printf("lockstep %s, build %s, %s, msgpack %s, %d rank%s\n\n", first->version, first->build,
           first->mpi, first->msgpack, r->world, r->world == 1 ? "" : "s");
    printf(
        "rank  %-*s      pid  local  device    cores  %-*s   NUMA  threads    memory  kernels%s\n",
        w.host, "host", w.binding, "binding",
        r->has_ping ? "  ping min    median       max us" : "");
    for (int i = 0; i < r->world; i++) {
        print_rank(r, i, &w);
    }
    printf("\n");
    print_gpus(r);
    print_why_no_cuda(r);
    if (r->has_ping && r->world > 1) {
        printf("ping    %.2f times the round trip of a bare MPI ping-pong\n", ping_ratio(r));
    }
    if (r->has_init) {
        bool host = strcmp(r->device, "host") == 0;
        printf("init    %.2f ms: communicator '%s'%s, %s '%s'\n", 1e3 * r->init_s, r->comm,
               r->shares_memory ? " over shared memory" : "", host ? "kernels" : "arithmetic",
               host ? r->isa : r->dtype);
    }
    if (r->has_sanity) {
        printf("sanity  ");
        for (int i = 0; i < r->world; i++) {
            printf("%s%llu", i ? " " : "", (unsigned long long)r->ranks[i].sum);
        }
        printf(": every rank's own count of the ranks\n");
    }
    char advice[CHECK_ADVICE_MAX][CHECK_ADVICE_LENGTH];
    int n = check_advice(r, advice);
    for (int i = 0; i < n; i++) {
        printf("note: %s\n", advice[i]);
    }
    if (r->has_bandwidth) {
        printf("\n");
        bandwidth_print(&r->bandwidth, stdout);
    }
}

/* ---- JSON ---- */

static json_t *gpu_json(const struct message_hello_ok *h) {
    return *h->gpu ? json_pack("{s:s, s:s, s:s, s:I}", "name", h->gpu, "pci", h->gpu_pci, "cc",
                               h->gpu_cc, "memory", (json_int_t)h->gpu_memory)
                   : json_null();
}

/* The host's nodes, and those of the rank's cores. */
static json_t *numa_json(const struct message_hello_ok *h) {
    return h->numa_host > 0 ? json_pack("{s:s, s:i, s:i}", "nodes", h->numa, "n_node",
                                        h->numa_nodes, "n_node_host", h->numa_host)
                            : json_null();
}

static json_t *rank_json(const struct check_report *r, int i) {
    const struct check_rank *k = &r->ranks[i];
    const struct message_hello_ok *h = &k->hello;
    json_t *j = json_pack(
        "{s:i, s:s, s:i, s:i, s:s, s:i, s:i, s:i, s:I, s:s, s:s, s:s, s:s, s:s}", "rank", i, "host",
        h->host, "pid", h->pid, "local_rank", h->local_rank, "device", h->device, "cores", h->cores,
        "cores_host", h->cores_host, "threads", h->threads, "memory", (json_int_t)h->memory, "isas",
        h->isas, "version", h->version, "build", h->build, "mpi", h->mpi, "msgpack", h->msgpack);
    json_object_set_new(j, "binding", json_string(h->binding));
    json_object_set_new(j, "numa", numa_json(h));
    json_object_set_new(j, "gpus", json_integer(h->n_gpu));
    json_object_set_new(j, "gpu", gpu_json(h));
    json_object_set_new(j, "nccl", *h->nccl ? json_string(h->nccl) : json_null());
    json_object_set_new(j, "why_not_cuda",
                        *h->device_why ? json_string(h->device_why) : json_null());
    if (r->has_ping) {
        json_object_set_new(j, "ping_us", spread_json(&k->link.ping, 1e6));
        json_object_set_new(j, "bare_us", i ? spread_json(&k->link.bare, 1e6) : json_null());
        json_object_set_new(j, "ping_ratio",
                            i ? json_real(ping_link_ratio(&k->link)) : json_null());
    }
    if (r->has_sanity) {
        json_object_set_new(j, "sum", json_integer((json_int_t)k->sum));
    }
    return j;
}

static json_t *failure_json(const struct error *e) {
    return json_pack("{s:s, s:o, s:s}", "kind", error_kind_name(e->kind), "rank",
                     e->has_rank ? json_integer(e->rank) : json_null(), "message", e->message);
}

void check_report_json(const struct check_report *r, const struct error *failure) {
    json_t *j = json_pack("{s:b, s:i}", "ok", !failure, "world", r->world);
    json_t *ranks = json_array();
    for (int i = 0; r->has_hello && i < r->world; i++) {
        json_array_append_new(ranks, rank_json(r, i));
    }
    json_object_set_new(j, "ranks", ranks);
    if (r->has_ping && r->world > 1) {
        json_object_set_new(j, "ping_ratio", json_real(ping_ratio(r)));
    }
    if (r->has_init) {
        json_object_set_new(j, "init_ms", json_real(1e3 * r->init_s));
        json_object_set_new(j, "communicator", json_string(r->comm));
        json_object_set_new(j, "shared_memory", json_boolean(r->shares_memory));
        json_object_set_new(j, "isa", json_string(r->isa));
        json_object_set_new(j, "device", json_string(r->device));
        json_object_set_new(j, "dtype", json_string(r->dtype));
        json_object_set_new(j, "device_note", json_string(r->device_note));
    }
    if (r->has_bandwidth) {
        json_object_set_new(j, "bandwidth", bandwidth_json(&r->bandwidth));
    }
    json_t *notes = json_array();
    char advice[CHECK_ADVICE_MAX][CHECK_ADVICE_LENGTH];
    int n = r->has_hello ? check_advice(r, advice) : 0;
    for (int i = 0; i < n; i++) {
        json_array_append_new(notes, json_string(advice[i]));
    }
    json_object_set_new(j, "notes", notes);
    if (failure) {
        json_object_set_new(j, "error", failure_json(failure));
    }
    char *text = json_dumps(j, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    puts(text ? text : "{}");
    free(text);
    json_decref(j);
}
