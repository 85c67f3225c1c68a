/* The public header's functions: the engine inside somebody else's MPI program. */
#include <lockstep/lockstep.h>

#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "leader/generate.h"
#include "worker/facts.h"

struct lockstep {
    MPI_Comm control, tensor; /* own duplicates */
    int rank;
    struct pool_options options;
    struct pool *pool;           /* rank 0 */
    struct engine *engine;       /* rank 0 */
    struct tokenizer *tokenizer; /* rank 0 */
};

static int fail(struct lockstep_error *out, const struct error *err) {
    if (out) {
        *out = (struct lockstep_error){.rank = err->has_rank ? err->rank : -1};
        strncpy(out->kind, error_kind_name(err->kind), sizeof out->kind - 1);
        _Static_assert(sizeof out->message == sizeof err->message, "it fits");
        memcpy(out->message, err->message, sizeof out->message);
    }
    return -1;
}

const char *lockstep_version(void) {
    return LOCKSTEP_VERSION;
}

static bool open_local(struct lockstep *l, MPI_Comm comm, const struct lockstep_options *o,
                       struct error *err) {
    if (MPI_Comm_dup(comm, &l->control) != MPI_SUCCESS ||
        MPI_Comm_dup(comm, &l->tensor) != MPI_SUCCESS) {
        return error_set(err, ERROR_COMM_INIT, "MPI_Comm_dup failed");
    }
    MPI_Comm_set_errhandler(l->control, MPI_ERRORS_RETURN);
    MPI_Comm_set_errhandler(l->tensor, MPI_ERRORS_RETURN);
    MPI_Comm_rank(l->control, &l->rank);
    l->options = (struct pool_options){
        .control = l->control,
        .tensor = l->tensor,
        .threads = o->threads > 0 ? o->threads : 1,
        .timeout_s = o->timeout_s > 0 ? o->timeout_s : 60,
        .device = o->device ? o->device : "host",
        .dtype = o->dtype,
        .isa = o->isa,
    };
    return host_facts_read(l->control, &l->options.facts, err);
}

static bool open_leader(struct lockstep *l, const struct lockstep_options *o, struct error *err) {
    struct engine_options engine = {
        .dir = o->model, .ctx = o->ctx, .max_seqs = 1, .kv_dtype = o->kv_dtype};
    struct model_config config;
    bool known = !o->quant || dtype_from_quantized_word(o->quant, &engine.quant);
    /* First the pool: through it lockstep_close ends the others' lockstep_serve. */
    return pool_create(&l->pool, &l->options, err) &&
           (o->model || error_set(err, ERROR_USAGE, "options.model is not set")) &&
           (known ||
            error_set(err, ERROR_USAGE, "options.quant is '%s', not 'q8_0' or 'q4_0'", o->quant)) &&
           pool_start(l->pool, err) && model_config_load(&config, o->model, err) &&
           tokenizer_load(&l->tokenizer, o->model, config.vocab, err) &&
           engine_open(&l->engine, l->pool, &engine, err);
}

int lockstep_open(struct lockstep **out, MPI_Comm comm, const struct lockstep_options *options,
                  struct lockstep_error *error) {
    struct error err;
    *out = NULL;
    struct lockstep *l = calloc(1, sizeof *l);
    if (!l) {
        error_set(&err, ERROR_MEMORY, "cannot allocate an engine");
        return fail(error, &err);
    }
    l->control = l->tensor = MPI_COMM_NULL;
    bool ok = open_local(l, comm, options, &err) && (l->rank != 0 || open_leader(l, options, &err));
    if (!ok) {
        lockstep_close(l); /* on rank 0 also ends the others' lockstep_serve */
        return fail(error, &err);
    }
    *out = l;
    return 0;
}

int lockstep_serve(struct lockstep *l, struct lockstep_error *error) {
    struct error err;
    if (l->rank == 0) {
        error_set(&err, ERROR_USAGE, "lockstep_serve is for the ranks other than 0");
        return fail(error, &err);
    }
    return pool_serve(&l->options, &err) ? 0 : fail(error, &err);
}

static struct sampling to_sampling(const struct lockstep_sampling *s) {
    struct sampling out = sampling_default();
    out.temperature = s->temperature;
    out.top_k = s->top_k;
    out.top_p = s->top_p > 0 ? s->top_p : out.top_p;
    out.min_p = s->min_p;
    out.repetition_penalty =
        s->repetition_penalty > 0 ? s->repetition_penalty : out.repetition_penalty;
    out.presence_penalty = s->presence_penalty;
    out.frequency_penalty = s->frequency_penalty;
    out.seed = s->seed;
    return out;
}

struct listener {
    int (*on_text)(void *user, const char *text, size_t n);
    void *user;
};

static bool pass_on(void *user, const char *text, size_t n) {
    const struct listener *l = user;
    return !l->on_text || l->on_text(l->user, text, n) == 0;
}

int lockstep_generate(struct lockstep *l, const char *prompt, int max_tokens,
                      const struct lockstep_sampling *sampling,
                      int (*on_text)(void *user, const char *text, size_t n), void *user,
                      int *n_tokens, struct lockstep_error *error) {
    struct error err;
    struct token_list ids = {0};
    struct generate_result result = {0};
    struct listener listener = {on_text, user};
    if (l->rank != 0) {
        error_set(&err, ERROR_USAGE, "lockstep_generate is for rank 0");
        return fail(error, &err);
    }
    bool ok = max_tokens >= 0 ||
              error_set(&err, ERROR_USAGE, "max_tokens is %d, must not be negative", max_tokens);
    ok = ok && tokenizer_encode(l->tokenizer, prompt, strlen(prompt), true, &ids, &err);
    struct generate_request request = {
        .prompt = ids.ids,
        .n_prompt = (int)ids.n,
        .max_tokens = max_tokens,
        .sampling = to_sampling(sampling),
        .skip_special = true,
    };
    struct generate_listener listen = {.on_text = pass_on, .user = &listener};
    ok = ok && generate(l->engine, l->tokenizer, &request, &listen, &result, &err);
    if (ok && n_tokens) {
        *n_tokens = (int)result.ids.n;
    }
    generate_result_finish(&result);
    token_list_finish(&ids);
    return ok ? 0 : fail(error, &err);
}

void lockstep_close(struct lockstep *l) {
    struct error ignored;
    if (!l) {
        return;
    }
    engine_close(l->engine, NULL, &ignored);
    if (l->pool) {
        pool_shutdown(l->pool, &ignored);
        pool_destroy(l->pool);
    }
    tokenizer_destroy(l->tokenizer);
    if (l->tensor != MPI_COMM_NULL) {
        MPI_Comm_free(&l->tensor);
    }
    if (l->control != MPI_COMM_NULL) {
        MPI_Comm_free(&l->control);
    }
    free(l);
}
