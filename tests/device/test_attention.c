#include "test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/widen.h"
#include "device/host/host.h"
#include "reference.h"

enum { MAX_SEQ = 3, MAX_BLOCKS = 10, MAX_POS = 640 };

/* A few sequences fed in chunks to one layer, and what the reference makes of them. K and V of the
 * reference are kept plainly: [sequence][kv head][position][head_dim]. */
struct layer {
    struct attention_shape shape;
    enum dtype kv;
    int n_seq;
    struct seq_run seqs[MAX_SEQ];
    int32_t blocks[MAX_SEQ][MAX_BLOCKS];
    int length[MAX_SEQ]; /* positions so far */
    int n_row;
    float *q_norm, *k_norm, *rope;
    float *k_plain, *v_plain;
    float *qkv, *q_want, *want;
};

static size_t stride(const struct layer *l) {
    return (size_t)(l->shape.n_head + 2 * l->shape.n_kv_head) * l->shape.head_dim;
}

static float *plain(const struct layer *l, float *base, int seq, int kv, int pos) {
    return base + (((size_t)seq * l->shape.n_kv_head + kv) * MAX_POS + pos) * l->shape.head_dim;
}

/* This rank's heads: some run of the model's, that may begin and end inside a group. */
static void random_shape(struct random *r, struct attention_shape *s, int head_dim) {
    s->head_dim = head_dim;
    s->group = random_int(r, 1, 8);
    s->head_first = random_int(r, 0, 10);
    s->n_head = random_int(r, 1, 9);
    s->kv_first = s->head_first / s->group;
    s->n_kv_head = (s->head_first + s->n_head - 1) / s->group - s->kv_first + 1;
    s->scale = 1 / sqrtf((float)head_dim);
}

static struct layer make_layer(struct random *r, int head_dim, bool norms, enum dtype kv) {
    struct layer l = {.n_seq = random_int(r, 1, MAX_SEQ), .kv = kv};
    random_shape(r, &l.shape, head_dim);
    int n_block = 0;
    for (int s = 0; s < MAX_SEQ; s++) { /* blocks of the sequences are mixed, last ones first */
        for (int b = 0; b < MAX_BLOCKS; b++) {
            l.blocks[s][b] = (n_block++ * 7 + 3) % (MAX_SEQ * MAX_BLOCKS);
        }
    }
    size_t n = (size_t)MAX_SEQ * l.shape.n_kv_head * MAX_POS * head_dim;
    l.k_plain = malloc(n * sizeof(float));
    l.v_plain = malloc(n * sizeof(float));
    l.rope = malloc((size_t)MAX_POS * head_dim * sizeof(float));
    for (int i = 0; i < MAX_POS * head_dim; i++) {
        double angle = (i / head_dim) * pow(10000, -2.0 * (i % (head_dim / 2)) / head_dim);
        l.rope[i] = (float)(i % head_dim < head_dim / 2 ? cos(angle) : sin(angle));
    }
    if (norms) {
        l.q_norm = malloc(head_dim * sizeof(float));
        l.k_norm = malloc(head_dim * sizeof(float));
        fill_floats(r, l.q_norm, head_dim, 0);
        fill_floats(r, l.k_norm, head_dim, 0);
    }
    return l;
}

static void drop_step(struct layer *l) {
    free(l->qkv);
    free(l->q_want);
    free(l->want);
    l->qkv = l->q_want = l->want = NULL;
}

static void drop_layer(struct layer *l) {
    drop_step(l);
    free(l->k_plain);
    free(l->v_plain);
    free(l->rope);
    free(l->q_norm);
    free(l->k_norm);
}

/* Norm and rotation of one head by the reference. */
static void prepare(const struct layer *l, float *to, const float *from, const float *norm,
                    int pos) {
    int dim = l->shape.head_dim;
    memcpy(to, from, dim * sizeof *to);
    if (norm) {
        ref_rmsnorm(to, to, norm, dim, 1e-6f);
    }
    ref_rope(to, l->rope + (size_t)pos * dim, dim);
}

static void reference_append(struct layer *l, int seq, int row, int pos) {
    const struct attention_shape *a = &l->shape;
    int dim = a->head_dim;
    const float *qkv = l->qkv + row * stride(l);
    for (int kv = 0; kv < a->n_kv_head; kv++) {
        const float *from = qkv + (size_t)(a->n_head + kv) * dim;
        float *k = plain(l, l->k_plain, seq, kv, pos), *v = plain(l, l->v_plain, seq, kv, pos);
        prepare(l, k, from, l->k_norm, pos);
        memcpy(v, from + (size_t)a->n_kv_head * dim, dim * sizeof *v);
        for (int i = 0; i < dim && l->kv == DTYPE_BF16; i++) {
            k[i] = ref_bf16(k[i]);
            v[i] = ref_bf16(v[i]);
        }
    }
}

