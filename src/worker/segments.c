#include "worker/segments.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

enum { AGE_S = 60, JOB_SIZE = 20, DIR_SIZE = 256, MOST_FILES = 4096 };

/* A run's files. */
struct job {
    char id[JOB_SIZE];
    int n;
    uint64_t bytes;
    bool in_use;
};

struct file {
    dev_t device;
    ino_t inode;
    int job;
};

struct search {
    char dir[DIR_SIZE], prefix[DIR_SIZE]; /* "vader_segment.HOST.UID." */
    struct job *jobs;                     /* owns [n_job] */
    int n_job;
    struct file *files; /* owns [n_file] */
    int n_file;
};

/* "vader_segment.HOST.UID.JOB.RANK", JOB in hexadecimal: the job, where it is one of these. */
static bool job_of_name(const struct search *s, const char *name, char out[JOB_SIZE]) {
    size_t n_prefix = strlen(s->prefix);
    if (strncmp(name, s->prefix, n_prefix) != 0) {
        return false;
    }
    const char *job = name + n_prefix;
    size_t n = strspn(job, "0123456789abcdef");
    const char *rank = job + n + 1;
    if (n == 0 || n >= JOB_SIZE || job[n] != '.' || !*rank ||
        rank[strspn(rank, "0123456789")] != 0) {
        return false;
    }
    snprintf(out, JOB_SIZE, "%.*s", (int)n, job);
    return true;
}

/* NULL: none of its files has been seen. */
static struct job *find_job(const struct search *s, const char *id) {
    for (int i = 0; i < s->n_job; i++) {
        if (strcmp(s->jobs[i].id, id) == 0) {
            return &s->jobs[i];
        }
    }
    return NULL;
}

static void add_file(struct search *s, int dir, const char *name, time_t now) {
    char id[JOB_SIZE];
    struct stat is;
    if (s->n_file == MOST_FILES || !job_of_name(s, name, id) ||
        fstatat(dir, name, &is, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(is.st_mode)) {
        return;
    }
    struct job *job = find_job(s, id);
    if (!job) {
        job = &s->jobs[s->n_job++];
        memcpy(job->id, id, sizeof id);
    }
    job->n++;
    job->bytes += (uint64_t)is.st_blocks * 512; /* what it takes, not what it could */
    job->in_use = job->in_use || now - is.st_mtime < AGE_S || is.st_uid != geteuid();
    s->files[s->n_file++] = (struct file){is.st_dev, is.st_ino, (int)(job - s->jobs)};
}

static bool list_files(struct search *s) {
    DIR *dir = opendir(s->dir);
    time_t now = time(NULL);
    s->files = calloc(MOST_FILES, sizeof *s->files);
    s->jobs = calloc(MOST_FILES, sizeof *s->jobs);
    bool ok = dir && s->files && s->jobs;
    for (struct dirent *e; ok && (e = readdir(dir));) {
        add_file(s, dirfd(dir), e->d_name, now);
    }
    if (dir) {
        closedir(dir);
    }
    return ok && s->n_file > 0;
}

/* ---- who uses them ---- */

/* By device and inode, and, as some file systems show another device, by the name, too. */
static void mark(struct search *s, const char *line) {
    unsigned major_number, minor_number;
    unsigned long inode;
    char id[JOB_SIZE];
    if (sscanf(line, "%*s %*s %*s %x:%x %lu", &major_number, &minor_number, &inode) != 3 ||
        inode == 0) {
        return;
    }
    for (int i = 0; i < s->n_file; i++) {
        const struct file *f = &s->files[i];
        if (f->inode == inode && f->device == makedev(major_number, minor_number)) {
            s->jobs[f->job].in_use = true;
        }
    }
    const char *slash = strrchr(line, '/');
    struct job *job = slash && job_of_name(s, slash + 1, id) ? find_job(s, id) : NULL;
    if (job) {
        job->in_use = true;
    }
}

/* One that does not let itself be looked at by this user is none of this user's ranks. */
static void look_at_process(struct search *s, const char *pid) {
    char path[64], line[4096 + 200];
    snprintf(path, sizeof path, "/proc/%.20s/maps", pid);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        mark(s, line);
    }
    if (f) {
        fclose(f);
    }
}

static bool look_at_processes(struct search *s) {
    DIR *dir = opendir("/proc");
    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (e->d_name[0] >= '1' && e->d_name[0] <= '9') {
            look_at_process(s, e->d_name);
        }
    }
    if (dir) {
        closedir(dir);
    }
    return dir != NULL;
}

/* ---- what to say ---- */

/* As many jobs as the pattern has room for. */
static void name_jobs(const struct search *s, struct segments *out) {
    char ids[120] = "";
    size_t used = 0;
    for (int i = 0; i < s->n_job; i++) {
        const struct job *j = &s->jobs[i];
        if (!j->in_use && used + strlen(j->id) + 2 < sizeof ids) {
            used += (size_t)snprintf(ids + used, sizeof ids - used, "%s%s",
                                     out->n_named++ ? "," : "", j->id);
        }
    }
    bool several = out->n_named > 1;
    int n = snprintf(out->pattern, sizeof out->pattern, "%s/%s%s%s%s.*", s->dir, s->prefix,
                     several ? "{" : "", ids, several ? "}" : "");
    if (n >= (int)sizeof out->pattern) { /* half a command is none */
        *out = (struct segments){0};
    }
}

static void sum_up(const struct search *s, struct segments *out) {
    for (int i = 0; i < s->n_job; i++) {
        if (!s->jobs[i].in_use) {
            out->n += s->jobs[i].n;
            out->bytes += s->jobs[i].bytes;
            out->n_job++;
        }
    }
    if (out->n_job) {
        name_jobs(s, out);
    }
}

void segments_find(struct segments *out) {
    struct search s = {0};
    char host[128] = "";
    const char *dir = getenv("OMPI_MCA_btl_vader_backing_directory");
    *out = (struct segments){0};
    gethostname(host, sizeof host - 1);
    snprintf(s.dir, sizeof s.dir, "%s", dir && *dir ? dir : "/dev/shm");
    snprintf(s.prefix, sizeof s.prefix, "vader_segment.%s.%u.", host, (unsigned)geteuid());
    if (list_files(&s) && look_at_processes(&s)) {
        sum_up(&s, out);
    }
    free(s.files);
    free(s.jobs);
}
