#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "serve/api_impl.h"
#include "text/utf8.h"

/* Indices of api_reply.lists: a chat's, and a completion's. */
enum { ENTRIES = 0, TOKENS = 0, TOKEN_LOGPROBS, TOP_LOGPROBS, TEXT_OFFSET, N_LIST };

enum { ID_BYTES = 12 };

/* The prefix and 24 hex digits that no other id has. */
static bool make_id(char *out, size_t size, const char *prefix, struct error *err) {
    unsigned char bytes[ID_BYTES];
    if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes) {
        return error_set(err, ERROR_INTERNAL, "cannot get random bytes for an id");
    }
    int at = snprintf(out, size, "%s", prefix);
    for (size_t i = 0; i < sizeof bytes; i++) {
        at += snprintf(out + at, size - (size_t)at, "%02x", bytes[i]);
    }
    return true;
}

bool api_reply_init(struct api_reply *r, const struct api_request *q, const struct api_model *model,
                    struct error *err) {
    *r = (struct api_reply){
        .kind = q->kind,
        .created = (int64_t)time(NULL),
        .model = model,
        .stream = q->stream,
        .include_usage = q->include_usage,
        .logprobs = q->logprobs,
        .one_call = q->one_call,
        .output = {.reasoning = q->reasoning, .tools = q->tools},
    };
    /* The beginning of a call is held back until it ends: nobody is told of a part. */
    return make_id(r->id, sizeof r->id, q->kind == API_CHAT ? "chatcmpl-" : "cmpl-", err) &&
           (q->begun.size == 0 || chat_output_push(&r->output, (const char *)q->begun.data,
                                                   q->begun.size, NULL, NULL, err));
}

