/* The OpenAI API's replies, in every form: whole, streamed, and as errors. */
#include "test.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "api_case.h"

/* ---- replies ---- */

/* Two tokens and an end, of which the first is half a character. */
static struct token_logprob top[] = {{34, -0.5}, {33, -1.25}};

struct made {
    int32_t id;
    const char *text;
    bool finished;
};

static int32_t byte_token(unsigned char byte) {
    for (int32_t id = 0; id < 256; id++) {
        size_t n;
        const char *bytes = tokenizer_token_bytes(api_case_model.tokenizer, id, &n);
        if (n == 1 && (unsigned char)bytes[0] == byte) {
            return id;
        }
    }
    fail_msg("no token for byte %02x", byte);
    return -1;
}

/* A reply's bytes to an "é" of two tokens, a "B", and the end; NUL-terminated. */
static char *reply(enum api_kind kind, const char *body, enum finish_reason finish) {
    struct api_request q;
    struct api_reply r;
    struct buffer out = {0};
    struct error err;
    const struct made steps[] = {{byte_token(0xc3), "", false},
                                 {byte_token(0xa9), "\xc3\xa9", false},
                                 {byte_token('B'), "B\"\n", false},
                                 {1009, "", true}};
    api_case_parse(&q, kind, body);
    assert_ok(api_reply_init(&r, &q, &api_case_model, &err), &err);
    assert_true(r.created > 1700000000);
    strcpy(r.id, "ID");
    r.created = 5;
    for (int i = 0; i < 4; i++) {
        struct generation_event e = {
            .has_token = true,
            .token = {steps[i].id, i == 3 ? -(double)INFINITY : -0.1 * (i + 1)},
            .text = steps[i].text,
            .n_text = strlen(steps[i].text),
            .n_top = q.generate.top_logprobs,
            .top = top,
            .finished = steps[i].finished,
            .finish = finish,
            .n_prompt = 3,
            .n_generated = i + 1,
        };
        assert_ok(api_reply_event(&r, &e, &out, &err), &err);
        assert_true(q.stream || e.finished || out.size == 0);
    }
    assert_ok(buffer_append(&out, "", 1, &err), &err);
    api_reply_finish(&r);
    api_request_finish(&q);
    return (char *)out.data;
}

/* Takes got[0..n) as JSON; want is JSON with ' for ". */
static void assert_json(const char *got, size_t n, const char *want) {
    char *quoted = strdup(want);
    for (char *p = quoted; *p; p++) {
        *p = *p == '\'' ? '"' : *p;
    }
    json_t *a = json_loadb(got, n, JSON_REJECT_DUPLICATES, NULL);
    json_t *b = json_loads(quoted, JSON_REJECT_DUPLICATES, NULL);
    if (!b) {
        fail_msg("not JSON: %s", quoted);
    }
    if (!a || !json_equal(a, b)) {
        fail_msg("got\n%.*s\nnot\n%s", (int)n, got, quoted);
    }
    json_decref(a);
    json_decref(b);
    free(quoted);
}

#define USAGE        "'usage':{'prompt_tokens':3,'completion_tokens':4,'total_tokens':7}"
#define HEAD(object) "{'id':'ID','object':'" object "','created':5,'model':'tiny',"

static void whole(enum api_kind kind, const char *body, enum finish_reason finish,
                  const char *want) {
    char *got = reply(kind, body, finish);
    assert_json(got, strlen(got), want);
    free(got);
}

#define TOP_B                                                                                      \
    "[{'token':'C','logprob':-0.5,'bytes':[67]},{'token':'B','logprob':-1.25,'bytes':[66]}]"
#define ENTRY_C3 "{'token':'\xef\xbf\xbd','logprob':-0.1,'bytes':[195],'top_logprobs':" TOP_B "}"
#define ENTRY_A9 "{'token':'\xef\xbf\xbd','logprob':-0.2,'bytes':[169],'top_logprobs':" TOP_B "}"
#define ENTRY_B  "{'token':'B','logprob':-0.3,'bytes':[66],'top_logprobs':" TOP_B "}"
#define ENTRY_END                                                                                  \
    "{'token':'<|im_end|>','logprob':null,'bytes':[60,124,105,109,95,101,110,100,124,62],"         \
    "'top_logprobs':" TOP_B "}"

