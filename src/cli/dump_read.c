#include "cli/dump_read.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/flight_dump.h"
#include "base/log.h"
#include "format/json.h"

enum { DUMP_FILE_MAX = 1 << 20 };

static const uint64_t run_ns = 600u * 1000000000ull; /* one failure's dumps are no further apart */

/* ---- one file ---- */

static bool get_u64(const struct json_fields *f, const char *key, uint64_t *out,
                    struct error *err) {
    int64_t v;
    if (!json_get_int(f, key, 0, INT64_MAX, &v, err)) {
        return false;
    }
    *out = (uint64_t)v;
    return true;
}

static bool get_i32(const struct json_fields *f, const char *key, int64_t min, int64_t max,
                    int *out, struct error *err) {
    int64_t v;
    if (!json_get_int(f, key, min, max, &v, err)) {
        return false;
    }
    *out = (int)v;
    return true;
}

/* A short text that may go to a terminal. */
static bool get_text(const struct json_fields *f, const char *key, char *out, size_t size,
                     struct error *err) {
    const char *text;
    if (!json_get_string(f, key, &text, err)) {
        return false;
    }
    bool ok = strlen(text) < size;
    for (const char *c = text; ok && *c; c++) {
        ok = *c >= ' ' && *c < 127;
    }
    if (!ok) {
        return json_bad_field(f, key, "a short, printable text", json_object_get(f->object, key),
                              err);
    }
    snprintf(out, size, "%s", text);
    return true;
}

typedef const char *name_of(int value);

static const char *kind_name(int v) {
    return flight_kind_name((enum flight_kind)v);
}

static const char *part_name(int v) {
    return flight_part_name((enum flight_part)v);
}

static const char *type_name(int v) {
    return flight_type_name((enum flight_type)v);
}

/* The value, from 0 to n - 1, whose name the field has. */
static bool get_name(const struct json_fields *f, const char *key, name_of *name, int n, int *out,
                     struct error *err) {
    char text[16];
    if (!get_text(f, key, text, sizeof text, err)) {
        return false;
    }
    for (int i = 0; i < n; i++) {
        if (strcmp(text, name(i)) == 0) {
            *out = i;
            return true;
        }
    }
    return json_bad_field(f, key, "a name that is known", json_object_get(f->object, key), err);
}

static bool read_entry(const json_t *value, const char *file, struct flight_entry *out,
                       struct error *err) {
    struct json_fields f;
    int kind = 0, part = 0, type = 0;
    if (!json_fields_init(&f, value, file, "entries", "entries.", ERROR_INPUT, err) ||
        !get_name(&f, "kind", kind_name, FLIGHT_KIND_COUNT, &kind, err) ||
        !get_name(&f, "part", part_name, FLIGHT_PART_COUNT, &part, err) ||
        !get_name(&f, "dtype", type_name, FLIGHT_TYPE_COUNT, &type, err) ||
        !get_u64(&f, "number", &out->number, err) ||
        !get_text(&f, "op", out->op, sizeof out->op, err) ||
        !get_i32(&f, "layer", -1, INT32_MAX, &out->layer, err) ||
        !get_u64(&f, "bytes", &out->bytes, err) || !get_u64(&f, "enter_ns", &out->enter_ns, err) ||
        !get_u64(&f, "leave_ns", &out->leave_ns, err)) {
        return false;
    }
    out->kind = (enum flight_kind)kind;
    out->part = (enum flight_part)part;
    out->type = (enum flight_type)type;
    return true;
}

static bool read_entries(const struct json_fields *f, struct dump *d, struct error *err) {
    const json_t *list = json_object_get(f->object, "entries");
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n > FLIGHT_ENTRIES) {
        return json_bad_field(f, "entries", "a list of at most 256 entries", list, err);
    }
    for (size_t i = 0; i < n; i++) {
        if (!read_entry(json_array_get(list, i), f->file, &d->entries[i], err)) {
            return false;
        }
    }
    d->n_entry = (int)n;
    return true;
}

static bool read_dump(const json_t *root, const char *file, struct dump *d, struct error *err) {
    struct json_fields f;
    char state[2];
    int version, rank, world, pid;
    if (!json_fields_init(&f, root, file, "", "", ERROR_INPUT, err) ||
        !get_i32(&f, "lockstep_flight", FLIGHT_DUMP_VERSION, FLIGHT_DUMP_VERSION, &version, err) ||
        !get_i32(&f, "world", 1, DUMP_WORLD_MAX, &world, err) ||
        !get_i32(&f, "rank", 0, world - 1, &rank, err) ||
        !get_i32(&f, "pid", 0, INT32_MAX, &pid, err) ||
        !get_i32(&f, "written_by", 0, world - 1, &d->written_by, err) ||
        !get_text(&f, "host", d->owner.host, sizeof d->owner.host, err) ||
        (json_has(&f, "job") && !get_text(&f, "job", d->job, sizeof d->job, err)) ||
        !get_text(&f, "device", d->owner.device, sizeof d->owner.device, err) ||
        !get_text(&f, "phase", d->phase, sizeof d->phase, err) ||
        !get_text(&f, "reason", d->reason, sizeof d->reason, err) ||
        !get_text(&f, "state", state, sizeof state, err) ||
        !get_u64(&f, "wall_ns", &d->wall_ns, err) ||
        !get_u64(&f, "monotonic_ns", &d->monotonic_ns, err) ||
        (json_has(&f, "pulse_ns") && !get_u64(&f, "pulse_ns", &d->pulse_ns, err)) ||
        !read_entries(&f, d, err) ||
        (json_has(&f, "rpc") && !read_entry(json_object_get(root, "rpc"), file, &d->rpc, err))) {
        return false;
    }
    d->owner.rank = rank;
    d->owner.world = world;
    d->owner.pid = pid;
    d->state = state[0];
    d->known = true;
    return true;
}

