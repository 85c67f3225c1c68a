#include "leader/engine.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "format/show.h"

enum { DEFAULT_CTX = 4096, DEFAULT_MAX_TOK = 256 };

struct engine {
    struct pool *pool;
    struct model_config config;
    int ctx;
    int max_tok;
    int max_seqs;
    int n_block;
    enum dtype kv, quant;
    int32_t *free_blocks; /* owns [n_block], a stack */
    int n_free;
    uint32_t next_id;
    struct step_seq *seqs; /* owns [max_seqs] */
    double load_seconds;
    uint64_t load_bytes;
};

struct sequence {
    struct engine *engine;
    uint32_t id;
    int length;
    int most; /* that it has ever had */
    int n_block;
    int32_t *blocks; /* owns [blocks of a whole context] */
};

int engine_blocks_for(int positions) {
    return (positions + KV_BLOCK - 1) / KV_BLOCK;
}

/* The lowest block on top, so that a lone sequence runs through memory in order. */
static void fill_free_blocks(struct engine *e) {
    for (int i = 0; i < e->n_block; i++) {
        e->free_blocks[i] = e->n_block - 1 - i;
    }
    e->n_free = e->n_block;
}

bool engine_context(const struct model_config *c, int asked, int *ctx, struct error *err) {
    int most = c->max_positions;
    if (asked < 0 || asked > most) {
        return error_set(err, ERROR_USAGE,
                         "--ctx %d: the model has 1 to %d positions (max_position_embeddings)",
                         asked, most);
    }
    *ctx = asked ? asked : most < DEFAULT_CTX ? most : DEFAULT_CTX;
    return true;
}

bool engine_check_ids(const struct model_config *c, int ctx, const char *what, const int32_t *ids,
                      int n, struct error *err) {
    if (n < 1) {
        return error_set(err, ERROR_INPUT, "the %s is empty: there is nothing to go on from", what);
    }
    if (n > ctx) {
        return error_set(err, ERROR_INPUT, "the %s has %d tokens, the context only %d (--ctx)",
                         what, n, ctx);
    }
    for (int i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= c->vocab) {
            return error_set(err, ERROR_INPUT, "%s token %d is %d; the vocabulary has %d", what, i,
                             (int)ids[i], c->vocab);
        }
    }
    return true;
}

static struct model_params params_of(const struct engine *e, const char *dir, int64_t n_block) {
    return (struct model_params){.dir = dir,
                                 .ctx = e->ctx,
                                 .n_block = (int32_t)n_block,
                                 .max_tok = e->max_tok,
                                 .kv = e->kv,
                                 .quant = e->quant};
}

/* Makes the KV cache as small as its memory, at least of one whole context. */
static bool cut_to_memory(const struct engine *e, const struct engine_options *o, int64_t *n_block,
                          struct error *err) {
    const struct model_params params = params_of(e, o->dir, *n_block);
    struct pool_fit fit;
    if (!pool_measure_load(e->pool, &params, &fit, err)) {
        return false;
    }
    int64_t least = engine_blocks_for(e->ctx), n = *n_block;
    uint64_t each = fit.kv / (uint64_t)n; /* bytes of a block */
    if (o->kv_memory) {
        n = each ? (int64_t)(o->kv_memory / each) : n;
    } else if (!fit.fits) {
        n = fit.n_block < least ? least : fit.n_block; /* too little: the load says so */
    }
    if (n < least) {
        return error_set(
            err, ERROR_USAGE,
            "--kv-memory: %s a rank does not hold one context of %d positions (--ctx), "
            "which takes %s",
            show_bytes(o->kv_memory).text, e->ctx, show_bytes((uint64_t)least * each).text);
    }
    *n_block = n < *n_block ? n : *n_block;
    return true;
}

static bool is_on_gpus(const struct engine *e) {
    return strcmp(pool_device(e->pool), "cuda") == 0;
}

