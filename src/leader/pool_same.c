/* Whether every rank has found the same model. Each reads other slices of the weights, from files
 * that may be its host's own: nothing else would tell. */
#include "leader/pool_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "format/show.h"
#include "model/checkpoint.h"

void pool_note_print(struct pool *p, int rank, const struct message_loaded *m) {
    p->prints[rank].print = (struct fingerprint){m->config, m->headers, m->content};
}

/* What of a fingerprint is compared, worst first. */
typedef uint64_t part(const struct fingerprint *f);

static uint64_t config_of(const struct fingerprint *f) {
    return f->config;
}

static uint64_t headers_of(const struct fingerprint *f) {
    return f->headers;
}

static uint64_t content_of(const struct fingerprint *f) {
    return f->content;
}

static bool all_same(const struct pool *p, part *of) {
    int r = 1;
    while (r < p->world && of(&p->prints[r].print) == of(&p->prints[0].print)) {
        r++;
    }
    return r == p->world;
}

/* How many ranks have what `rank` has. */
static int count_like(const struct pool *p, part *of, int rank) {
    int n = 0;
    for (int r = 0; r < p->world; r++) {
        n += of(&p->prints[r].print) == of(&p->prints[rank].print);
    }
    return n;
}

/* The first rank that has something else than most; where there is no most, than rank 0. Rank 0
 * where none has. */
static int odd_rank(const struct pool *p, part *of) {
    int usual = 0, odd = 0;
    for (int r = 1; r < p->world; r++) {
        usual = count_like(p, of, r) > count_like(p, of, usual) ? r : usual;
    }
    while (odd < p->world && of(&p->prints[odd].print) == of(&p->prints[usual].print)) {
        odd++;
    }
    return odd < p->world ? odd : 0;
}

static const char *print_text(const struct pool *p, int rank) {
    return p->prints[rank].text;
}

/* "DIR: WHAT differs: rank 0 (node1): 0123...; rank 1 (node2): 4567...", at the odd rank. */
static bool differs(struct pool *p, const char *dir, const char *what, part *of,
                    struct error *err) {
    struct buffer groups = {0};
    for (int r = 0; r < p->world; r++) {
        snprintf(p->prints[r].text, sizeof p->prints[r].text, "%016" PRIx64,
                 of(&p->prints[r].print));
    }
    pool_describe_groups(p, print_text, &groups);
    error_set(err, ERROR_RANK_MISMATCH, "load: %s: %s is not the same on all ranks: %s",
              show_path(dir).text, what, groups.size ? (const char *)groups.data : "");
    buffer_finish(&groups);
    return error_at_rank(err, odd_rank(p, of));
}

static bool on_print(void *user, int rank, const struct message *reply, struct error *err) {
    (void)err;
    pool_note_print(user, rank, &reply->loaded);
    return true;
}

/* Asks file by file; `what` gets "content of model-00002-of-00004.safetensors". The prints are left
 * as those of the file that differs; where each of rank 0's is the same, and another rank has more
 * of them, as those of all. */
static bool find_file(struct pool *p, struct message load, const struct st_set *set,
                      const char *kind, part *of, char *what, size_t size, struct error *err) {
    load.load.measure = 1;
    for (load.load.file = 1; fingerprint_file(set, load.load.file); load.load.file++) {
        if (!pool_ask_all(p, &load, on_print, p, err)) {
            return false;
        }
        if (!all_same(p, of)) {
            snprintf(what, size, "%s of %.100s", kind,
                     show_text(fingerprint_file(set, load.load.file)).text);
            return true;
        }
    }
    load.load.file = 0;
    return pool_ask_all(p, &load, on_print, p, err);
}

static bool name_file(struct pool *p, const struct message *load, const char *kind, part *of,
                      struct error *err) {
    char what[200];
    struct st_set *set = NULL;
    snprintf(what, sizeof what, "the list of the weights' files");
    bool ok = checkpoint_open(&set, load->load.dir, err) &&
              find_file(p, *load, set, kind, of, what, sizeof what, err);
    st_close(set);
    return ok && differs(p, load->load.dir, what, of, err);
}

bool pool_same_model(struct pool *p, const struct message *load, struct error *err) {
    if (!all_same(p, config_of)) {
        return differs(p, load->load.dir, "config.json", config_of, err);
    }
    if (!all_same(p, headers_of)) {
        return name_file(p, load, "the header", headers_of, err);
    }
    return all_same(p, content_of) || name_file(p, load, "the content", content_of, err);
}
