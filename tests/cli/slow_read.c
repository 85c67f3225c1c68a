/* Preloaded into a rank: a disk that is slow, but not dead. SLOW_READ_MS: how slow a read is,
 * unless 1 ms. */
#undef _FORTIFY_SOURCE /* which defines the functions that are to be replaced */

#include <dlfcn.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

/* With 64-bit offsets, as this project is compiled, the symbol is pread64. */
__attribute__((visibility("default"))) ssize_t pread(int fd, void *to, size_t n, off_t at) {
    static ssize_t (*real)(int, void *, size_t, off_t);
    if (!real) {
        *(void **)&real = dlsym(RTLD_NEXT, "pread64");
    }
    const char *ms = getenv("SLOW_READ_MS");
    usleep((useconds_t)(ms ? atoi(ms) : 1) * 1000);
    return real(fd, to, n, at);
}
