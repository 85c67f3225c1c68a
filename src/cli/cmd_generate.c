#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/launch.h"
#include "cli/session.h"
#include "cli/stdio_util.h"
#include "format/show.h"
#include "leader/generate.h"
#include "text/chat.h"
#include "text/stop.h"

struct generate_options {
    struct common_options common;
    const char *prompt;
    const char *prompt_file;
    const char *ids;
    const char *system;
    bool chat;
    bool no_thinking;
    int max_tokens;
    struct sampling sampling;
    struct option_strings stops;
    bool ignore_eos;
    bool json;
    bool stats;
    /* filled in on rank 0 */
    struct token_list prompt_ids;
};

enum { N_OWN = 23, DEFAULT_MAX_TOKENS = 128 };

static int options_table(struct generate_options *o, struct option *table) {
    struct sampling *s = &o->sampling;
    *s = sampling_default();
    o->max_tokens = DEFAULT_MAX_TOKENS;
    const struct option own[] = {
        {.type = OPTION_SECTION, .name = "Prompt (one of)"},
        {.type = OPTION_STRING,
         .name = "prompt",
         .short_name = 'p',
         .value = &o->prompt,
         .arg = "TEXT",
         .help = "the text to continue"},
        {.type = OPTION_STRING,
         .name = "prompt-file",
         .short_name = 'f',
         .value = &o->prompt_file,
         .arg = "FILE",
         .help = "read it from FILE; - is standard input"},
        {.type = OPTION_STRING,
         .name = "ids",
         .value = &o->ids,
         .arg = "1,2,3",
         .help = "token ids, fed as they are"},
        {.type = OPTION_SECTION, .name = "Chat"},
        {.type = OPTION_FLAG,
         .name = "chat",
         .value = &o->chat,
         .help = "the prompt is a user's message in the model's chat format"},
        {.type = OPTION_STRING,
         .name = "system",
         .value = &o->system,
         .arg = "TEXT",
         .help = "the system message (with --chat)"},
        {.type = OPTION_FLAG,
         .name = "no-thinking",
         .value = &o->no_thinking,
         .help = "ask Qwen3 to answer without thinking first (with --chat)"},
        {.type = OPTION_SECTION, .name = "Generation"},
        {.type = OPTION_INT,
         .name = "max-tokens",
         .short_name = 'n',
         .value = &o->max_tokens,
         .arg = "N",
         .min = 0,
         .max = 1 << 26,
         .help = "tokens to generate (default: 128; 0: until the\ncontext is full)"},
        {.type = OPTION_DOUBLE,
         .name = "temperature",
         .value = &s->temperature,
         .arg = "T",
         .min = 0,
         .max = 100,
         .help = "0 takes the most probable token (default: 0)"},
        {.type = OPTION_INT,
         .name = "top-k",
         .value = &s->top_k,
         .arg = "K",
         .min = 0,
         .max = 1 << 24,
         .help = "sample among the K best (default: 0, off)"},
        {.type = OPTION_DOUBLE,
         .name = "top-p",
         .value = &s->top_p,
         .arg = "P",
         .min = 1e-9,
         .max = 1,
         .help = "sample within probability mass P (default: 1, off)"},
        {.type = OPTION_DOUBLE,
         .name = "min-p",
         .value = &s->min_p,
         .arg = "P",
         .min = 0,
         .max = 1,
         .help = "drop tokens under P times the best (default: 0, off)"},
        {.type = OPTION_DOUBLE,
         .name = "repetition-penalty",
         .value = &s->repetition_penalty,
         .arg = "R",
         .min = 0.01,
         .max = 100,
         .help = "divide logits of tokens seen (default: 1, off)"},
        {.type = OPTION_DOUBLE,
         .name = "presence-penalty",
         .value = &s->presence_penalty,
         .arg = "R",
         .min = -100,
         .max = 100,
         .help = "subtract once per token generated (default: 0)"},
        {.type = OPTION_DOUBLE,
         .name = "frequency-penalty",
         .value = &s->frequency_penalty,
         .arg = "R",
         .min = -100,
         .max = 100,
         .help = "subtract per occurrence (default: 0)"},
        {.type = OPTION_UINT64,
         .name = "seed",
         .value = &s->seed,
         .arg = "S",
         .help = "seed of the sampler; the same seed gives the same\ntext at every number of ranks "
                 "(default: 0)"},
        {.type = OPTION_STRINGS,
         .name = "stop",
         .value = &o->stops,
         .arg = "TEXT",
         .help = "end before TEXT; may be given up to 16 times"},
        {.type = OPTION_FLAG,
         .name = "ignore-eos",
         .value = &o->ignore_eos,
         .help = "go on after an end-of-sequence token"},
        {.type = OPTION_SECTION, .name = "Output"},
        {.type = OPTION_FLAG,
         .name = "json",
         .value = &o->json,
         .help = "one JSON object at the end, instead of the text"},
        {.type = OPTION_FLAG,
         .name = "stats",
         .value = &o->stats,
         .help = "times and rates, on stderr"},
    };
    _Static_assert(sizeof own / sizeof own[0] == N_OWN, "the table has room for them");
    memcpy(table, own, sizeof own);
    common_options_table(&o->common, table + N_OWN);
    return N_OWN + COMMON_OPTION_COUNT;
}

