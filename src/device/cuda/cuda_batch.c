/* The current batch's copy on the device: one block of int32, filled in pinned memory and sent in
 * one copy. Where everything lies depends on the (padded) sizes alone, so that a recording finds
 * it. */
#include <string.h>

#include "device/cuda/cuda_device.h"

/* What one batch of these sizes takes. */
struct layout {
    int n_tok, n_seq, n_row, table_stride;
};

static int blocks_of(int positions) {
    return (positions + KV_BLOCK - 1) / KV_BLOCK;
}

static size_t layout_numbers(const struct layout *l) {
    return 3 * (size_t)l->n_tok + 3 * (size_t)l->n_seq + 2 * (size_t)l->n_row +
           (size_t)l->n_seq * (size_t)l->table_stride;
}

bool cuda_batch_reserve(struct device *d, const struct batch_limits *limits, struct error *err) {
    struct cuda_device *c = cuda_of(d);
    struct cuda_batch *b = &c->batch;
    const struct layout most = {limits->max_tok + DEVICE_MAX_RECORDED,
                                limits->max_seq + DEVICE_MAX_RECORDED,
                                limits->max_tok + DEVICE_MAX_RECORDED, blocks_of(limits->max_ctx)};
    cuda_batch_release(d);
    b->limits = *limits;
    b->capacity = layout_numbers(&most);
    void *p = NULL;
    CUDA_TRY(cudaMalloc(&p, b->capacity * sizeof(int32_t)), "cudaMalloc of the batch");
    b->device = p;
    for (int i = 0; i < CUDA_STAGING; i++) {
        if (!cuda_staging_init(&b->host[i], b->capacity * sizeof(int32_t), err)) {
            cuda_batch_release(d);
            return false;
        }
    }
    return cuda_attention_reserve(c, err);
}

void cuda_batch_release(struct device *d) {
    struct cuda_device *c = cuda_of(d);
    struct cuda_batch *b = &c->batch;
    cuda_graphs_drop(c); /* they are a model's */
    cuda_scratch_drop(c);
    cuda_give_back(c, b->device);
    for (int i = 0; i < CUDA_STAGING; i++) {
        cuda_staging_finish(c, &b->host[i]);
    }
    *b = (struct cuda_batch){0};
}

/* The smallest power of two that is at least n. */
static int power_of_two(int n) {
    int p = 1;
    while (p < n) {
        p *= 2;
    }
    return p;
}

/* Steps in which every sequence decodes, up to a size, are padded to a power of two. */
static bool decodes(const struct cuda_device *c, const struct device_batch *batch) {
    const struct batch_limits *limits = &c->batch.limits;
    return c->graphs && batch->n_tok > 0 && batch->n_tok == batch->n_seq &&
           batch->n_tok <= DEVICE_MAX_RECORDED && power_of_two(batch->n_tok) <= limits->max_tok;
}

static bool check(const struct cuda_device *c, const struct device_batch *batch,
                  struct error *err) {
    const struct batch_limits *limits = &c->batch.limits;
    if (!c->batch.device || batch->n_tok > limits->max_tok || batch->n_seq > limits->max_seq ||
        batch->n_row > limits->max_tok) {
        return error_set(err, ERROR_SHAPE, "a batch of %d tokens in %d sequences", batch->n_tok,
                         batch->n_seq);
    }
    for (int s = 0; s < batch->n_seq; s++) {
        const struct seq_run *q = &batch->seqs[s];
        if (q->n_tok < 1 || q->pos < 0 || q->pos + q->n_tok > limits->max_ctx ||
            blocks_of(q->pos + q->n_tok) > q->n_block) {
            return error_set(err, ERROR_SHAPE, "positions %d + %d do not fit %d KV blocks", q->pos,
                             q->n_tok, q->n_block);
        }
    }
    return true;
}

static struct layout layout_for(const struct cuda_device *c, const struct device_batch *batch,
                                bool recordable) {
    struct layout l = {batch->n_tok, batch->n_seq, batch->n_row, 1};
    if (recordable) {
        l.n_tok = l.n_seq = power_of_two(batch->n_tok);
        l.n_row = batch->n_row ? power_of_two(batch->n_row) : 0;
        l.table_stride = blocks_of(c->batch.limits.max_ctx);
        return l;
    }
    for (int s = 0; s < batch->n_seq; s++) {
        int n = blocks_of(batch->seqs[s].pos + batch->seqs[s].n_tok);
        l.table_stride = n > l.table_stride ? n : l.table_stride;
    }
    return l;
}

/* The arrays of a batch that begins at `base`; the same for both copies of it. */
struct arrays {
    int32_t *ids, *position, *sequence, *seq_row, *seq_tok, *seq_pos, *rows, *targets, *tables;
};

