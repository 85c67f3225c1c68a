#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "serve/api_impl.h"
#include "text/utf8.h"

/* Indices of api_reply.lists: a chat's, and a completion's. */
enum { ENTRIES = 0, TOKENS = 0, TOKEN_LOGPROBS, TOP_LOGPROBS, TEXT_OFFSET, N_LIST };

bool api_reply_init(struct api_reply *r, const struct api_request *q, const struct api_model *model,
                    struct error *err) {
    unsigned char bytes[12];
    if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes) {
        return error_set(err, ERROR_INTERNAL, "cannot get random bytes for an id");
    }
    *r = (struct api_reply){
        .kind = q->kind,
        .created = (int64_t)time(NULL),
        .model = model,
        .stream = q->stream,
        .include_usage = q->include_usage,
        .logprobs = q->logprobs,
    };
    int at = snprintf(r->id, sizeof r->id, q->kind == API_CHAT ? "chatcmpl-" : "cmpl-");
    for (size_t i = 0; i < sizeof bytes; i++) {
        at += snprintf(r->id + at, sizeof r->id - (size_t)at, "%02x", bytes[i]);
    }
    return true;
}

void api_reply_finish(struct api_reply *r) {
    buffer_finish(&r->text);
    for (int i = 0; i < N_LIST; i++) {
        buffer_finish(&r->lists[i]);
    }
    *r = (struct api_reply){0};
}

static bool put(struct buffer *out, const char *text, struct error *err) {
    return buffer_append(out, text, strlen(text), err);
}

/* ---- log-probabilities ---- */

static bool put_token(const struct api_reply *r, int32_t id, struct buffer *out,
                      struct error *err) {
    size_t n;
    const char *bytes = tokenizer_token_bytes(r->model->tokenizer, id, &n);
    return api_put_string(out, bytes, n, err);
}

/* "token":...,"logprob":...,"bytes":[...] */
static bool put_entry(const struct api_reply *r, const struct token_logprob *t, struct buffer *out,
                      struct error *err) {
    size_t n;
    const char *bytes = tokenizer_token_bytes(r->model->tokenizer, t->id, &n);
    bool ok = put(out, "\"token\":", err) && put_token(r, t->id, out, err) &&
              put(out, ",\"logprob\":", err) && api_put_real(out, t->logprob, err) &&
              put(out, ",\"bytes\":[", err);
    for (size_t i = 0; ok && i < n; i++) {
        ok = buffer_printf(out, err, i ? ",%u" : "%u", (unsigned)(unsigned char)bytes[i]);
    }
    return ok && put(out, "]", err);
}

static bool add_chat_entry(struct api_reply *r, const struct generation_event *event,
                           struct error *err) {
    struct buffer *out = &r->lists[ENTRIES];
    bool ok = put(out, out->size ? ",{" : "{", err) && put_entry(r, &event->token, out, err) &&
              put(out, ",\"top_logprobs\":[", err);
    for (int i = 0; ok && i < event->n_top; i++) {
        ok = put(out, i ? ",{" : "{", err) && put_entry(r, &event->top[i], out, err) &&
             put(out, "}", err);
    }
    return ok && put(out, "]}", err);
}

/* Whether two tokens are the same key of a JSON object: where neither is UTF-8, they may be. */
static bool same_key(const struct api_reply *r, int32_t a, int32_t b, bool *same,
                     struct error *err) {
    struct buffer keys[2] = {0};
    bool ok = put_token(r, a, &keys[0], err) && put_token(r, b, &keys[1], err);
    *same =
        ok && keys[0].size == keys[1].size && memcmp(keys[0].data, keys[1].data, keys[0].size) == 0;
    buffer_finish(&keys[0]);
    buffer_finish(&keys[1]);
    return ok;
}

/* {"token": logprob, ...}: the token sampled and the most likely, no key twice. */
static bool put_top(struct api_reply *r, const struct generation_event *event, struct buffer *out,
                    struct error *err) {
    bool ok = put(out, "{", err) && put_token(r, event->token.id, out, err) && put(out, ":", err) &&
              api_put_real(out, event->token.logprob, err);
    for (int i = 0; ok && i < event->n_top; i++) {
        bool seen;
        ok = same_key(r, event->token.id, event->top[i].id, &seen, err);
        for (int j = 0; ok && !seen && j < i; j++) {
            ok = same_key(r, event->top[j].id, event->top[i].id, &seen, err);
        }
        if (ok && !seen) {
            ok = put(out, ",", err) && put_token(r, event->top[i].id, out, err) &&
                 put(out, ":", err) && api_put_real(out, event->top[i].logprob, err);
        }
    }
    return ok && put(out, "}", err);
}

