#include "base/memory_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void close_quietly(int fd) {
    int why = errno;
    close(fd);
    errno = why;
}

/* All of it now: where there is too little, the first store would be a SIGBUS. */
static bool reserve(int fd, size_t bytes) {
    while (fallocate(fd, 0, 0, (off_t)bytes) != 0) {
        if (errno != EINTR) {
            return false;
        }
    }
    return true;
}

void *memory_file_create(const char *name, size_t bytes, int *fd) {
    int made = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (made < 0) {
        return NULL;
    }
    void *memory = MAP_FAILED;
    if (reserve(made, bytes) &&
        fcntl(made, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0) {
        memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, made, 0);
    }
    if (memory == MAP_FAILED) {
        close_quietly(made);
        return NULL;
    }
    *fd = made;
    return memory;
}

/* Another process may have that number by now, and its file may be anything. */
static int open_file(const char *name, int pid, int fd) {
    char path[64], expected[64], target[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, fd);
    int n_expected = snprintf(expected, sizeof expected, "/memfd:%s", name);
    ssize_t n = readlink(path, target, sizeof target);
    if (n >= 0 && (n < n_expected || memcmp(target, expected, (size_t)n_expected) != 0)) {
        errno = 0;
        return -1;
    }
    return n < 0 ? -1 : open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
}

const void *memory_file_map(const char *name, size_t bytes, int pid, int fd) {
    struct stat about;
    int opened = open_file(name, pid, fd);
    if (opened < 0) {
        return NULL;
    }
    void *memory = MAP_FAILED;
    int seals = fcntl(opened, F_GET_SEALS);
    errno = 0;
    if (seals >= 0 && (seals & F_SEAL_SHRINK) && fstat(opened, &about) == 0 &&
        about.st_size == (off_t)bytes) {
        memory = mmap(NULL, bytes, PROT_READ, MAP_SHARED, opened, 0);
    }
    close_quietly(opened);
    return memory == MAP_FAILED ? NULL : memory;
}
