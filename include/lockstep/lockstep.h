/* lockstep: tensor-parallel inference inside your MPI program.
 *
 * Every rank of the communicator calls lockstep_open, then
 *   rank 0 uses the engine and at last calls lockstep_close;
 *   every other rank calls lockstep_serve, which returns when rank 0 has closed, and then
 *   lockstep_close.
 * The library calls MPI from the calling thread only (MPI_THREAD_FUNNELED is enough), uses a
 * duplicate of the communicator, and never calls exit. Functions return 0, or -1 with *error
 * filled.
 *
 * With no command line to read them from, all settings are in struct lockstep_options; start from
 * LOCKSTEP_OPTIONS_DEFAULT, which future fields will extend. */
#ifndef LOCKSTEP_LOCKSTEP_H
#define LOCKSTEP_LOCKSTEP_H

#include <mpi.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define LOCKSTEP_API __attribute__((visibility("default")))
#else
#define LOCKSTEP_API
#endif

struct lockstep; /* opaque: one rank's part of an engine */

struct lockstep_error {
    char kind[32];     /* "st_truncated", "deadline", ... as in the log and on the wire */
    int rank;          /* where it happened; -1 when it is no rank's in particular */
    char message[480]; /* one sentence */
};

struct lockstep_options {
    const char *model; /* Hugging Face directory: rank 0's counts, every rank must reach it */
    const char *isa;   /* "generic", "avx2", "avx512", "avx512vnni"; NULL: the best all have */
    int threads;       /* per rank; 0: 1 */
    int ctx;           /* positions; 0: the smaller of the model's and 4096 */
    double timeout_s;  /* deadline of every wait for another rank; 0: 60 */
    /* "host"; "cuda"; "auto": cuda where every rank can; NULL: "host". Equal on all ranks. Rank r
     * of a host takes GPU r modulo their number; choose others with CUDA_VISIBLE_DEVICES. */
    const char *device;
    const char *dtype; /* on GPUs "bf16" or "f32"; NULL: bf16. The host has f32 alone. */
    /* Of the KV cache: "f32" or "bf16"; NULL: that of the arithmetic, and so it is on GPUs. */
    const char *kv_dtype;
    const char *quant; /* on the host "q8_0" or "q4_0": what weights are quantized to; NULL: none */
};

#define LOCKSTEP_OPTIONS_DEFAULT                                                                   \
    { 0 }

struct lockstep_sampling {
    double temperature;        /* 0: greedy */
    int top_k;                 /* 0: off */
    double top_p;              /* 0 or 1: off */
    double min_p;              /* 0: off */
    double repetition_penalty; /* 0 or 1: off */
    double presence_penalty;   /* 0: off */
    double frequency_penalty;  /* 0: off */
    uint64_t seed;
};

#define LOCKSTEP_SAMPLING_GREEDY                                                                   \
    { 0 }

/* Collective. Rank 0 checks the ranks (hello, ping, communicator, sanity) and has them load the
 * model, while the others are in lockstep_serve; where that fails, rank 0's error says which rank
 * and why, and the others' lockstep_serve returns. On failure *out is NULL. */
LOCKSTEP_API int lockstep_open(struct lockstep **out, MPI_Comm comm,
                               const struct lockstep_options *options,
                               struct lockstep_error *error);

/* Ranks other than 0: takes part in the leader's work until it closes. */
LOCKSTEP_API int lockstep_serve(struct lockstep *engine, struct lockstep_error *error);

/* Rank 0: continues `prompt` (UTF-8) by up to max_tokens tokens (0: until the context is full).
 * on_text receives the text as it becomes certain, whole characters, not NUL-terminated; a return
 * other than 0 ends the generation. on_text may be NULL. *n_tokens (may be NULL): tokens generated.
 */
LOCKSTEP_API int lockstep_generate(struct lockstep *engine, const char *prompt, int max_tokens,
                                   const struct lockstep_sampling *sampling,
                                   int (*on_text)(void *user, const char *text, size_t n),
                                   void *user, int *n_tokens, struct lockstep_error *error);

/* Rank 0: ends the other ranks' lockstep_serve. Every rank: frees the engine; NULL is accepted. */
LOCKSTEP_API void lockstep_close(struct lockstep *engine);

/* "0.1.0" */
LOCKSTEP_API const char *lockstep_version(void);

#ifdef __cplusplus
}
#endif

#endif
