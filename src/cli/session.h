/* What generate, score and bench share: start the ranks, load the tokenizer and the model, let rank
 * 0 work, and end cleanly. */
#pragma once

#include "cli/command.h"
#include "leader/engine.h"
#include "text/tokenizer.h"

struct session {
    const struct common_options *common;
    const char *model; /* its directory: the one asked for, or the demo model's */
    struct model_config config;
    int ctx;                       /* the context that --ctx means for it */
    struct tokenizer *tokenizer;   /* NULL when there is none that works and the job needs none */
    struct pool *pool;             /* borrowed */
    struct engine_options options; /* of the load: for one sequence, unless `prepare` wants more */
    struct engine *engine;
};

struct session_job {
    bool tokenizer; /* the job cannot do without one */
    /* Rank 0, before the model is loaded: looks at its input, so that a bad prompt costs no load.
     * session->engine is NULL. */
    bool (*prepare)(void *user, struct session *session, struct error *err);
    /* Rank 0, with the model loaded. */
    bool (*run)(void *user, struct session *session, struct error *err);
    void *user;
};

/* The ids of --ids "1,2,3". Errors: USAGE, MEMORY. */
bool session_encode_ids(const char *text, struct token_list *out, struct error *err);

/* Every rank calls it; ranks other than 0 work until rank 0 is done, and return true.
 * Errors: all that may go wrong from MPI_Init to the end. */
bool session_run(const struct common_options *common, const struct session_job *job,
                 struct error *err);