/* The host has a choice; a GPU computes attention in one type. */
static bool choose_kv(struct engine *e, const char *asked, struct error *err) {
    const char *act = pool_dtype(e->pool);
    const char *word = !asked || strcmp(asked, "auto") == 0 ? act : asked;
    if (!dtype_from_word(word, &e->kv) || (e->kv != DTYPE_F32 && e->kv != DTYPE_BF16)) {
        return error_set(err, ERROR_USAGE, "--kv-dtype %s: must be auto, f32 or bf16", word);
    }
    if (is_on_gpus(e) && strcmp(word, act) != 0) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "--kv-dtype %s: on a GPU the KV cache has the type of the arithmetic, %s "
                         "(--dtype)",
                         word, act);
    }
    return true;
}

static bool choose_quant(struct engine *e, enum dtype asked, struct error *err) {
    if (dtype_is_quantized(asked) && is_on_gpus(e)) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "--quant %s: quantized weights are for the host alone, and the ranks "
                         "compute on GPUs (--device host)",
                         dtype_word(asked));
    }
    e->quant = asked;
    return true;
}

static bool choose_sizes(struct engine *e, const struct engine_options *o, struct error *err) {
    int most = e->config.max_positions, asked = o->ctx_at_most && o->ctx > most ? most : o->ctx;
    if (!engine_context(&e->config, asked, &e->ctx, err)) {
        return false;
    }
    e->max_seqs = o->max_seqs;
    e->max_tok = o->max_tok ? o->max_tok : DEFAULT_MAX_TOK;
    int64_t n_block = o->n_block ? o->n_block : (int64_t)engine_blocks_for(e->ctx) * e->max_seqs;
    if (n_block > INT32_MAX / KV_BLOCK) {
        return error_set(err, ERROR_USAGE, "%d sequences of %d positions are too many", e->max_seqs,
                         e->ctx);
    }
    if (n_block < engine_blocks_for(e->ctx)) {
        return error_set(err, ERROR_USAGE,
                         "a KV cache of %lld positions does not hold a context of %d (--ctx)",
                         (long long)n_block * KV_BLOCK, e->ctx);
    }
    if (o->cut_kv && !cut_to_memory(e, o, &n_block, err)) {
        return false;
    }
    e->n_block = (int)n_block;
    return true;
}

bool engine_open(struct engine **out, struct pool *pool, const struct engine_options *options,
                 struct error *err) {
    struct engine *e = calloc(1, sizeof *e);
    if (!e) {
        return error_set(err, ERROR_MEMORY, "cannot allocate the engine");
    }
    e->pool = pool;
    /* The leader reads the configuration first: a bad one is refused before any rank is bothered.
     */
    if (!model_config_load(&e->config, options->dir, err) ||
        !choose_kv(e, options->kv_dtype, err) || !choose_quant(e, options->quant, err) ||
        !choose_sizes(e, options, err)) {
        goto fail;
    }
    e->free_blocks = malloc((size_t)e->n_block * sizeof *e->free_blocks);
    e->seqs = malloc((size_t)e->max_seqs * sizeof *e->seqs);
    if (!e->free_blocks || !e->seqs) {
        error_set(err, ERROR_MEMORY, "cannot allocate %d KV block numbers", e->n_block);
        goto fail;
    }
    fill_free_blocks(e);
    const struct model_params params = params_of(e, options->dir, e->n_block);
    double start = clock_now();
    if (!pool_load(pool, &params, &options->load, &e->load_bytes, err)) {
        goto fail;
    }
    e->load_seconds = clock_now() - start;
    *out = e;
    return true;
fail:
    free(e->free_blocks);
    free(e->seqs);
    free(e);
    return false;
}

const struct model_config *engine_config(const struct engine *e) {
    return &e->config;
}

int engine_ctx(const struct engine *e) {
    return e->ctx;
}

int engine_max_tok(const struct engine *e) {
    return e->max_tok;
}

int engine_max_seqs(const struct engine *e) {
    return e->max_seqs;
}

enum dtype engine_quant(const struct engine *e) {
    return e->quant;
}

enum dtype engine_kv_dtype(const struct engine *e) {
    return e->kv;
}

int engine_blocks(const struct engine *e) {
    return e->n_block;
}

double engine_load_seconds(const struct engine *e) {
    return e->load_seconds;
}

struct footprint engine_footprint(const struct engine *e) {
    return pool_footprint(e->pool);
}

double engine_send_seconds(const struct engine *e) {
    return pool_send_seconds(e->pool);
}

uint64_t engine_load_bytes(const struct engine *e) {
    return e->load_bytes;
}

