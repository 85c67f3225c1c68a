#include "serve/entry.h"

#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "serve/origin.h"

void entry_explain(enum refusal why, struct api_error *out) {
    static const struct {
        int status;
        const char *code, *words;
    } refusals[] = {
        [UNCLEAR] =
            {MHD_HTTP_BAD_REQUEST, "unclear_length",
             "where the body ends is not clear: it takes one Content-Length, or in HTTP/1.1 "
             "'Transfer-Encoding: chunked' and nothing else"},
        [CROWDED] = {MHD_HTTP_SERVICE_UNAVAILABLE, "too_many_connections",
                     "too many connections wait for the model"},
        [DENIED] = {MHD_HTTP_UNAUTHORIZED, "invalid_api_key",
                    "this server wants its API key, as 'Authorization: Bearer KEY'"},
        [FOREIGN] = {MHD_HTTP_FORBIDDEN, "origin_not_allowed",
                     "this request comes from the page of another origin; --cors-origin lets one "
                     "in"},
        [ENCODED] = {MHD_HTTP_UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding",
                     "the body has a Content-Encoding: it has to come as it is"},
        [TOO_LARGE] = {MHD_HTTP_CONTENT_TOO_LARGE, NULL, "the body is larger than 8 MiB"},
    };
    api_refuse(out, refusals[why].status, why == CROWDED ? "unavailable" : "invalid_request_error",
               refusals[why].code, NULL, "%s", refusals[why].words);
}

const char *entry_header(struct MHD_Connection *c, const char *name) {
    return MHD_lookup_connection_value(c, MHD_HEADER_KIND, name);
}

/* Who may read the answer; true: and the page may ask at all. A key is proof enough: a page that
 * should not have it does not. */
static bool judge_origin(struct entry *out, const struct http_options *options, bool loopback,
                         struct MHD_Connection *c, const char *method) {
    const char *allowed = options->cors_origin;
    bool open = !options->api_key;
    enum origin origin =
        origin_of(entry_header(c, MHD_HTTP_HEADER_ORIGIN), entry_header(c, MHD_HTTP_HEADER_HOST),
                  allowed, open && loopback);
    out->cors_varies = allowed && strcmp(allowed, "*") != 0;
    out->cors = allowed && (!out->cors_varies || origin == ORIGIN_ALLOWED) ? allowed : NULL;
    return !open || origin != ORIGIN_FOREIGN || strcmp(method, "POST") != 0;
}

/* In a time that does not depend on where they differ. */
static bool same_key(const char *given, const char *key) {
    size_t n = strlen(key), m = strlen(given);
    unsigned char differ = n != m;
    for (size_t i = 0; i < n; i++) {
        differ |= (unsigned char)(key[i] ^ (m ? given[i % m] : 0));
    }
    return !differ;
}

static bool may_enter(const struct http_options *options, struct MHD_Connection *c,
                      const char *path) {
    static const char bearer[] = "Bearer "; /* in any case: RFC 9110, 11.1 */
    if (!options->api_key || strcmp(path, "/health") == 0 || strcmp(path, "/") == 0 ||
        strcmp(path, "/openapi.json") == 0) {
        return true;
    }
    const char *given = entry_header(c, MHD_HTTP_HEADER_AUTHORIZATION);
    return given && strncasecmp(given, bearer, sizeof bearer - 1) == 0 &&
           same_key(given + sizeof bearer - 1, options->api_key);
}

struct framing {
    int n;          /* headers that say where the body ends */
    bool has_codes; /* Transfer-Encoding */
    bool strange;   /* but not "chunked" */
};

static enum MHD_Result look_at_header(void *user, enum MHD_ValueKind kind, const char *name,
                                      const char *value) {
    struct framing *f = user;
    (void)kind;
    bool codes = strcasecmp(name, MHD_HTTP_HEADER_TRANSFER_ENCODING) == 0;
    f->n += codes || strcasecmp(name, MHD_HTTP_HEADER_CONTENT_LENGTH) == 0;
    f->has_codes = f->has_codes || codes;
    f->strange = f->strange || (codes && (!value || strcasecmp(value, "chunked") != 0));
    return MHD_YES;
}

/* A proxy may take for another request what is still the body of this one (RFC 9112, 11.2). */
static bool is_unclear(struct MHD_Connection *c, const char *version) {
    struct framing f = {0};
    MHD_get_connection_values(c, MHD_HEADER_KIND, look_at_header, &f);
    return f.n > 1 || f.strange || (f.has_codes && strcmp(version, MHD_HTTP_VERSION_1_1) != 0);
}

static bool is_encoded(struct MHD_Connection *c) {
    const char *codes = entry_header(c, MHD_HTTP_HEADER_CONTENT_ENCODING);
    return codes && *codes && strcasecmp(codes, "identity") != 0;
}

static bool is_too_long(struct MHD_Connection *c) {
    const char *length = entry_header(c, MHD_HTTP_HEADER_CONTENT_LENGTH);
    return length && strtoull(length, NULL, 10) > ENTRY_MAX_BODY;
}

void entry_judge(struct entry *out, const struct http_options *options, bool loopback,
                 struct MHD_Connection *c, const char *method, const char *path,
                 const char *version) {
    *out = (struct entry){.refusal = ACCEPTED};
    bool may_ask = judge_origin(out, options, loopback, c, method);
    if (is_unclear(c, version)) {
        out->refusal = UNCLEAR;
    } else if (!may_enter(options, c, path)) {
        out->refusal = DENIED;
    } else if (!may_ask) {
        out->refusal = FOREIGN;
    } else if (is_encoded(c)) {
        out->refusal = ENCODED;
    } else if (is_too_long(c)) {
        out->refusal = TOO_LARGE;
    }
}
