#include "serve/access_log.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "format/show.h"

/* What a client wrote as a JSON string, whatever it is. */
static json_t *loggable(struct shown text) {
    json_t *string = json_string(text.text);
    for (char *c = text.text; !string && *c; c++) { /* not UTF-8 */
        *c = (char)((unsigned char)*c < 0x80 ? *c : '?');
    }
    return string ? string : json_string(text.text);
}

/* So that a line has the same words whatever a client wrote. */
static void join_words(char *text) {
    for (char *c = strchr(text, ' '); c; c = strchr(c, ' ')) {
        *c = '?';
    }
}

void access_log(const struct access *a, bool json) {
    char when[32];
    time_t now = time(NULL);
    struct tm utc;
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    /* Both may hold newlines, or anything. */
    struct shown method = show_text(a->method), path = show_text(a->path);
    if (!json) {
        join_words(method.text);
        join_words(path.text);
        fprintf(stderr, "%s %s %s %s %d %.3f s\n", when, a->client, method.text, path.text,
                a->status, a->seconds);
        return;
    }
    json_t *line = json_pack("{s:s, s:s, s:o, s:o, s:i, s:f}", "time", when, "client", a->client,
                             "method", loggable(method), "path", loggable(path), "status",
                             a->status, "seconds", a->seconds);
    char *text = line ? json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(6)) : NULL;
    fprintf(stderr, "%s\n", text ? text : "{}");
    free(text);
    json_decref(line);
}
