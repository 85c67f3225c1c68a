/* Other processes, as /proc tells of them. Nothing here allocates or takes a lock: it is for
 * threads that look while the main one may be stuck anywhere. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct process_stat {
    char state; /* 'R', 'S', 'T' stopped, 'Z' ended ...: see proc(5) */
    int parent;
    uint64_t started; /* in ticks since the boot: a later process may have the same number */
};

/* /proc/PID/name, cut to size - 1 bytes and with a NUL behind. Returns its length; 0: it cannot be
 * read. */
size_t process_read(int pid, const char *name, char *out, size_t size);

/* False: there is no such process. */
bool process_stat(int pid, struct process_stat *out);