/* How many characters begin in the token: over whole text, their sum is the text's length. */
static size_t count_characters(const struct tokenizer *t, int32_t id) {
    size_t n, count = 0;
    const char *bytes = tokenizer_token_bytes(t, id, &n);
    for (size_t i = 0; i < n; i++) {
        count += ((unsigned char)bytes[i] & 0xc0) != 0x80;
    }
    return tokenizer_is_special(t, id) ? 0 : count;
}

static bool add_completion_entry(struct api_reply *r, const struct generation_event *event,
                                 struct error *err) {
    for (int i = 0; i < N_LIST; i++) {
        if (r->lists[i].size && !put(&r->lists[i], ",", err)) {
            return false;
        }
    }
    bool ok = put_token(r, event->token.id, &r->lists[TOKENS], err) &&
              api_put_real(&r->lists[TOKEN_LOGPROBS], event->token.logprob, err) &&
              put_top(r, event, &r->lists[TOP_LOGPROBS], err) &&
              buffer_printf(&r->lists[TEXT_OFFSET], err, "%zu", r->n_text);
    r->n_text += count_characters(r->model->tokenizer, event->token.id);
    return ok;
}

/* ,"logprobs":... of what has not gone out yet */
static bool put_logprobs(struct api_reply *r, struct buffer *out, struct error *err) {
    static const char *const chat[] = {"{\"content\":["};
    static const char *const completion[] = {"{\"tokens\":[", ",\"token_logprobs\":[",
                                             ",\"top_logprobs\":[", ",\"text_offset\":["};
    const char *const *names = r->kind == API_CHAT ? chat : completion;
    bool ok = put(out, ",\"logprobs\":", err);
    if (!r->logprobs || (r->stream && r->lists[0].size == 0)) {
        return ok && put(out, "null", err);
    }
    for (int i = 0; i < (r->kind == API_CHAT ? 1 : N_LIST); i++) {
        ok = ok && put(out, names[i], err) &&
             buffer_append(out, r->lists[i].data, r->lists[i].size, err) && put(out, "]", err);
        buffer_clear(&r->lists[i]);
    }
    return ok && put(out, "}", err);
}

/* ---- replies ---- */

/* An interrupted text is cut short, which OpenAI's clients know by no other name. */
static const char *reason(const struct generation_event *event) {
    return finish_reason_name(event->finish == FINISH_INTERRUPTED ? FINISH_LENGTH : event->finish);
}

/* {"id":...,"object":...,"created":...,"model":...,"choices":[ */
static bool put_head(const struct api_reply *r, const char *object, struct buffer *out,
                     struct error *err) {
    return buffer_printf(out, err,
                         "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", r->id,
                         object, (long long)r->created) &&
           api_put_text(out, r->model->name, err) && put(out, ",\"choices\":[", err);
}

static bool put_usage(const struct api_reply *r, struct buffer *out, struct error *err) {
    return buffer_printf(out, err,
                         ",\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,"
                         "\"total_tokens\":%d}",
                         r->n_prompt, r->n_generated, r->n_prompt + r->n_generated);
}

static bool put_whole(struct api_reply *r, const struct generation_event *event, struct buffer *out,
                      struct error *err) {
    bool chat = r->kind == API_CHAT;
    return put_head(r, chat ? "chat.completion" : "text_completion", out, err) &&
           put(out,
               chat ? "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":"
                    : "{\"index\":0,\"text\":",
               err) &&
           api_put_string(out, (const char *)r->text.data, r->text.size, err) &&
           put(out, chat ? "}" : "", err) && put_logprobs(r, out, err) &&
           buffer_printf(out, err, ",\"finish_reason\":\"%s\"}]", reason(event)) &&
           put_usage(r, out, err) && put(out, "}", err);
}

/* ---- chunks ---- */

