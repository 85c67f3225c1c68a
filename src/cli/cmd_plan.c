/* lockstep plan: what each rank would hold, for any number of ranks, from config.json alone. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "cli/command.h"
#include "cli/launch_env.h"
#include "cli/stdio_util.h"
#include "format/show.h"
#include "leader/engine.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "model/footprint.h"
#include "nn/shard.h"

enum {
    /* as the commands that run a model have them */
    STEP_TOKENS = 256,
    LOGIT_ROWS = 32,

    OWN_OPTIONS = 4,
};

#define DEFAULT_NP "1,2,3,4,8"

struct plan_options {
    struct common_options common;
    const char *np;
    uint64_t memory;
    bool has_memory;
    bool json;
};

/* What all worlds have in common. */
struct plan {
    const char *dir;
    struct model_config config;
    struct footprint_params params;
    const char *dtype_source;
    uint64_t memory; /* for each rank */
    bool has_memory;
};

/* One world: its ranks' shards and bytes. */
struct world {
    int n;
    struct shard *shards;
    struct footprint *footprints;
    double imbalance; /* largest rank's weights over the mean */
    bool fits;
};

/* ---- the numbers ---- */

/* What --quant asks for, else the checkpoint's own dtype where its files are there and readable,
 * else config.json's word. */
static void find_dtype(struct plan *p, enum dtype quant) {
    struct st_set *set;
    if (dtype_is_quantized(quant)) {
        p->params.dtype = quant;
        p->dtype_source = "--quant";
        return;
    }
    p->params.dtype = p->config.dtype;
    p->dtype_source = "config.json";
    if (checkpoint_open(&set, p->dir, NULL)) {
        p->params.dtype = footprint_dtype(set, p->config.dtype);
        p->dtype_source = "safetensors";
        st_close(set);
    }
}

static bool plan_init(struct plan *p, const struct plan_options *o, struct error *err) {
    int ctx;
    p->dir = common_model(&o->common);
    p->memory = o->memory;
    p->has_memory = o->has_memory;
    if (!model_config_load(&p->config, p->dir, err) ||
        !engine_context(&p->config, o->common.ctx, &ctx, err)) {
        return false;
    }
    p->params = (struct footprint_params){.kv = DTYPE_F32, /* "auto": the host's own */
                                          .ctx = ctx,
                                          .n_block = (ctx + KV_BLOCK - 1) / KV_BLOCK,
                                          .max_tok = STEP_TOKENS,
                                          .max_logits = LOGIT_ROWS};
    find_dtype(p, common_quant(&o->common));
    (void)dtype_from_word(o->common.kv_dtype, &p->params.kv);
    return true;
}

static void world_finish(struct world *w) {
    free(w->shards);
    free(w->footprints);
    *w = (struct world){0};
}

/* Errors: UNSUPPORTED (n is more than the model's query heads), MEMORY. */
static bool world_init(struct world *w, const struct plan *p, int n, struct error *err) {
    struct shard_dims dims = footprint_dims(&p->config);
    struct shard probe;
    double sum = 0, largest = 0;

    *w = (struct world){.n = n, .fits = true};
    if (!shard_compute(&probe, &dims, n, 0, err)) {
        return false;
    }
    w->shards = calloc((size_t)n, sizeof *w->shards);
    w->footprints = calloc((size_t)n, sizeof *w->footprints);
    if (!w->shards || !w->footprints) {
        world_finish(w);
        return error_set(err, ERROR_MEMORY, "no memory for a plan of %d ranks", n);
    }
    for (int r = 0; r < n; r++) {
        if (!shard_compute(&w->shards[r], &dims, n, r, err)) {
            world_finish(w);
            return false;
        }
        w->footprints[r] = footprint_of_shard(&p->config, &w->shards[r], &p->params);
        double weights = (double)w->footprints[r].weights;
        sum += weights;
        largest = weights > largest ? weights : largest;
        w->fits = w->fits && footprint_total(&w->footprints[r]) <= p->memory;
    }
    w->imbalance = largest / (sum / n);
    return true;
}

/* Runs of KV heads of neighbours overlap by one head at most, so only a run's ends can be. */
static bool is_replicated(const struct world *w, int rank, int kv_head) {
    for (int r = rank - 1; r <= rank + 1; r += 2) {
        if (r >= 0 && r < w->n) {
            struct leaf_run run = w->shards[r].kv_heads;
            if (kv_head >= run.first && kv_head < run.first + run.count) {
                return true;
            }
        }
    }
    return false;
}

static int all_reduces(const struct plan *p) {
    return 2 * p->config.n_layer + 1;
}

static uint64_t all_reduce_bytes(const struct plan *p) {
    return (uint64_t)p->config.hidden * sizeof(float);
}

/* ---- as text ---- */

