#include "cli/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cli/launch.h"
#include "cli/stdio_util.h"

/* ---- progress while loading: a line that is rewritten on a terminal, nothing in a log ---- */

static bool report(void *user, uint64_t done, uint64_t total, struct error *err) {
    const struct session *s = user;
    if (launch_interrupted()) {
        return error_set(err, ERROR_INTERRUPTED, "interrupted while loading");
    }
    if (total > 0) {
        common_progress(s->common, "loading %3d %%", (int)(100.0 * (double)done / (double)total));
    }
    return true;
}

static bool load_model(struct session *s, struct pool *pool, struct error *err) {
    const struct common_options *c = s->common;
    s->options.kv_dtype = c->kv_dtype;
    s->options.quant = common_quant(c);
    s->options.load =
        (struct pool_load_options){.progress = {.report = report, .user = s}, .show = stdio_note};
    bool ok = engine_open(&s->engine, pool, &s->options, err);
    common_progress_end(c);
    if (ok && !common_wants_progress(c)) {
        int world = pool_world(pool);
        log_info("loaded %s%s%s: %.1f MB on %d rank%s in %.2f s", s->model, c->quant ? " as " : "",
                 c->quant ? c->quant : "", (double)engine_load_bytes(s->engine) / 1e6, world,
                 world == 1 ? "" : "s", engine_load_seconds(s->engine));
    }
    return ok;
}

/* ---- the session ---- */

struct lead_context {
    const struct session_job *job;
    struct session session;
};

/* Ids go without a tokenizer; one that is there and cannot be used is worth a word. */
static bool open_tokenizer(struct session *s, bool required, struct error *err) {
    struct error why;
    bool ok = tokenizer_load(&s->tokenizer, s->model, s->config.vocab, required ? err : &why);
    if (!ok && !required && why.kind != ERROR_IO) {
        log_warn("ids, and no text: %s", why.message);
    }
    return ok || !required;
}

/* The configuration comes first: it says which ids there are, and how many fit. */
static bool open_files(struct session *s, bool tokenizer_required, struct error *err) {
    return model_config_load(&s->config, s->model, err) &&
           engine_context(&s->config, s->common->ctx, &s->ctx, err) &&
           open_tokenizer(s, tokenizer_required, err);
}

static bool lead(struct pool *pool, void *user, struct error *err) {
    struct lead_context *c = user;
    struct session *s = &c->session;
    const struct session_job *job = c->job;
    s->pool = pool;
    struct error at_close;
    bool ok = pool_start(pool, err) && open_files(s, job->tokenizer, err) &&
              job->prepare(job->user, s, err) && load_model(s, pool, err) &&
              job->run(job->user, s, err);
    /* After a failure the ranks may be anywhere: pool_shutdown finds out. */
    if (s->engine && !engine_close(s->engine, NULL, &at_close) && ok) {
        *err = at_close;
        ok = false;
    }
    tokenizer_destroy(s->tokenizer);
    return ok;
}

bool session_run(const struct common_options *common, const struct session_job *job,
                 struct error *err) {
    struct lead_context c = {.job = job};
    c.session.common = common;
    c.session.model = common_model(common);
    c.session.options =
        (struct engine_options){.dir = c.session.model, .ctx = common->ctx, .max_seqs = 1};
    return launch_run(common, lead, &c, err);
}

bool session_encode_ids(const char *text, struct token_list *out, struct error *err) {
    int32_t *ids = NULL;
    int n = 0;
    bool ok = options_parse_ints(text, "--ids", &ids, &n, err);
    for (int i = 0; ok && i < n; i++) {
        ok = token_list_push(out, ids[i], err);
    }
    free(ids);
    return ok;
}
