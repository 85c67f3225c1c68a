#include "comm/nccl/nccl_log.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

/* Copies from a pipe to stderr until the process ends. */
static void *forward(void *read_end) {
    char data[4096];
    ssize_t n;
    while ((n = read((int)(intptr_t)read_end, data, sizeof data)) > 0) {
        for (ssize_t at = 0, done; at < n; at += done) {
            done = write(STDERR_FILENO, data + at, (size_t)(n - at));
            if (done < 0) {
                break;
            }
        }
    }
    return NULL;
}

/* NCCL opens its file anew, and empties it: right for a terminal or a pipe, but it would write over
 * what others have put into a file, and cannot open a socket at all, nor what belongs to another
 * user, as in containers. Where it cannot, it takes stdout. */
static bool can_be_opened(void) {
    struct stat about;
    return fstat(STDERR_FILENO, &about) == 0 &&
           (S_ISCHR(about.st_mode) || S_ISFIFO(about.st_mode)) && access("/dev/stderr", W_OK) == 0;
}

static int open_pipe(void) {
    int ends[2];
    pthread_t thread;
    if (pipe2(ends, O_CLOEXEC) != 0) {
        return -1;
    }
    if (pthread_create(&thread, NULL, forward, (void *)(intptr_t)ends[0]) != 0) {
        close(ends[0]);
        close(ends[1]);
        return -1;
    }
    pthread_detach(thread);
    return ends[1];
}

void nccl_log_to_stderr(void) {
    char path[64] = "/dev/stderr";
    const char *level = getenv("NCCL_DEBUG");
    if (level && strcasecmp(level, "VERSION") == 0) {
        setenv("NCCL_DEBUG", "WARN", 1); /* at that level alone NCCL heeds no file */
    }
    if (getenv("NCCL_DEBUG_FILE")) {
        return;
    }
    /* Without NCCL_DEBUG, too: ~/.nccl.conf and /etc/nccl.conf may set it. */
    if (!can_be_opened()) {
        int fd = open_pipe();
        if (fd >= 0) {
            snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        }
    }
    setenv("NCCL_DEBUG_FILE", path, 0);
}
