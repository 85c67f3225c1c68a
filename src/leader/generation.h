/* One generation: which tokens its next step feeds, and what the step's result leads to. generate()
 * runs one at a time, the scheduler many side by side. Rank 0 only. */
#pragma once

#include "leader/engine.h"
#include "model/sampler.h"
#include "text/tokenizer.h"

enum finish_reason { FINISH_STOP, FINISH_LENGTH, FINISH_INTERRUPTED, FINISH_COUNT };

/* "stop" (end-of-sequence token or stop string), "length", "interrupted". */
const char *finish_reason_name(enum finish_reason r);

enum { GENERATE_MAX_LOGPROBS = 20 };

struct generate_request {
    const int32_t *prompt; /* [n_prompt] borrowed */
    int n_prompt;
    int max_tokens; /* 0: until the context is full */
    struct sampling sampling;
    bool ignore_eos;
    int n_stop;
    const char *const *stops; /* borrowed */
    bool skip_special;        /* leave special tokens out of the text */
    bool logprobs;            /* of the tokens sampled ... */
    int top_logprobs;         /* ... and of the most likely, 0 to GENERATE_MAX_LOGPROBS */
};

struct token_logprob {
    int32_t id;
    double logprob; /* natural, of the model's own distribution: before penalties and temperature */
};

/* What one step led to. Borrowed, valid until the generation's next call. */
struct generation_event {
    bool has_token;
    struct token_logprob token;      /* sampled; its logprob only where asked for */
    const char *text;                /* [n_text] whole UTF-8 characters that became certain */
    size_t n_text;                   /* may be 0 */
    int n_top;                       /* 0 where not asked for */
    const struct token_logprob *top; /* [n_top] the most likely, largest first */
    bool finished;                   /* the last event: the text is complete */
    enum finish_reason finish;       /* when finished, and there is no error */
    const struct error *error;       /* it ended for this; NULL: none */
    int n_prompt, n_generated;       /* tokens of the prompt, and sampled so far */
};

struct generation; /* opaque */

/* engine, tokenizer (NULL: no text), request and what it points to: borrowed.
 * Errors: INPUT (empty prompt, or longer than the context), USAGE (sampling, stops), MEMORY. */
bool generation_create(struct generation **out, struct engine *engine,
                       const struct tokenizer *tokenizer, const struct generate_request *request,
                       struct error *err);

/* Prompt tokens that have yet to be fed; 0: it decodes, a token a step. */
int generation_prompt_left(const struct generation *g);
/* Positions of the context that it may come to need. */
int generation_most_positions(const struct generation *g);

/* Its part of a step that feeds n of the prompt's tokens that are left, or 1 when it decodes.
 * Points into the generation. */
struct engine_part generation_part(const struct generation *g, int n);

/* Takes what the step of that part led to. *out is left alone where the prompt is not all fed yet:
 * then *event is false. Clobbers the result's logits. Errors: MEMORY, WRONG_RESULT (they are not
 * finite). */
bool generation_take(struct generation *g, int n, const struct step_result *r,
                     struct generation_event *out, bool *event, struct error *err);

/* Ends it early: the rest of its text, as an event. Errors: MEMORY. */
bool generation_interrupt(struct generation *g, struct generation_event *out, struct error *err);

/* Gives its KV blocks back. Accepts NULL. */
void generation_destroy(struct generation *g);
