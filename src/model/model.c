#include "model/model.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "model/checkpoint.h"
#include "model/footprint.h"
#include "model/model_impl.h"
#include "model/rope.h"

/* One buffer of struct activations. */
struct buffer_plan {
    void **p;
    size_t bytes;
    bool collective; /* sent or received in every step: the communicator's own memory */
};

enum { N_ACTIVATION = 8 };

static void activations_plan(struct model *m, struct buffer_plan out[N_ACTIVATION]) {
    const struct shard *s = &m->nn.shard;
    struct activations *a = &m->act;
    size_t tok = (size_t)m->params.max_tok, hidden = (size_t)m->config.hidden;
    size_t d = (size_t)m->config.head_dim, heads = (size_t)s->heads.count;
    size_t kv_heads = (size_t)s->kv_heads.count, mlp = (size_t)s->mlp.count;
    /* down's leaves are the same heads */
    size_t n_piece = (size_t)sharded_linear_pieces(&m->weights.o_plan, &m->nn);
    size_t act = dtype_size(m->nn.device->act), f32 = sizeof(float);
    const struct buffer_plan all[N_ACTIVATION] = {
        {(void **)&a->x, f32 * tok * hidden, true},
        {(void **)&a->delta, f32 * n_piece * tok * hidden, true},
        {&a->h, act * tok * hidden, false},
        {&a->qkv, act * tok * (heads + 2 * kv_heads) * d, false},
        {&a->attention, act * tok * heads * d, false},
        {&a->gate_up, act * tok * 2 * mlp, false},
        {&a->mlp, act * tok * mlp, false},
        {(void **)&a->rope, f32 * (size_t)m->params.ctx * d, false},
    };
    memcpy(out, all, sizeof all);
}

static bool activations_init(struct model *m, struct error *err) {
    struct device *d = m->nn.device;
    struct comm *c = m->nn.comm;
    struct buffer_plan plan[N_ACTIVATION];
    activations_plan(m, plan);
    for (int i = 0; i < N_ACTIVATION; i++) {
        size_t bytes = plan[i].bytes;
        bool ok = bytes == 0 || (plan[i].collective ? c->ops->alloc(c, bytes, plan[i].p, err)
                                                    : d->ops->alloc(d, bytes, plan[i].p, err));
        if (!ok) {
            return error_wrap(err, "activations");
        }
    }
    return true;
}

static void activations_finish(struct model *m) {
    struct device *d = m->nn.device;
    struct comm *c = m->nn.comm;
    struct buffer_plan plan[N_ACTIVATION];
    activations_plan(m, plan);
    for (int i = 0; i < N_ACTIVATION; i++) {
        if (plan[i].collective) {
            c->ops->free(c, *plan[i].p, plan[i].bytes);
        } else {
            d->ops->free(d, *plan[i].p, plan[i].bytes);
        }
    }
}

static bool rope_init(struct model *m, struct error *err) {
    struct device *d = m->nn.device;
    size_t bytes = sizeof(float) * (size_t)m->params.ctx * (size_t)m->config.head_dim;
    float *table = malloc(bytes);
    if (!table) {
        return error_set(err, ERROR_MEMORY, "cannot allocate %zu bytes for the rope table", bytes);
    }
    rope_table_fill(table, &m->config.rope, m->config.head_dim, m->params.ctx);
    bool ok = d->ops->upload(d, m->act.rope, table, bytes, err);
    free(table);
    return ok;
}

static bool is_quantized(const struct model *m) {
    return dtype_is_quantized(m->params.quant);
}

static struct batch_limits batch_limits(const struct model *m) {
    const struct shard *s = &m->nn.shard;
    const struct model_config *c = &m->config;
    int max_tok = m->params.max_tok;
    return (struct batch_limits){
        .max_tok = max_tok,
        .max_seq = max_tok < STEP_MAX_SEQS ? max_tok : STEP_MAX_SEQS,
        .max_ctx = m->params.ctx,
        .max_cols = footprint_widest_input(c, s),
        .max_groups = is_quantized(m) ? footprint_widest_groups(c, s) : 0,
        .max_leaves = c->n_head,
        .max_candidates = STEP_MAX_CANDIDATES,
        .attention = model_attention_shape(m),
    };
}

