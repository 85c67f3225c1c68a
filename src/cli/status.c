#include "cli/status.h"

#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/small_file.h"

struct place {
    char host[128];
    char device[64];
};

static const char *command = "";
static const char *file;
static struct place *places; /* owns [n_place]; lives as long as the process */
static int n_place;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of the places */
static atomic_flag claimed = ATOMIC_FLAG_INIT;

void status_set_command(const char *name) {
    command = name;
}

void status_find_file(int argc, char **argv) {
    static const char name[] = "--status-file";
    size_t n = sizeof name - 1;
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        const char *value = NULL;
        if (strncmp(argv[i], name, n) == 0 && argv[i][n] == '=') {
            value = argv[i] + n + 1;
        } else if (strcmp(argv[i], name) == 0 && i + 1 < argc && argv[i + 1][0] != '-') {
            value =
                argv[++i]; /* what begins with a dash is an option, and the file's name missing */
        }
        file = value && *value ? value : file;
    }
}

bool status_claim(void) {
    return !atomic_flag_test_and_set(&claimed);
}

static void set_place(int rank, const char *host, const char *device) {
    if (rank >= n_place) {
        struct place *more = realloc(places, ((size_t)rank + 1) * sizeof *more);
        if (!more) {
            return; /* the line will do without */
        }
        places = more;
        memset(places + n_place, 0, (size_t)(rank + 1 - n_place) * sizeof *places);
        n_place = rank + 1;
    }
    snprintf(places[rank].host, sizeof places[rank].host, "%s", host);
    snprintf(places[rank].device, sizeof places[rank].device, "%s", device);
}

void status_set_place(int rank, const char *host, const char *device) {
    pthread_mutex_lock(&lock);
    set_place(rank, host, device);
    pthread_mutex_unlock(&lock);
}

/* False: it is not known. */
static bool place_of(int rank, struct place *out) {
    pthread_mutex_lock(&lock);
    bool known = rank >= 0 && rank < n_place && places[rank].host[0];
    if (known) {
        *out = places[rank];
    }
    pthread_mutex_unlock(&lock);
    return known;
}

/* "rank 3 (node7, host)", or "rank 3" where the place is not known. */
static void describe_rank(int rank, char *out, size_t size) {
    struct place p;
    if (place_of(rank, &p)) {
        snprintf(out, size, "rank %d (%s, %s)", rank, p.host, p.device);
    } else {
        snprintf(out, size, "rank %d", rank);
    }
}

int status_error_line(const struct error *err, char line[STATUS_LINE_SIZE]) {
    char who[240] = "";
    int n;
    if (err->kind == ERROR_USAGE && !err->has_rank) {
        n = snprintf(line, STATUS_LINE_SIZE, "lockstep %s: %s; try: lockstep %s --help\n", command,
                     err->message, command);
    } else {
        if (err->has_rank) {
            describe_rank(err->rank, who, sizeof who);
        }
        n = snprintf(line, STATUS_LINE_SIZE, "lockstep: %s%s%s: %s\n", who, *who ? ": " : "",
                     error_kind_name(err->kind), err->message);
    }
    if (n >= STATUS_LINE_SIZE) {
        n = STATUS_LINE_SIZE - 1;
        line[n - 1] = '\n';
    }
    return n;
}

void status_print_error(const struct error *err) {
    char line[STATUS_LINE_SIZE];
    int n = status_error_line(err, line);
    if (write(STDERR_FILENO, line, (size_t)n) < 0) {
        return; /* nowhere left to complain */
    }
}

static json_t *status_json(const struct error *err) {
    json_t *j = json_object();
    json_object_set_new(j, "ok", json_boolean(!err));
    json_object_set_new(j, "exit_code", json_integer(err ? error_exit_code(err->kind) : 0));
    json_object_set_new(j, "command", json_string(command));
    if (err) {
        struct place p;
        bool known = err->has_rank && place_of(err->rank, &p);
        json_object_set_new(j, "kind", json_string(error_kind_name(err->kind)));
        json_object_set_new(j, "rank", err->has_rank ? json_integer(err->rank) : json_null());
        json_object_set_new(j, "host", known ? json_string(p.host) : json_null());
        json_object_set_new(j, "device", known ? json_string(p.device) : json_null());
        /* a message may quote bytes of a file that are not UTF-8 */
        json_t *message = json_string(err->message);
        json_object_set_new(j, "message",
                            message ? message : json_string("(not UTF-8; see the log)"));
    }
    return j;
}

void status_write_file(const struct error *err) {
    if (!file) {
        return;
    }
    json_t *j = status_json(err);
    char *text = json_dumps(j, JSON_INDENT(2));
    if (!text || !small_file_write(file, text)) {
        log_warn("--status-file: %s: %s", file, strerror(errno));
    }
    free(text);
    json_decref(j);
}
