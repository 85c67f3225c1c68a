/* The last failures that were the server's or its ranks' own, for people to see. Zero-initialised,
 * there are none. */
#pragma once

#include <jansson.h>
#include <stdint.h>

enum { LAST_ERRORS_KEPT = 8 };

struct last_errors {
    int n;
    struct last_error {
        int64_t time; /* Unix */
        char message[400];
    } kept[LAST_ERRORS_KEPT]; /* oldest first */
};

/* Said twice in a row, it is noted once, with the later time. */
void last_errors_note(struct last_errors *e, int64_t time, const char *message);

/* [{"time", "message"} ...], oldest first. NULL: no memory. */
json_t *last_errors_json(const struct last_errors *e);
