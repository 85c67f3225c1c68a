/* lockstep tokenize: text or a chat to token ids, and ids back to text. Reads the tokenizer's files
 * alone; starts no ranks. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "cli/launch_env.h"
#include "cli/stdio_util.h"
#include "format/show.h"
#include "text/chat.h"
#include "text/tokenizer.h"

struct tokenize_options {
    struct common_options common;
    const char *text;
    const char *file;
    const char *chat;
    const char *tools;
    const char *decode;
    const char *date;
    bool no_special;
    bool no_generation_prompt;
    bool no_thinking;
    bool json;
    bool has_text, has_file, has_chat, has_decode;
};

enum { OWN_OPTION_COUNT = 12, OPTION_COUNT = OWN_OPTION_COUNT + COMMON_OPTION_COUNT };

static void fill_table(struct tokenize_options *o, struct option *table) {
    const struct option own[OWN_OPTION_COUNT] = {
        {.type = OPTION_SECTION, .name = "Input (one of)"},
        {.type = OPTION_STRING,
         .name = "text",
         .value = &o->text,
         .seen = &o->has_text,
         .arg = "TEXT",
         .help = "this text"},
        {.type = OPTION_STRING,
         .name = "file",
         .value = &o->file,
         .seen = &o->has_file,
         .arg = "FILE",
         .help = "the text in FILE; - is standard input"},
        {.type = OPTION_STRING,
         .name = "chat",
         .value = &o->chat,
         .seen = &o->has_chat,
         .arg = "FILE",
         .help = "a JSON array of {\"role\", \"content\"}, rendered by the chat template;\n"
                 "- is standard input"},
        {.type = OPTION_STRING,
         .name = "decode",
         .value = &o->decode,
         .seen = &o->has_decode,
         .arg = "IDS",
         .help = "token ids, as 1,2,3: prints their text"},
        {.type = OPTION_SECTION, .name = "How"},
        {.type = OPTION_STRING,
         .name = "tools",
         .value = &o->tools,
         .arg = "FILE",
         .help = "a JSON array of tools (with --chat)"},
        {.type = OPTION_FLAG,
         .name = "no-thinking",
         .value = &o->no_thinking,
         .help = "ask Qwen3 to answer without thinking first (with --chat)"},
        {.type = OPTION_FLAG,
         .name = "no-generation-prompt",
         .value = &o->no_generation_prompt,
         .help = "do not begin the assistant's answer (with --chat)"},
        {.type = OPTION_STRING,
         .name = "date",
         .value = &o->date,
         .arg = "DATE",
         .help = "today for Llama 3.1 and later; default 26 Jul 2024 (with --chat)"},
        {.type = OPTION_FLAG,
         .name = "no-special",
         .value = &o->no_special,
         .help = "do not add what the tokenizer puts around a text, such as BOS;\n"
                 "with --decode: leave special tokens out"},
        {.type = OPTION_FLAG,
         .name = "json",
         .value = &o->json,
         .help = "print one JSON object with ids and, of a chat or --decode, text"},
    };
    memcpy(table, own, sizeof own);
    common_options_table(&o->common, table + OWN_OPTION_COUNT);
}

static bool check_options(const struct tokenize_options *o, struct error *err) {
    int inputs = o->has_text + o->has_file + o->has_chat + o->has_decode;
    if (inputs != 1) {
        return error_set(err, ERROR_USAGE, "%s: give one of --text, --file, --chat and --decode",
                         inputs == 0 ? "nothing to tokenize" : "more than one input");
    }
    if (!o->has_chat && (o->tools || o->no_thinking || o->no_generation_prompt || o->date)) {
        return error_set(err, ERROR_USAGE, "%s goes with --chat",
                         o->tools         ? "--tools"
                         : o->no_thinking ? "--no-thinking"
                         : o->date        ? "--date"
                                          : "--no-generation-prompt");
    }
    return true;
}

/* ---- input ---- */

/* Renders --chat (and --tools) to text. */
static bool render_chat(const struct tokenize_options *o, const struct tokenizer *t,
                        struct buffer *out, struct error *err) {
    enum chat_template template;
    json_t *messages = NULL;
    json_t *tools = NULL;
    const struct chat_options chat = {.add_generation_prompt = !o->no_generation_prompt,
                                      .enable_thinking = !o->no_thinking,
                                      .date = o->date};
    bool ok = (chat_template_detect(t, &template, err) ||
               error_wrap(err, "%s", show_path(common_model(&o->common)).text)) &&
              stdio_read_json(o->chat, &messages, err) &&
              (!o->tools || stdio_read_json(o->tools, &tools, err)) &&
              (chat_render(template, messages, tools, &chat, tokenizer_bos_token(t), out, err) ||
               error_wrap(err, "%s", stdio_name(o->chat)));
    json_decref(messages);
    json_decref(tools);
    return ok;
}

