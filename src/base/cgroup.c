#include "base/cgroup.h"

#include <math.h>
#include <string.h>

enum { PATH_SIZE = 1400 };

FILE *root_open(const char *root, const char *path) {
    char name[PATH_SIZE];
    int n = snprintf(name, sizeof name, "%s%s", root, path);
    return n > 0 && n < (int)sizeof name ? fopen(name, "re") : NULL;
}

/* Whether a list with commas between has the word. */
static bool has_word(const char *list, const char *word) {
    size_t n = strlen(word);
    for (;;) {
        size_t length = strcspn(list, ",");
        if (length == n && strncmp(list, word, n) == 0) {
            return true;
        }
        if (!list[length]) {
            return false;
        }
        list += length + 1;
    }
}

bool cgroup_find(const char *root, const char *controller, char group[CGROUP_NAME]) {
    char line[CGROUP_NAME]; /* such as "4:cpuset,memory:/jobs/7" */
    bool found = false;
    FILE *f = root_open(root, "/proc/self/cgroup");
    while (f && !found && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        char *names = strchr(line, ':');
        char *path = names ? strchr(names + 1, ':') : NULL;
        if (path && path[1] == '/') {
            *path++ = 0;
            found = has_word(names + 1, controller);
            snprintf(group, CGROUP_NAME, "%s", path[1] ? path : "");
        }
    }
    if (f) {
        fclose(f);
    }
    return found;
}

bool cgroup_up(char group[CGROUP_NAME]) {
    char *slash = strrchr(group, '/');
    if (slash) {
        *slash = 0;
    }
    return slash != NULL;
}

/* Up to two numbers of a group's one-line file; how many there were, 0 for "max". */
static int read_numbers(const char *root, const char *mount, const char *group, const char *file,
                        double *a, double *b) {
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s%s/%s", mount, group, file);
    FILE *f = root_open(root, path);
    int n = f ? fscanf(f, "%lf %lf", a, b) : 0;
    if (f) {
        fclose(f);
    }
    return n > 0 ? n : 0;
}

static double cores_of(const char *root, bool v2, const char *group) {
    double quota = -1, period = -1, unused;
    if (v2) {
        read_numbers(root, "/sys/fs/cgroup", group, "cpu.max", &quota, &period);
    } else {
        read_numbers(root, "/sys/fs/cgroup/cpu", group, "cpu.cfs_quota_us", &quota, &unused);
        read_numbers(root, "/sys/fs/cgroup/cpu", group, "cpu.cfs_period_us", &period, &unused);
    }
    return quota > 0 && period > 0 ? quota / period : (double)INFINITY;
}

double cgroup_cores(const char *root) {
    double least = (double)INFINITY;
    for (int v2 = 0; v2 < 2; v2++) {
        char group[CGROUP_NAME];
        for (bool more = cgroup_find(root, v2 ? "" : "cpu", group); more; more = cgroup_up(group)) {
            least = fmin(least, cores_of(root, v2, group));
        }
    }
    return least;
}