static bool batch_init(struct model *m, struct error *err) {
    struct batch *b = &m->batch;
    const struct model_params *p = &m->params;
    struct device *d = m->nn.device;
    const struct batch_limits limits = batch_limits(m);
    b->ids = calloc((size_t)p->max_tok, sizeof *b->ids);
    b->rows = calloc((size_t)p->max_tok, sizeof *b->rows);
    b->targets = calloc((size_t)p->max_tok, sizeof *b->targets);
    b->out = calloc((size_t)p->max_tok, sizeof *b->out);
    b->seqs = calloc(STEP_MAX_SEQS, sizeof *b->seqs);
    b->claimed = malloc(step_claim_bytes(p->n_block));
    if (!b->ids || !b->rows || !b->targets || !b->out || !b->seqs || !b->claimed) {
        return error_set(err, ERROR_MEMORY, "cannot allocate the batch");
    }
    return d->ops->batch_reserve(d, &limits, err);
}

static void batch_finish(struct batch *b, struct device *d) {
    if (b->seqs) {
        d->ops->batch_release(d);
    }
    free(b->ids);
    free(b->rows);
    free(b->targets);
    free(b->out);
    free(b->seqs);
    free(b->claimed);
}

/* Room for the collectives of a step. */
static bool comm_init(const struct model *m, struct error *err) {
    struct comm *c = m->nn.comm;
    size_t n = (size_t)m->params.max_tok * (size_t)m->config.hidden;
    size_t logits = (size_t)OUTPUT_CHUNK * (size_t)m->config.vocab * sizeof(float);
    return !c->ops->reserve || (c->ops->reserve(c, n, c->world, logits, err) &&
                                c->ops->reserve(c, n, m->config.n_head, logits, err));
}

static struct footprint_params sizes_of(const struct model *m, const struct st_set *set) {
    const struct model_params *p = &m->params;
    enum dtype stored = footprint_dtype(set, m->config.dtype);
    return (struct footprint_params){.dtype = is_quantized(m) ? p->quant : stored,
                                     .kv = p->kv,
                                     .ctx = p->ctx,
                                     .n_block = p->n_block,
                                     .max_tok = p->max_tok,
                                     .max_logits = OUTPUT_CHUNK,
                                     .one_sum = !m->nn.comm->ops->exact,
                                     .device = m->nn.device};
}

static uint64_t bytes_of(const struct model *m, const struct st_set *set) {
    struct footprint_params sizes = sizes_of(m, set);
    struct footprint f = footprint_of_shard(&m->config, &m->nn.shard, &sizes);
    return footprint_total(&f);
}

/* The fingerprint of what is held in memory: of the files, and of what is made of them. */
static bool read_fingerprint(const struct model *m, const struct st_set *set,
                             const struct model_progress *progress, struct fingerprint *out,
                             struct error *err) {
    if (!fingerprint_read(out, &m->config, set, m->params.file, progress, err)) {
        return false;
    }
    if (is_quantized(m)) {
        const char *name = dtype_name(m->params.quant);
        out->config = hash_bytes(out->config, name, strlen(name));
    }
    return true;
}

/* Everything that is this rank's alone and may fail here and not elsewhere. */
static bool load_local(struct model *m, const struct model_progress *progress, struct error *err) {
    const struct model_params *p = &m->params;
    struct nn_context *nn = &m->nn;
    struct st_set *set = NULL;
    bool ok = checkpoint_open(&set, p->dir, err) && weights_check(&m->config, set, err) &&
              read_fingerprint(m, set, progress, &m->fingerprint, err);
    m->bytes = ok ? bytes_of(m, set) : 0;
    ok = ok && weights_load(&m->weights, &m->config, nn, set, p->quant, progress, err) &&
         kv_cache_init(&m->kv, nn, p->kv, m->config.n_layer, p->n_block, err) &&
         activations_init(m, err) && rope_init(m, err) && batch_init(m, err) &&
         output_init(&m->out, m, err) && comm_init(m, err);
    st_close(set);
    return ok;
}

static bool check_params(const struct model_params *p, const struct model_config *c,
                         struct error *err) {
    if (p->ctx < 1 || p->ctx > c->max_positions) {
        return error_set(
            err, ERROR_USAGE,
            "a context of %d positions: the model has 1 to %d (max_position_embeddings)", p->ctx,
            c->max_positions);
    }
    if (p->n_block < (p->ctx + KV_BLOCK - 1) / KV_BLOCK || p->max_tok < 1) {
        return error_set(err, ERROR_PROTOCOL, "load: %d KV blocks and %d tokens a step do not do",
                         p->n_block, p->max_tok);
    }
    return true;
}

