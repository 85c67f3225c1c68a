/* Gives a target each file of the folders named, in memory of exactly its size: so every compiler
 * and sanitizer sees what fuzzing has found. */
#include <dirent.h>
#include <string.h>

#include "fuzz.h"

enum { MAX_BYTES = 1 << 20 };

static void replay_file(const char *path) {
    static uint8_t bytes[MAX_BYTES];
    FILE *f = fopen(path, "rbe");
    FUZZ_CHECK(f);
    size_t n = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    uint8_t *exact = malloc(n);
    FUZZ_CHECK(exact || n == 0);
    if (n > 0) {
        memcpy(exact, bytes, n);
    }
    fprintf(stderr, "%s\n", path); /* the last one is who crashed */
    LLVMFuzzerTestOneInput(exact, n);
    free(exact);
}

static int by_name(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

/* Returns how many files there were. */
static int replay_folder(const char *folder) {
    struct dirent **entries = NULL;
    int n = 0, count = scandir(folder, &entries, NULL, by_name);
    for (int i = 0; i < count; i++) {
        char path[4200];
        if (entries[i]->d_name[0] != '.') {
            snprintf(path, sizeof path, "%s/%s", folder, entries[i]->d_name);
            replay_file(path);
            n++;
        }
        free(entries[i]);
    }
    free(entries);
    return n;
}

int main(int argc, char **argv) {
    int n = 0;
    for (int i = 1; i < argc; i++) {
        n += replay_folder(argv[i]);
    }
    fprintf(stderr, "%d inputs\n", n);
    return n > 0 ? 0 : 1;
}
