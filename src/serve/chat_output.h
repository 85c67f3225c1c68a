/* The text of Qwen's assistant, taken apart while it streams: what it thinks (<think>...</think>,
 * at the start), what it says, and the tools that it calls (<tool_call>{...}</tool_call>). No part
 * of a tag is given out as text, wherever the stream is cut. Newlines beside tags belong to the
 * tags, as they do for the chat template that reads the answer in the next turn. */
#pragma once

#include "base/buffer.h"
#include "serve/tool_call.h"

enum chat_part_kind { CHAT_REASONING, CHAT_CONTENT, CHAT_CALL };

/* Borrowed for the call that is told of it. */
struct chat_part {
    enum chat_part_kind kind;
    const char *text; /* [n] of REASONING and CONTENT; never empty */
    size_t n;
    const struct tool_call *call; /* of CALL */
};

typedef bool chat_output_part(void *user, const struct chat_part *part, struct error *err);

/* Zero-initialised, all is content. */
struct chat_output {
    bool reasoning, tools; /* what there is beside content; set before the first push */
    enum { CHAT_AT_START, CHAT_THINKS, CHAT_SAYS, CHAT_CALLS } state;
    bool after_tag;     /* newlines here belong to it */
    struct buffer held; /* owns: what may yet become part of a tag, or is inside a call */
};

/* Takes n bytes and tells of what is certain. A call that is none is content, tags and all.
 * Errors: MEMORY, on_part's. */
bool chat_output_push(struct chat_output *o, const char *text, size_t n, chat_output_part *on_part,
                      void *user, struct error *err);

/* The text has ended: tells of what was held. A call may lack its closing tag.
 * Errors: as chat_output_push. */
bool chat_output_flush(struct chat_output *o, chat_output_part *on_part, void *user,
                       struct error *err);

void chat_output_finish(struct chat_output *o);