static bool put_chunk_head(const struct api_reply *r, struct buffer *out, struct error *err) {
    return put(out, "data: ", err) &&
           put_head(r, r->kind == API_CHAT ? "chat.completion.chunk" : "text_completion", out, err);
}

/* Between the choice's text and its logprobs; then between them and the event's end. */
static bool put_chunk_tail(const struct api_reply *r, const char *finish, struct buffer *out,
                           struct error *err) {
    return (finish ? buffer_printf(out, err, ",\"finish_reason\":\"%s\"}]", finish)
                   : put(out, ",\"finish_reason\":null}]", err)) &&
           put(out, r->include_usage ? ",\"usage\":null}\n\n" : "}\n\n", err);
}

static bool put_role_chunk(const struct api_reply *r, struct buffer *out, struct error *err) {
    return put_chunk_head(r, out, err) &&
           put(out,
               "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
               "\"logprobs\":null",
               err) &&
           put_chunk_tail(r, NULL, out, err);
}

static bool put_text_chunk(struct api_reply *r, const char *text, size_t n, struct buffer *out,
                           struct error *err) {
    bool chat = r->kind == API_CHAT;
    return put_chunk_head(r, out, err) &&
           put(out,
               chat ? "{\"index\":0,\"delta\":{\"content\":" : "{\"index\":0,\"text\":", err) &&
           api_put_string(out, text, n, err) && put(out, chat ? "}" : "", err) &&
           put_logprobs(r, out, err) && put_chunk_tail(r, NULL, out, err);
}

static bool put_last_chunks(const struct api_reply *r, const struct generation_event *event,
                            struct buffer *out, struct error *err) {
    bool ok = put_chunk_head(r, out, err) &&
              put(out,
                  r->kind == API_CHAT ? "{\"index\":0,\"delta\":{},\"logprobs\":null"
                                      : "{\"index\":0,\"text\":\"\",\"logprobs\":null",
                  err) &&
              put_chunk_tail(r, reason(event), out, err);
    if (ok && r->include_usage) {
        ok = put_chunk_head(r, out, err) && put(out, "]", err) && put_usage(r, out, err) &&
             put(out, "}\n\n", err);
    }
    return ok && put(out, "data: [DONE]\n\n", err);
}

/* Log-probabilities wait for the text that their tokens became, as long as there will be some. */
static bool put_chunks(struct api_reply *r, const struct generation_event *event,
                       struct buffer *out, struct error *err) {
    bool last = event->finished || event->error;
    if (!r->begun && r->kind == API_CHAT && !event->error && !put_role_chunk(r, out, err)) {
        return false;
    }
    r->begun = r->begun || !event->error;
    if ((event->n_text > 0 || (last && r->lists[0].size > 0)) && r->begun &&
        !put_text_chunk(r, event->text, event->n_text, out, err)) {
        return false;
    }
    if (event->error) {
        struct api_error e;
        api_error_from(&e, event->error);
        return api_error_event(&e, out, err);
    }
    return !event->finished || put_last_chunks(r, event, out, err);
}

bool api_reply_event(struct api_reply *r, const struct generation_event *event, struct buffer *out,
                     struct error *err) {
    size_t before = out->size;
    r->n_prompt = event->n_prompt;
    r->n_generated = event->n_generated;
    bool ok =
        !event->has_token || !r->logprobs ||
        (r->kind == API_CHAT ? add_chat_entry(r, event, err) : add_completion_entry(r, event, err));
    if (ok && r->stream) {
        ok = put_chunks(r, event, out, err);
    } else if (ok && !event->error) {
        ok = buffer_append(&r->text, event->text, event->n_text, err) &&
             (!event->finished || put_whole(r, event, out, err));
    }
    if (!ok) {
        out->size = before;
    }
    return ok;
}

/* ---- models ---- */

bool api_models_body(const struct api_model *m, bool list, struct buffer *out, struct error *err) {
    size_t before = out->size;
    bool ok = put(out, list ? "{\"object\":\"list\",\"data\":[{\"id\":" : "{\"id\":", err) &&
              api_put_text(out, m->name, err) &&
              buffer_printf(out, err,
                            ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"lockstep\"}%s",
                            (long long)m->created, list ? "]}" : "");
    if (!ok) {
        out->size = before;
    }
    return ok;
}
