/* The kernels that work on heads: rope and KV append, attention of one token and of many. They run
 * a sample in which any two of type, head dimension, heads per KV head (1 to 8), sequences (1 to 9)
 * and context (1 to 600) meet. */
#include "gpu/kernel_test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- a layer's batch: sequences over paged KV ---- */

enum { MAX_SEQ = 10, STRIDE = 11 };

struct layer {
    enum kernel_type type;
    struct kernel_heads heads;
    int n_seq, n_tok, n_block;
    int tok[MAX_SEQ], pos[MAX_SEQ], row[MAX_SEQ];
    int32_t tables[MAX_SEQ * STRIDE];
    int32_t *position, *sequence;
    float *qkv, *k, *v; /* pools as [block][kv][64][dim], NaN where nothing may be read */
    struct kernel_batch batch;
    struct kernel_kv kv;
    void *memory[8];
};

static size_t pool_at(const struct layer *l, int seq, int kv, int position) {
    const struct kernel_heads *h = &l->heads;
    size_t block = (size_t)l->tables[seq * STRIDE + position / KERNEL_KV_BLOCK];
    return ((block * h->n_kv_head + kv) * KERNEL_KV_BLOCK + position % KERNEL_KV_BLOCK) *
           h->head_dim;
}

static int row_stride(const struct layer *l) {
    return (l->heads.n_head + 2 * l->heads.n_kv_head) * l->heads.head_dim;
}

/* Blocks in a random order; padding sequences (tok 0) get one row and no block. */
static void lay_out(struct layer *l) {
    int blocks[MAX_SEQ * STRIDE];
    l->n_tok = l->n_block = 0;
    for (int s = 0; s < l->n_seq; s++) {
        l->row[s] = l->n_tok;
        l->n_tok += l->tok[s] ? l->tok[s] : 1;
        l->n_block += (l->pos[s] + l->tok[s] + KERNEL_KV_BLOCK - 1) / KERNEL_KV_BLOCK;
    }
    for (int i = 0; i < l->n_block; i++) {
        blocks[i] = i;
    }
    for (int i = l->n_block - 1; i > 0; i--) {
        int j = random_int(&rng, 0, i), b = blocks[i];
        blocks[i] = blocks[j];
        blocks[j] = b;
    }
    int next = 0;
    l->position = calloc((size_t)l->n_tok, sizeof(int32_t));
    l->sequence = calloc((size_t)l->n_tok, sizeof(int32_t));
    for (int s = 0; s < l->n_seq; s++) {
        int n = (l->pos[s] + l->tok[s] + KERNEL_KV_BLOCK - 1) / KERNEL_KV_BLOCK;
        for (int i = 0; i < STRIDE; i++) {
            l->tables[s * STRIDE + i] = i < n ? blocks[next++] : 0;
        }
        for (int i = 0; i < (l->tok[s] ? l->tok[s] : 1); i++) {
            l->position[l->row[s] + i] = l->pos[s] + i;
            l->sequence[l->row[s] + i] = l->tok[s] ? s : -1;
        }
    }
}