static void reference_attend(struct layer *l, int seq, int row, int pos) {
    const struct attention_shape *a = &l->shape;
    int dim = a->head_dim;
    const float *qkv = l->qkv + row * stride(l);
    for (int h = 0; h < a->n_head; h++) {
        int kv = (a->head_first + h) / a->group - a->kv_first;
        float *q = l->q_want + ((size_t)row * a->n_head + h) * dim;
        prepare(l, q, qkv + (size_t)h * dim, l->q_norm, pos);
        ref_attention(l->want + ((size_t)row * a->n_head + h) * dim, q,
                      plain(l, l->k_plain, seq, kv, 0), plain(l, l->v_plain, seq, kv, 0), pos + 1,
                      dim, a->scale);
    }
}

/* As `odd`: the step's last token is NaN, which none before it may see; the step has max_tok
 * tokens, which are only to be appended. */
enum { POISON_LAST = -1, APPEND_ONLY = -2 };

/* The next step: up to max_tok new tokens for every sequence, in rows that need not be in order. */
static void next_step(struct random *r, struct layer *l, int max_tok, int odd) {
    drop_step(l);
    l->n_row = 1; /* a row that belongs to nobody */
    for (int s = l->n_seq - 1; s >= 0; s--) {
        int n_tok = odd == APPEND_ONLY ? max_tok : random_int(r, 1, max_tok);
        n_tok = n_tok < MAX_POS - l->length[s] ? n_tok : MAX_POS - l->length[s];
        l->seqs[s] =
            (struct seq_run){l->n_row, n_tok, l->length[s],
                             (l->length[s] + n_tok + KV_BLOCK - 1) / KV_BLOCK, l->blocks[s]};
        l->n_row += n_tok;
        l->length[s] += n_tok;
    }
    size_t n = l->n_row * stride(l);
    size_t n_out = (size_t)l->n_row * l->shape.n_head * l->shape.head_dim;
    l->qkv = malloc(n * sizeof(float));
    l->q_want = calloc(n_out, sizeof(float));
    l->want = calloc(n_out, sizeof(float));
    fill_floats(r, l->qkv, n, odd > 0 ? odd : 0);
    for (size_t i = n - stride(l); i < n && odd == POISON_LAST; i++) {
        l->qkv[i] = NAN;
    }
    for (int s = 0; s < l->n_seq; s++) {
        for (int t = 0; t < l->seqs[s].n_tok; t++) {
            reference_append(l, s, l->seqs[s].row + t, l->seqs[s].pos + t);
            if (odd != APPEND_ONLY) {
                reference_attend(l, s, l->seqs[s].row + t, l->seqs[s].pos + t);
            }
        }
    }
}

struct pool {
    struct device *device;
    struct kv_layer kv;
    size_t bytes;
};

static struct pool make_pool(const struct layer *l, const char *isa, int n_thread) {
    struct error err;
    struct pool p = {.device = make_device(isa, n_thread)};
    if (p.device) {
        const struct device_ops *ops = p.device->ops;
        p.bytes = MAX_SEQ * MAX_BLOCKS *
                  ops->kv_block_bytes(p.device, l->kv, l->shape.n_kv_head, l->shape.head_dim);
        p.kv.dtype = l->kv;
        assert_ok(ops->alloc(p.device, p.bytes, &p.kv.k, &err), &err);
        assert_ok(ops->alloc(p.device, p.bytes, &p.kv.v, &err), &err);
        /* What earlier owners of a block left there must not matter: NaN, in either dtype. */
        memset(p.kv.k, 0xff, p.bytes);
        memset(p.kv.v, 0xff, p.bytes);
    }
    return p;
}

static void drop_pool(struct pool *p) {
    if (p->device) {
        p->device->ops->free(p->device, p->kv.k, p->bytes);
        p->device->ops->free(p->device, p->kv.v, p->bytes);
        device_destroy(p->device);
    }
}

