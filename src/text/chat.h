/* Chat messages to prompt text: the templates of Qwen, Llama 3, SmolLM2 and plain ChatML, written
 * out in C and picked by what the checkpoint holds. There is no Jinja engine. */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "base/buffer.h"
#include "base/error.h"
#include "text/tokenizer.h"

enum chat_template {
    CHAT_QWEN3,  /* the hybrid one, with enable_thinking; tools */
    CHAT_QWEN25, /* Qwen2.5: a default system message; tools */
    CHAT_QWEN2,  /* ChatML with a default system message */
    CHAT_LLAMA3,
    CHAT_LLAMA31, /* 3.1 to 3.3: a system message with dates */
    CHAT_SMOLLM2,
    CHAT_CHATML,
    CHAT_TEMPLATE_COUNT
};

struct chat_options {
    bool add_generation_prompt; /* end with the start of the assistant's answer */
    bool enable_thinking;       /* Qwen3; default true */
    const char *date;           /* Llama 3.1+: "26 Jul 2024"; NULL: that default */
};

/* Recognises the checkpoint's template. Errors: UNSUPPORTED (unknown template, or none). */
bool chat_template_detect(const struct tokenizer *t, enum chat_template *out, struct error *err);

const char *chat_template_name(enum chat_template t);

/* Renders messages (JSON array of {role, content, ...}, borrowed) and tools (JSON array or NULL) to
 * text. Encode the text with add_special = false.
 * Errors: INPUT (names messages[i] and the field), UNSUPPORTED (role or tools the template lacks).
 */
bool chat_render(enum chat_template t, const json_t *messages, const json_t *tools,
                 const struct chat_options *options, const char *bos_token, struct buffer *out,
                 struct error *err);