static void whole_replies(void **state) {
    (void)state;
    whole(API_CHAT, CHAT(""), FINISH_STOP,
          HEAD("chat.completion") "'choices':[{'index':0,'message':{'role':'assistant','content':"
                                  "'\xc3\xa9"
                                  "B\\\"\\n'},'logprobs':null,'finish_reason':'stop'}]," USAGE "}");
    whole(API_CHAT, CHAT(",\"logprobs\":true,\"top_logprobs\":2"), FINISH_LENGTH,
          HEAD("chat.completion") "'choices':[{'index':0,'message':{'role':'assistant','content':"
                                  "'\xc3\xa9"
                                  "B\\\"\\n'},'logprobs':{'content':[" ENTRY_C3 "," ENTRY_A9
                                  "," ENTRY_B "," ENTRY_END "]},'finish_reason':'length'}]," USAGE
                                  "}");
    whole(API_COMPLETION, TEXT(""), FINISH_LENGTH,
          HEAD("text_completion") "'choices':[{'index':0,'text':'\xc3\xa9"
                                  "B\\\"\\n','logprobs':null,'finish_reason':'length'}]," USAGE
                                  "}");
    whole(API_COMPLETION, TEXT(",\"logprobs\":2"), FINISH_STOP,
          HEAD("text_completion") "'choices':[{'index':0,'text':'\xc3\xa9"
                                  "B\\\"\\n','logprobs':{'tokens':['\xef\xbf\xbd','\xef\xbf\xbd',"
                                  "'B','<|im_end|>'],'token_logprobs':[-0.1,-0.2,-0.3,null],"
                                  "'top_logprobs':[{'\xef\xbf\xbd':-0.1,'C':-0.5,'B':-1.25},"
                                  "{'\xef\xbf\xbd':-0.2,'C':-0.5,'B':-1.25},{'B':-0.3,'C':-0.5},"
                                  "{'<|im_end|>':null,'C':-0.5,'B':-1.25}],"
                                  "'text_offset':[0,1,1,2]},'finish_reason':'stop'}]," USAGE "}");
}

/* Compares a stream with its events; the last is [DONE]. */
static void stream(enum api_kind kind, const char *body, const char *const *want) {
    char *got = reply(kind, body, FINISH_STOP);
    const char *at = got;
    for (; *want; want++) {
        const char *end = strstr(at, "\n\n");
        assert_non_null(end);
        assert_memory_equal(at, "data: ", 6);
        assert_null(memchr(at, '\n', (size_t)(end - at)));
        assert_json(at + 6, (size_t)(end - at) - 6, *want);
        at = end + 2;
    }
    assert_string_equal(at, "data: [DONE]\n\n");
    free(got);
}

#define CHUNK(delta, logprobs, finish)                                                             \
    HEAD("chat.completion.chunk")                                                                  \
    "'choices':[{'index':0,'delta':" delta ",'logprobs':" logprobs ",'finish_reason':" finish "}]"
#define TEXT_CHUNK(text, logprobs, finish)                                                         \
    HEAD("text_completion")                                                                        \
    "'choices':[{'index':0,'text':" text ",'logprobs':" logprobs ",'finish_reason':" finish "}]"
#define ROLE "{'role':'assistant','content':''}"

static void streams(void **state) {
    (void)state;
    stream(API_CHAT, CHAT(",\"stream\":true"),
           (const char *const[]){CHUNK(ROLE, "null", "null") "}",
                                 CHUNK("{'content':'\xc3\xa9'}", "null", "null") "}",
                                 CHUNK("{'content':'B\\\"\\n'}", "null", "null") "}",
                                 CHUNK("{}", "null", "'stop'") "}", NULL});
    stream(
        API_CHAT,
        CHAT(",\"stream\":true,\"stream_options\":{\"include_usage\":true},\"logprobs\":true,"
             "\"top_logprobs\":2"),
        (const char *const[]){
            CHUNK(ROLE, "null", "null") ",'usage':null}",
            CHUNK("{'content':'\xc3\xa9'}", "{'content':[" ENTRY_C3 "," ENTRY_A9 "]}",
                  "null") ",'usage':null}",
            CHUNK("{'content':'B\\\"\\n'}", "{'content':[" ENTRY_B "]}", "null") ",'usage':null}",
            CHUNK("{'content':''}", "{'content':[" ENTRY_END "]}", "null") ",'usage':null}",
            CHUNK("{}", "null", "'stop'") ",'usage':null}",
            HEAD("chat.completion.chunk") "'choices':[]," USAGE "}", NULL});
    stream(API_COMPLETION, TEXT(",\"stream\":true,\"stream_options\":{\"include_usage\":true}"),
           (const char *const[]){TEXT_CHUNK("'\xc3\xa9'", "null", "null") ",'usage':null}",
                                 TEXT_CHUNK("'B\\\"\\n'", "null", "null") ",'usage':null}",
                                 TEXT_CHUNK("''", "null", "'stop'") ",'usage':null}",
                                 HEAD("text_completion") "'choices':[]," USAGE "}", NULL});
    stream(API_COMPLETION, TEXT(",\"stream\":true,\"logprobs\":0"),
           (const char *const[]){
               TEXT_CHUNK("'\xc3\xa9'",
                          "{'tokens':['\xef\xbf\xbd','\xef\xbf\xbd'],'token_logprobs':[-0.1,-0.2],"
                          "'top_logprobs':[{'\xef\xbf\xbd':-0.1},{'\xef\xbf\xbd':-0.2}],"
                          "'text_offset':[0,1]}",
                          "null") "}",
               TEXT_CHUNK("'B\\\"\\n'",
                          "{'tokens':['B'],'token_logprobs':[-0.3],'top_logprobs':[{'B':-0.3}],"
                          "'text_offset':[1]}",
                          "null") "}",
               TEXT_CHUNK("''",
                          "{'tokens':['<|im_end|>'],'token_logprobs':[null],"
                          "'top_logprobs':[{'<|im_end|>':null}],'text_offset':[2]}",
                          "null") "}",
               TEXT_CHUNK("''", "null", "'stop'") "}", NULL});
}