static struct arrays arrays_at(int32_t *base, const struct layout *l) {
    struct arrays a;
    a.ids = base;
    a.position = a.ids + l->n_tok;
    a.sequence = a.position + l->n_tok;
    a.seq_row = a.sequence + l->n_tok;
    a.seq_tok = a.seq_row + l->n_seq;
    a.seq_pos = a.seq_tok + l->n_seq;
    a.rows = a.seq_pos + l->n_seq;
    a.targets = a.rows + l->n_row;
    a.tables = a.targets + l->n_row;
    return a;
}

static void fill(const struct arrays *a, const struct layout *l, const struct device_batch *batch) {
    memcpy(a->ids, batch->ids, (size_t)batch->n_tok * sizeof *a->ids);
    for (int s = 0; s < batch->n_seq; s++) {
        const struct seq_run *q = &batch->seqs[s];
        a->seq_row[s] = q->row;
        a->seq_tok[s] = q->n_tok;
        a->seq_pos[s] = q->pos;
        for (int t = 0; t < q->n_tok; t++) {
            a->position[q->row + t] = q->pos + t;
            a->sequence[q->row + t] = s;
        }
        int n = blocks_of(q->pos + q->n_tok);
        int32_t *table = a->tables + (size_t)s * (size_t)l->table_stride;
        memcpy(table, q->blocks, (size_t)n * sizeof *table);
        memset(table + n, 0, (size_t)(l->table_stride - n) * sizeof *table);
    }
    for (int s = batch->n_seq; s < l->n_seq; s++) { /* padding: one row each */
        a->seq_row[s] = s;
        a->seq_tok[s] = a->seq_pos[s] = 0;
        memset(a->tables + (size_t)s * (size_t)l->table_stride, 0,
               (size_t)l->table_stride * sizeof *a->tables);
    }
    for (int m = batch->n_tok; m < l->n_tok; m++) {
        a->ids[m] = a->position[m] = 0;
        a->sequence[m] = -1;
    }
    for (int i = 0; i < l->n_row; i++) {
        a->rows[i] = i < batch->n_row ? batch->rows[i] : -1;
        a->targets[i] = i < batch->n_row && batch->targets ? batch->targets[i] : -1;
    }
}

static void set_args(struct kernel_batch *args, const struct arrays *a, const struct layout *l,
                     const struct device_batch *batch, bool recordable, int max_ctx) {
    *args = (struct kernel_batch){.ids = a->ids,
                                  .position = a->position,
                                  .sequence = a->sequence,
                                  .seq_row = a->seq_row,
                                  .seq_tok = a->seq_tok,
                                  .seq_pos = a->seq_pos,
                                  .tables = a->tables,
                                  .rows = a->rows,
                                  .targets = a->targets,
                                  .n_tok = l->n_tok,
                                  .n_seq = l->n_seq,
                                  .n_row = l->n_row,
                                  .table_stride = l->table_stride};
    for (int s = 0; s < batch->n_seq; s++) {
        const struct seq_run *q = &batch->seqs[s];
        int context = q->pos + q->n_tok;
        args->max_seq_tok = q->n_tok > args->max_seq_tok ? q->n_tok : args->max_seq_tok;
        args->max_context = context > args->max_context ? context : args->max_context;
    }
    if (recordable) {
        args->max_context = max_ctx; /* a replay may come any time later */
    }
}

bool cuda_batch_begin(struct device *d, const struct device_batch *batch, struct batch_size *out,
                      struct error *err) {
    struct cuda_device *c = cuda_of(d);
    struct cuda_batch *b = &c->batch;
    struct cuda_staging *s = &b->host[b->turn];
    if (!cuda_usable(c, err) || !check(c, batch, err)) {
        return false;
    }
    bool recordable = decodes(c, batch);
    struct layout l = layout_for(c, batch, recordable);
    b->turn = (b->turn + 1) % CUDA_STAGING;
    if (!cuda_wait(c, s->used, "sending the batch", err)) {
        return false;
    }
    struct arrays host = arrays_at(s->data, &l), device = arrays_at(b->device, &l);
    fill(&host, &l, batch);
    CUDA_STREAM_TRY(c,
                    cudaMemcpyAsync(b->device, s->data, layout_numbers(&l) * sizeof(int32_t),
                                    cudaMemcpyHostToDevice, c->stream),
                    "cudaMemcpyAsync of the batch");
    set_args(&b->args, &device, &l, batch, recordable, b->limits.max_ctx);
    b->recordable = recordable;
    *out = (struct batch_size){.n_tok = l.n_tok, .n_row = l.n_row};
    return cuda_staging_used(c, s, err);
}
