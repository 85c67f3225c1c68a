#include <string.h>

#include "text/tokenizer.h"
#include "text/utf8.h"

static const char replacement[] = "\xef\xbf\xbd"; /* U+FFFD */

bool detokenizer_flush(struct detokenizer *d, struct buffer *out, struct error *err) {
    bool pending = d->n_pending > 0;
    d->n_pending = 0;
    return !pending || buffer_append(out, replacement, sizeof replacement - 1, err);
}

static bool push_byte(struct detokenizer *d, unsigned char byte, struct buffer *out,
                      struct error *err) {
    if (!utf8_continues(d->pending, (size_t)d->n_pending, byte)) {
        /* What is pending can no longer become a character; the byte may start another. */
        if (!detokenizer_flush(d, out, err)) {
            return false;
        }
        if (utf8_length(byte) == 0) {
            return buffer_append(out, replacement, sizeof replacement - 1, err);
        }
    }
    d->pending[d->n_pending++] = byte;
    if ((size_t)d->n_pending < utf8_length(d->pending[0])) {
        return true;
    }
    size_t n = (size_t)d->n_pending;
    d->n_pending = 0;
    return buffer_append(out, d->pending, n, err);
}

bool detokenizer_push(struct detokenizer *d, const struct tokenizer *t, int32_t id,
                      bool skip_special, struct buffer *out, struct error *err) {
    if (!tokenizer_check_id(t, id, err)) {
        return false;
    }
    if (skip_special && tokenizer_is_special(t, id)) {
        return true;
    }
    size_t n;
    const char *bytes = tokenizer_token_bytes(t, id, &n);
    for (size_t i = 0; i < n; i++) {
        if (!push_byte(d, (unsigned char)bytes[i], out, err)) {
            return false;
        }
    }
    return true;
}