static void layer_start(struct layer *l) {
    const struct kernel_heads *h = &l->heads;
    lay_out(l);
    size_t pool = (size_t)l->n_block * h->n_kv_head * KERNEL_KV_BLOCK * h->head_dim;
    l->qkv = values(l->type, (size_t)l->n_tok * row_stride(l));
    l->k = values(l->type, pool);
    l->v = values(l->type, pool);
    for (size_t i = 0; i < pool; i++) {
        l->k[i] = l->v[i] = NAN;
    }
    for (int s = 0; s < l->n_seq; s++) {
        for (int p = 0; p < l->pos[s] + l->tok[s]; p++) {
            for (int kv = 0; kv < h->n_kv_head; kv++) {
                for (int d = 0; d < h->head_dim; d++) {
                    l->k[pool_at(l, s, kv, p) + d] = rounded(l->type, uniform());
                    l->v[pool_at(l, s, kv, p) + d] = rounded(l->type, uniform());
                }
            }
        }
    }
    int max_tok = 1, max_context = 1;
    for (int s = 0; s < l->n_seq; s++) {
        max_tok = l->tok[s] > max_tok ? l->tok[s] : max_tok;
        max_context = l->pos[s] + l->tok[s] > max_context ? l->pos[s] + l->tok[s] : max_context;
    }
    void *const memory[8] = {
        upload_ints(l->position, l->n_tok), upload_ints(l->sequence, l->n_tok),
        upload_ints(l->row, l->n_seq),      upload_ints(l->tok, l->n_seq),
        upload_ints(l->pos, l->n_seq),      upload_ints(l->tables, MAX_SEQ * STRIDE),
        upload(l->type, l->k, pool),        upload(l->type, l->v, pool)};
    memcpy(l->memory, memory, sizeof memory);
    l->batch = (struct kernel_batch){.position = memory[0],
                                     .sequence = memory[1],
                                     .seq_row = memory[2],
                                     .seq_tok = memory[3],
                                     .seq_pos = memory[4],
                                     .tables = memory[5],
                                     .n_tok = l->n_tok,
                                     .n_seq = l->n_seq,
                                     .table_stride = STRIDE,
                                     .max_seq_tok = max_tok,
                                     .max_context = max_context};
    l->kv = (struct kernel_kv){memory[6], memory[7]};
}

static void layer_end(struct layer *l) {
    for (int i = 0; i < 8; i++) {
        ok(cudaFree(l->memory[i]));
    }
    free(l->position), free(l->sequence), free(l->qkv), free(l->k), free(l->v);
}

/* Random heads: a group of `group`, beginning anywhere in it. */
static struct kernel_heads heads(int dim, int group) {
    struct kernel_heads h = {.head_dim = dim, .group = group, .scale = 1 / sqrtf((float)dim)};
    h.head_first = random_int(&rng, 0, 2 * group);
    h.n_head = random_int(&rng, 1, 2 * group < 8 ? 2 * group : 8);
    h.kv_first = h.head_first / group;
    h.n_kv_head = (h.head_first + h.n_head - 1) / group - h.kv_first + 1;
    return h;
}

/* ---- the sample of sizes ---- */

static const int head_dims[] = {32, 64, 80, 96, 128, 256, 40};
enum { N_DIM = 7, N_GROUP = 8, N_BATCH = 9, N_PLACE = 7, N_SAMPLE = N_GROUP * N_BATCH };

/* One of the cases: every two of these meet in some of them. */
struct sample {
    int type, dim, group, batch, place;
};

static struct sample sample(int i) {
    int g = i % N_GROUP, b = i / N_GROUP;
    return (struct sample){.type = (g + b) % 2,
                           .dim = head_dims[(g + b) % N_DIM],
                           .group = g + 1,
                           .batch = b + 1,
                           .place = (g + 2 * b) % N_PLACE};
}

static int part(struct sample s, int i) {
    const int parts[] = {s.type, s.dim, s.group, s.batch, s.place};
    return parts[i];
}

/* How many different pairs of the parts a and b the cases have. */
static int pairs(int a, int b) {
    int n = 0;
    for (int i = 0; i < N_SAMPLE; i++) {
        bool first = true;
        for (int j = 0; j < i; j++) {
            first = first && (part(sample(j), a) != part(sample(i), a) ||
                              part(sample(j), b) != part(sample(i), b));
        }
        n += first ? 1 : 0;
    }
    return n;
}

static void sample_is_pairwise(void **state) {
    const int sizes[] = {2, N_DIM, N_GROUP, N_BATCH, N_PLACE};
    (void)state;
    for (int a = 0; a < 5; a++) {
        for (int b = 0; b < a; b++) {
            assert_int_equal(pairs(a, b), sizes[a] * sizes[b]);
        }
    }
}

static struct layer layer_of(const struct sample *s) {
    return (struct layer){
        .type = (enum kernel_type)s->type, .heads = heads(s->dim, s->group), .n_seq = s->batch};
}

/* ---- attention ---- */

