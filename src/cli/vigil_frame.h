/* What the vigils of a job's ranks say to each other over a link: frames of one size, which is all
 * that is ever read, so that nothing in a frame is a size. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum vigil_word {
    VIGIL_HELLO, /* the first one, either way */
    VIGIL_ALIVE,
    VIGIL_LOST, /* the job ends for this reason, which is still to be said aloud */
    VIGIL_SAID, /* and this one has been */
    VIGIL_BYE,  /* the sender has come to its good end */
    VIGIL_WORD_COUNT
};

struct vigil_frame {
    uint64_t magic, token;
    int32_t word;
    int32_t from, to; /* ranks */
    int32_t about;    /* the rank that the rest is about; -1: none */
    char host[64], device[16];
    char kind[24]; /* of error */
    char message[480];
};

_Static_assert(sizeof(struct vigil_frame) == 616, "no gaps");

/* A rank says so of itself or of another one, which is at `host` and `device` (may be ""). err:
 * with LOST and SAID alone. */
struct vigil_frame vigil_frame_make(uint64_t token, enum vigil_word word, const char *host,
                                    const char *device, const struct error *err);

/* Whether this is a frame of the job that knows the token and has so many ranks. Makes its texts
 * fit to be shown. */
bool vigil_frame_check(struct vigil_frame *f, uint64_t token, int world);

void vigil_frame_error(const struct vigil_frame *f, struct error *out);

/* Frames come in pieces. Zero-initialised is valid. */
struct vigil_reader {
    size_t n;
    struct vigil_frame frame;
};

enum vigil_read {
    VIGIL_READ_NOTHING, /* more, as yet */
    VIGIL_READ_FRAME,
    VIGIL_READ_END,   /* the other end is closed */
    VIGIL_READ_BROKEN /* something came between */
};

/* Reads what is there of one frame from a socket, without waiting. The frame is not checked. */
enum vigil_read vigil_read(struct vigil_reader *r, int fd, struct vigil_frame *out);