void api_reply_finish(struct api_reply *r) {
    chat_output_finish(&r->output);
    buffer_finish(&r->text);
    buffer_finish(&r->reasoning);
    buffer_finish(&r->calls);
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

static const char *reason(const struct api_reply *r, const struct generation_event *event) {
    if (event->finish == FINISH_STOP && r->n_call > 0) {
        return "tool_calls";
    }
    return finish_reason_name(event->finish);
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

/* {"role":"assistant","content":...} */
static bool put_message(const struct api_reply *r, struct buffer *out, struct error *err) {
    bool ok = put(out, "{\"role\":\"assistant\",\"content\":", err) &&
              (r->n_call > 0 && r->text.size == 0
                   ? put(out, "null", err)
                   : api_put_string(out, (const char *)r->text.data, r->text.size, err));
    if (ok && r->reasoning.size > 0) {
        ok = put(out, ",\"reasoning_content\":", err) &&
             api_put_string(out, (const char *)r->reasoning.data, r->reasoning.size, err);
    }
    if (ok && r->n_call > 0) {
        ok = put(out, ",\"tool_calls\":[", err) &&
             buffer_append(out, r->calls.data, r->calls.size, err) && put(out, "]", err);
    }
    return ok && put(out, "}", err);
}

static bool put_whole(struct api_reply *r, const struct generation_event *event, struct buffer *out,
                      struct error *err) {
    bool chat = r->kind == API_CHAT;
    return put_head(r, chat ? "chat.completion" : "text_completion", out, err) &&
           put(out, chat ? "{\"index\":0,\"message\":" : "{\"index\":0,\"text\":", err) &&
           (chat ? put_message(r, out, err)
                 : api_put_string(out, (const char *)r->text.data, r->text.size, err)) &&
           put_logprobs(r, out, err) &&
           buffer_printf(out, err, ",\"finish_reason\":\"%s\"}]", reason(r, event)) &&
           put_usage(r, out, err) && put(out, "}", err);
}

/* "id":...,"type":"function","function":{...} */
static bool put_call(const struct tool_call *c, struct buffer *out, struct error *err) {
    char id[40];
    return make_id(id, sizeof id, "call_", err) &&
           buffer_printf(out, err,
                         "\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":", id) &&
           api_put_text(out, c->name, err) && put(out, ",\"arguments\":", err) &&
           api_put_string(out, c->arguments, c->n_arguments, err) && put(out, "}", err);
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
    return put_chunk_head(r, out, err) && put(out, "{\"index\":0,\"text\":", err) &&
           api_put_string(out, text, n, err) && put_logprobs(r, out, err) &&
           put_chunk_tail(r, NULL, out, err);
}

static bool put_chat_chunk(struct api_reply *r, const struct chat_part *part, struct buffer *out,
                           struct error *err) {
    bool ok = put_chunk_head(r, out, err) && put(out, "{\"index\":0,\"delta\":{", err);
    if (ok && part->kind == CHAT_CALL) {
        ok = buffer_printf(out, err, "\"tool_calls\":[{\"index\":%d,", r->n_call) &&
             put_call(part->call, out, err) && put(out, "}]", err);
    } else if (ok) {
        ok =
            put(out, part->kind == CHAT_CONTENT ? "\"content\":" : "\"reasoning_content\":", err) &&
            api_put_string(out, part->text, part->n, err);
    }
    return ok && put(out, "}", err) && put_logprobs(r, out, err) &&
           put_chunk_tail(r, NULL, out, err);
}

static bool put_finish_chunk(const struct api_reply *r, const char *finish, struct buffer *out,
                             struct error *err) {
    return put_chunk_head(r, out, err) &&
           put(out,
               r->kind == API_CHAT ? "{\"index\":0,\"delta\":{},\"logprobs\":null"
                                   : "{\"index\":0,\"text\":\"\",\"logprobs\":null",
               err) &&
           put_chunk_tail(r, finish, out, err);
}

static bool put_last_chunks(struct api_reply *r, const struct generation_event *event,
                            struct buffer *out, struct error *err) {
    bool ok = put_finish_chunk(r, reason(r, event), out, err);
    if (ok && r->include_usage) {
        ok = put_chunk_head(r, out, err) && put(out, "]", err) && put_usage(r, out, err) &&
             put(out, "}\n\n", err);
    }
    return ok && put(out, "data: [DONE]\n\n", err);
}

/* ---- events ---- */

struct target {
    struct api_reply *r;
    struct buffer *out;
};

/* Keeps a part of a chat for the whole reply. */
static bool keep_part(struct api_reply *r, const struct chat_part *part, struct error *err) {
    if (part->kind != CHAT_CALL) {
        struct buffer *to = part->kind == CHAT_CONTENT ? &r->text : &r->reasoning;
        return buffer_append(to, part->text, part->n, err);
    }
    return put(&r->calls, r->n_call > 0 ? ",{" : "{", err) &&
           put_call(part->call, &r->calls, err) && put(&r->calls, "}", err);
}

static bool on_part(void *user, const struct chat_part *part, struct error *err) {
    const struct target *t = user;
    if (part->kind == CHAT_CALL && t->r->one_call && t->r->n_call > 0) {
        return true; /* the model cannot be kept from it, but the client need not see it */
    }
    bool ok = t->r->stream ? put_chat_chunk(t->r, part, t->out, err) : keep_part(t->r, part, err);
    t->r->n_call += part->kind == CHAT_CALL;
    return ok;
}

static bool put_chat(struct api_reply *r, const struct generation_event *event, bool last,
                     struct buffer *out, struct error *err) {
    static const struct chat_part nothing = {.kind = CHAT_CONTENT, .text = ""};
    struct target t = {r, out};
    return (event->n_text == 0 ||
            chat_output_push(&r->output, event->text, event->n_text, on_part, &t, err)) &&
           (!last || chat_output_flush(&r->output, on_part, &t, err)) &&
           (!last || !r->stream || r->lists[0].size == 0 || put_chat_chunk(r, &nothing, out, err));
}

static bool put_text(struct api_reply *r, const struct generation_event *event, bool last,
                     struct buffer *out, struct error *err) {
    if (!r->stream) {
        return buffer_append(&r->text, event->text, event->n_text, err);
    }
    return (event->n_text == 0 && !(last && r->lists[0].size > 0)) ||
           put_text_chunk(r, event->text, event->n_text, out, err);
}

/* Log-probabilities wait for the text that their tokens became, as long as there will be some. */
static bool put_event(struct api_reply *r, const struct generation_event *event, struct buffer *out,
                      struct error *err) {
    bool last = event->finished || event->error, chat = r->kind == API_CHAT;
    if (event->error && !r->begun) {
        return true;
    }
    if (r->stream && chat && !r->begun && !put_role_chunk(r, out, err)) {
        return false;
    }
    r->begun = true;
    return (chat ? put_chat : put_text)(r, event, last, out, err);
}

static bool put_end(struct api_reply *r, const struct generation_event *event, struct buffer *out,
                    struct error *err) {
    struct api_error e;
    if (!event->error) {
        return !event->finished || (r->stream ? put_last_chunks : put_whole)(r, event, out, err);
    }
    api_error_from(&e, event->error);
    return !r->stream || api_error_event(&e, out, err);
}

bool api_reply_event(struct api_reply *r, const struct generation_event *event, struct buffer *out,
                     struct error *err) {
    size_t before = out->size;
    r->n_prompt = event->n_prompt;
    r->n_generated = event->n_generated;
    bool ok = (!event->has_token || !r->logprobs ||
               (r->kind == API_CHAT ? add_chat_entry : add_completion_entry)(r, event, err)) &&
              put_event(r, event, out, err) && put_end(r, event, out, err);
    if (!ok) {
        out->size = before;
    }
    return ok;
}

bool api_reply_abort(struct api_reply *r, struct buffer *out, struct error *err) {
    const struct generation_event nothing = {.text = "", .finished = true};
    size_t before = out->size;
    bool ok = put_event(r, &nothing, out, err) && put_finish_chunk(r, "abort", out, err);
    if (!ok) {
        out->size = before;
    }
    return ok;
}

/* ---- models ---- */

bool api_models_body(const struct api_model *m, bool list, struct buffer *out, struct error *err) {
    size_t before = out->size;
    if (!m) {
        return put(out, "{\"object\":\"list\",\"data\":[]}", err);
    }
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
