/* {"messages": ..., "tools": ...} through every chat template. First byte: its bits are options. */
#include <string.h>

#include "format/json.h"
#include "fuzz.h"
#include "text/chat.h"
#include "text/python_json.h"
#include "text/utf8.h"

/* What Python's json.dumps would write reads back as the same value. */
static void check_dump(const json_t *value) {
    struct buffer out = {0};
    struct error err = {0};
    if (fuzz_result(python_json_dump(value, &out, &err), &err)) {
        json_t *back =
            json_loadb((const char *)out.data, out.size, JSON_ALLOW_NUL | JSON_DECODE_ANY, NULL);
        FUZZ_CHECK(back && json_equal(back, value));
        json_decref(back);
    }
    buffer_finish(&out);
}

void fuzz_one(struct fuzz_input in) {
    unsigned bits = fuzz_byte(&in);
    struct chat_options options = {.add_generation_prompt = bits & 1,
                                   .enable_thinking = bits & 2,
                                   .date = bits & 4 ? "1 Jan 2030" : NULL};
    json_t *root;
    struct error err = {0};
    struct buffer out = {0};
    if (!fuzz_result(
            json_parse(&root, "chat", (const char *)in.data, in.size, JSON_ALLOW_NUL, &err),
            &err)) {
        return;
    }
    check_dump(root);
    FUZZ_CHECK(buffer_append(&out, "kept", 4, &err));
    for (int t = 0; t < CHAT_TEMPLATE_COUNT; t++) {
        bool ok = chat_render((enum chat_template)t, json_object_get(root, "messages"),
                              json_object_get(root, "tools"), &options, bits & 8 ? "<s>" : NULL,
                              &out, &err);
        FUZZ_CHECK(fuzz_result(ok, &err) || out.size == 4);
        FUZZ_CHECK(utf8_valid_prefix((const char *)out.data, out.size) == out.size);
        out.size = 4;
    }
    json_decref(root);
    buffer_finish(&out);
}
