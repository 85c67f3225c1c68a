/* What comes to the port of a vigil: frames, which are read in pieces, and whose texts are shown.
 * First byte: the size of the pieces. */
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/vigil_frame.h"
#include "fuzz.h"

enum { WORLD = 8 };

static int ends[2] = {-1, -1};

/* A token that the input may know. */
static const uint64_t token = 0x6e656b6f74; /* "token" */

static void look_at(struct vigil_frame *f) {
    struct error err;
    if (!vigil_frame_check(f, token, WORLD)) {
        return;
    }
    FUZZ_CHECK(f->from >= 0 && f->from < WORLD && f->to >= 0 && f->to < WORLD);
    fuzz_message(*f->host ? f->host : "-");
    fuzz_message(*f->device ? f->device : "-");
    vigil_frame_error(f, &err);
    FUZZ_CHECK(err.kind > ERROR_NONE && err.kind < ERROR_KIND_COUNT);
    FUZZ_CHECK(!err.has_rank || (err.rank >= 0 && err.rank < WORLD));
    fuzz_message(err.message);
}

void fuzz_one(struct fuzz_input in) {
    struct vigil_reader reader = {0};
    struct vigil_frame f;
    if (ends[0] < 0) {
        FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) == 0);
    }
    size_t piece = 1 + 4 * fuzz_byte(&in);
    while (in.size > 0) {
        size_t n = piece < in.size ? piece : in.size;
        enum vigil_read got;
        FUZZ_CHECK(write(ends[1], in.data, n) == (ssize_t)n);
        in.data += n;
        in.size -= n;
        while ((got = vigil_read(&reader, ends[0], &f)) == VIGIL_READ_FRAME) {
            look_at(&f);
        }
        FUZZ_CHECK(got == VIGIL_READ_NOTHING);
    }
}
