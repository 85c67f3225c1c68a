/* The public header, under mpirun: engines one after another in one process, and openings that fail
 * on rank 0 while the others are in lockstep_serve already. */
#include <lockstep/lockstep.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int rank;

/* Opens, generates where that succeeds, closes. words: what rank 0's error says; NULL: none. */
static void try_options(struct lockstep_options options, const char *words) {
    struct lockstep_sampling sampling = LOCKSTEP_SAMPLING_GREEDY;
    struct lockstep_error error = {0};
    struct lockstep *engine;
    int n_tokens = 0;
    options.timeout_s = 10;
    int status = lockstep_open(&engine, MPI_COMM_WORLD, &options, &error);
    if (status == 0 && rank == 0) {
        status = lockstep_generate(engine, "In the beginning", 3, &sampling, NULL, NULL, &n_tokens,
                                   &error);
    } else if (status == 0) {
        status = lockstep_serve(engine, &error);
    }
    lockstep_close(engine);
    int want = rank == 0 && words ? -1 : 0;
    char said[sizeof error.kind + sizeof error.message + 2];
    snprintf(said, sizeof said, "%s: %s", error.kind, error.message);
    if (status != want || (want && !strstr(said, words)) ||
        n_tokens != (rank == 0 && !words ? 3 : 0)) {
        fprintf(stderr, "rank %d: status %d, %d tokens, '%s', not '%s'\n", rank, status, n_tokens,
                said, words ? words : "");
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
}

static void try_on(const char *device, const char *model, const char *isa, const char *words) {
    try_options((struct lockstep_options){.model = model, .isa = isa, .device = device}, words);
}

static void try(const char *model, const char *isa, const char *words) {
    try_on(NULL, model, isa, words);
}

/* That a word is no type of a KV cache, or of quantized weights, is a mistake of the caller's. */
static void try_words(const char *model) {
    static const struct {
        const char *kv_dtype, *quant, *words;
    } bad[] = {
        {"q8_0", NULL, "usage: --kv-dtype q8_0: must be auto, f32 or bf16"},
        {"f16", NULL, "usage: --kv-dtype f16: must be auto, f32 or bf16"},
        {NULL, "bf16", "usage: options.quant is 'bf16'"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        try_options((struct lockstep_options){.model = model,
                                              .kv_dtype = bad[i].kv_dtype,
                                              .quant = bad[i].quant},
                    bad[i].words);
    }
    try_options((struct lockstep_options){.model = model, .kv_dtype = "bf16", .quant = "q8_0"},
                NULL);
}

int main(int argc, char **argv) {
    char model[2000];
    const char *models = getenv("LOCKSTEP_MODELS");
    if (!models) {
        return 77;
    }
    snprintf(model, sizeof model, "%s/kjv-qwen3-3m", models);
    setenv("LOCKSTEP_PLUGIN_DIR", "/nonexistent", 1); /* the same on every machine */
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    try(model, NULL, NULL);
    try("/nonexistent", NULL, "/nonexistent/config.json");
    try(rank == 0 ? NULL : model, NULL, "options.model");
    try(rank == 0 ? model : NULL, NULL, NULL); /* the other ranks learn it from rank 0 */
    try(model, "mips", "mips");
    try(model, "", "not on the CPU");
    try(model, "generic", NULL);
    try_words(model);
    try_on("auto", model, NULL, NULL);
    try_on("cuda", model, NULL, "/nonexistent/lockstep-cuda.so");
    MPI_Finalize();
    return 0;
}
