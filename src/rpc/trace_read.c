#include "rpc/trace_read.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "format/show.h"

enum {
    FIX_ARRAY = 0x90,
    FIX_TEXT = 0xa0,
    BIN8 = 0xc4,
    BIN32 = 0xc6,
    UINT8 = 0xcc,
    UINT64 = 0xcf,
    TEXT8 = 0xd9,
    PIECE = 1 << 16, /* bytes that are asked for at a time: what a size claims may not be there */
};

struct trace_reader {
    char *path; /* owns */
    FILE *file; /* owns */
    uint64_t size;
    uint64_t at;    /* bytes read */
    uint64_t start; /* of the entry under way */
    int world;
    char build[32];
    bool cut;
    struct buffer frame;
};

/* ---- pieces; each fails at the end of the file with r->cut, and otherwise with an error ---- */

static bool bad(const struct trace_reader *r, struct error *err, const char *what) {
    return error_set(err, ERROR_INPUT, "%s: byte %llu: %s", show_path(r->path).text,
                     (unsigned long long)r->start, what);
}

static bool read_bytes(struct trace_reader *r, void *out, size_t n, struct error *err) {
    size_t got = fread(out, 1, n, r->file);
    r->at += got;
    if (got == n) {
        return true;
    }
    if (ferror(r->file)) {
        return error_set(err, ERROR_IO, "%s: %s", show_path(r->path).text, strerror(errno));
    }
    r->cut = true;
    return bad(r, err, "cut off");
}

static bool read_number(struct trace_reader *r, int width, uint64_t *out, struct error *err) {
    unsigned char bytes[8];
    uint64_t v = 0;
    if (!read_bytes(r, bytes, (size_t)width, err)) {
        return false;
    }
    for (int i = 0; i < width; i++) {
        v = v << 8 | bytes[i];
    }
    *out = v;
    return true;
}

/* An unsigned integer below `limit`. */
static bool read_below(struct trace_reader *r, uint64_t limit, const char *what, uint64_t *out,
                       struct error *err) {
    unsigned char head;
    if (!read_bytes(r, &head, 1, err)) {
        return false;
    }
    *out = head;
    if (head >= UINT8 && head <= UINT64) {
        if (!read_number(r, 1 << (head - UINT8), out, err)) {
            return false;
        }
    } else if (head >= 0x80) {
        return bad(r, err, what);
    }
    return *out < limit || bad(r, err, what);
}

static bool read_array(struct trace_reader *r, int n, const char *what, struct error *err) {
    unsigned char head;
    return read_bytes(r, &head, 1, err) && (head == FIX_ARRAY + n || bad(r, err, what));
}

/* A text of less than `size` bytes. */
static bool read_text(struct trace_reader *r, char *out, size_t size, struct error *err) {
    unsigned char head;
    uint64_t n;
    if (!read_bytes(r, &head, 1, err)) {
        return false;
    }
    n = head - (unsigned)FIX_TEXT;
    if (head == TEXT8) {
        if (!read_number(r, 1, &n, err)) {
            return false;
        }
    } else if (head < FIX_TEXT || head >= 0xc0) {
        return bad(r, err, "not a text");
    }
    if (n >= size) {
        return bad(r, err, "a text that is too long");
    }
    if (!read_bytes(r, out, (size_t)n, err)) {
        return false;
    }
    out[n] = 0;
    return true;
}

/* The frame's bytes, as they come. */
static bool read_frame(struct trace_reader *r, struct error *err) {
    unsigned char head;
    uint64_t n;
    if (!read_bytes(r, &head, 1, err)) {
        return false;
    }
    if (head < BIN8 || head > BIN32) {
        return bad(r, err, "its frame is not a bin");
    }
    if (!read_number(r, 1 << (head - BIN8), &n, err)) {
        return false;
    }
    if (n > FRAME_MAX_BYTES) {
        return bad(r, err, "a frame of more than 64 MiB");
    }
    buffer_clear(&r->frame);
    while (r->frame.size < n) {
        size_t piece = n - r->frame.size < PIECE ? (size_t)n - r->frame.size : PIECE;
        if (!buffer_reserve(&r->frame, piece, err) ||
            !read_bytes(r, r->frame.data + r->frame.size, piece, err)) {
            return false;
        }
        r->frame.size += piece;
    }
    return true;
}

/* ---- the file ---- */

