#include "base/flight_dump.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/flight_peers.h"
#include "base/log.h"

static atomic_int dir_fd = -1; /* set last: another thread may dump meanwhile */
static int own_rank;
static atomic_flag written = ATOMIC_FLAG_INIT;
/* Not on the stack of a thread that may have little. */
static struct flight_entry entries[FLIGHT_ENTRIES];

struct out {
    int fd;
    bool failed;
    int why; /* errno of a write that failed */
    size_t size;
    char data[4096];
};

static void dump_name(int rank, char *out, size_t size) {
    snprintf(out, size, "flight-rank%d.json", rank);
}

bool flight_dump_to(const char *dir, int rank, struct error *err) {
    char name[40];
    if (mkdir(dir, 0777) != 0 && errno != EEXIST) {
        return error_set(err, ERROR_IO, "--dump-dir %s: %s", dir, strerror(errno));
    }
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || faccessat(fd, ".", W_OK | X_OK, AT_EACCESS) != 0) {
        error_set(err, ERROR_IO, "--dump-dir %s: %s", dir, strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        return false;
    }
    dump_name(rank, name, sizeof name);
    unlinkat(fd, name, 0);
    own_rank = rank;
    dir_fd = fd;
    return true;
}

/* ---- text ---- */

static void flush(struct out *o) {
    for (size_t at = 0; at < o->size && !o->failed;) {
        ssize_t n = write(o->fd, o->data + at, o->size - at);
        o->failed = n < 0 && errno != EINTR;
        o->why = o->failed ? errno : 0;
        at += n > 0 ? (size_t)n : 0;
    }
    o->size = 0;
}

/* A piece is short: numbers and names. */
__attribute__((format(printf, 2, 3))) static void put(struct out *o, const char *fmt, ...) {
    va_list args;
    if (sizeof o->data - o->size < 512) {
        flush(o);
    }
    va_start(args, fmt);
    int n = vsnprintf(o->data + o->size, sizeof o->data - o->size, fmt, args);
    va_end(args);
    o->failed = o->failed || n < 0 || (size_t)n >= sizeof o->data - o->size;
    o->size += o->failed ? 0 : (size_t)n;
}

/* At most `most` bytes of a text that anybody may have written. */
static void put_text(struct out *o, const char *text, size_t most) {
    put(o, "\"");
    for (size_t i = 0; i < most && text[i]; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '"' || c == '\\') {
            put(o, "\\%c", c);
        } else if (c >= ' ' && c < 127) {
            put(o, "%c", c);
        } else {
            put(o, "?");
        }
    }
    put(o, "\"");
}

static uint64_t now_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void put_entry(struct out *o, const struct flight_entry *e) {
    put(o, "{\"kind\":\"%s\",\"number\":%" PRIu64 ",\"op\":", flight_kind_name(e->kind), e->number);
    put_text(o, e->op, sizeof e->op);
    put(o, ",\"layer\":%d,\"part\":\"%s\",\"dtype\":\"%s\",\"bytes\":%" PRIu64, e->layer,
        flight_part_name(e->part), flight_type_name(e->type), e->bytes);
    put(o, ",\"enter_ns\":%" PRIu64 ",\"leave_ns\":%" PRIu64 "}", e->enter_ns, e->leave_ns);
}

/* What the rank was at: its request, if it is in one. */
static void put_phase(struct out *o, const struct flight *f) {
    struct flight_entry rpc;
    bool any = flight_read_last(f, FLIGHT_RPC, &rpc);
    const char *phase = !any ? "start" : rpc.leave_ns ? "idle" : rpc.op;
    put(o, ",\n \"phase\":");
    put_text(o, phase, FLIGHT_OP_SIZE);
    if (any) {
        put(o, ",\n \"rpc\":");
        put_entry(o, &rpc);
    }
}

static void put_record(struct out *o, const struct flight *f, int rank, const char *reason) {
    struct flight_owner owner = {.rank = rank};
    bool ended_well = flight_has_ended_well(rank); /* which is no fault */
    char state = ended_well ? 0 : flight_process_state(rank);
    flight_read_owner(f, &owner);
    /* Both clocks at one time: entries have the host's monotonic one. */
    uint64_t wall = now_ns(CLOCK_REALTIME), monotonic = now_ns(CLOCK_MONOTONIC);
    put(o, "{\"lockstep_flight\":%d,\n \"rank\":%d,\"world\":%d,\"pid\":%d,\n \"host\":",
        (int)FLIGHT_DUMP_VERSION, rank, (int)owner.world, (int)owner.pid);
    put_text(o, owner.host, sizeof owner.host);
    put(o, ",\"job\":\"%016" PRIx64 "\",\"device\":", owner.job);
    put_text(o, owner.device, sizeof owner.device);
    put_phase(o, f);
    put(o, ",\n \"written_by\":%d,\"state\":\"%.1s\",\"reason\":", own_rank,
        state ? (const char[]){state, 0} : "");
    put_text(o, reason, 480);
    put(o,
        ",\n \"wall_ns\":%" PRIu64 ",\"monotonic_ns\":%" PRIu64 ",\"pulse_ns\":%" PRIu64
        ",\n \"entries\":[",
        wall, monotonic, ended_well ? 0 : flight_read_pulse(f));
    int n = flight_read(f, entries);
    for (int i = 0; i < n; i++) {
        put(o, "%s\n  ", i ? "," : "");
        put_entry(o, &entries[i]);
    }
    put(o, "\n ]}\n");
}

/* ---- files ---- */

/* One line is enough: this is the end, and what is wrong has been said. */
static void say_failed(const char *name, int why) {
    static atomic_flag said = ATOMIC_FLAG_INIT;
    if (!atomic_flag_test_and_set(&said)) {
        log_warn("--dump-dir: cannot write %s: %s", name, strerror(why));
    }
}

static void write_record(const struct flight *f, int rank, const char *reason) {
    static struct out o;
    char name[40], temporary[80];
    dump_name(rank, name, sizeof name);
    snprintf(temporary, sizeof temporary, ".%s.%d.tmp", name, (int)getpid());
    o = (struct out){.fd =
                         openat(dir_fd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)};
    if (o.fd < 0) {
        say_failed(name, errno);
        return;
    }
    put_record(&o, f, rank, reason);
    flush(&o);
    /* Who wrote first saw it as it was when it failed. Some file systems have no links. */
    bool ok = close(o.fd) == 0 && !o.failed;
    if (!ok) {
        say_failed(name, o.why ? o.why : errno);
    }
    if (!ok || linkat(dir_fd, temporary, dir_fd, name, 0) == 0 || errno == EEXIST ||
        renameat(dir_fd, temporary, dir_fd, name) != 0) {
        unlinkat(dir_fd, temporary, 0);
    }
}

static bool cannot_write(char state) {
    return state != 0 && strchr("TtDZX", state);
}

void flight_dump(const char *reason) {
    struct flight_owner owner = {0};
    if (dir_fd < 0 || atomic_flag_test_and_set(&written)) {
        return;
    }
    write_record(flight_own(), own_rank, reason);
    flight_read_owner(flight_own(), &owner);
    for (int r = 0; r < owner.world; r++) {
        const struct flight *f = r == own_rank ? NULL : flight_of_rank(r);
        if (f && (own_rank == 0 || cannot_write(flight_process_state(r)))) {
            write_record(f, r, reason);
        }
    }
}
