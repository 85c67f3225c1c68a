/* Log lines go to stderr, one write() each, so that lines of different ranks never mix.
 * Form: "lockstep: [rank 3] text". Results never pass through here. */
#pragma once

#include <stdbool.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG, LOG_LEVEL_COUNT };

/* Level from "error", "warn", "info" or "debug"; false if the name is none of them. */
bool log_level_from_name(const char *name, enum log_level *out);

void log_set_level(enum log_level level);
/* The rank that prefixes warnings and debug lines; -1 (the start value) prints no rank. */
void log_set_rank(int rank);

void log_print(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_print(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_print(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_print(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_print(LOG_DEBUG, __VA_ARGS__)