/* Before anything is read: the first step would be late to find out. */
static bool check_device(const struct model_params *p, const struct model_config *c,
                         const struct device *d, struct error *err) {
    if (!device_takes_kv(d, p->kv)) {
        return error_set(err, ERROR_UNSUPPORTED, "a KV cache in %s: this rank takes one in %s%s",
                         dtype_word(p->kv), dtype_word(d->act), d->kv_bf16 ? " or bf16" : "");
    }
    if (dtype_is_quantized(p->quant) && !d->quantized) {
        return error_set(err, ERROR_UNSUPPORTED, "%s: quantized weights are for the host alone",
                         dtype_word(p->quant));
    }
    if (d->head_dim_unit == 0 ||
        (c->head_dim % d->head_dim_unit == 0 && c->head_dim <= d->head_dim_max)) {
        return true;
    }
    return error_set(err, ERROR_UNSUPPORTED, "head_dim %d: a GPU takes multiples of %d up to %d",
                     c->head_dim, d->head_dim_unit, d->head_dim_max);
}

/* A model that is nothing but numbers yet. */
static bool model_create(struct model **out, const struct model_params *params,
                         struct device *device, struct comm *comm, struct error *err) {
    struct model *m = calloc(1, sizeof *m);
    if (!m) {
        return error_set(err, ERROR_MEMORY, "cannot allocate a model");
    }
    struct model_config *c = &m->config;
    m->params = *params;
    m->nn = (struct nn_context){.device = device, .comm = comm};
    bool ok = model_config_load(c, params->dir, err) && check_params(params, c, err) &&
              check_device(params, c, device, err);
    m->nn.dims =
        (struct shard_dims){c->n_head, c->n_kv_head, c->head_dim, c->intermediate, c->vocab};
    if (!ok || !shard_compute(&m->nn.shard, &m->nn.dims, comm->world, comm->rank, err)) {
        free(m);
        return false;
    }
    *out = m;
    return true;
}

bool model_measure(const struct model_params *params, struct device *device, struct comm *comm,
                   const struct model_progress *progress, struct model_needs *out,
                   struct fingerprint *print, struct error *err) {
    struct model *m;
    struct st_set *set = NULL;
    if (!model_create(&m, params, device, comm, err)) {
        return false;
    }
    bool ok = checkpoint_open(&set, params->dir, err) && weights_check(&m->config, set, err) &&
              (!print || read_fingerprint(m, set, progress, print, err));
    if (ok) {
        *out = (struct model_needs){.config = m->config, .sizes = sizes_of(m, set)};
        out->own = footprint_of_shard(&m->config, &m->nn.shard, &out->sizes);
    }
    st_close(set);
    free(m);
    return ok;
}

bool model_load(struct model **out, const struct model_params *params, struct device *device,
                struct comm *comm, const struct model_progress *progress, struct error *err) {
    struct model *m;
    if (!model_create(&m, params, device, comm, err)) {
        return false;
    }
    if (!load_local(m, progress, err)) {
        model_destroy(m);
        return false;
    }
    *out = m;
    return true;
}

/* Notes the rows whose output the sequence wants, in the order of the results. */
static void batch_want(struct batch *b, const struct step_seq *q, int seq, int row) {
    if (q->output == STEP_OUTPUT_NONE) {
        return;
    }
    bool every = q->output == STEP_OUTPUT_ALL_LOGITS || q->output == STEP_OUTPUT_LOGPROBS;
    for (int t = every ? 0 : q->n_tok - 1; t < q->n_tok; t++) {
        b->rows[b->n_row] = row + t;
        b->targets[b->n_row] = q->output == STEP_OUTPUT_LOGPROBS ? q->targets[t] : -1;
        b->out[b->n_row++] = (struct output_row){q->output, q->top_k, seq};
    }
}

/* Lays the step out as rows of tokens. */
static void batch_fill(struct batch *b, const struct step *step) {
    b->n_tok = b->n_row = 0;
    b->n_seq = step->n_seq;
    for (int i = 0; i < step->n_seq; i++) {
        const struct step_seq *q = &step->seqs[i];
        b->seqs[i] = (struct seq_run){.row = b->n_tok,
                                      .n_tok = q->n_tok,
                                      .pos = q->pos,
                                      .n_block = q->n_block,
                                      .blocks = q->blocks};
        memcpy(b->ids + b->n_tok, q->tokens, (size_t)q->n_tok * sizeof *q->tokens);
        batch_want(b, q, i, b->n_tok);
        b->n_tok += q->n_tok;
    }
}