static void ids_differ(void **state) {
    (void)state;
    struct api_request q = {.kind = API_CHAT};
    struct api_reply a, b;
    struct error err;
    assert_ok(api_reply_init(&a, &q, &api_case_model, &err), &err);
    q.kind = API_COMPLETION;
    assert_ok(api_reply_init(&b, &q, &api_case_model, &err), &err);
    assert_int_equal(strlen(a.id), 9 + 24);
    assert_memory_equal(a.id, "chatcmpl-", 9);
    assert_memory_equal(b.id, "cmpl-", 5);
    assert_string_not_equal(a.id + 9, b.id + 5);
    api_reply_finish(&a);
    api_reply_finish(&b);
}

/* ---- errors and models ---- */

static void errors(void **state) {
    (void)state;
    struct api_error e;
    struct error err;
    struct buffer out = {0};
    assert_false(api_refuse(&e, 404, "invalid_request_error", "model_not_found", "model", "no %s",
                            "\"x\"\xc3"));
    assert_ok(api_error_body(&e, &out, &err), &err);
    assert_json((char *)out.data, out.size,
                "{'error':{'message':'no \\\"x\\\"\xef\xbf\xbd','type':'invalid_request_error',"
                "'param':'model','code':'model_not_found'}}");
    buffer_clear(&out);

    struct error why = {.kind = ERROR_RANK_LOST, .rank = 2, .has_rank = true, .message = "gone"};
    api_error_from(&e, &why);
    strcpy(e.host, "node7");
    assert_int_equal(e.status, 503);
    assert_ok(api_error_event(&e, &out, &err), &err);
    assert_memory_equal(out.data, "data: ", 6);
    assert_memory_equal(out.data + out.size - 2, "\n\n", 2);
    static const char lost[] = "{'error':{'message':'rank 2: gone','type':'rank_lost',"
                               "'param':null,'code':null,'rank':2,'host':'node7'}}";
    assert_json((char *)out.data + 6, out.size - 8, lost);
    error_set(&why, ERROR_INPUT, "prompt: too long");
    api_error_from(&e, &why);
    assert_int_equal(e.status, 400);
    error_set(&why, ERROR_BUSY, "full");
    api_error_from(&e, &why);
    assert_int_equal(e.status, 429);
    buffer_finish(&out);
}

/* A generation that fails ends a stream with an error, and a whole reply with nothing. */
static void failures(void **state) {
    (void)state;
    struct error err, why = {.kind = ERROR_RANK_LOST, .rank = 1, .has_rank = true};
    struct generation_event e = {.text = "", .finished = true, .error = &why};
    for (int i = 0; i < 2; i++) {
        struct api_request q;
        struct api_reply r;
        struct buffer out = {0};
        api_case_parse(&q, API_CHAT, i ? CHAT(",\"stream\":true") : CHAT(""));
        assert_ok(api_reply_init(&r, &q, &api_case_model, &err), &err);
        assert_ok(api_reply_event(&r, &e, &out, &err), &err);
        if (i) {
            assert_memory_equal(out.data, "data: {\"error\":", 15);
            assert_null(memmem(out.data, out.size, "DONE", 4));
        } else {
            assert_int_equal(out.size, 0);
        }
        buffer_finish(&out);
        api_reply_finish(&r);
        api_request_finish(&q);
    }
}

static void models(void **state) {
    (void)state;
    struct error err;
    struct buffer out = {0};
    assert_ok(api_models_body(&api_case_model, false, &out, &err), &err);
#define MODEL "{'id':'tiny','object':'model','created':1700000000,'owned_by':'lockstep'}"
    assert_json((char *)out.data, out.size, MODEL);
    buffer_clear(&out);
    assert_ok(api_models_body(&api_case_model, true, &out, &err), &err);
    assert_json((char *)out.data, out.size, "{'object':'list','data':[" MODEL "]}");
    buffer_finish(&out);
}

static int start(void **state) {
    int failed = api_case_start(state);
    top[0].id = byte_token('C');
    top[1].id = byte_token('B');
    return failed;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_replies), cmocka_unit_test(streams),  cmocka_unit_test(ids_differ),
        cmocka_unit_test(errors),        cmocka_unit_test(failures), cmocka_unit_test(models),
    };
    return cmocka_run_group_tests(tests, start, api_case_finish);
}
