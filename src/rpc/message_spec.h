/* The flat fields of each type of message, for what treats all types alike. */
#pragma once

#include <stddef.h>

#include "rpc/messages.h"

enum field_type { FIELD_I32, FIELD_U64, FIELD_F64, FIELD_TEXT };

struct field {
    const char *key;
    enum field_type type;
    size_t offset; /* in struct message */
    size_t size;   /* of a text's array */
};

enum { MAX_FIELDS = 40 };

/* The first of at most MAX_FIELDS, which end with a key that is NULL. */
const struct field *message_fields(enum message_type type);
