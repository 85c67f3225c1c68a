#include "test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "reference.h"

enum { MAX_SEQ = 3, MAX_BLOCKS = 8, MAX_POS = 320 };

/* A few sequences fed in chunks to one layer, and what the reference makes of them. K and V of the
 * reference are kept plainly: [sequence][kv head][position][head_dim]. */
struct layer {
    struct attention_shape shape;
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

static struct layer make_layer(struct random *r, int head_dim, bool norms) {
    struct layer l = {.n_seq = random_int(r, 1, MAX_SEQ)};
    random_shape(r, &l.shape, head_dim);
    int n_block = 0;
    for (int s = 0; s < MAX_SEQ; s++) { /* blocks of the sequences are mixed, last ones first */
        for (int b = 0; b < MAX_BLOCKS; b++) {
            l.blocks[s][b] = (n_block++ * 5 + 3) % (MAX_SEQ * MAX_BLOCKS);
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

static void reference_row(struct layer *l, int seq, int row, int pos) {
    const struct attention_shape *a = &l->shape;
    int dim = a->head_dim;
    const float *qkv = l->qkv + row * stride(l);
    for (int kv = 0; kv < a->n_kv_head; kv++) {
        const float *k = qkv + (size_t)(a->n_head + kv) * dim;
        prepare(l, plain(l, l->k_plain, seq, kv, pos), k, l->k_norm, pos);
        memcpy(plain(l, l->v_plain, seq, kv, pos), k + (size_t)a->n_kv_head * dim, dim * sizeof *k);
    }
    for (int h = 0; h < a->n_head; h++) {
        int kv = (a->head_first + h) / a->group - a->kv_first;
        float *q = l->q_want + ((size_t)row * a->n_head + h) * dim;
        prepare(l, q, qkv + (size_t)h * dim, l->q_norm, pos);
        ref_attention(l->want + ((size_t)row * a->n_head + h) * dim, q,
                      plain(l, l->k_plain, seq, kv, 0), plain(l, l->v_plain, seq, kv, 0), pos + 1,
                      dim, a->scale);
    }
}

enum {
    POISON_LAST = -1
}; /* as `odd`: the step's last token is NaN, which none before it may see */

/* The next step: up to max_tok new tokens for every sequence, in rows that need not be in order. */
static void next_step(struct random *r, struct layer *l, int max_tok, int odd) {
    drop_step(l);
    l->n_row = 1; /* a row that belongs to nobody */
    for (int s = l->n_seq - 1; s >= 0; s--) {
        int n_tok = random_int(r, 1, max_tok);
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
            reference_row(l, s, l->seqs[s].row + t, l->seqs[s].pos + t);
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
                  ops->kv_block_bytes(p.device, l->shape.n_kv_head, l->shape.head_dim);
        assert_ok(ops->alloc(p.device, p.bytes, &p.kv.k, &err), &err);
        assert_ok(ops->alloc(p.device, p.bytes, &p.kv.v, &err), &err);
        /* What earlier owners of a block left there must not matter. */
        for (size_t i = 0; i < p.bytes / sizeof(float); i++) {
            ((float *)p.kv.k)[i] = NAN;
            ((float *)p.kv.v)[i] = NAN;
        }
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

static void check_step(const struct layer *l, struct pool *p) {
    if (!p->device) {
        return;
    }
    struct error err;
    struct device *d = p->device;
    size_t row = (size_t)l->shape.n_head * l->shape.head_dim;
    float *qkv = malloc(l->n_row * stride(l) * sizeof *qkv);
    float *out = calloc(l->n_row * row, sizeof *out);
    memcpy(qkv, l->qkv, l->n_row * stride(l) * sizeof *qkv);
    const struct device_batch batch = {.n_tok = l->n_row, .n_seq = l->n_seq, .seqs = l->seqs};
    struct batch_size size;
    assert_ok(d->ops->batch_begin(d, &batch, &size, &err), &err);
    assert_ok(
        d->ops->rope_append(d, qkv, &l->shape, l->q_norm, l->k_norm, 1e-6f, l->rope, p->kv, &err),
        &err);
    for (int m = 1; m < l->n_row; m++) {
        assert_same_bits(qkv + m * stride(l), l->q_want + m * row, row, "rotated queries");
    }
    assert_ok(d->ops->attention(d, out, qkv, &l->shape, p->kv, &err), &err);
    char what[128];
    snprintf(what, sizeof what, "%s, head_dim %d, %d heads, group %d, from %d", host_isa_name(d),
             l->shape.head_dim, l->shape.n_head, l->shape.group, l->seqs[0].pos);
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
        struct layer l = make_layer(&r, dims[i % 6], i % 2);
        struct pool pools[N_ISA_NAME];
        for (int k = 0; k < N_ISA_NAME; k++) {
            pools[k] = make_pool(&l, isa_names[k], random_int(&r, 1, 3));
        }
        /* a prompt, single tokens, a chunk across a block's border */
        const int steps[] = {i % 3 ? 70 : 5, 1, 1, 40, 1};
        for (int s = 0; s < 5; s++) {
            next_step(&r, &l, steps[s], i == 23 ? 300 : 0);
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
    struct layer l = make_layer(&r, 64, true);
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

static void later_tokens_are_not_seen(void **state) {
    (void)state;
    struct random r;
    random_init(&r, 14);
    for (int i = 0; i < N_ISA_NAME; i++) {
        struct layer l = make_layer(&r, 32, false);
        struct pool p = make_pool(&l, isa_names[i], 2);
        next_step(&r, &l, 90, POISON_LAST);
        assert_true(l.n_row > 2 &&
                    isfinite(l.want[(size_t)(l.n_row - 1) * l.shape.n_head * 32 - 1]));
        check_step(&l, &p);
        drop_pool(&p);
        drop_layer(&l);
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
    shape.head_dim = DEVICE_MAX_HEAD_DIM + 2;
    assert_false(d->ops->rope_append(d, x, &shape, NULL, NULL, 0, x, kv, &err));
    assert_int_equal(err.kind, ERROR_UNSUPPORTED);
    device_destroy(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_isa_equals_the_reference), cmocka_unit_test(long_contexts),
        cmocka_unit_test(later_tokens_are_not_seen),      cmocka_unit_test(close_to_double),
        cmocka_unit_test(wrong_shapes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