/* Begins the step and appends to the cache; returns qkv, for the caller to free. */
static float *append_step(const struct layer *l, struct pool *p) {
    struct error err;
    struct device *d = p->device;
    float *qkv = malloc(l->n_row * stride(l) * sizeof *qkv);
    memcpy(qkv, l->qkv, l->n_row * stride(l) * sizeof *qkv);
    const struct device_batch batch = {.n_tok = l->n_row, .n_seq = l->n_seq, .seqs = l->seqs};
    struct batch_size size;
    assert_ok(d->ops->batch_begin(d, &batch, &size, &err), &err);
    assert_ok(
        d->ops->rope_append(d, qkv, &l->shape, l->q_norm, l->k_norm, 1e-6f, l->rope, p->kv, &err),
        &err);
    return qkv;
}

static void check_step(const struct layer *l, struct pool *p) {
    if (!p->device) {
        return;
    }
    struct error err;
    struct device *d = p->device;
    size_t row = (size_t)l->shape.n_head * l->shape.head_dim;
    float *qkv = append_step(l, p);
    float *out = calloc(l->n_row * row, sizeof *out);
    for (int m = 1; m < l->n_row; m++) {
        assert_same_bits(qkv + m * stride(l), l->q_want + m * row, row, "rotated queries");
    }
    assert_ok(d->ops->attention(d, out, qkv, &l->shape, p->kv, &err), &err);
    char what[128];
    snprintf(what, sizeof what, "%s, KV in %s, head_dim %d, %d heads, group %d, from %d",
             host_isa_name(d), dtype_name(l->kv), l->shape.head_dim, l->shape.n_head,
             l->shape.group, l->seqs[0].pos);
    assert_same_bits(out, l->want, l->n_row * row, what);
    free(qkv);
    free(out);
}

static void every_isa_equals_the_reference(void **state) {
    (void)state;
    const int dims[] = {8, 32, 64, 80, 96, 128};
    struct random r;
    random_init(&r, 11);
    for (int i = 0; i < 24; i++) {
        struct layer l = make_layer(&r, dims[i % 6], i % 2, i / 6 % 2 ? DTYPE_BF16 : DTYPE_F32);
        struct pool pools[N_ISA_NAME];
        for (int k = 0; k < N_ISA_NAME; k++) {
            pools[k] = make_pool(&l, isa_names[k], random_int(&r, 1, 3));
        }
        /* a prompt, single tokens, a chunk across a block's border */
        const int steps[] = {i % 3 ? 70 : 5, 1, 1, 40, 1};
        for (int s = 0; s < 5; s++) {
            next_step(&r, &l, steps[s], i == 17 || i == 23 ? 300 : 0);
            for (int k = 0; k < N_ISA_NAME; k++) {
                check_step(&l, &pools[k]);
            }
        }
        for (int k = 0; k < N_ISA_NAME; k++) {
            drop_pool(&pools[k]);
        }
        drop_layer(&l);
    }
}

/* Long enough for several merges, in one chunk. */
static void long_contexts(void **state) {
    (void)state;
    struct random r;
    random_init(&r, 12);
    for (enum dtype kv = DTYPE_F32; kv <= DTYPE_BF16; kv++) {
        struct layer l = make_layer(&r, 64, true, kv);
        struct pool one = make_pool(&l, host_isa_best(), 1);
        struct pool three = make_pool(&l, host_isa_best(), 3);
        for (int s = 0; s < 3; s++) {
            next_step(&r, &l, s == 1 ? 1 : 200, 0);
            check_step(&l, &one);
            check_step(&l, &three);
        }
        drop_pool(&one);
        drop_pool(&three);
        drop_layer(&l);
    }
}

/* One sequence with one KV head is all there is to do: its blocks are dealt out, and merged after
 * that; alone, and in a chunk that begins inside a block. */
static void threads_share_a_sequence(void **state) {
    (void)state;
    struct random r;
    random_init(&r, 15);
    for (int i = 0; i < 6; i++) {
        struct layer l = make_layer(&r, 96, true, i % 2 ? DTYPE_BF16 : DTYPE_F32);
        l.n_seq = 1;
        l.shape.n_head = 1 + i;
        l.shape.group = 6;
        l.shape.head_first = 6;
        l.shape.kv_first = l.shape.n_kv_head = 1;
        struct pool p = make_pool(&l, isa_names[i % N_ISA_NAME], 4);
        if (p.device) {
            next_step(&r, &l, 540 + 9 * i, APPEND_ONLY);
            free(append_step(&l, &p));
            for (int s = 0; s < 3; s++) {
                next_step(&r, &l, s == 1 ? 5 : 1, 0);
                check_step(&l, &p);
                assert_true(host_of(p.device)->parts.size > 0); /* they were */
            }
        }
        drop_pool(&p);
        drop_layer(&l);
    }
}

