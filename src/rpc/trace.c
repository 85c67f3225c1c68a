#include "rpc/trace.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/build_id.h"
#include "base/clock.h"
#include "base/log.h"

struct trace {
    FILE *file;   /* owns */
    double start; /* on the monotonic clock */
    bool failed;
};

static int write_file(void *user, const char *bytes, size_t n) {
    return fwrite(bytes, 1, n, user) == n ? 0 : -1;
}

static int pack_text(msgpack_packer *pk, const char *text) {
    size_t n = strlen(text);
    return msgpack_pack_str(pk, n) | msgpack_pack_str_body(pk, text, n);
}

static void give_up(struct trace *t) {
    if (!t->failed) {
        log_warn("--trace-rpc: cannot write: %s; the trace ends here", strerror(errno));
        t->failed = true;
    }
}

bool trace_open(struct trace **out, const char *path, int world, struct error *err) {
    struct trace *t = calloc(1, sizeof *t);
    if (!t) {
        return error_set(err, ERROR_MEMORY, "cannot allocate a trace");
    }
    t->file = fopen(path, "wbe");
    if (!t->file) {
        free(t);
        return error_set(err, ERROR_IO, "--trace-rpc: %s: %s", path, strerror(errno));
    }
    t->start = clock_now();
    msgpack_packer pk;
    msgpack_packer_init(&pk, t->file, write_file);
    int failed = msgpack_pack_array(&pk, 4);
    failed |= pack_text(&pk, TRACE_MAGIC) | msgpack_pack_int(&pk, TRACE_VERSION);
    failed |= msgpack_pack_int(&pk, world) | pack_text(&pk, build_id());
    if (failed) {
        give_up(t);
    }
    *out = t;
    return true;
}

void trace_frame(struct trace *t, enum trace_direction direction, int peer, enum message_side side,
                 const void *frame, size_t n) {
    if (!t || t->failed) {
        return;
    }
    msgpack_packer pk;
    msgpack_packer_init(&pk, t->file, write_file);
    int failed = msgpack_pack_array(&pk, 5);
    failed |= msgpack_pack_uint64(&pk, (uint64_t)(1e9 * (clock_now() - t->start)));
    failed |= msgpack_pack_int(&pk, direction) | msgpack_pack_int(&pk, peer);
    failed |= msgpack_pack_int(&pk, side);
    failed |= msgpack_pack_bin(&pk, n) | (n ? msgpack_pack_bin_body(&pk, frame, n) : 0);
    failed |= fflush(t->file); /* a trace is read most of all when the process was killed */
    if (failed) {
        give_up(t);
    }
}

void trace_close(struct trace *t) {
    if (t) {
        if (fclose(t->file) != 0) {
            give_up(t);
        }
        free(t);
    }
}
