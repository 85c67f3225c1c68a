/* Any text to tokens and back. First byte: bit 0 chooses the tokenizer, bit 1 its special tokens,
 * bit 2 reads the bytes as token ids instead. */
#include <string.h>

#include "fuzz.h"
#include "text/utf8.h"

/* The ids as one stream, and as one piece: both UTF-8 where the text is. */
static void decode(const struct tokenizer *t, const struct token_list *ids, bool skip_special,
                   struct buffer *whole) {
    struct buffer stream = {0};
    struct detokenizer d = {0};
    struct error err = {0};
    bool ok = fuzz_result(tokenizer_decode(t, ids->ids, ids->n, skip_special, whole, &err), &err);
    for (size_t i = 0; ok && i < ids->n; i++) {
        FUZZ_CHECK(detokenizer_push(&d, t, ids->ids[i], skip_special, &stream, &err));
    }
    FUZZ_CHECK(!ok || detokenizer_flush(&d, &stream, &err));
    FUZZ_CHECK(utf8_valid_prefix((const char *)stream.data, stream.size) == stream.size);
    if (ok && utf8_valid_prefix((const char *)whole->data, whole->size) == whole->size) {
        FUZZ_CHECK(stream.size == whole->size);
        FUZZ_CHECK(stream.size == 0 || memcmp(stream.data, whole->data, stream.size) == 0);
    }
    buffer_finish(&stream);
}

static void read_ids(struct fuzz_input in, struct token_list *ids) {
    struct error err;
    while (in.size > 0) {
        int32_t id = (int32_t)(fuzz_byte(&in) << 8);
        id |= (int32_t)fuzz_byte(&in);
        FUZZ_CHECK(token_list_push(ids, (int16_t)id, &err));
    }
}

void fuzz_one(struct fuzz_input in) {
    unsigned how = fuzz_byte(&in);
    bool llama = how & 1, special = how & 2, as_ids = how & 4;
    const struct tokenizer *t = fuzz_tokenizer(llama ? "tiny-llama" : "tiny-qwen3");
    const char *text = (const char *)in.data;
    struct token_list ids = {0};
    struct buffer out = {0};
    struct error err = {0};
    if (as_ids) {
        read_ids(in, &ids);
        decode(t, &ids, special, &out);
    } else {
        bool ok = fuzz_result(tokenizer_encode(t, text, in.size, special, &ids, &err), &err);
        FUZZ_CHECK(ok == (utf8_valid_prefix(text, in.size) == in.size));
        decode(t, &ids, false, &out);
        if (ok && llama && !special) { /* Qwen's normalises */
            FUZZ_CHECK(out.size == in.size);
            FUZZ_CHECK(in.size == 0 || memcmp(out.data, text, in.size) == 0);
        }
    }
    token_list_finish(&ids);
    buffer_finish(&out);
}
