/* tokenizer.json, a zero byte, and tokenizer_config.json (none: it is not there). What is accepted
 * encodes a text, and decodes what came out. */
#include <string.h>

#include "fuzz.h"
#include "text/chat.h"
#include "text/utf8.h"

static const char text[] =
    "The <s>caf\xc3\xa9's  1234 \xe4\xbd\xa0\xe5\xa5\xbd!\r\n\n \taaaaaaaaaaaaaaaaaaab"
    "e\xcc\x81<|im_end|>";

static void use(const struct tokenizer *t) {
    struct token_list ids = {0};
    struct buffer out = {0};
    struct detokenizer d = {0};
    struct error err = {0};
    enum chat_template kind;
    if (fuzz_result(tokenizer_encode(t, text, sizeof text - 1, true, &ids, &err), &err)) {
        FUZZ_CHECK(tokenizer_decode(t, ids.ids, ids.n, true, &out, &err));
        buffer_clear(&out);
        for (size_t i = 0; i < ids.n; i++) {
            FUZZ_CHECK(ids.ids[i] >= 0 && ids.ids[i] < tokenizer_size(t));
            FUZZ_CHECK(detokenizer_push(&d, t, ids.ids[i], false, &out, &err));
        }
        FUZZ_CHECK(detokenizer_flush(&d, &out, &err));
        FUZZ_CHECK(utf8_valid_prefix((const char *)out.data, out.size) == out.size);
    }
    fuzz_result(chat_template_detect(t, &kind, &err), &err);
    tokenizer_find(t, "<s>");
    tokenizer_token_bytes(t, tokenizer_size(t) - 1, &out.size);
    token_list_finish(&ids);
    buffer_finish(&out);
}

void fuzz_one(struct fuzz_input in) {
    size_t size = in.size;
    struct fuzz_input file = fuzz_part(&in);
    struct tokenizer *t;
    struct error err = {0};
    fuzz_put("tokenizer.json", file.data, file.size, 0);
    if (file.size < size) {
        fuzz_put("tokenizer_config.json", in.data, in.size, 0);
    } else {
        fuzz_drop("tokenizer_config.json");
    }
    if (fuzz_result(tokenizer_load(&t, fuzz_dir(), 0, &err), &err)) {
        use(t);
        tokenizer_destroy(t);
    }
    if (fuzz_result(tokenizer_load(&t, fuzz_dir(), 300, &err), &err)) {
        FUZZ_CHECK(tokenizer_size(t) <= 300);
        tokenizer_destroy(t);
    }
}
