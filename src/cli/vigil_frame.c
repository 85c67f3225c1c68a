#include "cli/vigil_frame.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "format/show.h"

static const uint64_t magic = 0x316c696769766c6c; /* "llvigil1", to hosts of one byte order */

struct vigil_frame vigil_frame_make(uint64_t token, enum vigil_word word, const char *host,
                                    const char *device, const struct error *err) {
    struct vigil_frame f = {
        .magic = magic, .token = token, .word = (int32_t)word, .about = -1, .kind = "none"};
    snprintf(f.host, sizeof f.host, "%s", host);
    snprintf(f.device, sizeof f.device, "%s", device);
    if (err) {
        f.about = err->has_rank ? err->rank : -1;
        snprintf(f.kind, sizeof f.kind, "%s", error_kind_name(err->kind));
        snprintf(f.message, sizeof f.message, "%s", err->message);
    }
    return f;
}

/* It goes to a terminal. */
static void make_fit(char *text, size_t size) {
    text[size - 1] = 0;
    show_in_place(text);
}

bool vigil_frame_check(struct vigil_frame *f, uint64_t token, int world) {
    if (f->magic != magic || f->token != token || f->word < 0 || f->word >= VIGIL_WORD_COUNT ||
        f->from < 0 || f->from >= world || f->to < 0 || f->to >= world || f->about < -1 ||
        f->about >= world) {
        return false;
    }
    make_fit(f->host, sizeof f->host);
    make_fit(f->device, sizeof f->device);
    make_fit(f->kind, sizeof f->kind);
    make_fit(f->message, sizeof f->message);
    return true;
}

void vigil_frame_error(const struct vigil_frame *f, struct error *out) {
    enum error_kind kind = error_kind_from_name(f->kind);
    error_set(out, kind == ERROR_NONE ? ERROR_INTERNAL : kind, "%s",
              *f->message ? f->message : "no reason is given");
    if (f->about >= 0) {
        error_at_rank(out, f->about);
    }
}

enum vigil_read vigil_read(struct vigil_reader *r, int fd, struct vigil_frame *out) {
    ssize_t n = recv(fd, (char *)&r->frame + r->n, sizeof r->frame - r->n, MSG_DONTWAIT);
    if (n <= 0) {
        bool later = n < 0 && (errno == EAGAIN || errno == EINTR);
        bool closed = n == 0 || errno == ECONNRESET;
        return later ? VIGIL_READ_NOTHING : closed ? VIGIL_READ_END : VIGIL_READ_BROKEN;
    }
    r->n += (size_t)n;
    if (r->n < sizeof r->frame) {
        return VIGIL_READ_NOTHING;
    }
    r->n = 0;
    *out = r->frame;
    return VIGIL_READ_FRAME;
}