/* ---- output ---- */

/* {"ids": [...], "text": "..."}; text NULL leaves it out. */
static bool print_json(const struct token_list *ids, const struct buffer *text, struct error *err) {
    json_t *object = json_pack("{s:o}", "ids", stdio_ids_json(ids));
    if (text) {
        json_object_set_new(object, "text",
                            json_stringn(text->data ? (const char *)text->data : "", text->size));
    }
    return stdio_print_json(object, JSON_COMPACT, err);
}

/* ---- the two directions ---- */

static bool run_encode(const struct tokenize_options *o, const struct tokenizer *t,
                       struct error *err) {
    struct buffer text = {0};
    struct token_list ids = {0};
    bool ok = false;

    if (o->has_text   ? !buffer_append(&text, o->text, strlen(o->text), err)
        : o->has_file ? !stdio_read(o->file, &text, err)
                      : !render_chat(o, t, &text, err)) {
        goto out;
    }
    const char *bytes = text.data ? (const char *)text.data : "";
    if (!tokenizer_encode(t, bytes, text.size, !o->has_chat && !o->no_special, &ids, err)) {
        error_wrap(err, "%s",
                   o->has_text   ? "--text"
                   : o->has_file ? stdio_name(o->file)
                                 : stdio_name(o->chat));
        goto out;
    }
    if (o->json) {
        ok = print_json(&ids, o->has_chat ? &text : NULL, err);
    } else {
        stdio_print_ids(&ids);
        ok = true;
    }
out:
    buffer_finish(&text);
    token_list_finish(&ids);
    return ok;
}

/* The text as it is; JSON must be UTF-8, so there what is not a character becomes U+FFFD. */
static bool decode(const struct tokenize_options *o, const struct tokenizer *t,
                   const struct token_list *ids, struct buffer *text, struct error *err) {
    struct detokenizer stream = {0};
    if (!o->json) {
        return tokenizer_decode(t, ids->ids, ids->n, o->no_special, text, err);
    }
    for (size_t i = 0; i < ids->n; i++) {
        if (!detokenizer_push(&stream, t, ids->ids[i], o->no_special, text, err)) {
            return false;
        }
    }
    return detokenizer_flush(&stream, text, err);
}

static bool run_decode(const struct tokenize_options *o, const struct tokenizer *t,
                       struct error *err) {
    int32_t *ids = NULL;
    int n = 0;
    struct buffer text = {0};
    if (!options_parse_ints(o->decode, "--decode", &ids, &n, err)) {
        return false;
    }
    struct token_list list = {.ids = ids, .n = (size_t)n};
    bool ok = decode(o, t, &list, &text, err) || error_wrap(err, "--decode");
    if (ok && o->json) {
        ok = print_json(&list, &text, err);
    } else if (ok) {
        fwrite(text.data ? (const char *)text.data : "", 1, text.size, stdout);
        putchar('\n');
    }
    free(ids);
    buffer_finish(&text);
    return ok;
}

static bool run(const struct command *self, int argc, char **argv, struct error *err) {
    struct tokenize_options o = {0};
    struct option table[OPTION_COUNT];
    struct tokenizer *t = NULL;
    fill_table(&o, table);
    if (!command_parse(self, &o.common, table, OPTION_COUNT, argc, argv, NULL, 0, NULL, err)) {
        return false;
    }
    if (o.common.help) {
        return true;
    }
    if (!check_options(&o, err)) {
        return false;
    }
    if (!launch_env_is_leader()) { /* under a launcher the others have nothing to add */
        return true;
    }
    if (!tokenizer_load(&t, common_model(&o.common), 0, err)) {
        return false;
    }
    bool ok = o.has_decode ? run_decode(&o, t, err) : run_encode(&o, t, err);
    tokenizer_destroy(t);
    return ok;
}

const struct command command_tokenize = {
    .name = "tokenize",
    .summary = "Text or a chat to token ids, and back.",
    .synopsis = "[--model DIR] (--text T | --file F | --chat F | --decode IDS) [--json]",
    .run = run,
};
