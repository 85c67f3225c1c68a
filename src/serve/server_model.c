/* Models come and go; ranks and communicator stay. */
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "format/show.h"
#include "serve/server_impl.h"

/* ---- load and unload ---- */

static bool report(void *user, uint64_t done, uint64_t total, struct error *err) {
    struct server *s = user;
    if (server_wants_end(s)) {
        return error_set(err, ERROR_INTERRUPTED, "interrupted while loading");
    }
    pthread_mutex_lock(&s->lock);
    s->loaded = total ? (double)done / (double)total : 0;
    pthread_mutex_unlock(&s->lock);
    return true;
}

/* --ctx is for the model that the server starts with; another may have fewer positions. */
static bool open_engine(struct server *s, const char *dir, const struct load_wish *wish,
                        const struct served *model, struct error *err) {
    const struct server_options *o = &s->options;
    enum dtype quant = wish->quant ? DTYPE_F32 : o->quant;
    if (wish->quant) { /* "none" leaves it */
        dtype_from_quantized_word(wish->quant, &quant);
    }
    struct engine_options engine = {.dir = dir,
                                    .ctx = o->ctx,
                                    .ctx_at_most = strcmp(dir, o->dir) != 0,
                                    .max_seqs = o->max_batch,
                                    .max_tok = o->max_batch + o->prefill_chunk,
                                    .kv_dtype = wish->kv_dtype ? wish->kv_dtype : o->kv_dtype,
                                    .cut_kv = true,
                                    .kv_memory = o->kv_memory,
                                    .quant = quant,
                                    .load = {.progress = {.report = report, .user = s},
                                             .max_batch = o->max_batch,
                                             .show = o->show}};
    struct scheduler_options scheduler = {.max_batch = o->max_batch,
                                          .prefill_chunk = o->prefill_chunk,
                                          .max_waiting = o->max_waiting};
    return engine_open(&s->engine, s->pool, &engine, err) &&
           scheduler_create(&s->scheduler, s->engine, model->tokenizer, &scheduler, err);
}

static void set_model(struct server *s, struct served *model) {
    pthread_mutex_lock(&s->lock);
    struct served *old = s->model;
    s->model = model;
    if (model && strcmp(s->model_name, model->name) != 0) { /* what is counted bears its name */
        s->past = (struct scheduler_stats){0};
        s->metrics = (struct metrics){0};
    }
    if (model) {
        snprintf(s->model_name, sizeof s->model_name, "%s", model->name);
    }
    pthread_mutex_unlock(&s->lock);
    served_release(old);
}

static bool load(struct server *s, const char *dir, const char *name, const struct load_wish *wish,
                 struct error *err) {
    struct served *model = NULL;
    pthread_mutex_lock(&s->lock);
    s->loaded = 0;
    pthread_mutex_unlock(&s->lock);
    server_set_state(s, SERVER_LOADING, NULL);
    if (!served_create(&model, dir, name, err)) {
        return false;
    }
    if (!open_engine(s, dir, wish, model, err)) {
        served_release(model);
        return false;
    }
    model->api.ctx = engine_ctx(s->engine);
    set_model(s, model);
    int blocks = engine_blocks(s->engine), most = engine_blocks_for(engine_ctx(s->engine));
    log_info("loaded %s: %.1f MB in %.2f s; KV cache of %d positions in %s, contexts of %d", dir,
             (double)engine_load_bytes(s->engine) / 1e6, engine_load_seconds(s->engine),
             blocks * KV_BLOCK, dtype_word(engine_kv_dtype(s->engine)), engine_ctx(s->engine));
    if (blocks / most < s->options.max_batch) {
        log_warn("the KV cache holds %d of %d whole contexts (--kv-memory, --kv-dtype, --ctx, "
                 "--max-batch)",
                 blocks / most, s->options.max_batch);
    }
    server_set_state(s, SERVER_READY, NULL);
    return true;
}

bool server_load(struct server *s, const char *dir, const char *name, const struct load_wish *wish,
                 struct error *err) {
    if (load(s, dir, name, wish, err)) {
        return true;
    }
    if (err->kind == ERROR_MEMORY) { /* of this process, where no rank is named */
        error_at_rank(err, 0);
    }
    return false;
}

bool server_unload(struct server *s, struct message_unloaded *ranks, struct error *err) {
    struct engine *engine = s->engine;
    s->past = server_stats(s);
    scheduler_destroy(s->scheduler);
    s->scheduler = NULL;
    s->engine = NULL;
    set_model(s, NULL); /* before the ranks' memory is looked at */
    return engine_close(engine, ranks, err);
}

/* ---- commands ---- */

/* Takes the object over; NULL: it could not be built. False: there is no memory for an answer. */
static bool answer(struct job *j, json_t *object) {
    struct buffer body = {0};
    char *text = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(6)) : NULL;
    bool ok = text && buffer_append(&body, text, strlen(text), NULL);
    if (ok) {
        job_put(j, 200, &body, true);
    }
    buffer_finish(&body);
    free(text);
    json_decref(object);
    return ok;
}

/* What cannot even be told. */
static void refuse_memory(struct job *j) {
    struct api_error e;
    api_refuse_memory(&e);
    job_fail(j, &e);
}

