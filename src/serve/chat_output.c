#include "serve/chat_output.h"

#include <string.h>

static const char think[] = "<think>", think_end[] = "</think>";
static const char call[] = "<tool_call>", call_end[] = "</tool_call>";

/* Who is told. */
struct listener {
    chat_output_part *on_part;
    void *user;
};

static size_t newlines_at(const struct buffer *b, size_t from) {
    size_t n = 0;
    while (from + n < b->size && b->data[from + n] == '\n') {
        n++;
    }
    return n;
}

/* n, less the newlines that end there. */
static size_t before_newlines(const struct buffer *b, size_t n) {
    while (n > 0 && b->data[n - 1] == '\n') {
        n--;
    }
    return n;
}

static bool begins_with(const struct buffer *b, size_t from, const char *tag) {
    size_t n = strlen(tag);
    return b->size - from >= n && memcmp(b->data + from, tag, n) == 0;
}

/* What is left from there on is the beginning of the tag, or nothing. */
static bool may_become(const struct buffer *b, size_t from, const char *tag) {
    size_t n = b->size - from;
    return n < strlen(tag) && (n == 0 || memcmp(b->data + from, tag, n) == 0);
}

/* Where the tag begins; -1: it is not there. */
static long find(const struct buffer *b, const char *tag) {
    const unsigned char *at = b->size ? memmem(b->data, b->size, tag, strlen(tag)) : NULL;
    return at ? (long)(at - b->data) : -1;
}

static void drop(struct buffer *b, size_t n) {
    if (n > 0) {
        memmove(b->data, b->data + n, b->size - n);
        b->size -= n;
    }
}

/* The first n bytes held, as text. */
static bool tell_text(struct chat_output *o, enum chat_part_kind kind, size_t n,
                      const struct listener *l, struct error *err) {
    const struct chat_part part = {kind, (const char *)o->held.data, n, NULL};
    bool ok = n == 0 || l->on_part(l->user, &part, err);
    drop(&o->held, n);
    return ok;
}

/* ---- one state each: *again where another state has something to look at ---- */

static void at_start(struct chat_output *o, bool ended, bool *again) {
    size_t newlines = newlines_at(&o->held, 0);
    *again = true;
    if (o->reasoning && begins_with(&o->held, newlines, think)) {
        drop(&o->held, newlines + strlen(think));
        o->state = CHAT_THINKS;
        o->after_tag = true;
    } else if (o->reasoning && !ended && may_become(&o->held, newlines, think)) {
        *again = false;
    } else {
        o->state = CHAT_SAYS;
    }
}

/* Text up to a tag, or all of it that cannot become part of one. */
static bool in_text(struct chat_output *o, enum chat_part_kind kind, const char *tag, bool ended,
                    bool *again, const struct listener *l, struct error *err) {
    if (o->after_tag) {
        drop(&o->held, newlines_at(&o->held, 0));
        o->after_tag = o->held.size == 0;
    }
    long at = tag ? find(&o->held, tag) : -1;
    size_t n = at >= 0 ? (size_t)at : o->held.size;
    *again = at >= 0;
    if (at < 0 && tag && !ended) {
        for (size_t from = n > strlen(tag) ? n - strlen(tag) : 0; from < n; from++) {
            if (may_become(&o->held, from, tag)) {
                n = from;
                break;
            }
        }
    }
    if (at >= 0 || (tag && !ended)) {
        n = before_newlines(&o->held, n);
    }
    return tell_text(o, kind, n, l, err);
}

/* Held: newlines, the tag, and the call so far. */
static bool in_call(struct chat_output *o, bool ended, bool *again, const struct listener *l,
                    struct error *err) {
    size_t from = newlines_at(&o->held, 0) + strlen(call);
    long end = find(&o->held, call_end);
    struct tool_call made;
    *again = end >= 0;
    if (end < 0 && !ended) {
        return true;
    }
    size_t to = end >= 0 ? (size_t)end : o->held.size;
    size_t whole = end >= 0 ? to + strlen(call_end) : to;
    o->state = CHAT_SAYS;
    if (!tool_call_parse(&made, (const char *)o->held.data + from, to - from)) {
        return tell_text(o, CHAT_CONTENT, whole, l, err);
    }
    const struct chat_part part = {.kind = CHAT_CALL, .call = &made};
    bool ok = l->on_part(l->user, &part, err);
    tool_call_finish(&made);
    drop(&o->held, whole);
    o->after_tag = true;
    return ok;
}

static bool advance(struct chat_output *o, bool ended, const struct listener *l,
                    struct error *err) {
    bool ok = true, again = true;
    while (ok && again) {
        switch (o->state) {
        case CHAT_AT_START:
            at_start(o, ended, &again);
            break;
        case CHAT_THINKS:
            ok = in_text(o, CHAT_REASONING, think_end, ended, &again, l, err);
            if (ok && again) {
                drop(&o->held, newlines_at(&o->held, 0) + strlen(think_end));
                o->state = CHAT_SAYS;
                o->after_tag = true;
            }
            break;
        case CHAT_SAYS:
            ok = in_text(o, CHAT_CONTENT, o->tools ? call : NULL, ended, &again, l, err);
            o->state = again ? CHAT_CALLS : CHAT_SAYS;
            break;
        case CHAT_CALLS:
            ok = in_call(o, ended, &again, l, err);
            break;
        }
    }
    return ok;
}

bool chat_output_push(struct chat_output *o, const char *text, size_t n, chat_output_part *on_part,
                      void *user, struct error *err) {
    const struct listener l = {on_part, user};
    return buffer_append(&o->held, text, n, err) && advance(o, false, &l, err);
}

bool chat_output_flush(struct chat_output *o, chat_output_part *on_part, void *user,
                       struct error *err) {
    const struct listener l = {on_part, user};
    return advance(o, true, &l, err);
}

void chat_output_finish(struct chat_output *o) {
    buffer_finish(&o->held);
    *o = (struct chat_output){0};
}
