/* Memory of one process that others of its host map for reading. It lies in a memory file, which
 * has no name: none is left behind, whoever dies. Others open it through /proc/PID/fd/N, so they
 * need the same user and the same numbers of processes. A mapping outlives its owner. */
#pragma once

#include <stddef.h>

/* Zeroed memory of the caller's, to write and read; *fd is for others to find it by, and may be
 * closed when they have. Never shrinks: who reads it never meets the end of the file.
 * NULL, with errno: there is none. */
void *memory_file_create(const char *name, size_t bytes, int *fd);

/* What process `pid` has made by that name, with that size and descriptor. munmap when done.
 * NULL, with errno (0: what is there is something else): it cannot be had. */
const void *memory_file_map(const char *name, size_t bytes, int pid, int fd);
