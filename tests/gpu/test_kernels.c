/* Every CUDA kernel against a reference in double precision, at odd sizes, on whatever device the
 * loader finds: a GPU, or the simulated one. What works on heads runs a sample in which any two of
 * type, head dimension, heads per KV head (1 to 8), sequences (1 to 9) and context (1 to 600) meet.
 *
 * Tolerances: f32 1e-4, bf16 2^-7 (two roundings of 2^-8), both times the largest value of the row.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cuda_runtime_api.h>

#include "base/random.h"
#include "device/cuda/kernels.h"
#include "test.h"

static struct random rng;
static cudaStream_t stream;

static void ok(cudaError_t e) {
    if (e != cudaSuccess) {
        fail_msg("%s: %s", cudaGetErrorName(e), cudaGetErrorString(e));
    }
}

/* ---- numbers ---- */

static int random_int(struct random *r, int low, int high) {
    return low + (int)(random_unit(r) * (high - low + 1));
}

static size_t type_size(enum kernel_type t) {
    return t == KERNEL_F32 ? 4 : 2;
}

static uint16_t to_bf16(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return isnan(x) ? 0x7fff : (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static float from_bf16(uint16_t h) {
    uint32_t u = (uint32_t)h << 16;
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static float rounded(enum kernel_type t, float x) {
    return t == KERNEL_F32 ? x : from_bf16(to_bf16(x));
}

static float uniform(void) {
    return (float)random_int(&rng, -1000, 1000) / 500.0f;
}

/* n values that the type holds exactly; owned by the caller. */
static float *values(enum kernel_type t, size_t n) {
    float *x = malloc((n + 1) * sizeof *x);
    for (size_t i = 0; i < n; i++) {
        x[i] = rounded(t, uniform());
    }
    return x;
}

/* ---- device memory ---- */

static void *device_bytes(const void *from, size_t bytes) {
    void *p = NULL;
    ok(cudaMalloc(&p, bytes ? bytes : 1));
    if (from && bytes) {
        ok(cudaMemcpyAsync(p, from, bytes, cudaMemcpyHostToDevice, stream));
        ok(cudaStreamSynchronize(stream));
    }
    return p;
}

static void *upload(enum kernel_type t, const float *x, size_t n) {
    uint16_t *half = malloc(2 * (n + 1));
    for (size_t i = 0; i < n; i++) {
        half[i] = to_bf16(x[i]);
    }
    void *p = device_bytes(t == KERNEL_F32 ? (const void *)x : half, n * type_size(t));
    free(half);
    return p;
}

static void *upload_ints(const int32_t *x, size_t n) {
    return device_bytes(x, n * sizeof *x);
}

static float *download(enum kernel_type t, const void *p, size_t n) {
    float *x = malloc((n + 1) * sizeof *x);
    uint16_t *half = malloc(2 * (n + 1));
    ok(cudaMemcpyAsync(t == KERNEL_F32 ? (void *)x : half, p, n * type_size(t),
                       cudaMemcpyDeviceToHost, stream));
    ok(cudaStreamSynchronize(stream));
    for (size_t i = 0; t == KERNEL_BF16 && i < n; i++) {
        x[i] = from_bf16(half[i]);
    }
    free(half);
    return x;
}

/* Compares rows of dim values; frees neither. */
static void same(const char *what, enum kernel_type t, const float *got, const double *want,
                 size_t n_row, size_t dim) {
    double unit = t == KERNEL_F32 ? 1e-4 : 1.0 / 128;
    for (size_t m = 0; m < n_row; m++) {
        double scale = 1e-3;
        for (size_t i = 0; i < dim; i++) {
            scale = fmax(scale, fabs(want[m * dim + i]));
        }
        for (size_t i = 0; i < dim; i++) {
            double diff = fabs((double)got[m * dim + i] - want[m * dim + i]);
            if (!(diff <= unit * scale)) {
                fail_msg("%s, type %d: row %zu of %zu, column %zu of %zu: %g is not %g", what, t, m,
                         n_row, i, dim, (double)got[m * dim + i], want[m * dim + i]);
            }
        }
    }
}

static void check(const char *what, enum kernel_type t, const void *device, const double *want,
                  size_t n_row, size_t dim) {
    float *got = download(t, device, n_row * dim);
    same(what, t, got, want, n_row, dim);
    free(got);
}

/* ---- rows ---- */

static void rmsnorm_case(enum kernel_type t, int n, int dim, bool with_delta) {
    size_t size = (size_t)n * dim;
    float *x = values(KERNEL_F32, size), *delta = values(KERNEL_F32, size);
    float *w = values(KERNEL_F32, dim);
    double *sum = malloc(size * sizeof *sum), *want = malloc(size * sizeof *want);
    for (int m = 0; m < n; m++) {
        double squares = 0;
        for (int i = 0; i < dim; i++) {
            size_t at = (size_t)m * dim + i;
            sum[at] = (double)x[at] + (with_delta ? (double)delta[at] : 0);
            squares += sum[at] * sum[at];
        }
        for (int i = 0; i < dim; i++) {
            want[(size_t)m * dim + i] =
                sum[(size_t)m * dim + i] / sqrt(squares / dim + 1e-6) * (double)w[i];
        }
    }
    void *dx = upload(KERNEL_F32, x, size), *dd = upload(KERNEL_F32, delta, size);
    void *dw = upload(KERNEL_F32, w, dim), *dy = device_bytes(NULL, size * 4);
    ok(kernel_rmsnorm(dy, t, dx, with_delta ? dd : NULL, dw, n, dim, 1e-6f, stream));
    check("rmsnorm", t, dy, want, n, dim);
    check("rmsnorm's sum", KERNEL_F32, dx, sum, n, dim);
    if (t == KERNEL_F32) {
        ok(kernel_rmsnorm(dx, t, dx, NULL, dw, n, dim, 1e-6f, stream));
        check("rmsnorm in place", t, dx, want, n, dim);
    }
    void *all[] = {dx, dd, dw, dy};
    for (int i = 0; i < 4; i++) {
        ok(cudaFree(all[i]));
    }
    free(x), free(delta), free(w), free(sum), free(want);
}

static void embed_case(enum kernel_type t, int dim) {
    enum { ROWS = 7, FIRST = 20, N = 6 };
    const int32_t ids[N] = {20, 26, 27, 19, 23, 22}, sequence[N] = {0, 0, 1, 1, 2, -1};
    float *table = values(t, (size_t)ROWS * dim);
    double *want = calloc((size_t)N * dim, sizeof *want);
    table[0] = -0.0f;
    for (int m = 0; m < N; m++) {
        int row = ids[m] - FIRST;
        for (int i = 0; i < dim && sequence[m] >= 0 && row >= 0 && row < ROWS; i++) {
            want[m * dim + i] = (double)table[row * dim + i];
        }
    }
    void *dt = upload(t, table, (size_t)ROWS * dim), *dy = device_bytes(NULL, (size_t)N * dim * 4);
    void *di = upload_ints(ids, N), *ds = upload_ints(sequence, N);
    struct kernel_batch batch = {.ids = di, .sequence = ds, .n_tok = N};
    ok(kernel_embed(dy, dt, t, ROWS, dim, FIRST, &batch, stream));
    check("embed", KERNEL_F32, dy, want, N, dim);
    float *got = download(KERNEL_F32, dy, 1);
    assert_false(signbit(got[0]));
    void *all[] = {dt, dy, di, ds};
    for (int i = 0; i < 4; i++) {
        ok(cudaFree(all[i]));
    }
    free(got), free(table), free(want);
}

static void elementwise_case(enum kernel_type t, int n, int dim) {
    size_t size = (size_t)n * dim;
    float *x = values(t, size), *b = values(KERNEL_F32, dim), *gu = values(t, 2 * size);
    float *y = values(KERNEL_F32, size);
    double *bias = malloc(size * sizeof *bias), *silu = malloc(size * sizeof *silu);
    double *sum = malloc(size * sizeof *sum);
    for (size_t k = 0; k < size; k++) {
        size_t m = k / dim, i = k % dim;
        double g = (double)gu[2 * m * dim + i], u = (double)gu[(2 * m + 1) * dim + i];
        bias[k] = (double)x[k] + (double)b[i];
        silu[k] = g / (1 + exp(-g)) * u;
        sum[k] = (double)y[k] + (double)y[k];
    }
    void *dx = upload(t, x, size), *db = upload(KERNEL_F32, b, dim), *dg = upload(t, gu, 2 * size);
    void *dy = device_bytes(NULL, size * 4), *ds = upload(KERNEL_F32, y, size);
    void *da = upload(KERNEL_F32, y, size);
    ok(kernel_add_bias(dx, t, db, n, dim, stream));
    check("add_bias", t, dx, bias, n, dim);
    ok(kernel_silu_mul(dy, dg, t, n, dim, stream));
    check("silu_mul", t, dy, silu, n, dim);
    ok(kernel_add(ds, da, size, stream));
    check("add", KERNEL_F32, ds, sum, n, dim);
    void *all[] = {dx, db, dg, dy, ds, da};
    for (int i = 0; i < 6; i++) {
        ok(cudaFree(all[i]));
    }
    free(x), free(b), free(gu), free(y), free(bias), free(silu), free(sum);
}

static void gather_case(int dim) {
    enum { ROWS = 5, N = 4 };
    const int32_t rows[N] = {3, 0, 4, -1};
    float *x = values(KERNEL_F32, (size_t)ROWS * dim);
    double *want = calloc((size_t)N * dim, sizeof *want);
    for (int m = 1; m < N; m++) {
        for (int i = 0; i < dim && rows[m] >= 0; i++) {
            want[(m - 1) * dim + i] = (double)x[rows[m] * dim + i];
        }
    }
    void *dx = upload(KERNEL_F32, x, (size_t)ROWS * dim), *dr = upload_ints(rows, N);
    void *dy = device_bytes(NULL, (size_t)N * dim * 4);
    struct kernel_batch batch = {.rows = dr, .n_row = N};
    ok(kernel_gather_rows(dy, dx, 1, N - 1, dim, &batch, stream));
    check("gather_rows", KERNEL_F32, dy, want, N - 1, dim);
    ok(cudaFree(dx)), ok(cudaFree(dr)), ok(cudaFree(dy));
    free(x), free(want);
}

static void rows(void **state) {
    static const int dims[] = {1, 3, 64, 130, 516};
    (void)state;
    for (size_t d = 0; d < sizeof dims / sizeof dims[0]; d++) {
        gather_case(dims[d]);
        for (int t = 0; t < 2; t++) {
            int n = random_int(&rng, 1, 9);
            embed_case((enum kernel_type)t, dims[d]);
            elementwise_case((enum kernel_type)t, n, dims[d]);
            rmsnorm_case((enum kernel_type)t, n, dims[d], false);
            rmsnorm_case((enum kernel_type)t, n, dims[d], true);
        }
    }
}

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

/* ---- top-k ---- */

static float comparable(float x) {
    return isnan(x) ? -INFINITY : x;
}

static void top_k_case(int n, int dim, int k, const float *x) {
    void *dx = upload(KERNEL_F32, x, (size_t)n * dim);
    void *dv = device_bytes(NULL, (size_t)n * k * 4), *di = device_bytes(NULL, (size_t)n * k * 4);
    ok(kernel_top_k(dv, di, dx, n, dim, k, 1000, stream));
    float *v = download(KERNEL_F32, dv, (size_t)n * k);
    int32_t *ids = (int32_t *)(void *)download(KERNEL_F32, di, (size_t)n * k);
    bool *taken = malloc((size_t)dim * sizeof *taken);
    for (int m = 0; m < n; m++) {
        const float *row = x + (size_t)m * dim;
        memset(taken, 0, (size_t)dim * sizeof *taken);
        for (int i = 0; i < k; i++) {
            int best = -1;
            for (int j = 0; j < dim; j++) {
                if (!taken[j] && (best < 0 || comparable(row[j]) > comparable(row[best]))) {
                    best = j;
                }
            }
            taken[best] = true;
            assert_int_equal(ids[m * k + i], best + 1000);
            assert_true(v[m * k + i] == comparable(row[best]));
        }
    }
    ok(cudaFree(dx)), ok(cudaFree(dv)), ok(cudaFree(di));
    free(v), free(ids), free(taken);
}

static void top_k(void **state) {
    static const int sizes[][3] = {{1, 1, 1},  {3, 700, 1},   {2, 5, 5},       {2, 1000, 2},
                                   {1, 37, 3}, {2, 1500, 40}, {1, 2000, 1024}, {1, 600, 5}};
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        int n = sizes[i][0], dim = sizes[i][1];
        float *x = values(KERNEL_F32, (size_t)n * dim); /* of 2000 values: there are ties */
        for (int j = 0; j < n * dim && i % 2; j += 7) {
            static const float odd[] = {NAN, -INFINITY, -0.0f, 0.0f, INFINITY, 2.0f, 1e-40f};
            x[j] = odd[j / 7 % 7];
        }
        top_k_case(n, dim, sizes[i][2], x);
        free(x);
    }
}

/* ---- log-sum-exp ---- */

/* In double; NaN and +inf as the kernel promises. */
static void log_sum_exp_want(const float *row, int dim, double *max, double *sum) {
    *max = -HUGE_VAL;
    *sum = 0;
    for (int j = 0; j < dim; j++) {
        *max = (double)row[j] > *max ? (double)row[j] : *max;
    }
    for (int j = 0; j < dim; j++) {
        *sum += (double)row[j] == -HUGE_VAL ? 0 : exp((double)row[j] - *max);
    }
}

/* Relative to the sum 1e-5: an argument of expf is off by at most 2^-24 of it, and what adds
 * anything lies within 20 of the maximum. */
static void log_sum_exp_case(int n, int dim, int shift, const float *x, const int32_t *targets) {
    enum { FIRST = 3, INDEX_FIRST = 1000 };
    float *moved = calloc((size_t)n * dim + shift + 1, sizeof *moved);
    memcpy(moved + shift, x, (size_t)n * dim * sizeof *x);
    float *dx = upload(KERNEL_F32, moved, (size_t)n * dim + shift);
    float *out = device_bytes(NULL, (size_t)n * 3 * 4);
    int32_t *dt = device_bytes(NULL, (size_t)(n + FIRST) * 4);
    ok(cudaMemcpyAsync(dt + FIRST, targets, (size_t)n * 4, cudaMemcpyHostToDevice, stream));
    struct kernel_batch batch = {.targets = dt, .n_row = n + FIRST};
    ok(kernel_log_sum_exp(out, dx + shift, FIRST, n, dim, INDEX_FIRST, &batch, stream));
    float *got = download(KERNEL_F32, out, (size_t)n * 3);
    for (int m = 0; m < n; m++) {
        const float *row = x + (size_t)m * dim, *g = got + (size_t)m * 3;
        int at = targets[m] - INDEX_FIRST;
        float target = at >= 0 && at < dim ? row[at] : 0.0f;
        double max, sum;
        log_sum_exp_want(row, dim, &max, &sum);
        bool good = (double)g[0] == max && (g[2] == target || (isnan(target) && isnan(g[2]))) &&
                    (isnan(sum) ? isnan(g[1]) : fabs((double)g[1] - sum) <= 1e-5 * sum);
        if (!good) {
            fail_msg("row %d of %d, %d columns: %g %g %g, not %g %g %g", m, n, dim, (double)g[0],
                     (double)g[1], (double)g[2], max, sum, (double)target);
        }
    }
    ok(cudaFree(dx)), ok(cudaFree(out)), ok(cudaFree(dt));
    free(moved), free(got);
}

/* Row m of a case: as it is, or with something odd in it. */
static void log_sum_exp_row(float *row, int dim, int m) {
    static const float odd[] = {NAN, INFINITY, -INFINITY, 2.0f, 3e38f, -3e38f};
    int at = random_int(&rng, 0, dim - 1);
    if (m % 9 == 1) { /* ties of the maximum only */
        for (int j = 0; j < dim; j++) {
            row[j] = -7.25f;
        }
    } else if (m % 9 == 2) { /* nothing at all */
        for (int j = 0; j < dim; j++) {
            row[j] = -INFINITY;
        }
    } else if (m % 9 == 3) { /* large magnitudes */
        for (int j = 0; j < dim; j++) {
            row[j] *= 5000.0f;
        }
    } else if (m % 9 > 3) { /* one, or every seventh, is odd */
        for (int j = at; j < dim; j += m % 2 ? dim : 7) {
            row[j] = odd[m % 9 - 4];
        }
    }
}

static void log_sum_exp(void **state) {
    static const int dims[] = {1, 5, 37, 64, 700, 2000, 4100};
    int32_t targets[9];
    (void)state;
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++) {
        for (int n = i < 4 ? 1 : 9; n <= 9; n++) {
            int dim = dims[i];
            float *x = values(KERNEL_F32, (size_t)n * dim);
            for (int m = 0; m < n; m++) {
                static const int beyond[] = {-1, 999, 0};
                log_sum_exp_row(x + (size_t)m * dim, dim, n == 1 ? (int)i : m);
                targets[m] = m % 3 ? 1000 + random_int(&rng, 0, dim - 1) : beyond[m / 3];
                targets[m] = m == 8 ? 1000 + dim : targets[m];
            }
            log_sum_exp_case(n, dim, n % 4 == 3 || i == 5 ? 1 : 0, x, targets); /* 1: not aligned */
            free(x);
        }
    }
    int32_t none = 1000; /* a rank may have no part of a small vocabulary */
    log_sum_exp_case(1, 0, 0, &(float){0}, &none);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows),
        cmocka_unit_test(sample_is_pairwise),
        cmocka_unit_test(rope_and_append),
        cmocka_unit_test(attention_of_one_token),
        cmocka_unit_test(attention_of_many_tokens),
        cmocka_unit_test(top_k),
        cmocka_unit_test(log_sum_exp),
    };
    random_init(&rng, 7);
    cudaError_t e = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    if (e != cudaSuccess) {
        fprintf(stderr, "no device: %s\n", cudaGetErrorString(e));
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    cudaStreamDestroy(stream);
    return failed;
}
