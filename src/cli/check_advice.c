#include "cli/check_advice.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "format/show.h"

struct notes {
    char (*text)[CHECK_ADVICE_LENGTH];
    int n;
};

static void __attribute__((format(printf, 2, 3))) note(struct notes *notes, const char *fmt, ...) {
    if (notes->n < CHECK_ADVICE_MAX) {
        va_list args;
        va_start(args, fmt);
        vsnprintf(notes->text[notes->n++], CHECK_ADVICE_LENGTH, fmt, args);
        va_end(args);
    }
}

/* The first rank that fits; -1 when none does. */
static int find_rank(const struct check_report *r, bool (*fits)(const struct message_hello_ok *)) {
    for (int i = 0; i < r->world; i++) {
        if (fits(&r->ranks[i].hello)) {
            return i;
        }
    }
    return -1;
}

static bool is_crowded(const struct message_hello_ok *h) {
    return h->local_size > h->cores_host;
}

/* Bound to one core although the host has more than one for each of its ranks. */
static bool is_pinned(const struct message_hello_ok *h) {
    return h->cores == 1 && h->cores_host >= 2 * h->local_size;
}

static bool is_stacked(const struct message_hello_ok *h) {
    return !is_crowded(h) && h->sharers > h->cores;
}

static bool has_too_many_threads(const struct message_hello_ok *h) {
    return !is_crowded(h) && !is_stacked(h) && h->threads > 1 && h->threads > h->cores / h->sharers;
}

static void advise_cores(const struct check_report *r, struct notes *notes) {
    int i = find_rank(r, is_crowded);
    if (i >= 0) {
        const struct message_hello_ok *h = &r->ranks[i].hello;
        note(notes,
             "%s runs %d ranks on %d core%s; ranks that wait give way to each other, but all are "
             "slower: start at most %d there",
             h->host, h->local_size, h->cores_host, h->cores_host == 1 ? "" : "s", h->cores_host);
    }
    i = find_rank(r, is_pinned);
    if (i >= 0) {
        const struct message_hello_ok *h = &r->ranks[i].hello;
        note(notes,
             "rank %d is pinned to one core of the %d of %s, threads included: use mpirun "
             "--bind-to none (or --map-by slot:PE=%d), or srun --cpus-per-task=%d",
             i, h->cores_host, h->host, h->cores_host / h->local_size,
             h->cores_host / h->local_size);
    }
    i = find_rank(r, is_stacked);
    if (i >= 0) {
        const struct message_hello_ok *h = &r->ranks[i].hello;
        note(notes,
             "%d ranks of %s are pinned to the same %d core%s, while the host has %d: use mpirun "
             "--bind-to none, or srun with more CPUs",
             h->sharers, h->host, h->cores, h->cores == 1 ? "" : "s", h->cores_host);
    }
    i = find_rank(r, has_too_many_threads);
    if (i >= 0) {
        const struct message_hello_ok *h = &r->ranks[i].hello;
        note(notes, "rank %d uses %d threads, but its share of %s is %d core%s: use --threads %d",
             i, h->threads, h->host, h->cores / h->sharers, h->cores / h->sharers == 1 ? "" : "s",
             h->cores / h->sharers > 1 ? h->cores / h->sharers : 1);
    }
}

static bool crosses_nodes(const struct message_hello_ok *h) {
    return strcmp(h->device, "host") == 0 && h->numa_nodes > 1;
}

static bool is_on_one_node(const struct message_hello_ok *h) {
    return strcmp(h->device, "host") == 0 && h->numa_nodes == 1;
}

/* A rank on the node of rank i although there is one for each; -1: none. */
static int find_node_mate(const struct check_report *r, int i) {
    const struct message_hello_ok *a = &r->ranks[i].hello;
    for (int j = i + 1; is_on_one_node(a) && j < r->world; j++) {
        const struct message_hello_ok *b = &r->ranks[j].hello;
        if (is_on_one_node(b) && a->local_size <= a->numa_host && strcmp(a->host, b->host) == 0 &&
            strcmp(a->numa, b->numa) == 0) {
            return j;
        }
    }
    return -1;
}

static void advise_numa(const struct check_report *r, struct notes *notes) {
    static const char how[] = "one rank for each is faster: mpirun --map-by ppr:1:numa --bind-to "
                              "numa, or srun --cpu-bind=ldoms";
    int i = find_rank(r, crosses_nodes);
    if (i >= 0) {
        const struct message_hello_ok *h = &r->ranks[i].hello;
        note(notes, "the cores of rank %d lie on NUMA nodes %s of the %d of %s; %s", i, h->numa,
             h->numa_host, h->host, how);
        return;
    }
    for (i = 0; i < r->world; i++) {
        const struct message_hello_ok *h = &r->ranks[i].hello;
        int mate = find_node_mate(r, i);
        if (mate >= 0) {
            note(notes, "ranks %d and %d share NUMA node %s, and %s has %d; %s", i, mate, h->numa,
                 h->host, h->numa_host, how);
            return;
        }
    }
}

/* Another build of lockstep is no advice: hello refuses it. */
static void advise_versions(const struct check_report *r, struct notes *notes) {
    const struct message_hello_ok *first = &r->ranks[0].hello;
    for (int i = 1; i < r->world; i++) {
        const struct message_hello_ok *h = &r->ranks[i].hello;
        if (strcmp(h->mpi, first->mpi) != 0) {
            note(notes, "%s uses %s, %s uses %s: use the same MPI on all hosts", first->host,
                 first->mpi, h->host, h->mpi);
            return;
        }
    }
}

/* One line for each host that has some, of one of its ranks. */
static void advise_leftovers(const struct check_report *r, struct notes *notes) {
    for (int i = 0; i < r->world; i++) {
        const struct message_hello_ok *h = &r->ranks[i].hello;
        if (h->leftovers > 0) {
            note(notes, "%.60s: killed runs have left %d file%s in memory, %s: rm %s%s", h->host,
                 h->leftovers, h->leftovers == 1 ? "" : "s", show_bytes(h->leftover_bytes).text,
                 h->leftover_pattern, h->leftover_named < h->leftover_runs ? " (and more)" : "");
        }
    }
}

static void advise_shared_memory(const struct check_report *r, struct notes *notes) {
    if (r->why_not_shared && *r->why_not_shared) {
        note(notes, "the ranks add up by messages, which is slower than shared memory: %s",
             r->why_not_shared);
    }
}

int check_advice(const struct check_report *r, char out[][CHECK_ADVICE_LENGTH]) {
    struct notes notes = {.text = out};
    advise_versions(r, &notes);
    advise_cores(r, &notes);
    advise_numa(r, &notes);
    advise_leftovers(r, &notes);
    advise_shared_memory(r, &notes);
    if (r->world == 1) {
        note(&notes, "this is a world of one rank; for more: mpirun -np N lockstep check");
    }
    return notes.n;
}
