#include "base/process.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

size_t process_read(int pid, const char *name, char *out, size_t size) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, out, size - 1);
    if (fd >= 0) {
        close(fd);
    }
    out[n > 0 ? n : 0] = 0;
    return n > 0 ? (size_t)n : 0;
}

bool process_stat(int pid, struct process_stat *out) {
    char text[1024];
    process_read(pid, "stat", text, sizeof text);
    const char *at = strrchr(text, ')'); /* the name before it may hold anything */
    return at && sscanf(at + 1,
                        " %c %d %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s "
                        "%*s %" SCNu64,
                        &out->state, &out->parent, &out->started) == 3;
}
