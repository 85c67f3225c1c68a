/* Whether a request may come in, by its head alone: its key, where it comes from, and whether its
 * body is such as we take. */
#pragma once

#include "serve/api.h"
#include "serve/http.h"

struct MHD_Connection;

/* Why not, in order. The body is not kept then. */
enum refusal {
    ACCEPTED,
    UNCLEAR, /* where its body ends */
    CROWDED, /* there are too many connections */
    DENIED,  /* the key */
    FOREIGN, /* another origin's page */
    ENCODED, /* a body that is compressed */
    TOO_LARGE
};

enum { ENTRY_MAX_BODY = 8 << 20 };

struct entry {
    enum refusal refusal;
    const char *cors; /* who may read the answer; NULL: it is not said. Borrowed from the options */
    bool cors_varies; /* it depends on who asks */
};

/* loopback: nobody reaches the server from another machine. Says all but CROWDED. */
void entry_judge(struct entry *out, const struct http_options *options, bool loopback,
                 struct MHD_Connection *c, const char *method, const char *path,
                 const char *version);

/* A header's value; NULL: there is none. */
const char *entry_header(struct MHD_Connection *c, const char *name);

void entry_explain(enum refusal why, struct api_error *out);
