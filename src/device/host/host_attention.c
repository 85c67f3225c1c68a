#include "device/host/host.h"

size_t host_kv_block_bytes(const struct device *d, int n_kv_head, int head_dim) {
    (void)d;
    return (size_t)n_kv_head * KV_BLOCK * head_dim_pad(head_dim) * sizeof(float);
}

static int kv_of(const struct attention_shape *shape, int head) {
    return (shape->head_first + head) / shape->group - shape->kv_first;
}

static bool check(const struct attention_shape *shape, const struct seq_run *seqs, int n_seq,
                  struct error *err) {
    if (shape->head_dim < 2 || shape->head_dim % 2 != 0 || shape->head_dim > DEVICE_MAX_HEAD_DIM) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "head_dim %d; even ones from 2 to %d are supported", shape->head_dim,
                         DEVICE_MAX_HEAD_DIM);
    }
    if (shape->n_head < 1 || shape->group < 1 || kv_of(shape, 0) < 0 ||
        kv_of(shape, shape->n_head - 1) >= shape->n_kv_head) {
        return error_set(err, ERROR_SHAPE, "%d heads from %d on do not fit %d KV heads from %d on",
                         shape->n_head, shape->head_first, shape->n_kv_head, shape->kv_first);
    }
    for (int s = 0; s < n_seq; s++) {
        int64_t positions = (int64_t)seqs[s].n_block * KV_BLOCK;
        if (seqs[s].pos < 0 || seqs[s].n_tok < 0 || seqs[s].pos + seqs[s].n_tok > positions) {
            return error_set(err, ERROR_SHAPE, "positions %d + %d do not fit %d KV blocks",
                             seqs[s].pos, seqs[s].n_tok, seqs[s].n_block);
        }
    }
    return true;
}

struct rope_call {
    const struct host_kernels *kernels;
    struct rope_job job;
    int n_part;
};

static void work_rope(void *ctx, int part, void *scratch) {
    (void)scratch;
    const struct rope_call *call = ctx;
    int n_head = call->job.shape->n_head + call->job.shape->n_kv_head;
    struct range heads = host_team_part(n_head, call->n_part, part);
    for (int h = heads.first; h < heads.end; h++) {
        call->kernels->rope(&call->job, h);
    }
}

bool host_rope_append(struct device *d, void *qkv, const struct attention_shape *shape,
                      const float *q_norm, const float *k_norm, float eps, const float *rope,
                      struct kv_layer kv, struct error *err) {
    enum { TOKENS_WORTH_A_TEAM = 8 };
    struct host_device *h = host_of(d);
    const struct device_batch *batch = &h->batch;
    if (!check(shape, batch->seqs, batch->n_seq, err)) {
        return false;
    }
    struct rope_call call = {.kernels = h->kernels,
                             .job = {.qkv = qkv,
                                     .shape = shape,
                                     .q_norm = q_norm,
                                     .k_norm = k_norm,
                                     .eps = eps,
                                     .rope = rope,
                                     .seqs = batch->seqs,
                                     .n_seq = batch->n_seq,
                                     .k = kv.k,
                                     .v = kv.v},
                             .n_part = batch->n_tok < TOKENS_WORTH_A_TEAM ? 1 : h->n_thread};
    return host_team_run(h, call.n_part, work_rope, &call, 0, err);
}

/* Writes the work items, or only counts them where `out` is NULL: per sequence and KV head, as many
 * rows (tokens by heads) as share their reads of K and V. */
static size_t list_items(const struct attention_shape *shape, const struct seq_run *seqs, int n_seq,
                         struct attention_item *out) {
    size_t n = 0;
    for (int s = 0; s < n_seq; s++) {
        for (int head = 0, n_head; head < shape->n_head; head += n_head) {
            int kv = kv_of(shape, head);
            n_head = 1;
            while (n_head < ATTENTION_MAX_ROWS && head + n_head < shape->n_head &&
                   kv_of(shape, head + n_head) == kv) {
                n_head++;
            }
            int most = ATTENTION_MAX_ROWS / n_head;
            for (int tok = 0; tok < seqs[s].n_tok; tok += most) {
                int n_tok = seqs[s].n_tok - tok < most ? seqs[s].n_tok - tok : most;
                if (out) {
                    out[n] = (struct attention_item){s, kv, head, n_head, tok, n_tok};
                }
                n++;
            }
        }
    }
    return n;
}

static size_t row_bytes(int head_dim) {
    return (KV_BLOCK + 3 * (size_t)head_dim_pad(head_dim)) * sizeof(float);
}

bool host_attention_reserve(struct host_device *h, const struct batch_limits *l,
                            struct error *err) {
    /* The most items a token can be worth: as many as it has heads. */
    size_t n_item = (size_t)l->max_tok * (size_t)l->attention.n_head;
    return host_scratch_reserve(&h->items, n_item * sizeof(struct attention_item), err) &&
           host_team_reserve(h, h->n_thread, ATTENTION_MAX_ROWS * row_bytes(l->attention.head_dim),
                             err);
}

struct attention_call {
    const struct host_kernels *kernels;
    struct attention_job job;
    const struct attention_item *items;
};

static void work_attention(void *ctx, int item, void *scratch) {
    const struct attention_call *call = ctx;
    call->kernels->attention(&call->job, &call->items[item], scratch);
}

bool host_attention(struct device *d, void *out, const void *qkv,
                    const struct attention_shape *shape, struct kv_layer kv, struct error *err) {
    struct host_device *h = host_of(d);
    const struct seq_run *seqs = h->batch.seqs;
    int n_seq = h->batch.n_seq;
    if (!check(shape, seqs, n_seq, err)) {
        return false;
    }
    size_t n_item = list_items(shape, seqs, n_seq, NULL);
    if (!host_scratch_reserve(&h->items, n_item * sizeof(struct attention_item), err)) {
        return false;
    }
    list_items(shape, seqs, n_seq, h->items.data);
    struct attention_call call = {
        .kernels = h->kernels,
        .job = {.out = out, .qkv = qkv, .shape = shape, .seqs = seqs, .k = kv.k, .v = kv.v},
        .items = h->items.data};
    return host_team_run(h, (int)n_item, work_attention, &call,
                         ATTENTION_MAX_ROWS * row_bytes(shape->head_dim), err);
}
