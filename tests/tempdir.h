/* A directory that a test fills and that is gone afterwards. */
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "test.h"

struct tempdir {
    char path[256];
};

static inline void tempdir_make(struct tempdir *d) {
    const char *parent = getenv("TMPDIR");
    snprintf(d->path, sizeof d->path, "%s/lockstep-test-XXXXXX", parent ? parent : "/tmp");
    assert_non_null(mkdtemp(d->path));
}

/* DIR/name; valid for three more calls. */
static inline const char *tempdir_join(const struct tempdir *d, const char *name) {
    static char joined[4][512];
    static int next;
    char *out = joined[next++ % 4];
    snprintf(out, sizeof joined[0], "%s/%s", d->path, name);
    return out;
}

/* Overwrites in place: thousands of truncations to nothing take seconds on some file systems. */
static inline void tempdir_write(const struct tempdir *d, const char *name, const void *data,
                                 size_t n) {
    struct stat st;
    int fd = open(tempdir_join(d, name), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, n), n);
    assert_int_equal(fstat(fd, &st), 0);
    if ((size_t)st.st_size != n) {
        assert_int_equal(ftruncate(fd, (off_t)n), 0);
    }
    assert_int_equal(close(fd), 0);
}

static inline void tempdir_text(const struct tempdir *d, const char *name, const char *text) {
    tempdir_write(d, name, text, strlen(text));
}

/* Removes the files (and empty directories) in it. */
static inline void tempdir_clear(struct tempdir *d) {
    DIR *dir = opendir(d->path);
    assert_non_null(dir);
    for (struct dirent *e = readdir(dir); e; e = readdir(dir)) {
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) {
            assert_int_equal(remove(tempdir_join(d, e->d_name)), 0);
        }
    }
    closedir(dir);
}

static inline void tempdir_remove(struct tempdir *d) {
    tempdir_clear(d);
    assert_int_equal(rmdir(d->path), 0);
}

/* The call must fail with this kind and a one-line message that holds both texts. */
static inline void assert_error(bool ok, const struct error *err, enum error_kind kind,
                                const char *text, const char *text2) {
    if (ok) {
        fail_msg("succeeded, expected an error about %s", text);
    }
    if (err->kind != kind || !strstr(err->message, text) || !strstr(err->message, text2) ||
        strchr(err->message, '\n')) {
        fail_msg("expected %s with '%s' and '%s', got %s: %s", error_kind_name(kind), text, text2,
                 error_kind_name(err->kind), err->message);
    }
}
