#include "rpc/message_compare.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "format/show.h"
#include "rpc/message_spec.h"

static void field_text(const struct field *f, const struct message *m, char *out, size_t size) {
    const char *at = (const char *)m + f->offset;
    int32_t i32;
    uint64_t u64;
    double f64;
    switch (f->type) {
    case FIELD_I32:
        memcpy(&i32, at, sizeof i32);
        snprintf(out, size, "%" PRId32, i32);
        break;
    case FIELD_U64:
        memcpy(&u64, at, sizeof u64);
        snprintf(out, size, "%" PRIu64, u64);
        break;
    case FIELD_F64:
        memcpy(&f64, at, sizeof f64);
        snprintf(out, size, "%.17g", f64);
        break;
    case FIELD_TEXT:
        snprintf(out, size, "%s", show_text(at).text);
        break;
    }
}

static bool same_value(const struct field *f, const struct message *a, const struct message *b) {
    const char *x = (const char *)a + f->offset, *y = (const char *)b + f->offset;
    return f->type == FIELD_TEXT ? strncmp(x, y, f->size) == 0 : memcmp(x, y, f->size) == 0;
}

/* "loaded", or of an error what it says. */
static void type_text(const struct message *m, char *out, size_t size) {
    if (m->type == MESSAGE_ERROR) {
        snprintf(out, size, "error %.31s: %s", show_text(m->error.kind).text,
                 show_text(m->error.message).text);
    } else {
        snprintf(out, size, "%s", message_name(m->type));
    }
}

bool message_compare(const struct message *recorded, const struct message *now,
                     message_counts *counts, void *user, struct message_difference *out) {
    if (recorded->type != now->type) {
        out->field = "type";
        type_text(recorded, out->recorded, sizeof out->recorded);
        type_text(now, out->now, sizeof out->now);
        return false;
    }
    const struct field *f = message_fields(recorded->type);
    for (int i = 0; i < MAX_FIELDS && f[i].key; i++) {
        if (!same_value(&f[i], recorded, now) && counts(user, recorded->type, f[i].key)) {
            out->field = f[i].key;
            field_text(&f[i], recorded, out->recorded, sizeof out->recorded);
            field_text(&f[i], now, out->now, sizeof out->now);
            return false;
        }
    }
    return true;
}

static bool is_named(enum message_type type, const char *field, const char *name_and_field) {
    const char *name = message_name(type);
    size_t n = strlen(name);
    return message_side(type) == SIDE_REPLY && strncmp(name_and_field, name, n) == 0 &&
           name_and_field[n] == '.' && strcmp(name_and_field + n + 1, field) == 0;
}

bool message_has_field(const char *name_and_field) {
    for (int type = 0; type < MESSAGE_COUNT; type++) {
        const struct field *f = message_fields((enum message_type)type);
        for (int i = 0; i < MAX_FIELDS && f[i].key; i++) {
            if (is_named((enum message_type)type, f[i].key, name_and_field)) {
                return true;
            }
        }
    }
    return false;
}