bool sequence_create(struct engine *e, struct sequence **out, struct error *err) {
    struct sequence *s = calloc(1, sizeof *s);
    int32_t *blocks = malloc((size_t)engine_blocks_for(e->ctx) * sizeof *blocks);
    if (!s || !blocks) {
        free(s);
        free(blocks);
        return error_set(err, ERROR_MEMORY, "cannot allocate a sequence");
    }
    *s = (struct sequence){.engine = e, .id = e->next_id++, .blocks = blocks};
    *out = s;
    return true;
}

void sequence_seek(struct sequence *s, int position) {
    assert(position >= 0 && position <= s->most);
    s->length = position;
}

void sequence_destroy(struct sequence *s) {
    if (s) {
        struct engine *e = s->engine;
        while (s->n_block > 0) {
            e->free_blocks[e->n_free++] = s->blocks[--s->n_block];
        }
        free(s->blocks);
        free(s);
    }
}

/* Blocks for n more positions. */
static bool extend(struct engine *e, struct sequence *s, int n, struct error *err) {
    if (n > e->ctx - s->length) {
        return error_set(err, ERROR_INPUT, "%d tokens after %d exceed the context of %d (--ctx)", n,
                         s->length, e->ctx);
    }
    int need = engine_blocks_for(s->length + n);
    if (need - s->n_block > e->n_free) {
        return error_set(err, ERROR_MEMORY, "the KV cache is full: %d of %d blocks are free",
                         e->n_free, e->n_block);
    }
    while (s->n_block < need) {
        s->blocks[s->n_block++] = e->free_blocks[--e->n_free];
    }
    return true;
}

bool engine_step(struct engine *e, const struct engine_part *parts, int n,
                 struct step_result *results, struct error *err) {
    if (n < 1 || n > e->max_seqs) {
        return error_set(err, ERROR_INTERNAL, "a step of %d sequences, at most %d", n, e->max_seqs);
    }
    for (int i = 0; i < n; i++) {
        const struct engine_part *p = &parts[i];
        if (!extend(e, p->seq, p->n_tok, err)) {
            return false;
        }
        e->seqs[i] = (struct step_seq){.id = p->seq->id,
                                       .pos = p->seq->length,
                                       .n_tok = p->n_tok,
                                       .tokens = p->tokens,
                                       .n_block = p->seq->n_block,
                                       .blocks = p->seq->blocks,
                                       .output = p->output,
                                       .top_k = p->top_k,
                                       .targets = p->targets};
    }
    struct step step = {n, e->seqs};
    if (!pool_step(e->pool, &step, results, err)) {
        return false;
    }
    for (int i = 0; i < n; i++) {
        struct sequence *s = parts[i].seq;
        s->length += parts[i].n_tok;
        s->most = s->length > s->most ? s->length : s->most;
    }
    return true;
}

bool engine_is_usable(const struct engine *e) {
    return !pool_is_broken(e->pool);
}

bool engine_feed(struct engine *e, const struct engine_part *part, struct step_result *result,
                 bool (*interrupted)(void), struct error *err) {
    for (int done = 0; done < part->n_tok;) {
        int left = part->n_tok - done;
        struct engine_part chunk = *part;
        chunk.tokens += done;
        chunk.targets = part->targets ? part->targets + done : NULL;
        chunk.n_tok = left < e->max_tok ? left : e->max_tok;
        done += chunk.n_tok;
        if (done < part->n_tok) {
            chunk.output = STEP_OUTPUT_NONE;
        }
        if (interrupted && interrupted()) {
            return error_set(err, ERROR_INTERRUPTED, "interrupted");
        }
        if (!engine_step(e, &chunk, 1, result, err) || !step_result_check(result, err)) {
            return false;
        }
    }
    return true;
}

bool engine_close(struct engine *e, struct message_unloaded *ranks, struct error *err) {
    bool ok = true;
    if (e) {
        /* Then the ranks may be anywhere, and each would be waited for in vain. */
        ok = pool_is_broken(e->pool)
                 ? error_set(err, ERROR_COMM, "unload: an earlier request failed")
                 : pool_unload(e->pool, ranks, err);
        free(e->free_blocks);
        free(e->seqs);
        free(e);
    }
    return ok;
}
