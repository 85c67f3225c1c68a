/* Two models one after the other in one process, each with decode steps that are recorded and
 * replayed: greedy ids as the reference's.
 *
 *   reload DATA_DIR
 *
 * With three ranks the query heads fall unevenly, and the sizes of the steps are such that what
 * the first model's decode attention took for scratch would do for the second on ranks 0 and 2, and
 * not on rank 1. Scratch that outlived the model let the ranks record different steps. */
#include <jansson.h>
#include <mpi.h>
#include <stdio.h>

#include "gpu/gpu_rank.h"
#include "model/model.h"

enum { N_STEP = 8, CTX = KV_BLOCK };

/* Rank 0's candidate after ids[at]. */
static int32_t next(struct model *m, const int32_t *ids, int at) {
    const int32_t block = 0;
    struct step_seq seq = {.id = 1,
                           .pos = at,
                           .n_tok = 1,
                           .tokens = ids + at,
                           .n_block = 1,
                           .blocks = &block,
                           .output = STEP_OUTPUT_CANDIDATES,
                           .top_k = 1};
    const struct step step = {1, &seq};
    struct step_result result = {0};
    struct error err;
    if (!model_step(m, &step, &result, &err)) {
        gpu_rank_die("step", &err);
    }
    return result.ids ? result.ids[0] : -1;
}

/* The reference's case with a prompt of one token: that, then its greedy ids. */
static bool read_ids(const char *data, const char *name, int32_t ids[N_STEP + 1]) {
    char path[4096];
    snprintf(path, sizeof path, "%s/expected/%s.json", data, name);
    json_t *root = json_load_file(path, JSON_ALLOW_NUL, NULL);
    const json_t *c = json_array_get(json_object_get(root, "cases"), 0);
    const json_t *prompt = json_object_get(c, "prompt_ids"),
                 *greedy = json_object_get(c, "greedy_ids");
    bool ok = json_array_size(prompt) == 1 && json_array_size(greedy) >= N_STEP;
    for (size_t i = 0; ok && i <= N_STEP; i++) {
        const json_t *id = i == 0 ? json_array_get(prompt, 0) : json_array_get(greedy, i - 1);
        ids[i] = (int32_t)json_integer_value(id);
    }
    json_decref(root);
    return ok;
}

/* Returns the number of ids that are wrong. */
static int run(struct gpu_rank *g, const char *data, const char *name, int max_tok) {
    char dir[4096];
    int32_t ids[N_STEP + 1];
    struct model *m;
    struct error err;
    int wrong = 0;
    snprintf(dir, sizeof dir, "%s/%s", data, name);
    const struct model_params params = {
        .dir = dir, .ctx = CTX, .n_block = 1, .max_tok = max_tok, .kv = g->device->act};
    if (!read_ids(data, name, ids)) {
        fprintf(stderr, "reload: %s: the first case is not of one token\n", name);
        return 1;
    }
    if (!model_load(&m, &params, g->device, g->comm, NULL, &err)) {
        gpu_rank_die(name, &err);
    }
    for (int i = 0; i < N_STEP; i++) {
        int32_t got = next(m, ids, i);
        if (g->comm->rank == 0 && got != ids[i + 1]) {
            fprintf(stderr, "reload: %s: step %d: %d, not %d\n", name, i, got, ids[i + 1]);
            wrong++;
        }
    }
    model_destroy(m);
    return wrong;
}

int main(int argc, char **argv) {
    struct gpu_rank g = {0};
    if (argc != 2) {
        fprintf(stderr, "usage: reload DATA_DIR\n");
        return 2;
    }
    MPI_Init(&argc, &argv);
    gpu_rank_start(&g, true, true);
    int wrong = run(&g, argv[1], "tiny-llama", 4);
    wrong += run(&g, argv[1], "tiny-qwen3", 1);
    gpu_rank_finish(&g);
    MPI_Finalize();
    return wrong ? 1 : 0;
}
