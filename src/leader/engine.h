/* A model loaded over a pool of ranks, and the sequences that run on it. The engine owns the block
 * lists: it alone decides which KV block belongs to which sequence. Rank 0 only. */
#pragma once

#include "leader/pool.h"
#include "model/config.h"
#include "nn/step.h"

/* The context that `asked` (--ctx) means for a model; 0: the smaller of the model's and 4096.
 * Errors: USAGE. */
bool engine_context(const struct model_config *c, int asked, int *ctx, struct error *err);

/* Can these ids be fed to a fresh sequence? `what` names them: "prompt", "text".
 * Errors: INPUT (none, more than the context, not in the vocabulary). */
bool engine_check_ids(const struct model_config *c, int ctx, const char *what, const int32_t *ids,
                      int n, struct error *err);

struct engine;   /* opaque */
struct sequence; /* opaque: one growing list of positions in the KV cache */

struct engine_options {
    const char *dir;  /* borrowed */
    int ctx;          /* positions of one sequence; 0: the smaller of the model's and 4096 */
    bool ctx_at_most; /* a model with fewer positions gets what it has, and is not refused */
    int max_seqs;     /* sequences in one step */
    int n_block;      /* KV blocks of all sequences; 0: for max_seqs of a whole context */
    /* Fewer blocks than that, where their memory holds no more: */
    bool cut_kv;
    uint64_t kv_memory; /* bytes of a rank; 0: what fits */
    int max_tok;        /* tokens in one step; 0: 256 */
    /* Of the KV cache: "f32", "bf16", or "auto" (or NULL), which is that of the activations. */
    const char *kv_dtype;
    enum dtype quant; /* see struct model_params */
    struct pool_load_options load;
};

/* Loads the model on every rank. pool: borrowed, started. Collective through the pool.
 * Errors: those of model_load, with the rank; USAGE (no such kv_dtype); UNSUPPORTED (kv_dtype or
 * quant, on GPUs). */
bool engine_open(struct engine **out, struct pool *pool, const struct engine_options *options,
                 struct error *err);

const struct model_config *engine_config(const struct engine *e);
int engine_ctx(const struct engine *e);
int engine_max_tok(const struct engine *e);
int engine_max_seqs(const struct engine *e);
enum dtype engine_kv_dtype(const struct engine *e);
enum dtype engine_quant(const struct engine *e);
/* KV blocks in all, and those that so many positions of a sequence take. */
int engine_blocks(const struct engine *e);
int engine_blocks_for(int positions);
/* Wall seconds of the load, and bytes that all ranks together read. */
double engine_load_seconds(const struct engine *e);
uint64_t engine_load_bytes(const struct engine *e);
/* What all ranks together hold for it. */
struct footprint engine_footprint(const struct engine *e);
/* Seconds that rank 0 has spent in sending steps to the others. */
double engine_send_seconds(const struct engine *e);

/* An empty sequence. Errors: MEMORY. */
bool sequence_create(struct engine *e, struct sequence **out, struct error *err);
/* Goes on from `position`, at most as many as have ever been fed: what stands there and beyond is
 * overwritten by what is fed next, and attended to no more. Its blocks stay. */
void sequence_seek(struct sequence *s, int position);
/* Frees its blocks. */
void sequence_destroy(struct sequence *s);

/* One sequence's part of a step. */
struct engine_part {
    struct sequence *seq;
    const int32_t *tokens; /* [n_tok] borrowed; appended to the sequence */
    int n_tok;
    enum step_output output;
    int top_k;              /* with CANDIDATES */
    const int32_t *targets; /* with LOGPROBS: [n_tok] borrowed, as in struct step_seq */
};

/* One step over n sequences, each at most once; results [n] as model_step gives them.
 * Errors: INPUT (context full), MEMORY (no free KV block), those of pool_step. */
bool engine_step(struct engine *e, const struct engine_part *parts, int n,
                 struct step_result *results, struct error *err);

/* False once a step failed on its way: then only engine_close may follow. */
bool engine_is_usable(const struct engine *e);

/* Feeds tokens of any number in steps of at most max_tok; the last one's output is as asked.
 * Stops early with INTERRUPTED when *interrupted becomes true (NULL: never). */
bool engine_feed(struct engine *e, const struct engine_part *part, struct step_result *result,
                 bool (*interrupted)(void), struct error *err);

/* Unloads the model on every rank; communicator and ranks stay. Accepts NULL. ranks: see
 * pool_unload. Errors: COMM (at once, where a collective failed before: only the pool's end can
 * follow). */
bool engine_close(struct engine *e, struct message_unloaded *ranks, struct error *err);