static bool check_options(struct generate_options *o, int n_arg, const char **args,
                          struct error *err) {
    if (n_arg == 1 && strcmp(args[0], "-") == 0) {
        if (o->prompt_file) {
            return error_set(err, ERROR_USAGE, "give either - or --prompt-file, not both");
        }
        o->prompt_file = "-";
    } else if (n_arg > 0) {
        return error_set(err, ERROR_USAGE,
                         "unexpected \"%s\"; a prompt is given with --prompt TEXT", args[0]);
    }
    int given = (o->prompt != NULL) + (o->prompt_file != NULL) + (o->ids != NULL);
    if (given != 1) {
        return error_set(err, ERROR_USAGE,
                         given ? "give only one of --prompt, --prompt-file and --ids"
                               : "what shall be continued? Give --prompt TEXT, --prompt-file FILE, "
                                 "- (standard input) or --ids 1,2,3");
    }
    if (o->ids && o->chat) {
        return error_set(err, ERROR_USAGE, "--chat needs text: give --prompt instead of --ids");
    }
    if ((o->system || o->no_thinking) && !o->chat) {
        return error_set(err, ERROR_USAGE, "--%s does nothing without --chat",
                         o->system ? "system" : "no-thinking");
    }
    struct stop_matcher stops; /* owns nothing before its first push */
    return sampling_validate(&o->sampling, err) &&
           stop_matcher_init(&stops, o->stops.n, o->stops.item, err);
}

/* Where the prompt comes from, for errors. */
static const char *source(const struct generate_options *o) {
    return o->ids ? "--ids" : o->prompt ? "--prompt" : stdio_name(o->prompt_file);
}

/* jansson takes nothing but UTF-8. */
static bool add_message(json_t *messages, const char *role, const char *text, size_t n,
                        const char *name, struct error *err) {
    json_t *message = json_pack("{s:s, s:s%}", "role", role, "content", text, n);
    return (message && json_array_append_new(messages, message) == 0) ||
           error_set(err, ERROR_INPUT, "%s: not UTF-8", name);
}

/* The chat's text: an optional system message and the user's. */
static bool render_chat(const struct generate_options *o, const struct tokenizer *t,
                        const struct buffer *prompt, struct buffer *out, struct error *err) {
    enum chat_template kind;
    if (!chat_template_detect(t, &kind, err)) {
        return error_wrap(err, "%s", show_path(common_model(&o->common)).text);
    }
    json_t *messages = json_array();
    struct chat_options options = {.add_generation_prompt = true,
                                   .enable_thinking = !o->no_thinking};
    bool ok =
        (!o->system ||
         add_message(messages, "system", o->system, strlen(o->system), "--system", err)) &&
        add_message(messages, "user", (const char *)prompt->data, prompt->size, source(o), err) &&
        chat_render(kind, messages, NULL, &options, tokenizer_bos_token(t), out, err);
    json_decref(messages);
    return ok;
}

static bool encode_text(struct generate_options *o, const struct tokenizer *t, struct error *err) {
    struct buffer text = {0}, rendered = {0};
    bool ok = o->prompt ? buffer_append(&text, o->prompt, strlen(o->prompt), err)
                        : stdio_read(o->prompt_file, &text, err);
    if (ok && text.size == 0) {
        ok = error_set(err, ERROR_INPUT, "%s: the prompt is empty: there is nothing to continue",
                       source(o));
    }
    ok = ok && (!o->chat || render_chat(o, t, &text, &rendered, err));
    const struct buffer *b = o->chat ? &rendered : &text;
    ok =
        ok && (tokenizer_encode(t, (const char *)b->data, b->size, !o->chat, &o->prompt_ids, err) ||
               error_wrap(err, "%s", source(o)));
    buffer_finish(&text);
    buffer_finish(&rendered);
    return ok;
}

/* Allowed, as other programs have it; but the temperature may have been forgotten. */
static void warn_of_idle_filters(const struct sampling *s) {
    const char *name = s->top_k > 0 ? "top-k" : s->top_p < 1 ? "top-p" : "min-p";
    if (s->temperature == 0 && (s->top_k > 0 || s->top_p < 1 || s->min_p > 0)) {
        log_warn("--%s does nothing at temperature 0; to sample, give for example "
                 "--temperature 0.7",
                 name);
    }
}

static bool prepare(void *user, struct session *session, struct error *err) {
    struct generate_options *o = user;
    warn_of_idle_filters(&o->sampling);
    if (o->stops.n > 0 && !session->tokenizer) {
        return error_set(err, ERROR_INPUT, "--stop: %s has no tokenizer that makes text of ids",
                         show_path(session->model).text);
    }
    return (o->ids ? session_encode_ids(o->ids, &o->prompt_ids, err)
                   : encode_text(o, session->tokenizer, err)) &&
           (engine_check_ids(&session->config, session->ctx, "prompt", o->prompt_ids.ids,
                             (int)o->prompt_ids.n, err) ||
            error_wrap(err, "%s", source(o)));
}