/* The rank in a dump's name; -1: it is no dump. */
static int rank_of_name(const char *name) {
    char exact[40];
    int rank;
    if (sscanf(name, "flight-rank%4d.json", &rank) != 1 || rank < 0 || rank >= DUMP_WORLD_MAX) {
        return -1;
    }
    snprintf(exact, sizeof exact, "flight-rank%d.json", rank);
    return strcmp(name, exact) == 0 ? rank : -1;
}

static bool read_file(const char *dir, const char *name, int rank, struct dump *out,
                      struct error *err) {
    char path[4400];
    json_t *root = NULL;
    snprintf(path, sizeof path, "%.4096s/%.255s", dir, name);
    if (!json_read_file(&root, path, DUMP_FILE_MAX, 0, err)) {
        return false;
    }
    bool ok = read_dump(root, name, out, err);
    json_decref(root);
    if (ok && out->owner.rank != rank) {
        error_set(err, ERROR_INPUT, "%s: it is of rank %d", name, (int)out->owner.rank);
        ok = false;
    }
    out->known = ok;
    return ok;
}

/* ---- all of them ---- */

static void ignore(struct dump_set *s, const char *name, const char *why) {
    struct dump_file *more = realloc(s->ignored, (size_t)(s->n_ignored + 1) * sizeof *more);
    if (more) {
        s->ignored = more;
        snprintf(more[s->n_ignored].name, sizeof more->name, "%.63s", name);
        snprintf(more[s->n_ignored++].why, sizeof more->why, "%.299s", why);
    }
}

static bool make_room(struct dump_set *s, int world, struct error *err) {
    if (world <= s->world) {
        return true;
    }
    struct dump *more = realloc(s->dumps, (size_t)world * sizeof *more);
    if (!more) {
        return error_set(err, ERROR_MEMORY, "cannot hold the dumps of %d ranks", world);
    }
    memset(more + s->world, 0, (size_t)(world - s->world) * sizeof *more);
    s->dumps = more;
    s->world = world;
    return true;
}

static bool add_file(struct dump_set *s, const char *dir, const char *name, int rank,
                     struct dump *room, struct error *err) {
    struct error why;
    memset(room, 0, sizeof *room);
    if (!read_file(dir, name, rank, room, &why)) {
        ignore(s, name, why.message);
        return true;
    }
    if (!make_room(s, room->owner.world, err)) {
        return false;
    }
    s->dumps[rank] = *room;
    return true;
}

/* Why a dump is not of the run that the newest is of; NULL: it may be. */
static const char *other_run(const struct dump *d, const struct dump *newest) {
    if (newest->wall_ns - d->wall_ns > run_ns) {
        return "more than ten minutes older than another: of an earlier run";
    }
    if (strcmp(d->job, newest->job) != 0) {
        return "not of the job that the newest dump is of: of an earlier run";
    }
    if (d->owner.world != newest->owner.world) {
        return "of another number of ranks than the newest dump: of an earlier run";
    }
    return NULL;
}

static void drop_older_runs(struct dump_set *s) {
    const struct dump *newest = NULL;
    char name[40];
    for (int r = 0; r < s->world; r++) {
        const struct dump *d = &s->dumps[r];
        newest = d->known && (!newest || d->wall_ns > newest->wall_ns) ? d : newest;
    }
    for (int r = 0; newest && r < s->world; r++) {
        struct dump *d = &s->dumps[r];
        const char *why = d->known ? other_run(d, newest) : NULL;
        if (why) {
            d->known = false;
            snprintf(name, sizeof name, "flight-rank%d.json", r);
            ignore(s, name, why);
        }
    }
    s->world = newest ? newest->owner.world : s->world;
}

bool dump_set_read(struct dump_set *out, const char *dir, struct error *err) {
    struct dump_set s = {0};
    DIR *d = opendir(dir);
    struct dump *room = malloc(sizeof *room);
    bool ok = true;

    if (!d || !room) {
        ok = error_set(err, d ? ERROR_MEMORY : ERROR_IO, "%s: %s", dir, strerror(errno));
    }
    for (struct dirent *e; ok && (e = readdir(d));) {
        int rank = rank_of_name(e->d_name);
        ok = rank < 0 || add_file(&s, dir, e->d_name, rank, room, err);
    }
    if (ok && s.world == 0) {
        ok = s.n_ignored ? error_set(err, ERROR_INPUT, "%s: %s", dir, s.ignored[0].why)
                         : error_set(err, ERROR_IO, "%s: there is no flight-rank*.json", dir);
    }
    if (ok) {
        drop_older_runs(&s);
        *out = s; /* moves */
        s = (struct dump_set){0};
    }
    dump_set_finish(&s);
    free(room);
    if (d) {
        closedir(d);
    }
    return ok;
}

void dump_set_finish(struct dump_set *s) {
    free(s->dumps);
    free(s->ignored);
    *s = (struct dump_set){0};
}
