#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int exit_code;
} kinds[] = {
#define X(symbol, name, code) [symbol] = {name, code},
    ERROR_KINDS(X)
#undef X
};

_Static_assert(sizeof kinds / sizeof kinds[0] == ERROR_KIND_COUNT, "every kind has a name");

bool error_set(struct error *err, enum error_kind kind, const char *fmt, ...) {
    if (err) {
        va_list args;
        va_start(args, fmt);
        *err = (struct error){.kind = kind};
        vsnprintf(err->message, sizeof err->message, fmt, args);
        va_end(args);
    }
    return false;
}

bool error_wrap(struct error *err, const char *fmt, ...) {
    if (err) {
        char joined[2 * sizeof err->message];
        size_t half = sizeof err->message;
        va_list args;
        va_start(args, fmt);
        vsnprintf(joined, half, fmt, args);
        va_end(args);
        size_t used = strlen(joined);
        snprintf(joined + used, sizeof joined - used, ": %s", err->message);
        memcpy(err->message, joined, half - 1);
        err->message[half - 1] = 0;
    }
    return false;
}

bool error_at_rank(struct error *err, int rank) {
    if (err && !err->has_rank) {
        err->rank = rank;
        err->has_rank = true;
    }
    return false;
}

const char *error_kind_name(enum error_kind kind) {
    return (unsigned)kind < ERROR_KIND_COUNT ? kinds[kind].name : "internal";
}

enum error_kind error_kind_from_name(const char *name) {
    for (int i = 0; i < ERROR_KIND_COUNT; i++) {
        if (strcmp(kinds[i].name, name) == 0) {
            return (enum error_kind)i;
        }
    }
    return ERROR_INTERNAL;
}

int error_exit_code(enum error_kind kind) {
    return (unsigned)kind < ERROR_KIND_COUNT ? kinds[kind].exit_code : 3;
}
