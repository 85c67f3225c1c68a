#include "fuzz.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "config.h"

static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    double start = cpu_seconds();
    fuzz_one((struct fuzz_input){data, size});
    double took = cpu_seconds() - start;
    if (took > 1) {
        fprintf(stderr, "broken: %zu bytes took %.1f s\n", size, took);
        abort();
    }
    return 0;
}

/* ---- the input ---- */

unsigned fuzz_byte(struct fuzz_input *in) {
    if (in->size == 0) {
        return 0;
    }
    in->size--;
    return *in->data++;
}

struct fuzz_input fuzz_part(struct fuzz_input *in) {
    const uint8_t *end = in->size ? memchr(in->data, 0, in->size) : NULL;
    struct fuzz_input part = {in->data, end ? (size_t)(end - in->data) : in->size};
    size_t used = part.size + (end != NULL);
    in->data += used;
    in->size -= used;
    return part;
}

/* ---- files ---- */

static char directory[200];

static void remove_directory(void) {
    DIR *d = opendir(directory);
    for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d)) {
        unlinkat(dirfd(d), e->d_name, 0);
    }
    if (d) {
        closedir(d);
    }
    rmdir(directory);
}

const char *fuzz_dir(void) {
    if (!directory[0]) {
        const char *parent = getenv("TMPDIR");
        snprintf(directory, sizeof directory, "%s/lockstep-fuzz-XXXXXX", parent ? parent : "/tmp");
        FUZZ_CHECK(mkdtemp(directory));
        atexit(remove_directory);
    }
    return directory;
}

static const char *path_of(const char *name) {
    static char path[300];
    snprintf(path, sizeof path, "%s/%s", fuzz_dir(), name);
    return path;
}

void fuzz_put(const char *name, const void *data, size_t n, size_t size) {
    int fd = open(path_of(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    FUZZ_CHECK(fd >= 0);
    FUZZ_CHECK(n == 0 || write(fd, data, n) == (ssize_t)n);
    FUZZ_CHECK(size <= n || ftruncate(fd, (off_t)size) == 0);
    close(fd);
}

void fuzz_drop(const char *name) {
    unlink(path_of(name));
}

/* ---- errors ---- */

void fuzz_message(const char *text) {
    FUZZ_CHECK(text[0]);
    for (const char *c = text; *c; c++) {
        bool c1 = (unsigned char)c[0] == 0xc2 && (unsigned char)c[1] >= 0x80 &&
                  (unsigned char)c[1] < 0xa0;
        if ((unsigned char)*c < 0x20 || *c == 0x7f || c1) {
            fprintf(stderr, "byte %d of a message is not printable: %s\n", (int)(c - text), text);
            abort();
        }
    }
}

bool fuzz_result(bool ok, const struct error *err) {
    if (!ok) {
        FUZZ_CHECK(err->kind > ERROR_NONE && err->kind < ERROR_KIND_COUNT);
        FUZZ_CHECK(err->kind != ERROR_INTERNAL && err->kind != ERROR_MEMORY);
        fuzz_message(err->message);
    }
    return ok;
}

/* ---- tokenizers ---- */

static struct {
    const char *name;
    struct tokenizer *tokenizer;
} loaded[4];

static void destroy_tokenizers(void) {
    for (size_t i = 0; i < sizeof loaded / sizeof loaded[0]; i++) {
        tokenizer_destroy(loaded[i].tokenizer);
    }
}

const struct tokenizer *fuzz_tokenizer(const char *name) {
    size_t i = 0;
    while (loaded[i].name && strcmp(loaded[i].name, name) != 0) {
        i++;
        FUZZ_CHECK(i < sizeof loaded / sizeof loaded[0]);
    }
    if (!loaded[i].name) {
        char dir[512];
        struct error err = {0};
        snprintf(dir, sizeof dir, "%s/tests/data/%s", LOCKSTEP_SOURCE_DIR, name);
        if (!tokenizer_load(&loaded[i].tokenizer, dir, 0, &err)) {
            fprintf(stderr, "%s\n", err.message);
            abort();
        }
        loaded[i].name = name;
        if (i == 0) {
            atexit(destroy_tokenizers);
        }
    }
    return loaded[i].tokenizer;
}
