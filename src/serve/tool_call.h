/* The call of a tool as Qwen writes it: {"name": ..., "arguments": {...}}. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

struct tool_call {
    json_t *json;          /* owns; name points into it */
    const char *name;      /* of the function */
    const char *arguments; /* [n_arguments] JSON as the model wrote it; points into the text, or */
    size_t n_arguments;    /* into json */
};

/* text [n]: borrowed as long as the call lives. False where it is none; out is left alone then. */
bool tool_call_parse(struct tool_call *out, const char *text, size_t n);

void tool_call_finish(struct tool_call *c);
