#include "base/wakeup.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

bool wakeup_open(int *out, struct error *err) {
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0) {
        return error_set(err, ERROR_INTERNAL, "eventfd: %s", strerror(errno));
    }
    *out = fd;
    return true;
}

void wakeup_raise(int fd) {
    uint64_t one = 1;
    if (write(fd, &one, sizeof one) < 0) {
        /* full: then it is raised */
    }
}

void wakeup_lower(int fd) {
    uint64_t ignored;
    if (read(fd, &ignored, sizeof ignored) < 0) {
        /* nobody has raised it */
    }
}
