#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static enum log_level log_level = LOG_INFO;
static int log_rank = -1;

static const char *const level_names[] = {"error", "warn", "info", "debug"};

_Static_assert(sizeof level_names / sizeof level_names[0] == LOG_LEVEL_COUNT, "named levels");

bool log_level_from_name(const char *name, enum log_level *out) {
    for (int i = 0; i < LOG_LEVEL_COUNT; i++) {
        if (strcmp(level_names[i], name) == 0) {
            *out = (enum log_level)i;
            return true;
        }
    }
    return false;
}

void log_set_level(enum log_level level) {
    log_level = level;
}

void log_set_rank(int rank) {
    log_rank = rank;
}

void log_print(enum log_level level, const char *fmt, ...) {
    if (level > log_level) {
        return;
    }
    char line[1200];
    size_t cap = sizeof line - 1; /* room for the newline */
    const char *tag = level == LOG_WARN ? "warning: " : level == LOG_DEBUG ? "debug: " : "";
    int n = log_rank >= 0 && level != LOG_ERROR && level != LOG_INFO
                ? snprintf(line, cap, "lockstep: %srank %d: ", tag, log_rank)
                : snprintf(line, cap, "lockstep: %s", tag);
    size_t used = (size_t)n;
    va_list args;
    va_start(args, fmt);
    n = vsnprintf(line + used, cap - used, fmt, args);
    va_end(args);
    used += n < 0 ? 0 : (size_t)n;
    used = used < cap ? used : cap - 1;
    line[used++] = '\n';
    if (write(STDERR_FILENO, line, used) < 0) {
        return; /* nowhere left to complain */
    }
}
