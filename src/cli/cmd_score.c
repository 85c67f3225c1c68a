#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/launch.h"
#include "cli/session.h"
#include "cli/stdio_util.h"
#include "format/show.h"
#include "leader/generate.h"

struct score_options {
    struct common_options common;
    const char *text;
    const char *file;
    const char *ids;
    const char *logits;
    bool json;
    bool hash;
    /* filled in on rank 0 */
    struct token_list tokens;
    FILE *logits_file; /* of --logits */
};

enum { N_OWN = 8 };

static int options_table(struct score_options *o, struct option *table) {
    const struct option own[N_OWN] = {
        {.type = OPTION_SECTION, .name = "Input (one of)"},
        {.type = OPTION_STRING,
         .name = "text",
         .value = &o->text,
         .arg = "TEXT",
         .help = "the text to score"},
        {.type = OPTION_STRING,
         .name = "file",
         .short_name = 'f',
         .value = &o->file,
         .arg = "FILE",
         .help = "read it from FILE; - is standard input"},
        {.type = OPTION_STRING,
         .name = "ids",
         .value = &o->ids,
         .arg = "1,2,3",
         .help = "token ids, fed as they are"},
        {.type = OPTION_SECTION, .name = "Output"},
        {.type = OPTION_FLAG,
         .name = "json",
         .value = &o->json,
         .help = "one JSON object instead of the table"},
        {.type = OPTION_STRING,
         .name = "logits",
         .value = &o->logits,
         .arg = "FILE",
         .help = "write the last position's logits, little-endian f32"},
        {.type = OPTION_FLAG,
         .name = "hash",
         .value = &o->hash,
         .help =
             "print only a hash of all positions' logits' bits\n(with --json: in its logits_hash)"},
    };
    memcpy(table, own, sizeof own);
    common_options_table(&o->common, table + N_OWN);
    return N_OWN + COMMON_OPTION_COUNT;
}

static bool check_options(const struct score_options *o, struct error *err) {
    int given = (o->text != NULL) + (o->file != NULL) + (o->ids != NULL);
    if (given != 1) {
        return error_set(
            err, ERROR_USAGE,
            given ? "give only one of --text, --file and --ids"
                  : "what shall be scored? Give --text TEXT, --file FILE or --ids 1,2,3");
    }
    return true;
}

/* Where the text comes from, for errors. */
static const char *source(const struct score_options *o) {
    return o->ids ? "--ids" : o->text ? "--text" : stdio_name(o->file);
}

static bool encode_text(struct score_options *o, const struct tokenizer *t, struct error *err) {
    struct buffer text = {0};
    bool ok = (o->text ? buffer_append(&text, o->text, strlen(o->text), err)
                       : stdio_read(o->file, &text, err)) &&
              (tokenizer_encode(t, (const char *)text.data, text.size, true, &o->tokens, err) ||
               error_wrap(err, "%s", source(o)));
    buffer_finish(&text);
    return ok;
}

static bool logits_error(const struct score_options *o, struct error *err) {
    return error_set(err, ERROR_IO, "--logits: %s: %s", show_path(o->logits).text, strerror(errno));
}

/* Before the model is loaded, which may take minutes. */
static bool open_logits(struct score_options *o, struct error *err) {
    o->logits_file = o->logits ? fopen(o->logits, "wbe") : NULL;
    return !o->logits || o->logits_file || logits_error(o, err);
}

static bool prepare(void *user, struct session *session, struct error *err) {
    struct score_options *o = user;
    return (o->ids ? session_encode_ids(o->ids, &o->tokens, err)
                   : encode_text(o, session->tokenizer, err)) &&
           (engine_check_ids(&session->config, session->ctx, "text", o->tokens.ids,
                             (int)o->tokens.n, err) ||
            error_wrap(err, "%s", source(o))) &&
           open_logits(o, err);
}

/* Bytes of text that the scored tokens (all but the first) stand for; 0 without a tokenizer. */
static size_t scored_bytes(const struct score_options *o, const struct session *s) {
    struct buffer text = {0};
    struct error ignored;
    size_t n = 0;
    if (s->tokenizer && o->tokens.n > 1 &&
        tokenizer_decode(s->tokenizer, o->tokens.ids + 1, o->tokens.n - 1, false, &text,
                         &ignored)) {
        n = text.size;
    }
    buffer_finish(&text);
    return n;
}

static bool write_logits(struct score_options *o, const float *logits, int vocab,
                         struct error *err) {
    bool ok = true;
    for (int i = 0; ok && i < vocab; i++) {
        uint32_t bits;
        memcpy(&bits, &logits[i], sizeof bits);
        unsigned char le[4] = {(unsigned char)bits, (unsigned char)(bits >> 8),
                               (unsigned char)(bits >> 16), (unsigned char)(bits >> 24)};
        ok = fwrite(le, 1, 4, o->logits_file) == 4;
    }
    ok = fclose(o->logits_file) == 0 && ok;
    o->logits_file = NULL;
    return ok || logits_error(o, err);
}

