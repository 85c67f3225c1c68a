/* Small programs on the simulated libraries, each with one mistake that must be told, or with none.
 * Every program runs in processes of its own, one per rank, which end as if the mistake were real.
 */
#pragma once

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>

struct program {
    const char *name;
    void (*run)(int rank);
    int n_rank;           /* 0: one */
    int n_finding;        /* of all ranks together */
    int end;              /* what every process exits with; negative: the signal that ends it */
    const char *env;      /* "NAME=value NAME=value" */
    const char *words[8]; /* all of them are on the standard error of the processes */
};

enum { FINDINGS = 86 }; /* what a process with findings exits with */

/* Set by the test's file, ended by one without a name. */
extern const struct program programs[];

#define CHECK(x) sim_check((x), #x, __FILE__, __LINE__)
/* Ends the process with 3 where it does not hold. */
void sim_check(bool holds, const char *what, const char *file, int line);
#define OK(call) CHECK((call) == cudaSuccess)

/* Code that nvcc would have made of this PTX: what a launch names. */
const void *sim_kernel(const char *ptx, const char *name);
/* A kernel that copies `out[i] = in[i]`, 32 words. */
const void *copy_kernel(void);
cudaError_t launch_copy(void *out, const void *in, cudaStream_t stream);

/* Device memory of n words, written where `with` is not NULL. */
void *device_words(const unsigned *with, size_t n);
/* The same name in all ranks of a program. */
const char *sim_meeting(void);
/* Waits until all ranks have come here, each time. */
void sim_meet(int n_rank);
