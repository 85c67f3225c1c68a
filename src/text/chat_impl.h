/* What the files chat*.c share. */
#pragma once

#include "text/chat.h"

/* A run of bytes, borrowed. */
struct span {
    const char *p;
    size_t n;
};

struct span span_of(const char *text);
bool span_equal(struct span s, const char *text);
/* Offset of the first or last occurrence of `text`; -1 when there is none. */
long span_find(struct span s, const char *text);
long span_find_last(struct span s, const char *text);
/* Without the newlines (the character alone, not all white space) at its start or end. */
struct span span_lstrip_newlines(struct span s);
struct span span_rstrip_newlines(struct span s);

/* Appends strings up to a NULL. Errors: MEMORY. */
bool chat_put(struct buffer *out, struct error *err, ...) __attribute__((sentinel));
bool chat_put_span(struct buffer *out, struct span s, struct error *err);

/* One message of the list, checked. */
struct chat_message {
    struct span role;
    struct span content;
    const json_t *json; /* borrowed */
    size_t index;
};

/* Reads messages[i]. Content may be null or missing only beside tool_calls, and is then empty.
 * Errors: INPUT. */
bool chat_message_at(const json_t *messages, size_t i, struct chat_message *out, struct error *err);

/* True when messages[i] exists and has this role. */
bool chat_has_role(const json_t *messages, size_t i, const char *role);

/* The non-empty array of tool calls; NULL when there is none. Errors: INPUT. */
bool chat_tool_calls(const struct chat_message *m, const json_t **out, struct error *err);

/* Errors: UNSUPPORTED, naming the message's role. */
bool chat_refuse_role(const struct chat_message *m, const char *supported, struct error *err);

/* One renderer per family; `tools` is NULL or a non-empty array. Errors: INPUT, UNSUPPORTED. */
bool chat_render_qwen3(const json_t *messages, const json_t *tools, const struct chat_options *o,
                       struct buffer *out, struct error *err);
bool chat_render_qwen25(const json_t *messages, const json_t *tools, const struct chat_options *o,
                        struct buffer *out, struct error *err);
/* Llama 3, or 3.1 when `date` is not NULL. */
bool chat_render_llama(const json_t *messages, const char *date, const char *bos_token,
                       const struct chat_options *o, struct buffer *out, struct error *err);