static bool open_file(struct trace_reader *r, const char *path, struct error *err) {
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO has no end to wait for */
    if (fd < 0 || fstat(fd, &st) != 0) {
        error_set(err, ERROR_IO, "%s: %s", show_path(path).text, strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        error_set(err, ERROR_IO, "%s: not a regular file", show_path(path).text);
    } else {
        r->size = (uint64_t)st.st_size;
        r->file = fdopen(fd, "rb");
        return r->file || error_set(err, ERROR_MEMORY, "cannot read a trace");
    }
    if (fd >= 0) {
        close(fd);
    }
    return false;
}

static bool read_header(struct trace_reader *r, struct error *err) {
    char magic[32];
    uint64_t version, world;
    if (!read_array(r, 4, "not a trace of --trace-rpc", err) ||
        !read_text(r, magic, sizeof magic, err)) {
        return false;
    }
    if (strcmp(magic, TRACE_MAGIC) != 0) {
        return bad(r, err, "not a trace of --trace-rpc");
    }
    if (!read_below(r, UINT64_MAX, "no version", &version, err)) {
        return false;
    }
    if (version != TRACE_VERSION) {
        return bad(r, err, "a trace of another version");
    }
    if (!read_below(r, TRACE_WORLD_MAX + 1, "no number of ranks", &world, err) ||
        !read_text(r, r->build, sizeof r->build, err)) {
        return false;
    }
    r->world = (int)world;
    return world > 0 || bad(r, err, "no number of ranks");
}

bool trace_reader_open(struct trace_reader **out, const char *path, struct error *err) {
    struct trace_reader *r = calloc(1, sizeof *r);
    if (!r || !(r->path = strdup(path))) {
        free(r);
        return error_set(err, ERROR_MEMORY, "cannot read a trace");
    }
    if (!open_file(r, path, err) || !read_header(r, err)) {
        trace_reader_close(r);
        return false;
    }
    *out = r;
    return true;
}

void trace_reader_close(struct trace_reader *r) {
    if (r) {
        if (r->file) {
            fclose(r->file);
        }
        buffer_finish(&r->frame);
        free(r->path);
        free(r);
    }
}

int trace_reader_world(const struct trace_reader *r) {
    return r->world;
}

const char *trace_reader_build(const struct trace_reader *r) {
    return r->build;
}

static bool read_entry(struct trace_reader *r, struct trace_entry *out, struct error *err) {
    uint64_t when, direction, peer, side;
    if (!read_array(r, 5, "not an entry of a trace", err) ||
        !read_below(r, UINT64_MAX, "no time", &when, err) ||
        !read_below(r, TRACE_RECEIVED + 1, "no direction", &direction, err) ||
        !read_below(r, (uint64_t)r->world, "no rank of this trace", &peer, err) ||
        !read_below(r, SIDE_COUNT, "no side", &side, err) || !read_frame(r, err)) {
        return false;
    }
    *out = (struct trace_entry){.when_ns = when,
                                .direction = (enum trace_direction)direction,
                                .peer = (int)peer,
                                .side = (enum message_side)side,
                                .frame = r->frame.data,
                                .size = r->frame.size};
    return true;
}

bool trace_reader_next(struct trace_reader *r, struct trace_entry *out, bool *got,
                       struct error *err) {
    int c = r->cut ? EOF : getc(r->file);
    *got = c != EOF;
    if (!*got) {
        return r->cut || !ferror(r->file) ||
               error_set(err, ERROR_IO, "%s: %s", show_path(r->path).text, strerror(errno));
    }
    ungetc(c, r->file);
    r->start = r->at;
    if (!read_entry(r, out, err)) {
        *got = false;
        return r->cut; /* what a run that was killed leaves */
    }
    return true;
}

bool trace_reader_is_cut(const struct trace_reader *r) {
    return r->cut;
}

double trace_reader_share(const struct trace_reader *r) {
    return r->size > 0 && r->at < r->size ? (double)r->at / (double)r->size : 1;
}

bool trace_reader_blame(const struct trace_reader *r, struct error *err) {
    enum error_kind kind = err->kind == ERROR_MEMORY ? ERROR_MEMORY : ERROR_INPUT;
    char message[sizeof err->message];
    snprintf(message, sizeof message, "%s", err->message);
    return error_set(err, kind, "%s: byte %llu: %s", show_path(r->path).text,
                     (unsigned long long)r->start, message);
}