static void attention_want(const struct layer *l, int seq, int tok, int head, double *out) {
    const struct kernel_heads *h = &l->heads;
    int kv = (h->head_first + head) / h->group - h->kv_first, n = l->pos[seq] + tok + 1;
    const float *q = l->qkv + (size_t)(l->row[seq] + tok) * row_stride(l) + head * h->head_dim;
    double *p = malloc((size_t)n * sizeof *p), max = -HUGE_VAL, sum = 0;
    for (int t = 0; t < n; t++) {
        const float *k = l->k + pool_at(l, seq, kv, t);
        p[t] = 0;
        for (int d = 0; d < h->head_dim; d++) {
            p[t] += (double)q[d] * (double)k[d];
        }
        p[t] *= (double)h->scale;
        max = fmax(max, p[t]);
    }
    for (int t = 0; t < n; t++) {
        sum += p[t] = exp(p[t] - max);
    }
    for (int d = 0; d < h->head_dim; d++) {
        out[d] = 0;
        for (int t = 0; t < n; t++) {
            out[d] += p[t] / sum * (double)l->v[pool_at(l, seq, kv, t) + d];
        }
    }
    free(p);
}

static void attention_case(struct layer *l, bool decode) {
    const struct kernel_heads *h = &l->heads;
    layer_start(l);
    size_t width = (size_t)h->n_head * h->head_dim;
    double *want = calloc((size_t)l->n_tok * width, sizeof *want);
    for (int s = 0; s < l->n_seq; s++) {
        for (int t = 0; t < l->tok[s]; t++) {
            for (int head = 0; head < h->n_head; head++) {
                attention_want(l, s, t, head,
                               want + (size_t)(l->row[s] + t) * width + head * h->head_dim);
            }
        }
    }
    void *qkv = upload(l->type, l->qkv, (size_t)l->n_tok * row_stride(l));
    void *out = device_bytes(NULL, (size_t)l->n_tok * width * type_size(l->type));
    void *scratch = device_bytes(NULL, kernel_decode_scratch(h, l->n_seq));
    ok(decode ? kernel_attention_decode(out, qkv, l->type, h, &l->batch, l->kv, scratch, stream)
              : kernel_attention_prefill(out, qkv, l->type, h, &l->batch, l->kv, stream));
    check(decode ? "decode" : "prefill", l->type, out, want, l->n_tok, width);
    ok(cudaFree(qkv)), ok(cudaFree(out)), ok(cudaFree(scratch));
    free(want);
    layer_end(l);
}

static void attention_of_one_token(void **state) {
    static const int contexts[N_PLACE] = {1, 63, 64, 65, 200, 600, 129};
    (void)state;
    for (int i = 0; i < N_SAMPLE; i++) {
        struct sample at = sample(i);
        struct layer l = layer_of(&at);
        for (int s = 0; s < l.n_seq; s++) {
            int context = s == 0 ? contexts[at.place] : random_int(&rng, 1, 130);
            l.tok[s] = 1;
            l.pos[s] = context - 1;
        }
        if (i % 3 == 0) { /* padding, as recorded steps have it */
            l.tok[l.n_seq] = l.pos[l.n_seq] = 0;
            l.n_seq++;
        }
        attention_case(&l, true);
    }
}

static void attention_of_many_tokens(void **state) {
    static const int chunks[N_PLACE][2] = {{0, 1},    {0, 70},  {61, 5}, {64, 64},
                                           {130, 17}, {3, 129}, {591, 9}};
    (void)state;
    for (int i = 0; i < N_SAMPLE; i++) {
        struct sample at = sample(i);
        struct layer l = layer_of(&at);
        l.heads.n_head = l.heads.n_head > 3 ? 3 : l.heads.n_head; /* one block a head: no news */
        l.heads.n_kv_head =
            (l.heads.head_first + l.heads.n_head - 1) / l.heads.group - l.heads.kv_first + 1;
        l.pos[0] = chunks[at.place][0];
        l.tok[0] = chunks[at.place][1];
        for (int s = 1; s < l.n_seq; s++) {
            l.pos[s] = random_int(&rng, 0, 70);
            l.tok[s] = random_int(&rng, 1, 10);
        }
        attention_case(&l, false);
    }
}

/* ---- rope and append ---- */