/* Where the model stands: only below --model-root, whatever links there are. */
static bool find_model(const struct server *s, const char *wanted, char dir[PATH_MAX],
                       const char **name, struct api_error *e) {
    const struct server_options *o = &s->options;
    char root[PATH_MAX], joined[PATH_MAX];
    if (!wanted || strcmp(wanted, o->model_name) == 0) {
        snprintf(dir, PATH_MAX, "%s", o->dir);
        *name = o->model_name;
        return true;
    }
    struct shown shown = show_text(wanted);
    if (!o->model_root) {
        return api_refuse(e, 403, "invalid_request_error", "no_model_root", "model",
                          "only '%s' can be loaded: others need a server with --model-root",
                          o->model_name);
    }
    int n = snprintf(joined, sizeof joined, "%s%s%s", wanted[0] == '/' ? "" : o->model_root,
                     wanted[0] == '/' ? "" : "/", wanted);
    size_t n_root = realpath(o->model_root, root) ? strlen(root) : 0;
    n_root -= n_root == 1; /* "/" */
    if (n < 0 || (size_t)n >= sizeof joined || !realpath(joined, dir) || *root != '/' ||
        strncmp(dir, root, n_root) != 0 || dir[n_root] != '/') {
        return api_refuse(e, 404, "invalid_request_error", "model_not_found", "model",
                          "there is no model '%s' below --model-root", shown.text);
    }
    *name = dir + n_root + 1;
    return true;
}

/* Tells whoever asked, and whoever looks. */
static void refuse_load(struct server *s, struct job *j, const char *dir, const struct error *why) {
    struct api_error e;
    char reason[sizeof s->reason];
    server_refusal(s, why, &e); /* names the rank */
    log_warn("cannot load %s: %s", dir, e.message);
    snprintf(reason, sizeof reason, "no model is loaded; the last load failed: %.150s", e.message);
    server_set_state(s, SERVER_UNLOADED, reason);
    server_note_error(s, e.message);
    if (error_exit_code(why->kind) == 2 && why->kind != ERROR_MEMORY) {
        e.status = 400; /* the files are to blame, which the request chose */
    }
    job_fail(j, &e);
}

static json_t *load_report(const struct server *s, const char *name) {
    const struct engine *e = s->engine;
    enum dtype quant = engine_quant(e);
    return json_pack("{s:s, s:s, s:I, s:f, s:i, s:I, s:s, s:s}", "status", "ready", "model", name,
                     "bytes_read", (json_int_t)engine_load_bytes(e), "seconds",
                     engine_load_seconds(e), "ctx", engine_ctx(e), "kv_positions",
                     (json_int_t)engine_blocks(e) * (json_int_t)KV_BLOCK, "kv_dtype",
                     dtype_word(engine_kv_dtype(e)), "quant",
                     dtype_is_quantized(quant) ? dtype_word(quant) : "none");
}

static bool do_load(struct server *s, struct job *j, struct error *err) {
    struct api_error e;
    char dir[PATH_MAX];
    const char *name = NULL;
    if (s->engine) {
        api_refuse(&e, 409, "conflict", "loaded", "model",
                   "'%s' is loaded: unload it first (POST /v1/admin/unload)", s->model->name);
        job_fail(j, &e);
        return true;
    }
    if (!find_model(s, j->wanted, dir, &name, &e)) {
        job_fail(j, &e);
        return true;
    }
    struct error why;
    if (server_load(s, dir, name, &j->wish, &why)) {
        if (answer(j, load_report(s, name))) {
            return true;
        }
        error_set(&why, ERROR_MEMORY, "load: cannot hold the reply");
        error_at_rank(&why, 0);
    }
    refuse_load(s, j, dir, &why);
    bool broken = pool_is_broken(s->pool) || why.kind == ERROR_DEADLINE;
    if (broken) {
        *err = why;
    } else if (s->engine && !server_unload(s, NULL, err)) {
        return false;
    }
    return !broken;
}

static bool do_unload(struct server *s, struct job *j, struct error *err) {
    struct api_error e;
    if (!s->engine) {
        api_refuse(&e, 409, "conflict", "unloaded", NULL, "no model is loaded");
        job_fail(j, &e);
        return true;
    }
    int world = pool_world(s->pool);
    struct message_unloaded *ranks = calloc((size_t)world, sizeof *ranks);
    if (!ranks) {
        refuse_memory(j);
        return true;
    }
    server_set_state(s, SERVER_DRAINING, "the model is being unloaded");
    double patience = j->patience_s < 0 ? s->options.drain_s : j->patience_s;
    bool ok = server_finish_requests(
                  s, patience, "the model was unloaded before this request was finished", err) &&
              server_unload(s, ranks, err);
    if (ok) {
        json_t *list = json_array();
        for (int r = 0; r < world; r++) {
            json_array_append_new(list, json_pack("{s:i, s:I, s:I, s:I}", "rank", r, "bytes_freed",
                                                  (json_int_t)ranks[r].bytes_freed,
                                                  "resident_before_load",
                                                  (json_int_t)ranks[r].resident_before, "resident",
                                                  (json_int_t)ranks[r].resident));
        }
        log_info("unloaded %s", s->model_name);
        server_set_state(s, SERVER_UNLOADED, NULL);
        if (!answer(j, json_pack("{s:s, s:s, s:o}", "status", "unloaded", "model", s->model_name,
                                 "ranks", list))) {
            refuse_memory(j);
        }
    }
    free(ranks);
    return ok;
}

bool server_do(struct server *s, struct job *command, struct error *err) {
    return (command->kind == JOB_LOAD ? do_load : do_unload)(s, command, err);
}
