/* What the OpenAI API's requests ask for, and its replies. No sockets, no threads: text in, text
 * out. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/buffer.h"
#include "leader/generation.h"
#include "serve/chat_output.h"
#include "text/tokenizer.h"

enum api_kind { API_CHAT, API_COMPLETION };

/* A refusal, as an HTTP status and OpenAI's error object. */
struct api_error {
    int status;       /* 400, 404, ... */
    const char *type; /* "invalid_request_error", ...; static */
    const char *code; /* static; NULL: null */
    char param[80];   /* the field, "messages[1].content"; "": null */
    char message[400];
    bool has_rank; /* it happened on a rank: told too, with the host where that is known */
    int rank;
    char host[128];
};

/* False, so that `return api_refuse(...)` reads well. param NULL: none. */
bool api_refuse(struct api_error *e, int status, const char *type, const char *code,
                const char *param, const char *fmt, ...) __attribute__((format(printf, 6, 7)));

/* 503: there is no memory for it now. */
bool api_refuse_memory(struct api_error *e);

/* What a request is read against; borrowed, shared by all. */
struct api_model {
    const char *name; /* as served */
    const struct tokenizer *tokenizer;
    int64_t created;          /* Unix time of its load */
    int ctx;                  /* tokens of a prompt at most; 0: any number */
    struct sampling sampling; /* for what a request leaves open; no seed, no biases */
};

/* A request that has been read. Its generate points into it: do not copy. */
struct api_request {
    enum api_kind kind;
    struct generate_request generate;
    bool stream, include_usage;
    bool logprobs;         /* wanted in the reply, n of generate.top_logprobs each */
    bool reasoning, tools; /* a chat whose answer may think, and call tools ... */
    bool one_call;         /* ... but only one */
    struct buffer begun;   /* owns: a chat's answer begins with it, and the prompt ends with it */
    struct token_list prompt;  /* owns */
    char **stops;              /* owns [generate.n_stop], and what they point to */
    struct logit_bias *biases; /* owns [generate.sampling.n_bias] */
};

/* A body [n] as JSON. NULL: e says where it is none. */
json_t *api_load_json(const char *body, size_t n, struct api_error *e);

/* Reads the body (JSON, [n]) of POST /v1/chat/completions or /v1/completions. On failure out is
 * left zeroed. */
bool api_request_parse(struct api_request *out, enum api_kind kind, const char *body, size_t n,
                       const struct api_model *model, struct api_error *err);
void api_request_finish(struct api_request *r);

/* ---- replies ---- */

/* One reply being made, whole or in chunks. */
struct api_reply {
    enum api_kind kind;
    char id[40];     /* "chatcmpl-..." or "cmpl-..." */
    int64_t created; /* Unix time */
    const struct api_model *model;
    bool stream, include_usage, logprobs, one_call;
    int n_prompt, n_generated;
    struct chat_output output; /* owns: takes a chat's text apart */
    int n_call;                /* tools called so far */
    /* owns: all of it so far, where it does not stream; calls as JSON with commas between */
    struct buffer text, reasoning, calls;
    /* owns: log-probabilities that have yet to go out, as JSON with commas between. Chat: entries;
     * completions: tokens, token_logprobs, top_logprobs, text_offset. */
    struct buffer lists[4];
    size_t n_text; /* characters of the tokens so far (text_offset of completions) */
    bool begun;    /* the first chunk (role) is out */
};

bool api_reply_init(struct api_reply *r, const struct api_request *q, const struct api_model *model,
                    struct error *err);
/* Takes an event; appends to out the bytes that are to go out now: SSE chunks where it streams (the
 * last event: finish_reason, usage where asked, data: [DONE]); else nothing before the last event,
 * and then the whole JSON object. An event with an error: SSE error event and no [DONE]; else
 * nothing: the caller answers with api_error_body. Errors: MEMORY. */
bool api_reply_event(struct api_reply *r, const struct generation_event *event, struct buffer *out,
                     struct error *err);
/* The end of a stream that is cut short: what of its text was held back, and a chunk with
 * finish_reason "abort", as vLLM has it; an error event is to follow. Errors: MEMORY. */
bool api_reply_abort(struct api_reply *r, struct buffer *out, struct error *err);
void api_reply_finish(struct api_reply *r);

/* {"error": {"message", "type", "param", "code"}}. */
bool api_error_body(const struct api_error *e, struct buffer *out, struct error *err);
/* The same as an SSE event, for a stream that has begun. */
bool api_error_event(const struct api_error *e, struct buffer *out, struct error *err);
/* A failure as a refusal. What the request asks for and cannot be had (INPUT, USAGE, UNSUPPORTED):
 * 400; BUSY: 429; of a rank, or of the server: 503, type = the kind's name, message with the rank.
 */
void api_error_from(struct api_error *out, const struct error *why);
/* GET /v1/models (whole list) and /v1/models/{id}. m NULL: an empty list. */
bool api_models_body(const struct api_model *m, bool list, struct buffer *out, struct error *err);