static void rope_want(const struct layer *l, double *x, const float *norm, const float *rope,
                      int position) {
    int dim = l->heads.head_dim, half = dim / 2;
    double squares = 0;
    for (int i = 0; i < dim; i++) {
        squares += x[i] * x[i];
    }
    for (int i = 0; i < dim && norm; i++) {
        x[i] = x[i] / sqrt(squares / dim + 1e-5) * (double)norm[i];
    }
    for (int i = 0; i < half; i++) {
        double a = x[i], b = x[i + half];
        double c = (double)rope[position * dim + i], s = (double)rope[position * dim + i + half];
        x[i] = a * c - b * s;
        x[i + half] = b * c + a * s;
    }
}

static void rope_case(struct layer *l, bool norms) {
    const struct kernel_heads *h = &l->heads;
    int dim = h->head_dim, n_all = h->n_head + 2 * h->n_kv_head;
    layer_start(l);
    float *rope = values(KERNEL_F32, (size_t)700 * dim);
    float *q_norm = values(KERNEL_F32, dim), *k_norm = values(KERNEL_F32, dim);
    void *dr = upload(KERNEL_F32, rope, (size_t)700 * dim);
    void *dq = upload(KERNEL_F32, q_norm, dim), *dk = upload(KERNEL_F32, k_norm, dim);
    void *qkv = upload(l->type, l->qkv, (size_t)l->n_tok * row_stride(l));
    size_t pool = (size_t)l->n_block * h->n_kv_head * KERNEL_KV_BLOCK * dim;
    ok(kernel_rope_append(qkv, l->type, h, norms ? dq : NULL, norms ? dk : NULL, 1e-5f, dr,
                          &l->batch, l->kv, stream));
    float *got = download(l->type, qkv, (size_t)l->n_tok * row_stride(l));
    float *k = download(l->type, l->kv.k, pool), *v = download(l->type, l->kv.v, pool);
    double *want = malloc((size_t)dim * sizeof *want);
    for (int m = 0; m < l->n_tok; m++) {
        int seq = l->sequence[m], position = l->position[m];
        for (int head = 0; head < n_all && seq >= 0; head++) {
            const float *x = l->qkv + (size_t)m * row_stride(l) + head * dim;
            int kv = head < h->n_head + h->n_kv_head ? head - h->n_head
                                                     : head - h->n_head - h->n_kv_head;
            for (int i = 0; i < dim; i++) {
                want[i] = (double)x[i];
            }
            if (head < h->n_head) {
                rope_want(l, want, norms ? q_norm : NULL, rope, position);
                same("rope of q", l->type, got + (x - l->qkv), want, 1, dim);
            } else if (head < h->n_head + h->n_kv_head) {
                rope_want(l, want, norms ? k_norm : NULL, rope, position);
                same("rope of k", l->type, k + pool_at(l, seq, kv, position), want, 1, dim);
            } else {
                same("append of v", l->type, v + pool_at(l, seq, kv, position), want, 1, dim);
            }
        }
    }
    void *all[] = {dr, dq, dk, qkv};
    for (int i = 0; i < 4; i++) {
        ok(cudaFree(all[i]));
    }
    free(rope), free(q_norm), free(k_norm), free(got), free(k), free(v), free(want);
    layer_end(l);
}

static void rope_and_append(void **state) {
    static const int starts[N_PLACE] = {0, 1, 62, 63, 64, 300, 597};
    (void)state;
    for (int i = 0; i < N_SAMPLE; i++) {
        struct sample at = sample(i);
        struct layer l = layer_of(&at);
        for (int s = 0; s < l.n_seq; s++) {
            l.pos[s] = s == 0 ? starts[at.place] : random_int(&rng, 0, 200);
            l.tok[s] = s == 0 ? 3 : random_int(&rng, 0, 2); /* 0: padding */
        }
        rope_case(&l, i % 3 > 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sample_is_pairwise),
        cmocka_unit_test(rope_and_append),
        cmocka_unit_test(attention_of_one_token),
        cmocka_unit_test(attention_of_many_tokens),
    };
    return cmocka_run_group_tests(tests, kernel_test_start, kernel_test_end);
}
