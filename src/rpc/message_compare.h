/* Two replies to the same request. */
#pragma once

#include "rpc/messages.h"

struct message_difference {
    const char *field;            /* "type" where one is another message */
    char recorded[256], now[256]; /* their values as printable text */
};

/* Whether a field counts: of times and the like none is as it was. */
typedef bool message_counts(void *user, enum message_type type, const char *field);

/* False: they differ, and `out` has the first field that counts and does. */
bool message_compare(const struct message *recorded, const struct message *now,
                     message_counts *counts, void *user, struct message_difference *out);

/* Whether a reply of that name has that field: "loaded.bytes". */
bool message_has_field(const char *name_and_field);
