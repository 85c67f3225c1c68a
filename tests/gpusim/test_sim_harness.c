#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test.h"
#include "test_sim.h"

enum { MAX_RANKS = 4, SAID_BYTES = 1 << 16, LIMIT_S = 60 };

/* ---- inside a program ---- */

void sim_check(bool holds, const char *what, const char *file, int line) {
    if (!holds) {
        fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
        _exit(3);
    }
}

extern void **__cudaRegisterFatBinary(void *wrapper);
extern void __cudaRegisterFunction(void **handle, const char *stub, char *device_name,
                                   const char *name, int thread_limit, void *tid, void *bid,
                                   void *b_dim, void *g_dim, int *w_size);

/* The container that nvcc makes: a wrapper, a header, one entry, the text. */
const void *sim_kernel(const char *ptx, const char *name) {
    struct {
        uint32_t magic;
        uint16_t version, header_bytes;
        uint64_t bytes;
        uint16_t kind, flags;
        uint32_t entry_bytes;
        uint64_t text_bytes;
        uint32_t compressed_bytes, reserved;
        uint16_t minor, major;
        uint32_t arch;
        char text[4096];
    } *fat = calloc(1, sizeof *fat);
    struct {
        int32_t magic, version;
        const void *data, *more;
    } *wrapper = calloc(1, sizeof *wrapper);
    size_t n = (strlen(ptx) + 8) / 8 * 8, entry = 32;
    CHECK(n <= sizeof fat->text);
    fat->magic = 0xba55ed50;
    fat->version = fat->kind = 1;
    fat->header_bytes = 16;
    fat->entry_bytes = (uint32_t)entry;
    fat->bytes = entry + n;
    fat->text_bytes = n;
    snprintf(fat->text, sizeof fat->text, "%s", ptx);
    wrapper->data = fat;
    void **handle = __cudaRegisterFatBinary(wrapper);
    char *stub = calloc(1, 1);
    __cudaRegisterFunction(handle, stub, NULL, name, -1, NULL, NULL, NULL, NULL, NULL);
    return stub;
}

const void *copy_kernel(void) {
    return sim_kernel(".version 8.0\n.target sm_80\n.address_size 64\n"
                      ".visible .entry copy(.param .u64 out, .param .u64 in)\n{\n"
                      ".reg .b32 %r<2>; .reg .b64 %o, %i, %at;\nmov.u32 %r0, %tid.x;\n"
                      "mul.wide.u32 %at, %r0, 4;\nld.param.u64 %o, [out];\n"
                      "ld.param.u64 %i, [in];\nadd.u64 %o, %o, %at;\nadd.u64 %i, %i, %at;\n"
                      "ld.global.u32 %r1, [%i];\nst.global.u32 [%o], %r1;\nret;\n}\n",
                      "copy");
}

cudaError_t launch_copy(void *out, const void *in, cudaStream_t stream) {
    static const void *kernel;
    void *args[] = {&out, &in};
    kernel = kernel ? kernel : copy_kernel();
    return cudaLaunchKernel(kernel, (dim3){1, 1, 1}, (dim3){32, 1, 1}, args, 0, stream);
}

void *device_words(const unsigned *with, size_t n) {
    void *p = NULL;
    OK(cudaMalloc(&p, n * sizeof *with));
    if (with) {
        OK(cudaMemcpy(p, with, n * sizeof *with, cudaMemcpyHostToDevice));
    }
    return p;
}

const char *sim_meeting(void) {
    return getenv("TEST_SIM_MEETING");
}

void sim_meet(int n_rank) {
    static atomic_int *met;
    static int n_meeting;
    int fd = atoi(getenv("TEST_SIM_SHARED"));
    met = met ? met : mmap(NULL, sizeof *met, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    atomic_fetch_add(met, 1);
    for (n_meeting++; atomic_load(met) < n_meeting * n_rank;) {
        usleep(100);
    }
}

/* ---- around them ---- */

static void set_environment(const struct program *p, int rank, int shared) {
    char text[256], *save = NULL;
    snprintf(text, sizeof text, "%d", shared);
    setenv("TEST_SIM_SHARED", text, 1);
    snprintf(text, sizeof text, "%d", rank);
    setenv("OMPI_COMM_WORLD_RANK", text, 1);
    snprintf(text, sizeof text, "%d-%s", getppid(), p->name);
    setenv("TEST_SIM_MEETING", text, 1);
    setenv("GPUSIM_DEVICES", "4", 1);
    snprintf(text, sizeof text, "%s", p->env ? p->env : "");
    for (char *one = strtok_r(text, " ", &save); one; one = strtok_r(NULL, " ", &save)) {
        char *value = strchr(one, '=');
        *value = 0;
        setenv(one, value + 1, 1);
    }
}

static pid_t start(const struct program *p, int rank, int out, int shared) {
    pid_t child = fork();
    if (child == 0) {
        dup2(out, STDERR_FILENO);
        set_environment(p, rank, shared);
        alarm(LIMIT_S);
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        execl("/proc/self/exe", "test_sim", p->name, NULL);
        _exit(127);
    }
    return child;
}

static int count(const char *said, const char *word) {
    int n = 0;
    for (const char *at = said; (at = strstr(at, word)); at++) {
        n++;
    }
    return n;
}

/* What all ranks say is the last end's. */
static bool run_program(const struct program *p) {
    static char said[SAID_BYTES];
    int n_rank = p->n_rank ? p->n_rank : 1, pipes[2];
    int shared = memfd_create("test_sim", 0); /* sim_meet */
    size_t n = 0;
    ssize_t got;
    bool ok = true;
    pid_t ranks[MAX_RANKS];
    assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
    assert_int_equal(ftruncate(shared, 4096), 0);
    for (int r = 0; r < n_rank; r++) {
        ranks[r] = start(p, r, pipes[1], shared);
    }
    close(pipes[1]);
    close(shared);
    while (n < sizeof said - 1 && (got = read(pipes[0], said + n, sizeof said - 1 - n)) != 0) {
        n += got > 0 ? (size_t)got : 0;
    }
    close(pipes[0]);
    said[n] = 0;
    for (int r = 0; r < n_rank; r++) {
        int status;
        assert_int_equal(waitpid(ranks[r], &status, 0), ranks[r]);
        int end = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
        if (end != p->end) {
            print_error("%s: rank %d ends with %d, not %d\n", p->name, r, end, p->end);
            ok = false;
        }
    }
    for (int i = 0; i < 8 && p->words[i]; i++) {
        if (!strstr(said, p->words[i])) {
            print_error("%s: nobody says \"%s\"\n", p->name, p->words[i]);
            ok = false;
        }
    }
    if (count(said, ": FINDING: ") != p->n_finding) {
        print_error("%s: not %d findings\n", p->name, p->n_finding);
        ok = false;
    }
    if (!ok) {
        print_error("%s said:\n%s\n", p->name, said);
    }
    return ok;
}

static void test_programs(void **state) {
    int n_wrong = 0;
    (void)state;
    for (const struct program *p = programs; p->name; p++) {
        n_wrong += run_program(p) ? 0 : 1;
    }
    assert_int_equal(n_wrong, 0);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_programs)};
    if (argc < 2) {
        return cmocka_run_group_tests(tests, NULL, NULL);
    }
    for (const struct program *p = programs; p->name; p++) {
        if (strcmp(p->name, argv[1]) == 0) {
            p->run(atoi(getenv("OMPI_COMM_WORLD_RANK")));
            exit(0);
        }
    }
    return 4;
}