/* JSON has no NaN or infinity. */
static json_t *number(double x) {
    return isfinite(x) ? json_real(x) : json_null();
}

/* NaN for what cannot be known: nothing is said of the only token of a text, and without a
 * tokenizer nobody knows how many bytes the tokens are. */
struct summary {
    double nll, perplexity, bits_per_byte;
    size_t bytes;
};

static struct summary summarise(const struct score_options *o, const struct session *s,
                                const struct score_result *r) {
    struct summary m = {.bytes = scored_bytes(o, s)};
    m.nll = r->n ? -r->sum / r->n : (double)NAN;
    m.perplexity = exp(m.nll);
    m.bits_per_byte = m.bytes ? -r->sum / (double)m.bytes / log(2.0) : (double)NAN;
    return m;
}

static bool print_json(const struct score_options *o, const struct summary *m,
                       const struct score_result *r, struct error *err) {
    char hash[24];
    json_t *logprobs = json_array();
    for (int i = 0; i < r->n; i++) {
        json_array_append_new(logprobs, number(r->logprobs[i]));
    }
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)r->hash);
    json_t *object =
        json_pack("{s:o, s:o, s:i, s:I, s:o, s:o, s:o, s:s?}", "ids", stdio_ids_json(&o->tokens),
                  "logprobs", logprobs, "tokens", r->n, "bytes", (json_int_t)m->bytes, "mean_nll",
                  number(m->nll), "perplexity", number(m->perplexity), "bits_per_byte",
                  number(m->bits_per_byte), "logits_hash", o->hash ? hash : NULL);
    return stdio_print_json(object, JSON_REAL_PRECISION(12), err);
}

static void print_table(const struct score_options *o, const struct session *s,
                        const struct summary *m, const struct score_result *r) {
    printf("%8s  %8s  %12s  %s\n", "position", "id", "log p", "token");
    for (int i = 0; i < r->n; i++) {
        size_t n = 0;
        int32_t id = o->tokens.ids[i + 1];
        const char *bytes = s->tokenizer ? tokenizer_token_bytes(s->tokenizer, id, &n) : NULL;
        printf("%8d  %8d  %12.6f  ", i + 1, id, r->logprobs[i]);
        for (size_t b = 0; b < n; b++) {
            unsigned char c = (unsigned char)bytes[b];
            if (c < 0x20 || c == 0x7f || c == '\\') {
                printf("\\x%02x", c);
            } else {
                putchar(c);
            }
        }
        putchar('\n');
    }
    printf("\ntokens         %12d%s\n", r->n, r->n ? "" : "  (the first has none before it)");
    if (r->n == 0) {
        return;
    }
    printf("mean nll       %12.6f nats\n", m->nll);
    printf("perplexity     %12.4f\n", m->perplexity);
    if (m->bytes) {
        printf("bits per byte  %12.4f  (%zu bytes)\n", m->bits_per_byte, m->bytes);
    }
}

static bool run_loaded(void *user, struct session *s, struct error *err) {
    struct score_options *o = user;
    struct score_result r;
    const struct score_request request = {.ids = o->tokens.ids,
                                          .n_ids = (int)o->tokens.n,
                                          .last = o->logits != NULL,
                                          .hash = o->hash,
                                          .interrupted = launch_interrupted};
    if (!score(s->engine, &request, &r, err)) {
        return false;
    }
    struct summary m = summarise(o, s, &r);
    bool ok = !o->logits || write_logits(o, r.last, engine_config(s->engine)->vocab, err);
    stdio_may_wait();
    if (ok && o->json) {
        ok = print_json(o, &m, &r, err);
    } else if (ok && o->hash) {
        printf("%016llx\n", (unsigned long long)r.hash);
    } else if (ok) {
        print_table(o, s, &m, &r);
    }
    ok = ok && stdio_flush(err);
    stdio_waited();
    score_result_finish(&r);
    return ok;
}

static bool run_score(const struct command *self, int argc, char **argv, struct error *err) {
    struct score_options o = {0};
    struct option table[N_OWN + COMMON_OPTION_COUNT];
    int n = options_table(&o, table);
    if (!command_parse(self, &o.common, table, n, argc, argv, NULL, 0, NULL, err)) {
        return false;
    }
    if (o.common.help) {
        return true;
    }
    if (!check_options(&o, err)) {
        return false;
    }
    struct session_job job = {
        .tokenizer = !o.ids, .prepare = prepare, .run = run_loaded, .user = &o};
    bool ok = session_run(&o.common, &job, err);
    token_list_finish(&o.tokens);
    if (o.logits_file) {
        fclose(o.logits_file);
    }
    return ok;
}

const struct command command_score = {
    .name = "score",
    .summary = "Log-probabilities, perplexity and logits of a text.",
    .synopsis = "[--model DIR] (--text TEXT | --file FILE | --ids 1,2,3) [options]",
    .run = run_score,
};
