#include "serve/last_errors.h"

#include <stdio.h>
#include <string.h>

void last_errors_note(struct last_errors *e, int64_t time, const char *message) {
    struct last_error now = {.time = time};
    snprintf(now.message, sizeof now.message, "%s", message);
    json_t *text = json_string(now.message);
    for (char *c = now.message; !text && *c; c++) { /* not UTF-8: a path may be anything */
        *c = (*c & 0x80) ? '?' : *c;
    }
    json_decref(text);
    if (e->n > 0 && strcmp(e->kept[e->n - 1].message, now.message) == 0) {
        e->n--;
    } else if (e->n == LAST_ERRORS_KEPT) {
        e->n--;
        memmove(e->kept, e->kept + 1, (size_t)e->n * sizeof *e->kept);
    }
    e->kept[e->n++] = now;
}

json_t *last_errors_json(const struct last_errors *e) {
    json_t *list = json_array();
    for (int i = 0; i < e->n; i++) {
        json_array_append_new(list, json_pack("{s:I, s:s}", "time", (json_int_t)e->kept[i].time,
                                              "message", e->kept[i].message));
    }
    return list;
}
