#include "leader/fit.h"

#include <stdio.h>
#include <string.h>

#include "format/show.h"

static uint64_t add(uint64_t a, uint64_t b) {
    uint64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

static uint64_t least(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

/* ---- who shares what ---- */

enum scope { OWN, GROUP, HOST, SCOPE_COUNT };

static uint64_t available(const struct fit_rank *r, enum scope scope) {
    return scope == OWN ? r->own : scope == GROUP ? r->group : r->all;
}

static bool shares(const struct fit_rank *ranks, int a, int b, enum scope scope) {
    return a == b || (scope != OWN && strcmp(ranks[a].host, ranks[b].host) == 0 &&
                      (scope == HOST || ranks[a].group_id == ranks[b].group_id));
}

/* All that share with `rank`. The smallest of what they see as free counts. */
static struct fit_lack sum_up(const struct fit_rank *ranks, int world, int rank, enum scope scope) {
    struct fit_lack sum = {.first = rank, .available = UINT64_MAX};
    for (int r = 0; r < world; r++) {
        if (shares(ranks, rank, r, scope)) {
            const struct footprint *f = &ranks[r].needs;
            sum.first = sum.n_rank++ ? sum.first : r;
            sum.needs.weights = add(sum.needs.weights, f->weights);
            sum.needs.kv = add(sum.needs.kv, f->kv);
            sum.needs.buffers = add(sum.needs.buffers, f->buffers);
            sum.available = least(sum.available, available(&ranks[r], scope));
        }
    }
    return sum;
}

static bool is_within(const struct fit_lack *sum, double share) {
    return sum->available == UINT64_MAX ||
           (double)footprint_total(&sum->needs) <= share * (double)sum->available;
}

bool fit_holds(const struct fit_rank *ranks, int world, double share, struct fit_lack *lack) {
    for (enum scope scope = OWN; scope < SCOPE_COUNT; scope++) {
        for (int r = 0; r < world; r++) {
            struct fit_lack sum = sum_up(ranks, world, r, scope);
            if (!is_within(&sum, share)) {
                if (lack) {
                    *lack = sum;
                }
                return false;
            }
        }
    }
    return true;
}

uint64_t fit_part(const struct fit_rank *ranks, int world, int rank) {
    uint64_t part = UINT64_MAX;
    for (enum scope scope = OWN; scope < SCOPE_COUNT; scope++) {
        struct fit_lack sum = sum_up(ranks, world, rank, scope);
        if (sum.available != UINT64_MAX) {
            part = least(part, sum.available / (uint64_t)sum.n_rank);
        }
    }
    return part;
}

/* What a rank of a world would need. False: there is nothing for it. */
static bool needs_of(const struct model_needs *needs, const struct footprint_params *sizes,
                     int world, int rank, struct footprint *out) {
    struct shard_dims dims = footprint_dims(&needs->config);
    struct shard s;
    bool ok = shard_compute(&s, &dims, world, rank, NULL);
    if (ok) {
        *out = footprint_of_shard(&needs->config, &s, sizes);
    }
    return ok;
}

/* ---- what would fit ---- */

static bool fits_with(const struct model_needs *needs, const struct footprint_params *sizes,
                      struct fit_rank *ranks, int world) {
    for (int r = 0; r < world; r++) {
        if (!needs_of(needs, sizes, world, r, &ranks[r].needs)) {
            return false;
        }
    }
    return fit_holds(ranks, world, FIT_SHARE, NULL);
}

/* The sizes with one of them changed to n. */
typedef struct footprint_params with_size(const struct footprint_params *sizes, int64_t n);

/* The largest n below `end` that fits; 0: none. What fits with n fits with less. */
static int64_t largest(const struct model_needs *needs, struct fit_rank *ranks, int world,
                       with_size *with, int64_t end) {
    int64_t fits = 0, fails = end;
    while (fails - fits > 1) {
        int64_t middle = fits + (fails - fits) / 2;
        struct footprint_params sizes = with(&needs->sizes, middle);
        if (fits_with(needs, &sizes, ranks, world)) {
            fits = middle;
        } else {
            fails = middle;
        }
    }
    return fits;
}

static int64_t blocks_of(int positions) {
    return (positions + KV_BLOCK - 1) / KV_BLOCK;
}

static struct footprint_params with_blocks(const struct footprint_params *sizes, int64_t n) {
    struct footprint_params p = *sizes;
    p.n_block = n;
    return p;
}

/* A context of n blocks, and as many contexts as before. */
static struct footprint_params with_context(const struct footprint_params *sizes, int64_t n) {
    struct footprint_params p = *sizes;
    p.n_block = sizes->n_block / blocks_of(sizes->ctx) * n;
    p.ctx = (int)n * KV_BLOCK;
    return p;
}

static struct footprint_params with_tokens(const struct footprint_params *sizes, int64_t n) {
    struct footprint_params p = *sizes;
    p.max_tok = (int)n;
    return p;
}

int64_t fit_blocks(const struct model_needs *needs, struct fit_rank *ranks, int world) {
    return largest(needs, ranks, world, with_blocks, needs->sizes.n_block + 1);
}

/* The smallest world above this one whose ranks fit, each with as little as one has here. */
static int larger_world(const struct model_needs *needs, const struct fit_rank *ranks, int world) {
    uint64_t part = UINT64_MAX;
    for (int r = 0; r < world; r++) {
        part = least(part, fit_part(ranks, world, r));
    }
    for (int n = world + 1; n <= needs->config.n_head; n++) {
        bool fits = true;
        for (int r = 0; fits && r < n; r++) {
            struct footprint f;
            fits = needs_of(needs, &needs->sizes, n, r, &f) &&
                   (double)footprint_total(&f) <= FIT_SHARE * (double)part;
        }
        if (fits) {
            return n;
        }
    }
    return 0;
}

/* With a KV cache half as large, where there can be one. */
static bool fits_in_bf16(const struct model_needs *needs, struct fit_rank *ranks, int world) {
    struct footprint_params sizes = needs->sizes;
    if (sizes.kv != DTYPE_F32 || !sizes.device || !device_takes_kv(sizes.device, DTYPE_BF16)) {
        return false;
    }
    sizes.kv = DTYPE_BF16;
    return fits_with(needs, &sizes, ranks, world);
}

void fit_advise(const struct model_needs *needs, struct fit_rank *ranks, int world, int max_batch,
                char *out, size_t size) {
    char ways[4][64];
    int n_way = 0;
    const struct footprint_params *p = &needs->sizes;
    int64_t context = largest(needs, ranks, world, with_context, blocks_of(p->ctx));
    if (context > 0) {
        snprintf(ways[n_way++], sizeof ways[0], "with --ctx %lld", (long long)context * KV_BLOCK);
    }
    if (fits_in_bf16(needs, ranks, world)) {
        snprintf(ways[n_way++], sizeof ways[0], "with --kv-dtype bf16");
    }
    int64_t rest = p->max_tok - max_batch; /* tokens of a step that are not the batch's */
    int64_t tokens = max_batch > 1 ? largest(needs, ranks, world, with_tokens, p->max_tok) : 0;
    if (tokens > rest) {
        snprintf(ways[n_way++], sizeof ways[0], "with --max-batch %lld",
                 (long long)(tokens - rest));
    }
    int n = larger_world(needs, ranks, world);
    if (n > 0) {
        snprintf(ways[n_way++], sizeof ways[0], "on %d ranks with as much memory each", n);
    }
    size_t used = 0;
    *out = 0;
    for (int i = 0; i < n_way && used < size; i++) {
        const char *before = i == 0 ? "; fits " : i + 1 < n_way ? ", " : " or ";
        used += (size_t)snprintf(out + used, size - used, "%s%s", before, ways[i]);
    }
}

/* ---- as a table ---- */

static bool row(struct buffer *out, const char *rank, const char *host, const struct footprint *f,
                uint64_t available, bool fits, struct error *err) {
    return buffer_printf(out, err, "%10s  %-16s  %10s  %10s  %10s  %10s  %10s%s\n", rank, host,
                         show_bytes(f->weights).text, show_bytes(f->kv).text,
                         show_bytes(f->buffers).text, show_bytes(footprint_total(f)).text,
                         available == UINT64_MAX ? "-" : show_bytes(available).text,
                         fits ? "" : "  does not fit");
}

/* What `rank` may have where nobody shares it. */
static uint64_t most(const struct fit_rank *r) {
    return least(r->own, least(r->group, r->all));
}

bool fit_table(const struct fit_rank *ranks, int world, struct buffer *out, struct error *err) {
    bool ok = buffer_printf(out, err, "%10s  %-16s  %10s  %10s  %10s  %10s  %10s\n", "rank", "host",
                            "weights", "KV cache", "buffers", "sum", "free");
    for (int r = 0; ok && r < world; r++) {
        char name[16];
        uint64_t total = footprint_total(&ranks[r].needs);
        snprintf(name, sizeof name, "%d", r);
        ok = row(out, name, ranks[r].host, &ranks[r].needs, most(&ranks[r]),
                 total <= most(&ranks[r]), err);
    }
    for (enum scope scope = GROUP; ok && scope < SCOPE_COUNT; scope++) {
        for (int r = 0; ok && r < world; r++) {
            char name[32];
            struct fit_lack sum = sum_up(ranks, world, r, scope);
            snprintf(name, sizeof name, "%d ranks", sum.n_rank);
            ok = sum.first != r || sum.n_rank == 1 || is_within(&sum, 1) ||
                 row(out, name, ranks[r].host, &sum.needs, sum.available, false, err);
        }
    }
    return ok;
}
