#include "cli/session.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/launch.h"

/* ---- progress while loading: a line that is rewritten on a terminal, nothing in a log ---- */

static bool wants_progress(const struct common_options *c) {
    /* Under mpirun stderr is never a terminal; --progress always is for those who know better. */
    return strcmp(c->progress, "always") == 0 ||
           (strcmp(c->progress, "auto") == 0 && isatty(STDERR_FILENO));
}

static void report(void *user, uint64_t done, uint64_t total) {
    (void)user;
    if (total > 0) {
        fprintf(stderr, "\rlockstep: loading %3d %%", (int)(100.0 * (double)done / (double)total));
    }
}

static bool load_model(struct session *s, struct pool *pool, struct error *err) {
    const struct common_options *c = s->common;
    bool progress = wants_progress(c);
    struct engine_options options = {
        .dir = s->model,
        .ctx = c->ctx,
        .max_seqs = 1,
        .progress.report = progress ? report : NULL,
    };
    bool ok = engine_open(&s->engine, pool, &options, err);
    if (progress) {
        fprintf(stderr, "\r\033[K");
    }
    if (ok) {
        log_debug("loaded %s: %.1f MB on %d ranks in %.2f s", s->model,
                  (double)engine_load_bytes(s->engine) / 1e6, pool_world(pool),
                  engine_load_seconds(s->engine));
    }
    return ok;
}

/* ---- the session ---- */

struct lead_context {
    const struct session_job *job;
    struct session session;
};

/* The configuration comes first: it says which ids there are. */
static bool open_tokenizer(struct session *s, bool required, struct error *err) {
    struct model_config config;
    struct error ignored;
    return model_config_load(&config, s->model, err) &&
           (tokenizer_load(&s->tokenizer, s->model, config.vocab, required ? err : &ignored) ||
            !required);
}

static bool lead(struct pool *pool, void *user, struct error *err) {
    struct lead_context *c = user;
    struct session *s = &c->session;
    const struct session_job *job = c->job;
    struct error at_close;
    bool ok = pool_start(pool, err) && open_tokenizer(s, job->tokenizer, err) &&
              job->prepare(job->user, s, err) && load_model(s, pool, err) &&
              job->run(job->user, s, err);
    /* After a failure the ranks may be anywhere: pool_shutdown finds out. */
    if (s->engine && !engine_close(s->engine, &at_close) && ok) {
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
    return launch_run(common, lead, &c, err);
}