static void later_tokens_are_not_seen(void **state) {
    (void)state;
    struct random r;
    random_init(&r, 14);
    for (int i = 0; i < N_ISA_NAME; i++) {
        struct layer l = make_layer(&r, 32, false, i == 1 ? DTYPE_BF16 : DTYPE_F32);
        struct pool p = make_pool(&l, isa_names[i], 2);
        next_step(&r, &l, 90, POISON_LAST);
        assert_true(l.n_row > 2 &&
                    isfinite(l.want[(size_t)(l.n_row - 1) * l.shape.n_head * 32 - 1]));
        check_step(&l, &p);
        drop_pool(&p);
        drop_layer(&l);
    }
}

static void rounding_is_to_nearest_even(void **state) {
    (void)state;
    const struct {
        float from;
        uint16_t to;
    } known[] = {{1, 0x3f80},           {0x1.01p0f, 0x3f80},  {0x1.010002p0f, 0x3f81},
                 {0x1.03p0f, 0x3f82},   {-0x1.03p0f, 0xbf82}, {-0.0f, 0x8000},
                 {0x1.ffp127f, 0x7f80}, {0x1p-149f, 0x0000},  {0x1.8p-133f, 0x0002},
                 {-INFINITY, 0xff80}};
    struct random r;
    random_init(&r, 16);
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        assert_int_equal(narrow_bf16(known[i].from), known[i].to);
    }
    assert_true(isnan(widen_bf16(narrow_bf16(NAN))));
    /* A NaN whose upper half alone would be an infinity. */
    assert_true(isnan(widen_bf16(narrow_bf16(widen_bits(0x7f800001)))));
    for (int i = 0; i < 20000; i++) {
        float x = widen_bits((uint32_t)random_u64(&r));
        float got = widen_bf16(narrow_bf16(x)), want = ref_bf16(x);
        assert_same_bits(&got, &want, 1, "rounded to bf16");
    }
}

static void close_to_double(void **state) {
    (void)state;
    enum { N = 150, DIM = 64 };
    static float q[DIM], k[N * DIM], v[N * DIM], out[DIM];
    struct random r;
    random_init(&r, 13);
    fill_floats(&r, q, DIM, 0);
    fill_floats(&r, k, N * DIM, 0);
    fill_floats(&r, v, N * DIM, 0);
    ref_attention(out, q, k, v, N, DIM, 0.5f);
    double e[N], sum = 0;
    for (int t = 0; t < N; t++) {
        double s = 0;
        for (int d = 0; d < DIM; d++) {
            s += (double)q[d] * (double)k[t * DIM + d];
        }
        sum += e[t] = exp(s * 0.5);
    }
    for (int d = 0; d < DIM; d++) {
        double o = 0;
        for (int t = 0; t < N; t++) {
            o += e[t] / sum * (double)v[t * DIM + d];
        }
        assert_true(fabs(o - (double)out[d]) < 3e-6);
    }
}

static void wrong_shapes_are_refused(void **state) {
    (void)state;
    struct error err;
    struct device *d = make_device(host_isa_best(), 1);
    const int32_t blocks[1] = {0};
    struct seq_run seq = {0, 2, 63, 1, blocks};
    struct attention_shape shape = {.n_head = 1, .n_kv_head = 1, .head_dim = 8, .group = 1};
    float x[64] = {0};
    struct kv_layer kv = {0};
    const struct device_batch batch = {.n_tok = 2, .n_seq = 1, .seqs = &seq};
    struct batch_size size;
    assert_ok(d->ops->batch_begin(d, &batch, &size, &err), &err);
    assert_false(d->ops->attention(d, x, x, &shape, kv, &err));
    assert_int_equal(err.kind, ERROR_SHAPE);
    kv.dtype = DTYPE_F16;
    seq.pos = 0;
    assert_false(d->ops->attention(d, x, x, &shape, kv, &err));
    assert_int_equal(err.kind, ERROR_UNSUPPORTED);
    kv.dtype = DTYPE_F32;
    shape.head_dim = DEVICE_MAX_HEAD_DIM + 2;
    assert_false(d->ops->rope_append(d, x, &shape, NULL, NULL, 0, x, kv, &err));
    assert_int_equal(err.kind, ERROR_UNSUPPORTED);
    device_destroy(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_isa_equals_the_reference),
        cmocka_unit_test(long_contexts),
        cmocka_unit_test(threads_share_a_sequence),
        cmocka_unit_test(later_tokens_are_not_seen),
        cmocka_unit_test(rounding_is_to_nearest_even),
        cmocka_unit_test(close_to_double),
        cmocka_unit_test(wrong_shapes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
