#include "device/host/host.h"

size_t host_kv_block_bytes(const struct device *d, enum dtype kv, int n_kv_head, int head_dim) {
    (void)d;
    return (size_t)n_kv_head * KV_BLOCK * kv_dim_pad(head_dim) * dtype_size(kv);
}

static int kv_of(const struct attention_shape *shape, int head) {
    return (shape->head_first + head) / shape->group - shape->kv_first;
}

static bool check(const struct host_device *h, const struct attention_shape *shape, enum dtype kv,
                  struct error *err) {
    const struct seq_run *seqs = h->batch.seqs;
    if (!device_takes_kv(&h->base, kv)) {
        return error_set(err, ERROR_UNSUPPORTED, "attention over a KV cache in %s", dtype_name(kv));
    }
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
    for (int s = 0; s < h->batch.n_seq; s++) {
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
    if (!check(h, shape, kv.dtype, err)) {
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
                                     .kv = kv},
                             .n_part = batch->n_tok < TOKENS_WORTH_A_TEAM ? 1 : h->n_thread};
    return host_team_run(h, call.n_part, work_rope, &call, 0, err);
}

/* ---- work items ---- */

enum {
    /* With fewer items than this for each thread, their blocks are dealt out, to some MANY_ITEMS
     * for each. */
    FEW_ITEMS = 2,
    MANY_ITEMS = 4,
    LEAST_BLOCKS = 4,       /* dealt out together */
    PARTS_BYTES = 16 << 20, /* of partial results; what is beyond stays whole */
};

/* Writes the work items, or only counts them where `out` is NULL: per sequence and KV head, as many
 * rows (tokens by heads) as share their reads of K and V, with all their blocks. */
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
                struct range blocks = {0, (seqs[s].pos + tok + n_tok - 1) / KV_BLOCK + 1};
                if (out) {
                    out[n] = (struct attention_item){s, kv, head, n_head, tok, n_tok, blocks, NULL};
                }
                n++;
            }
        }
    }
    return n;
}

static bool is_few(const struct host_device *h, size_t n_item) {
    return h->n_thread > 1 && n_item < (size_t)FEW_ITEMS * (size_t)h->n_thread;
}

/* The most that cut_items makes of few items. */
static size_t most_cut(const struct host_device *h) {
    return h->n_thread > 1 ? (size_t)(FEW_ITEMS + MANY_ITEMS) * (size_t)h->n_thread : 0;
}

static size_t parts_bytes(size_t n_row, size_t n_block, int head_dim) {
    return n_row * n_block * attention_part_floats(head_dim) * sizeof(float);
}

static size_t item_parts_bytes(const struct attention_item *item, int head_dim) {
    return parts_bytes((size_t)(item->n_tok * item->n_head), (size_t)item->blocks.end, head_dim);
}

static bool reserve_parts(struct host_device *h, size_t bytes, struct error *err) {
    return host_scratch_reserve(&h->parts, bytes < PARTS_BYTES ? bytes : PARTS_BYTES, err);
}

/* Deals the blocks of n items out to more of them, in `out`, so that one sequence keeps every
 * thread busy however few its KV heads. The bits stay: every block is computed as it would be, and
 * merged in the same order. Returns how many there are. */
static size_t cut_items(const struct host_device *h, const struct attention_item *items, size_t n,
                        int head_dim, struct attention_item *out) {
    unsigned char *parts = h->parts.data;
    size_t left = PARTS_BYTES, n_out = 0;
    int64_t n_block = 0;
    for (size_t i = 0; i < n; i++) {
        n_block += items[i].blocks.end;
    }
    int each = (int)(n_block / ((int64_t)MANY_ITEMS * h->n_thread)) + 1;
    each = each < LEAST_BLOCKS ? LEAST_BLOCKS : each;
    for (size_t i = 0; i < n; i++) {
        struct attention_item item = items[i];
        int end = item.blocks.end;
        size_t bytes = item_parts_bytes(&item, head_dim);
        if (end <= each || bytes > left) {
            out[n_out++] = item;
            continue;
        }
        item.parts = (float *)(void *)parts;
        parts += bytes;
        left -= bytes;
        for (int first = 0; first < end; first += each) {
            item.blocks = (struct range){first, end - first < each ? end : first + each};
            out[n_out++] = item;
        }
    }
    return n_out;
}

/* ---- attention ---- */

static size_t scratch_bytes(int head_dim) {
    return ATTENTION_MAX_ROWS * attention_scratch_floats(head_dim) * sizeof(float);
}

bool host_attention_reserve(struct host_device *h, const struct batch_limits *l,
                            struct error *err) {
    /* The most items a token can be worth: as many as it has heads. */
    size_t n_item = (size_t)l->max_tok * (size_t)l->attention.n_head;
    size_t few_rows = FEW_ITEMS * ATTENTION_MAX_ROWS * (size_t)h->n_thread;
    size_t n_row = h->n_thread == 1 ? 0 : n_item < few_rows ? n_item : few_rows;
    size_t n_block = (size_t)l->max_ctx / KV_BLOCK + 1;
    int dim = l->attention.head_dim;
    return host_scratch_reserve(&h->items, (n_item + most_cut(h)) * sizeof(struct attention_item),
                                err) &&
           reserve_parts(h, parts_bytes(n_row, n_block, dim), err) &&
           host_team_reserve(h, h->n_thread, scratch_bytes(dim), err);
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

/* i: an item and a row of it. */
static void work_merge(void *ctx, int i, void *scratch) {
    (void)scratch;
    const struct attention_call *call = ctx;
    const struct attention_item *item = &call->items[i / ATTENTION_MAX_ROWS];
    int row = i % ATTENTION_MAX_ROWS;
    if (item->parts && item->blocks.first == 0 && row < item->n_tok * item->n_head) {
        call->kernels->attention_merge(&call->job, item, row);
    }
}

static bool run_cut(struct host_device *h, struct attention_call *call, size_t n_item,
                    struct error *err) {
    struct attention_item *whole = h->items.data, *cut = whole + n_item;
    int dim = call->job.shape->head_dim;
    size_t bytes = 0;
    for (size_t i = 0; i < n_item; i++) {
        bytes += item_parts_bytes(&whole[i], dim);
    }
    if (!reserve_parts(h, bytes, err)) {
        return false;
    }
    int n_cut = (int)cut_items(h, whole, n_item, dim, cut);
    call->items = cut;
    return host_team_run(h, n_cut, work_attention, call, scratch_bytes(dim), err) &&
           host_team_run(h, n_cut * ATTENTION_MAX_ROWS, work_merge, call, 0, err);
}

bool host_attention(struct device *d, void *out, const void *qkv,
                    const struct attention_shape *shape, struct kv_layer kv, struct error *err) {
    struct host_device *h = host_of(d);
    const struct seq_run *seqs = h->batch.seqs;
    int n_seq = h->batch.n_seq;
    if (!check(h, shape, kv.dtype, err)) {
        return false;
    }
    size_t n_item = list_items(shape, seqs, n_seq, NULL);
    if (!host_scratch_reserve(&h->items, (n_item + most_cut(h)) * sizeof(struct attention_item),
                              err)) {
        return false;
    }
    list_items(shape, seqs, n_seq, h->items.data);
    struct attention_call call = {
        .kernels = h->kernels,
        .job = {.out = out, .qkv = qkv, .shape = shape, .seqs = seqs, .kv = kv},
        .items = h->items.data};
    if (is_few(h, n_item)) {
        return run_cut(h, &call, n_item, err);
    }
    return host_team_run(h, (int)n_item, work_attention, &call, scratch_bytes(shape->head_dim),
                         err);
}
