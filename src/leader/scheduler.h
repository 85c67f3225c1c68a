/* Continuous batching: many generations over one engine, a step at a time. A step carries every
 * sequence that decodes, one token each, and a chunk of the prompts that are being read, first come
 * first served. A request is admitted when a place in the batch is free and enough KV blocks for
 * its whole length, so that an admitted one can always finish; the others wait in order. Rank 0's
 * main thread only. */
#pragma once

#include "leader/generation.h"

struct scheduler; /* opaque */
struct ticket;    /* opaque: a request under way */

struct scheduler_options {
    int max_batch;     /* sequences under way at a time; at most the engine's max_seqs */
    int prefill_chunk; /* prompt tokens in one step, all sequences together */
    int max_waiting;   /* requests that may wait for a place */
};

struct scheduler_stats {
    int running, waiting;
    int blocks_used, blocks_total; /* of the KV cache; used: set aside for running requests */
    /* So far: */
    uint64_t n_step;
    uint64_t prompt_tokens, generated_tokens; /* fed; sampled */
    /* In the ranks; and all other time from one step's end, or from the first request after an idle
     * time, to the next one's, whatever the caller does in it. */
    double step_seconds, leader_seconds;
};

/* Told on the thread of scheduler_step, in order; the last one has finished set, and after it the
 * ticket is gone. It may not call the scheduler but scheduler_cancel of its own ticket. event:
 * borrowed for the call. */
typedef void scheduler_event(void *user, const struct generation_event *event);

/* engine, tokenizer: borrowed. Errors: MEMORY, USAGE. */
bool scheduler_create(struct scheduler **out, struct engine *engine,
                      const struct tokenizer *tokenizer, const struct scheduler_options *options,
                      struct error *err);

/* Queues a request. request (with all that it points to): borrowed until its last event, or until
 * scheduler_cancel returns. The ticket is valid as long.
 * Errors: BUSY (the batch is full, and max_waiting wait), INPUT (empty prompt, longer than the
 * context), USAGE (sampling, stops), MEMORY. */
bool scheduler_add(struct scheduler *s, const struct generate_request *request,
                   scheduler_event *on_event, void *user, struct ticket **out, struct error *err);

/* Ends a request at once: its blocks are free for the next step, and no event follows. */
void scheduler_cancel(struct scheduler *s, struct ticket *t);

/* When its first step began, on the monotonic clock; 0: it waits. */
double scheduler_begun(const struct ticket *t);

/* Nothing runs or waits. */
bool scheduler_idle(const struct scheduler *s);

/* One step, if there is anything to do. A request that fails alone gets its error as its last
 * event, and so do those of a step that rank 0 could not even begin. Errors: those of engine_step;
 * then only scheduler_fail and scheduler_destroy may follow. */
bool scheduler_step(struct scheduler *s, struct error *err);

/* Ends every request with a last event that carries this error. */
void scheduler_fail(struct scheduler *s, const struct error *why);

struct scheduler_stats scheduler_stats(const struct scheduler *s);

/* Requests under way are dropped without an event. Accepts NULL. */
void scheduler_destroy(struct scheduler *s);