static void print_model(const struct plan *p) {
    const struct model_config *c = &p->config;
    printf("%s: %s, %d layers, hidden %d, %d query heads and %d KV heads of %d, mlp %d, "
           "vocabulary %d%s\n",
           p->dir, c->arch_name, c->n_layer, c->hidden, c->n_head, c->n_kv_head, c->head_dim,
           c->intermediate, c->vocab, c->tied ? " (tied)" : "");
    printf("weights in %s (from %s), KV cache of %d positions in %s, steps of up to %d tokens\n",
           dtype_name(p->params.dtype), p->dtype_source, p->params.ctx, dtype_word(p->params.kv),
           STEP_TOKENS);
    printf("per token: %d all-reduces of %s, %s in all\n", all_reduces(p),
           show_bytes(all_reduce_bytes(p)).text,
           show_bytes((uint64_t)all_reduces(p) * all_reduce_bytes(p)).text);
}

/* "3", "0-7", and for KV heads "1*-3" where head 1 is another rank's too. */
static void format_run(char *out, size_t size, const struct world *w, int rank, bool is_kv) {
    const struct shard *s = &w->shards[rank];
    struct leaf_run run = is_kv ? s->kv_heads : s->heads;
    int last = run.first + run.count - 1;
    const char *mark_first = is_kv && is_replicated(w, rank, run.first) ? "*" : "";
    const char *mark_last = is_kv && is_replicated(w, rank, last) ? "*" : "";
    if (run.count == 1) {
        snprintf(out, size, "%d%s", run.first, mark_first);
    } else {
        snprintf(out, size, "%d%s-%d%s", run.first, mark_first, last, mark_last);
    }
}

static void print_rank(const struct plan *p, const struct world *w, int rank) {
    char heads[32], kv_heads[32];
    const struct footprint *f = &w->footprints[rank];
    uint64_t total = footprint_total(f);

    format_run(heads, sizeof heads, w, rank, false);
    format_run(kv_heads, sizeof kv_heads, w, rank, true);
    printf("%6d  %-11s  %-9s  %10s  %10s  %10s  %10s%s\n", rank, heads, kv_heads,
           show_bytes(f->weights).text, show_bytes(f->kv).text, show_bytes(f->buffers).text,
           show_bytes(total).text,
           !p->has_memory       ? ""
           : total <= p->memory ? "  fits"
                                : "  does not fit");
}

static void print_world(const struct plan *p, const struct world *w) {
    bool replicated = false;
    for (int r = 0; r < w->n; r++) {
        struct leaf_run kv = w->shards[r].kv_heads;
        replicated = replicated || is_replicated(w, r, kv.first);
    }
    printf("\nnp %d: imbalance %.3f%s%s\n", w->n, w->imbalance,
           replicated ? ", * KV head held by more than one rank" : "",
           !p->has_memory ? ""
           : w->fits      ? ", fits"
                          : ", does not fit");
    printf("%6s  %-11s  %-9s  %10s  %10s  %10s  %10s\n", "rank", "query heads", "KV heads",
           "weights", "KV cache", "buffers", "total");
    for (int r = 0; r < w->n; r++) {
        print_rank(p, w, r);
    }
}

/* ---- as JSON ---- */

static json_t *rank_json(const struct plan *p, const struct world *w, int rank) {
    const struct shard *s = &w->shards[rank];
    const struct footprint *f = &w->footprints[rank];
    json_t *replicated = json_array();
    for (int h = s->kv_heads.first; h < s->kv_heads.first + s->kv_heads.count; h++) {
        if (is_replicated(w, rank, h)) {
            json_array_append_new(replicated, json_integer(h));
        }
    }
    json_t *out = json_pack(
        "{s:i, s:{s:i, s:i}, s:{s:i, s:i, s:o}, s:{s:i, s:i}, s:{s:i, s:i}, s:I, s:I, s:I, s:I}",
        "rank", rank, "query_heads", "first", s->heads.first, "count", s->heads.count, "kv_heads",
        "first", s->kv_heads.first, "count", s->kv_heads.count, "replicated", replicated,
        "mlp_columns", "first", s->mlp.first, "count", s->mlp.count, "vocab_rows", "first",
        s->vocab.first, "count", s->vocab.count, "weights_bytes", (json_int_t)f->weights,
        "kv_bytes", (json_int_t)f->kv, "buffer_bytes", (json_int_t)f->buffers, "total_bytes",
        (json_int_t)footprint_total(f));
    if (p->has_memory) {
        json_object_set_new(out, "fits", json_boolean(footprint_total(f) <= p->memory));
    }
    return out;
}

static json_t *world_json(const struct plan *p, const struct world *w) {
    json_t *ranks = json_array();
    for (int r = 0; r < w->n; r++) {
        json_array_append_new(ranks, rank_json(p, w, r));
    }
    json_t *out = json_pack(
        "{s:i, s:b, s:f, s:i, s:I, s:o}", "np", w->n, "possible", true, "imbalance", w->imbalance,
        "all_reduces_per_token", all_reduces(p), "all_reduce_bytes_per_token",
        (json_int_t)((uint64_t)all_reduces(p) * all_reduce_bytes(p)), "ranks", ranks);
    if (p->has_memory) {
        json_object_set_new(out, "fits", json_boolean(w->fits));
    }
    return out;
}

