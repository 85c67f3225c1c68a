/* A model comes and goes: what it takes is held to what there is before any rank allocates. */
#include "leader/pool_impl.h"

#include <stdio.h>
#include <string.h>

#include "format/show.h"

static bool make_load(struct message *m, const struct model_params *params, struct error *err) {
    *m = (struct message){.type = MESSAGE_LOAD};
    if (dtype_is_quantized(params->quant)) {
        snprintf(m->load.quant, sizeof m->load.quant, "%s", dtype_word(params->quant));
    }
    if (strlen(params->dir) >= sizeof m->load.dir) {
        return error_set(err, ERROR_USAGE, "the model's path is longer than %zu bytes",
                         sizeof m->load.dir - 1);
    }
    snprintf(m->load.dir, sizeof m->load.dir, "%s", params->dir);
    m->load.ctx = params->ctx;
    m->load.n_block = params->n_block;
    m->load.max_tok = params->max_tok;
    snprintf(m->load.kv_dtype, sizeof m->load.kv_dtype, "%s", dtype_word(params->kv));
    return true;
}

/* ---- memory ---- */

static bool on_measured(void *user, int rank, const struct message *reply, struct error *err) {
    struct pool *p = user;
    const struct message_loaded *m = &reply->loaded;
    (void)err;
    pool_note_print(p, rank, m);
    p->fits[rank] = (struct fit_rank){.host = p->ranks[rank].host,
                                      .needs = {m->weights, m->kv, m->buffers},
                                      .own = m->free_own,
                                      .group = m->free_group,
                                      .group_id = m->group,
                                      .all = m->free_host};
    return true;
}

/* Every rank's memory, in p->fits, and what it takes to tell what other sizes would need. */
static bool measure(struct pool *p, const struct model_params *params, struct model_needs *needs,
                    struct error *err) {
    struct message m;
    if (!make_load(&m, params, err)) {
        return false;
    }
    m.load.measure = 1;
    return pool_ask_all(p, &m, on_measured, p, err) && pool_same_model(p, &m, err) &&
           (worker_measure(p->worker, params, needs, err) || error_at_rank(err, 0));
}

bool pool_measure_load(struct pool *p, const struct model_params *params, struct pool_fit *out,
                       struct error *err) {
    struct model_needs needs;
    if (!measure(p, params, &needs, err)) {
        return false;
    }
    *out = (struct pool_fit){.fits = fit_holds(p->fits, p->world, 1, NULL)};
    for (int r = 0; r < p->world; r++) {
        uint64_t kv = p->fits[r].needs.kv;
        out->kv = kv > out->kv ? kv : out->kv;
    }
    out->n_block = out->fits ? params->n_block : fit_blocks(&needs, p->fits, p->world);
    return true;
}

/* Who lacks it: "rank 3 (node1) needs", "2 ranks of node1 need". */
static void name_lack(const struct pool *p, const struct fit_lack *lack, char *out, size_t size) {
    const char *host = p->ranks[lack->first].host;
    if (lack->n_rank == 1) {
        snprintf(out, size, "rank %d (%.80s) needs", lack->first, host);
    } else {
        snprintf(out, size, "%d ranks of %.80s need", lack->n_rank, host);
    }
}

static void show_table(const struct pool *p, const struct pool_load_options *o) {
    struct buffer table = {0};
    if (o->show && fit_table(p->fits, p->world, &table, NULL) &&
        buffer_append(&table, "", 1, NULL)) {
        o->show((const char *)table.data);
    }
    buffer_finish(&table);
}

static bool refuse(struct pool *p, const struct model_params *params,
                   const struct model_needs *needs, const struct fit_lack *lack,
                   const struct pool_load_options *o, struct error *err) {
    char who[120], advice[192];
    const struct footprint *f = &lack->needs;
    show_table(p, o);
    name_lack(p, lack, who, sizeof who);
    fit_advise(needs, p->fits, p->world, o->max_batch, advice, sizeof advice);
    error_set(err, ERROR_MEMORY,
              "load: %.90s: will not fit: %s %s (weights %s, KV cache %s, buffers %s), %s are "
              "free%s",
              show_path(params->dir).text, who, show_bytes(footprint_total(f)).text,
              show_bytes(f->weights).text, show_bytes(f->kv).text, show_bytes(f->buffers).text,
              show_bytes(lack->available).text, advice);
    return error_at_rank(err, lack->first);
}

struct footprint pool_footprint(const struct pool *p) {
    struct footprint sum = {0};
    for (int r = 0; r < p->world; r++) {
        sum.weights += p->fits[r].needs.weights;
        sum.kv += p->fits[r].needs.kv;
        sum.buffers += p->fits[r].needs.buffers;
    }
    return sum;
}

/* ---- load ---- */

struct loading {
    struct pool *pool;
    uint64_t bytes;
};

static bool on_loaded(void *user, int rank, const struct message *reply, struct error *err) {
    struct loading *l = user;
    l->bytes += reply->loaded.bytes;
    pool_note_print(l->pool, rank, &reply->loaded);
    return pool_note_progress(l->pool, rank, reply->loaded.bytes, reply->loaded.bytes, err);
}

/* Rank 0's own progress; while it loads, this is also when it hears of the others'. */
static bool own_progress(void *user, uint64_t done, uint64_t total, struct error *err) {
    struct pool *p = user;
    return pool_note_progress(p, 0, done, total, err) && pool_read_notices(p, err);
}

static bool load(struct pool *p, const struct model_params *params,
                 const struct model_progress *progress, uint64_t *bytes_read, struct error *err) {
    struct message m;
    struct loading loading = {.pool = p};
    struct model_progress own = {.report = own_progress, .user = p};
    if (!make_load(&m, params, err)) {
        return false;
    }
    memset(p->loads, 0, (size_t)p->world * sizeof *p->loads);
    p->progress = progress;
    worker_set_progress(p->worker, &own);
    bool ok = pool_ask_all(p, &m, on_loaded, &loading, err);
    worker_set_progress(p->worker, NULL);
    p->progress = NULL;
    ok = ok && pool_same_model(p, &m, err); /* once more: of what was read */
    if (ok && bytes_read) {
        *bytes_read = loading.bytes;
    }
    if (!ok && err->kind != ERROR_DEADLINE) { /* the ranks that could load must not keep it */
        struct error ignored;
        pool_unload(p, NULL, &ignored);
    }
    return ok;
}

bool pool_look_before_load(struct pool *p, const struct model_params *params,
                           const struct pool_load_options *options, struct error *err) {
    struct model_needs needs;
    struct fit_lack lack;
    if (!measure(p, params, &needs, err)) {
        return false;
    }
    return fit_holds(p->fits, p->world, 1, &lack) || refuse(p, params, &needs, &lack, options, err);
}

bool pool_load(struct pool *p, const struct model_params *params,
               const struct pool_load_options *options, uint64_t *bytes_read, struct error *err) {
    return pool_look_before_load(p, params, options, err) &&
           load(p, params, &options->progress, bytes_read, err);
}

static bool on_unloaded(void *user, int rank, const struct message *reply, struct error *err) {
    struct message_unloaded *ranks = user;
    (void)err;
    ranks[rank] = reply->unloaded;
    return true;
}

bool pool_unload(struct pool *p, struct message_unloaded *ranks, struct error *err) {
    struct message m = {.type = MESSAGE_UNLOAD};
    return pool_ask_all(p, &m, ranks ? on_unloaded : NULL, ranks, err);
}
