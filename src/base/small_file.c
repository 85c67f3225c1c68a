#include "base/small_file.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_special(const char *path) {
    struct stat st;
    return lstat(path, &st) == 0 && !S_ISREG(st.st_mode);
}

static bool write_line(const char *path, const char *line) {
    FILE *f = fopen(path, "we");
    bool ok = f && fprintf(f, "%s\n", line) > 0;
    return f && fclose(f) == 0 && ok;
}

bool small_file_write(const char *path, const char *line) {
    char fresh[PATH_MAX];
    if (is_special(path)) {
        return write_line(path, line);
    }
    int n = snprintf(fresh, sizeof fresh, "%s.%d.tmp", path, (int)getpid());
    if (n < 0 || (size_t)n >= sizeof fresh) {
        errno = ENAMETOOLONG;
        return false;
    }
    bool ok = write_line(fresh, line) && rename(fresh, path) == 0;
    if (!ok) {
        int why = errno;
        unlink(fresh);
        errno = why;
    }
    return ok;
}

void small_file_remove(const char *path) {
    if (!is_special(path)) {
        unlink(path);
    }
}