static json_t *model_json(const struct plan *p) {
    const struct model_config *c = &p->config;
    return json_pack("{s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:b, s:s, s:s}", "path", p->dir,
                     "architecture", c->arch_name, "layers", c->n_layer, "hidden", c->hidden,
                     "query_heads", c->n_head, "kv_heads", c->n_kv_head, "head_dim", c->head_dim,
                     "intermediate", c->intermediate, "vocab", c->vocab, "tied", c->tied, "dtype",
                     dtype_name(p->params.dtype), "dtype_source", p->dtype_source);
}

/* ---- the command ---- */

/* One world, as text or appended to `list`. One that cannot be is a row that says so. */
static bool show_world(const struct plan *p, int n, json_t *list, struct error *err) {
    struct world w;
    struct error why = {0};

    if (!world_init(&w, p, n, &why)) {
        if (why.kind != ERROR_UNSUPPORTED) {
            *err = why;
            return false;
        }
        if (list) {
            json_array_append_new(list,
                                  json_pack("{s:i, s:b, s:i, s:s}", "np", n, "possible", false,
                                            "largest_np", p->config.n_head, "reason", why.message));
        } else {
            printf("\nnp %d: not possible: %s\n", n, why.message);
        }
        return true;
    }
    if (list) {
        json_array_append_new(list, world_json(p, &w));
    } else {
        print_world(p, &w);
    }
    world_finish(&w);
    return true;
}

static bool show_json(const struct plan *p, const int32_t *np, int n, struct error *err) {
    json_t *list = json_array();
    for (int i = 0; i < n; i++) {
        if (!show_world(p, np[i], list, err)) {
            json_decref(list);
            return false;
        }
    }
    json_t *root =
        json_pack("{s:o, s:i, s:s, s:i, s:i, s:i, s:o}", "model", model_json(p), "ctx",
                  p->params.ctx, "kv_dtype", dtype_word(p->params.kv), "kv_block", KV_BLOCK,
                  "step_tokens", STEP_TOKENS, "largest_np", p->config.n_head, "plans", list);
    if (root && p->has_memory) {
        json_object_set_new(root, "memory", json_integer((json_int_t)p->memory));
    }
    return stdio_print_json(root, JSON_INDENT(2), err);
}

static bool show_text_plan(const struct plan *p, const int32_t *np, int n, struct error *err) {
    print_model(p);
    for (int i = 0; i < n; i++) {
        if (!show_world(p, np[i], NULL, err)) {
            return false;
        }
    }
    return stdio_flush(err);
}

static bool parse_np(const char *text, int32_t **out, int *n_out, struct error *err) {
    int32_t *np = NULL;
    int n = 0;
    if (!options_parse_ints(text ? text : DEFAULT_NP, "--np", &np, &n, err)) {
        return false;
    }
    for (int i = 0; i < n; i++) {
        if (np[i] < 1) {
            error_set(err, ERROR_USAGE, "--np: %d: a number of ranks is 1 or more", np[i]);
            free(np);
            return false;
        }
    }
    if (n == 0) {
        free(np);
        return error_set(err, ERROR_USAGE, "--np: no number; write for example --np 1,2,4");
    }
    *out = np;
    *n_out = n;
    return true;
}

/* Of the usual worlds, those that the model allows: they are in rising order, and 1 always is. */
static int count_possible(const struct plan *p, const int32_t *np, int n) {
    while (np[n - 1] > p->config.n_head) {
        n--;
    }
    return n;
}

static bool run(const struct command *self, int argc, char **argv, struct error *err) {
    struct plan_options o = {0};
    struct plan p = {0};
    int32_t *np = NULL;
    int n = 0;
    struct option table[OWN_OPTIONS + COMMON_OPTION_COUNT] = {
        {.type = OPTION_SECTION, .name = "Options of plan"},
        {.type = OPTION_STRING,
         .name = "np",
         .value = &o.np,
         .arg = "LIST",
         .help = "numbers of ranks (default: " DEFAULT_NP ")"},
        {.type = OPTION_BYTES,
         .name = "memory",
         .value = &o.memory,
         .seen = &o.has_memory,
         .arg = "BYTES",
         .help = "memory of each rank (suffixes K, M, G): says what fits"},
        {.type = OPTION_FLAG, .name = "json", .value = &o.json, .help = "print one JSON object"},
    };
    const int n_option = OWN_OPTIONS + COMMON_OPTION_COUNT;

    common_options_table(&o.common, table + OWN_OPTIONS);
    if (!command_parse(self, &o.common, table, n_option, argc, argv, NULL, 0, NULL, err)) {
        return false;
    }
    if (o.common.help) {
        return true;
    }
    bool ok = parse_np(o.np, &np, &n, err) && plan_init(&p, &o, err);
    if (ok && launch_env_is_leader()) { /* under a launcher the others have nothing to add */
        n = o.np ? n : count_possible(&p, np, n);
        ok = o.json ? show_json(&p, np, n, err) : show_text_plan(&p, np, n, err);
    }
    free(np);
    return ok;
}

const struct command command_plan = {
    .name = "plan",
    .summary = "What each rank would hold, for any number of ranks.",
    .synopsis = "[--model DIR] [--np LIST] [--ctx N] [--memory BYTES] [--json]",
    .run = run,
};