/* Streams to stdout; a reader that went away ends the generation. */
static bool write_text(void *user, const char *text, size_t n) {
    (void)user;
    stdio_may_wait();
    bool ok = fwrite(text, 1, n, stdout) == n && fflush(stdout) == 0;
    stdio_waited();
    return ok;
}

/* JSON text must be UTF-8; a model that stopped inside a character leaves U+FFFD, never a bad byte.
 */
static json_t *result_json(const struct generate_options *o, const struct session *s,
                           const struct generate_result *r) {
    double decoded = r->ids.n > 1 ? (double)(r->ids.n - 1) : 0;
    return json_pack("{s:o, s:o, s:s%, s:s, s:{s:f, s:f, s:f, s:f, s:f}}", "prompt_ids",
                     stdio_ids_json(&o->prompt_ids), "ids", stdio_ids_json(&r->ids), "text",
                     r->text.data ? (const char *)r->text.data : "", r->text.size, "finish_reason",
                     finish_reason_name(r->finish), "timings", "load_s",
                     engine_load_seconds(s->engine), "prefill_s", r->prefill_seconds, "decode_s",
                     r->decode_seconds, "prefill_tok_s",
                     r->prefill_seconds > 0 ? (double)o->prompt_ids.n / r->prefill_seconds : 0.0,
                     "decode_tok_s", r->decode_seconds > 0 ? decoded / r->decode_seconds : 0.0);
}

static void print_stats(const struct generate_options *o, const struct session *s,
                        const struct generate_result *r) {
    size_t n = r->ids.n;
    fprintf(stderr,
            "\nload     %9.2f s   %8.1f MB\n"
            "prefill  %9.3f s   %8zu tokens  %10.1f tok/s\n"
            "decode   %9.3f s   %8zu tokens  %10.1f tok/s\n"
            "finish   %s\n",
            engine_load_seconds(s->engine), (double)engine_load_bytes(s->engine) / 1e6,
            r->prefill_seconds, o->prompt_ids.n,
            r->prefill_seconds > 0 ? (double)o->prompt_ids.n / r->prefill_seconds : 0.0,
            r->decode_seconds, n ? n - 1 : 0,
            r->decode_seconds > 0 && n > 1 ? (double)(n - 1) / r->decode_seconds : 0.0,
            finish_reason_name(r->finish));
}

static bool run_loaded(void *user, struct session *s, struct error *err) {
    struct generate_options *o = user;
    struct generate_request request = {
        .prompt = o->prompt_ids.ids,
        .n_prompt = (int)o->prompt_ids.n,
        .max_tokens = o->max_tokens,
        .sampling = o->sampling,
        .ignore_eos = o->ignore_eos,
        .n_stop = o->stops.n,
        .stops = o->stops.item,
        .skip_special = true,
    };
    struct generate_listener listener = {.on_text = o->json ? NULL : write_text,
                                         .interrupted = launch_interrupted};
    struct generate_result result;
    if (!generate(s->engine, s->tokenizer, &request, &listener, &result, err)) {
        return false;
    }
    bool ok = true;
    stdio_may_wait();
    if (o->json) {
        ok = stdio_print_json(result_json(o, s, &result), JSON_REAL_PRECISION(9), err);
    } else {
        if (s->tokenizer) {
            putchar('\n'); /* the text is out */
        } else {
            stdio_print_ids(&result.ids);
        }
        ok = stdio_flush(err);
    }
    if (o->stats) {
        print_stats(o, s, &result);
    }
    if (ok && result.finish == FINISH_INTERRUPTED) {
        ok = error_set(err, ERROR_INTERRUPTED, "interrupted after %zu tokens", result.ids.n);
    }
    generate_result_finish(&result);
    return ok;
}

static bool run_generate(const struct command *self, int argc, char **argv, struct error *err) {
    struct generate_options o = {0};
    struct option table[N_OWN + COMMON_OPTION_COUNT];
    const char *args[1];
    int n_arg, n = options_table(&o, table);
    if (!command_parse(self, &o.common, table, n, argc, argv, args, 1, &n_arg, err)) {
        return false;
    }
    if (o.common.help) {
        return true;
    }
    if (!check_options(&o, n_arg, args, err)) {
        return false;
    }
    /* Ids alone need no tokenizer; where there is one, it turns the answer into text. */
    struct session_job job = {
        .tokenizer = !o.ids, .prepare = prepare, .run = run_loaded, .user = &o};
    bool ok = session_run(&o.common, &job, err);
    token_list_finish(&o.prompt_ids);
    return ok;
}

const struct command command_generate = {
    .name = "generate",
    .summary = "Continue a prompt, streaming the text to stdout.",
    .synopsis = "[--model DIR] (--prompt TEXT | --prompt-file FILE | - | --ids 1,2,3) [options]",
    .run = run_generate,
};