static bool batch_begin(struct model *m, struct error *err) {
    struct batch *b = &m->batch;
    struct device *d = m->nn.device;
    const struct device_batch batch = {.n_tok = b->n_tok,
                                       .ids = b->ids,
                                       .n_seq = b->n_seq,
                                       .seqs = b->seqs,
                                       .n_row = b->n_row,
                                       .rows = b->rows,
                                       .targets = b->targets};
    return d->ops->batch_begin(d, &batch, &b->size, err);
}

/* A step of generation: the same operations each time, so the device may replay them. */
static bool run_recorded(struct model *m, int k, struct error *err) {
    struct device *d = m->nn.device;
    bool replayed = false;
    if (!d->ops->record_begin(d, k, &replayed, err)) {
        return false;
    }
    for (bool again = !replayed; again;) {
        bool ok = forward(m, err) && output_enqueue(m, k, err);
        if (!d->ops->record_end(d, ok, &again, err)) {
            return false;
        }
    }
    return output_collect(m, k, err);
}

bool model_prepare(struct model *m, const struct step *step, struct step_result *results,
                   struct error *err) {
    const struct step_limits limits = {.max_tok = m->params.max_tok,
                                       .ctx = m->params.ctx,
                                       .n_block = m->params.n_block,
                                       .vocab = m->config.vocab};
    if (!step_validate(step, &limits, m->batch.claimed, err)) {
        return false;
    }
    batch_fill(&m->batch, step);
    return m->nn.shard.rank != 0 || output_prepare(m, step, results, err);
}

bool model_run(struct model *m, struct error *err) {
    struct device *d = m->nn.device;
    if (!batch_begin(m, err)) {
        return false;
    }
    int k = output_candidates_only(m);
    bool ok = k > 0 ? run_recorded(m, k, err) : forward(m, err) && output_run(m, err);
    if (!ok || !d->ops->sync(d, err)) {
        return false;
    }
    if (m->nn.shard.rank == 0) {
        output_judge(m);
    }
    return true;
}

bool model_step(struct model *m, const struct step *step, struct step_result *results,
                struct error *err) {
    return model_prepare(m, step, results, err) && model_run(m, err);
}

int model_vocab_of_rank(const struct model *m, int rank) {
    return leaf_run_of_rank(m->config.vocab, m->nn.shard.world, rank).count;
}

uint64_t model_digest(const struct model *m, const struct step *step,
                      const struct step_result *results) {
    uint64_t h = HASH_START;
    for (int i = 0; i < step->n_seq; i++) {
        const struct step_result *r = &results[i];
        size_t n_tok = (size_t)step->seqs[i].n_tok, n = (size_t)r->n_candidate;
        size_t rows = step->seqs[i].output == STEP_OUTPUT_ALL_LOGITS ? n_tok : 1;
        if (r->logits) {
            h = hash_words(h, r->logits, rows * (size_t)m->config.vocab * sizeof *r->logits);
        }
        if (r->values) {
            h = hash_words(h, r->values, n * sizeof *r->values);
            h = hash_words(h, r->ids, n * sizeof *r->ids);
        }
        if (r->logprobs) {
            h = hash_words(h, r->logprobs, n_tok * sizeof *r->logprobs);
        }
    }
    return h;
}

const struct model_config *model_get_config(const struct model *m) {
    return &m->config;
}

size_t model_bytes(const struct model *m) {
    return m->bytes;
}

uint64_t model_bytes_read(const struct model *m) {
    return m->weights.bytes_read;
}

uint64_t model_nonfinite(const struct model *m) {
    return m->weights.n_nonfinite;
}

const struct fingerprint *model_fingerprint(const struct model *m) {
    return &m->fingerprint;
}

void model_destroy(struct model *m) {
    if (!m) {
        return;
    }
    if (m->nn.shard.world) { /* else nothing was allocated yet */
        /* First: recordings refer to all that follows. */
        batch_finish(&m->batch, m->nn.device);
        output_finish(&m->out, m);
        activations_finish(m);
        kv_cache_finish(&m->kv, m->nn.device);
        weights_finish(&m->weights, m->nn.device);
        if (m->nn.comm->ops->release) {
            m->nn.comm->ops->release(m->nn.comm);
        }
    }
    free(m);
}
