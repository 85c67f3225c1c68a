#include "rpc/messages.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/show.h"
#include "rpc/frame_map.h"
#include "rpc/message_spec.h"

/* ---- what each message carries ---- */

#define FIELD(kind, part, name)                                                                    \
    { #name, kind, offsetof(struct message, part.name), sizeof((struct message *)0)->part.name }
#define I32(part, name)  FIELD(FIELD_I32, part, name)
#define U64(part, name)  FIELD(FIELD_U64, part, name)
#define F64(part, name)  FIELD(FIELD_F64, part, name)
#define TEXT(part, name) FIELD(FIELD_TEXT, part, name)

static const struct {
    const char *name;
    enum message_side side;
    struct field fields[MAX_FIELDS]; /* ends with key NULL */
} specs[MESSAGE_COUNT] = {
    [MESSAGE_HELLO] = {"hello",
                       SIDE_REQUEST,
                       {I32(hello, protocol), TEXT(hello, build), I32(hello, leftovers)}},
    [MESSAGE_HELLO_OK] = {"hello_ok",
                          SIDE_REPLY,
                          {I32(hello_ok, protocol),
                           TEXT(hello_ok, build),
                           TEXT(hello_ok, version),
                           TEXT(hello_ok, mpi),
                           TEXT(hello_ok, msgpack),
                           I32(hello_ok, rank),
                           TEXT(hello_ok, host),
                           I32(hello_ok, pid),
                           I32(hello_ok, local_rank),
                           I32(hello_ok, local_size),
                           I32(hello_ok, cores),
                           I32(hello_ok, cores_host),
                           I32(hello_ok, sharers),
                           TEXT(hello_ok, binding),
                           TEXT(hello_ok, numa),
                           I32(hello_ok, numa_nodes),
                           I32(hello_ok, numa_host),
                           I32(hello_ok, threads),
                           U64(hello_ok, memory),
                           TEXT(hello_ok, isas),
                           TEXT(hello_ok, device),
                           TEXT(hello_ok, device_why),
                           I32(hello_ok, n_gpu),
                           TEXT(hello_ok, gpu),
                           TEXT(hello_ok, gpu_pci),
                           TEXT(hello_ok, gpu_cc),
                           U64(hello_ok, gpu_memory),
                           TEXT(hello_ok, nccl),
                           I32(hello_ok, nccl_code),
                           I32(hello_ok, gpu_shared),
                           I32(hello_ok, leftovers),
                           U64(hello_ok, leftover_bytes),
                           TEXT(hello_ok, leftover_pattern),
                           I32(hello_ok, leftover_runs),
                           I32(hello_ok, leftover_named)}},
    [MESSAGE_PING] = {"ping", SIDE_REQUEST, {{0}}},
    [MESSAGE_PONG] = {"pong", SIDE_REPLY, {I32(pong, rank)}},
    [MESSAGE_ECHO] = {"echo", SIDE_REQUEST, {I32(echo, bytes), I32(echo, count)}},
    [MESSAGE_ECHO_OK] = {"echo_ok", SIDE_REPLY, {{0}}},
    [MESSAGE_INIT] = {"init",
                      SIDE_REQUEST,
                      {TEXT(init, device), TEXT(init, isa), TEXT(init, dtype), I32(init, graphs),
                       I32(init, sharers), I32(init, check), F64(init, timeout_s)}},
    [MESSAGE_INIT_OK] = {"init_ok", SIDE_REPLY, {{0}}},
    [MESSAGE_SANITY] = {"sanity", SIDE_REQUEST, {{0}}},
    [MESSAGE_SANITY_RESULT] = {"sanity_result", SIDE_REPLY, {U64(sanity_result, observed_sum)}},
    [MESSAGE_BANDWIDTH] = {"bandwidth",
                           SIDE_REQUEST,
                           {TEXT(bandwidth, collective), U64(bandwidth, bytes),
                            I32(bandwidth, iters), I32(bandwidth, warmup), I32(bandwidth, bare)}},
    [MESSAGE_BANDWIDTH_RESULT] = {"bandwidth_result",
                                  SIDE_REPLY,
                                  {F64(bandwidth_result, seconds), F64(bandwidth_result, median_s),
                                   U64(bandwidth_result, wrong)}},
    [MESSAGE_PROBE] = {"probe",
                       SIDE_REQUEST,
                       {TEXT(probe, what), I32(probe, pattern), U64(probe, bytes),
                        F64(probe, seconds)}},
    [MESSAGE_PROBE_RESULT] = {"probe_result", SIDE_REPLY, {F64(probe_result, rate)}},
    [MESSAGE_LOAD] = {"load",
                      SIDE_REQUEST,
                      {TEXT(load, dir), I32(load, ctx), I32(load, n_block), I32(load, max_tok),
                       TEXT(load, kv_dtype), I32(load, measure), I32(load, file),
                       TEXT(load, quant)}},
    [MESSAGE_LOADED] = {"loaded",
                        SIDE_REPLY,
                        {U64(loaded, bytes), F64(loaded, seconds), U64(loaded, bytes_held),
                         U64(loaded, nonfinite), U64(loaded, config), U64(loaded, headers),
                         U64(loaded, content), U64(loaded, weights), U64(loaded, kv),
                         U64(loaded, buffers), U64(loaded, free_own), U64(loaded, free_group),
                         U64(loaded, group), U64(loaded, free_host)}},
    [MESSAGE_STEP] = {"step", SIDE_REQUEST, {{0}}}, /* nested: see encode_step, decode_step */
    [MESSAGE_STEPPED] = {"stepped", SIDE_REPLY, {U64(stepped, digest)}},
    [MESSAGE_UNLOAD] = {"unload", SIDE_REQUEST, {{0}}},
    [MESSAGE_UNLOADED] = {"unloaded",
                          SIDE_REPLY,
                          {U64(unloaded, bytes_freed), U64(unloaded, resident_before),
                           U64(unloaded, resident)}},
    [MESSAGE_STATS] = {"stats", SIDE_REQUEST, {{0}}},
    [MESSAGE_STATS_RESULT] = {"stats",
                              SIDE_REPLY,
                              {U64(stats, n_step), F64(stats, step_s), F64(stats, wait_s),
                               F64(stats, transfer_s), U64(stats, n_collective),
                               U64(stats, bytes_sent), U64(stats, rss)}},
    [MESSAGE_SHUTDOWN] = {"shutdown", SIDE_REQUEST, {{0}}},
    [MESSAGE_BYE] = {"bye", SIDE_REPLY, {{0}}},
    [MESSAGE_ERROR] = {"error", SIDE_REPLY, {TEXT(error, kind), TEXT(error, message)}},
    [MESSAGE_TROUBLE] = {"error", SIDE_NOTICE, {TEXT(error, kind), TEXT(error, message)}},
    [MESSAGE_PROGRESS] = {"progress",
                          SIDE_NOTICE,
                          {U64(progress, bytes_done), U64(progress, bytes_total)}},
    [MESSAGE_PLACE] = {"place",
                       SIDE_NOTICE,
                       {I32(place, rank), I32(place, state), U64(place, collective),
                        I32(place, inside), TEXT(place, op), I32(place, layer), I32(place, part),
                        I32(place, type), U64(place, bytes), F64(place, age_s), U64(place, rpc),
                        I32(place, rpc_inside), TEXT(place, rpc_op), F64(place, rpc_age_s),
                        F64(place, still_s)}},
};

static const char *const output_names[STEP_OUTPUT_COUNT] = {
    [STEP_OUTPUT_NONE] = "none",         [STEP_OUTPUT_CANDIDATES] = "top",
    [STEP_OUTPUT_LOGITS] = "last",       [STEP_OUTPUT_ALL_LOGITS] = "all",
    [STEP_OUTPUT_LOGPROBS] = "logprobs",
};

const char *message_name(enum message_type type) {
    return (unsigned)type < MESSAGE_COUNT ? specs[type].name : "unknown";
}

enum message_side message_side(enum message_type type) {
    return specs[type].side;
}

const struct field *message_fields(enum message_type type) {
    return specs[type].fields;
}

/* ---- encoding ---- */

/* msgpack-c writes in pieces of a few bytes: the common case must not cost a call. */
static int write_bytes(void *user, const char *bytes, size_t n) {
    struct buffer *b = user;
    if (b->capacity - b->size < n && !buffer_reserve(b, n, NULL)) {
        return -1;
    }
    memcpy(b->data + b->size, bytes, n);
    b->size += n;
    return 0;
}

static int pack_text(msgpack_packer *pk, const char *text, size_t n) {
    return msgpack_pack_str(pk, n) || msgpack_pack_str_body(pk, text, n);
}

static int pack_key(msgpack_packer *pk, const char *key) {
    return pack_text(pk, key, strlen(key));
}

/* Little-endian int32, as one bin. */
static int pack_ints(msgpack_packer *pk, const int32_t *v, size_t n) {
    int failed = msgpack_pack_bin(pk, 4 * n);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    return failed || (n && msgpack_pack_bin_body(pk, v, 4 * n));
#else
    for (size_t i = 0; i < n; i++) {
        uint32_t u = __builtin_bswap32((uint32_t)v[i]);
        failed |= msgpack_pack_bin_body(pk, &u, 4);
    }
    return failed;
#endif
}

static int pack_field(msgpack_packer *pk, const struct field *f, const struct message *m) {
    const char *at = (const char *)m + f->offset;
    int32_t i32;
    uint64_t u64;
    double f64;
    switch (f->type) {
    case FIELD_I32:
        memcpy(&i32, at, sizeof i32);
        return msgpack_pack_int32(pk, i32);
    case FIELD_U64:
        memcpy(&u64, at, sizeof u64);
        return msgpack_pack_uint64(pk, u64);
    case FIELD_F64:
        memcpy(&f64, at, sizeof f64);
        return msgpack_pack_double(pk, f64);
    case FIELD_TEXT:
        return pack_text(pk, at, strnlen(at, f->size - 1));
    }
    return -1;
}

static int pack_seq(msgpack_packer *pk, const struct step_seq *s) {
    bool top = s->output == STEP_OUTPUT_CANDIDATES;
    bool logprobs = s->output == STEP_OUTPUT_LOGPROBS && s->targets;
    int failed = msgpack_pack_map(pk, 5 + (top || logprobs));
    failed |= pack_key(pk, "id") | msgpack_pack_uint32(pk, s->id);
    failed |= pack_key(pk, "pos") | msgpack_pack_int32(pk, s->pos);
    failed |= pack_key(pk, "tokens") | pack_ints(pk, s->tokens, (size_t)s->n_tok);
    failed |= pack_key(pk, "blocks") | pack_ints(pk, s->blocks, (size_t)s->n_block);
    failed |= pack_key(pk, "out") | pack_key(pk, output_names[s->output]);
    if (top) {
        failed |= pack_key(pk, "k") | msgpack_pack_int32(pk, s->top_k);
    }
    if (logprobs) {
        failed |= pack_key(pk, "targets") | pack_ints(pk, s->targets, (size_t)s->n_tok);
    }
    return failed;
}

static int pack_step(msgpack_packer *pk, const struct step *step) {
    int failed = pack_key(pk, "seqs") | msgpack_pack_array(pk, (size_t)step->n_seq);
    for (int32_t i = 0; i < step->n_seq; i++) {
        failed |= pack_seq(pk, &step->seqs[i]);
    }
    return failed;
}

/* Flat, so that the compiler sees through msgpack-c's call-back: half the time of a ping's frame.
 */
__attribute__((flatten)) bool message_encode(struct buffer *out, const struct message *m,
                                             struct error *err) {
    const struct field *fields = specs[m->type].fields;
    size_t n = 0;
    while (n < MAX_FIELDS && fields[n].key) {
        n++;
    }
    buffer_clear(out);
    msgpack_packer pk;
    msgpack_packer_init(&pk, out, write_bytes);
    int failed = msgpack_pack_map(&pk, 2 + n + (m->type == MESSAGE_STEP));
    failed |= pack_key(&pk, "t") | pack_key(&pk, specs[m->type].name);
    failed |= pack_key(&pk, "s") | msgpack_pack_uint64(&pk, m->seq);
    for (size_t i = 0; i < n; i++) {
        failed |= pack_key(&pk, fields[i].key) | pack_field(&pk, &fields[i], m);
    }
    if (m->type == MESSAGE_STEP) {
        failed |= pack_step(&pk, &m->step);
    }
    if (failed) {
        return error_set(err, ERROR_MEMORY, "%s: cannot hold the frame", message_name(m->type));
    }
    return true;
}

/* ---- decoding ---- */

static bool is_text(const msgpack_object *o, const char *text) {
    if (o->type != MSGPACK_OBJECT_STR) {
        return false;
    }
    uint32_t n = o->via.str.size;
    for (uint32_t i = 0; i < n; i++) {
        if (text[i] == 0 || text[i] != o->via.str.ptr[i]) {
            return false;
        }
    }
    return text[n] == 0;
}

static const msgpack_object *find_key(const msgpack_object_map *map, const char *key) {
    for (uint32_t i = 0; i < map->size; i++) {
        if (is_text(&map->ptr[i].key, key)) {
            return &map->ptr[i].val;
        }
    }
    return NULL;
}

static bool read_i32(const msgpack_object *o, int32_t *out) {
    if (o->type == MSGPACK_OBJECT_POSITIVE_INTEGER && o->via.u64 <= INT32_MAX) {
        *out = (int32_t)o->via.u64;
        return true;
    }
    if (o->type == MSGPACK_OBJECT_NEGATIVE_INTEGER && o->via.i64 >= INT32_MIN) {
        *out = (int32_t)o->via.i64;
        return true;
    }
    return false;
}

static bool read_f64(const msgpack_object *o, double *out) {
    if (o->type == MSGPACK_OBJECT_FLOAT64 || o->type == MSGPACK_OBJECT_FLOAT32) {
        *out = o->via.f64;
    } else if (o->type == MSGPACK_OBJECT_POSITIVE_INTEGER) {
        *out = (double)o->via.u64;
    } else {
        return false;
    }
    return isfinite(*out);
}

static bool read_text(const msgpack_object *o, char *out, size_t size) {
    if (o->type != MSGPACK_OBJECT_STR || o->via.str.size >= size ||
        memchr(o->via.str.ptr, 0, o->via.str.size)) {
        return false;
    }
    memcpy(out, o->via.str.ptr, o->via.str.size);
    out[o->via.str.size] = 0;
    return true;
}

static bool read_field(const struct field *f, const msgpack_object *o, struct message *m) {
    void *at = (char *)m + f->offset;
    switch (f->type) {
    case FIELD_I32:
        return read_i32(o, at);
    case FIELD_U64:
        if (o->type != MSGPACK_OBJECT_POSITIVE_INTEGER) {
            return false;
        }
        memcpy(at, &o->via.u64, sizeof o->via.u64);
        return true;
    case FIELD_F64:
        return read_f64(o, at);
    case FIELD_TEXT:
        return read_text(o, at, f->size);
    }
    return false;
}

static const char *const field_type_names[] = {
    [FIELD_I32] = "a 32-bit integer",
    [FIELD_U64] = "an unsigned integer",
    [FIELD_F64] = "a finite number",
    [FIELD_TEXT] = "a short text",
};

static bool read_fields(const msgpack_object_map *map, struct message *m, struct error *err) {
    const struct field *f = specs[m->type].fields;
    for (int i = 0; i < MAX_FIELDS && f[i].key; i++) {
        const msgpack_object *o = find_key(map, f[i].key);
        if (!o) {
            return error_set(err, ERROR_PROTOCOL, "%s: field '%s' is missing",
                             message_name(m->type), f[i].key);
        }
        if (!read_field(&f[i], o, m)) {
            return error_set(err, ERROR_PROTOCOL, "%s: field '%s' is not %s", message_name(m->type),
                             f[i].key, field_type_names[f[i].type]);
        }
    }
    return true;
}

/* The type of a frame; MESSAGE_COUNT when this side knows none of that name. */
static enum message_type find_type(const msgpack_object *name, enum message_side side) {
    for (int i = 0; i < MESSAGE_COUNT; i++) {
        if (specs[i].side == side && is_text(name, specs[i].name)) {
            return (enum message_type)i;
        }
    }
    return MESSAGE_COUNT;
}

/* ---- decoding a step ---- */

static bool step_error(struct error *err, size_t seq, const char *field, const char *what) {
    return error_set(err, ERROR_PROTOCOL, "step: seqs[%zu].%s %s", seq, field, what);
}

static bool seq_int(const msgpack_object_map *map, size_t i, const char *key, int32_t *out,
                    struct error *err) {
    const msgpack_object *o = find_key(map, key);
    return (o && read_i32(o, out)) ||
           step_error(err, i, key, o ? "is not a 32-bit integer" : "is missing");
}

static bool seq_u32(const msgpack_object_map *map, size_t i, const char *key, uint32_t *out,
                    struct error *err) {
    const msgpack_object *o = find_key(map, key);
    if (!o || o->type != MSGPACK_OBJECT_POSITIVE_INTEGER || o->via.u64 > UINT32_MAX) {
        return step_error(err, i, key, o ? "is not an unsigned 32-bit integer" : "is missing");
    }
    *out = (uint32_t)o->via.u64;
    return true;
}

/* Copies a bin of little-endian int32 to *ints, and moves *ints past it. */
static bool seq_ints(const msgpack_object_map *map, size_t i, const char *key, int32_t **ints,
                     const int32_t **out, int32_t *n_out, struct error *err) {
    const msgpack_object *o = find_key(map, key);
    if (!o || o->type != MSGPACK_OBJECT_BIN || o->via.bin.size % 4) {
        return step_error(err, i, key, o ? "is not a bin of 32-bit integers" : "is missing");
    }
    int32_t n = (int32_t)(o->via.bin.size / 4);
    *out = *ints;
    *n_out = n;
    if (n) {
        memcpy(*ints, o->via.bin.ptr, o->via.bin.size);
    }
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    for (int32_t j = 0; j < n; j++) {
        (*ints)[j] = (int32_t)__builtin_bswap32((uint32_t)(*ints)[j]);
    }
#endif
    *ints += n;
    return true;
}

static bool seq_targets(const msgpack_object_map *map, size_t i, int32_t **ints, struct step_seq *s,
                        struct error *err) {
    int32_t n;
    return seq_ints(map, i, "targets", ints, &s->targets, &n, err) &&
           (n == s->n_tok || step_error(err, i, "targets", "are not as many as tokens"));
}

/* What is wanted, and what belongs to that. */
static bool seq_output(const msgpack_object_map *map, size_t i, int32_t **ints, struct step_seq *s,
                       struct error *err) {
    const msgpack_object *o = find_key(map, "out");
    for (int out = 0; o && out < STEP_OUTPUT_COUNT; out++) {
        if (is_text(o, output_names[out])) {
            s->output = (enum step_output)out;
            s->top_k = 0;
            s->targets = NULL;
            if (out == STEP_OUTPUT_CANDIDATES) {
                return seq_int(map, i, "k", &s->top_k, err);
            }
            return out != STEP_OUTPUT_LOGPROBS || seq_targets(map, i, ints, s, err);
        }
    }
    return step_error(err, i, "out", o ? "is not none, top, last, all or logprobs" : "is missing");
}

/* Makes room for `need` items of p; what it held is lost. NULL when there is no memory. */
static void *regrow(void *p, size_t *capacity, size_t need, size_t item) {
    if (need <= *capacity) {
        return p;
    }
    free(p);
    p = malloc(2 * need * item);
    *capacity = p ? 2 * need : 0;
    return p;
}

static bool read_step(struct message_decoder *d, const msgpack_object_map *map, size_t frame_bytes,
                      struct step *out, struct error *err) {
    const msgpack_object *list = find_key(map, "seqs");
    if (!list || list->type != MSGPACK_OBJECT_ARRAY || list->via.array.size > STEP_MAX_SEQS) {
        return error_set(err, ERROR_PROTOCOL, "step: field 'seqs' is %s",
                         list ? "not a list of at most 1024 sequences" : "missing");
    }
    size_t n = list->via.array.size;
    /* all the integers of all the bins together are part of the frame */
    d->ints = regrow(d->ints, &d->int_capacity, frame_bytes / 4 + 1, sizeof *d->ints);
    d->seqs = regrow(d->seqs, &d->seq_capacity, n + 1, sizeof *d->seqs);
    if (!d->ints || !d->seqs) {
        return error_set(err, ERROR_MEMORY, "step: cannot hold %zu sequences", n);
    }
    int32_t *ints = d->ints;
    for (size_t i = 0; i < n; i++) {
        const msgpack_object *o = &list->via.array.ptr[i];
        struct step_seq *s = &d->seqs[i];
        if (o->type != MSGPACK_OBJECT_MAP) {
            return step_error(err, i, "", "is not a map");
        }
        const msgpack_object_map *m = &o->via.map;
        if (!seq_u32(m, i, "id", &s->id, err) || !seq_int(m, i, "pos", &s->pos, err) ||
            !seq_ints(m, i, "tokens", &ints, &s->tokens, &s->n_tok, err) ||
            !seq_ints(m, i, "blocks", &ints, &s->blocks, &s->n_block, err) ||
            !seq_output(m, i, &ints, s, err)) {
            return false;
        }
    }
    *out = (struct step){.n_seq = (int32_t)n, .seqs = d->seqs};
    return true;
}

/* ---- a whole frame ---- */

static bool read_head(const msgpack_object_map *map, enum message_side side, struct message *out,
                      struct error *err) {
    const msgpack_object *seq = find_key(map, "s");
    const msgpack_object *type = find_key(map, "t");
    if (seq && seq->type == MSGPACK_OBJECT_POSITIVE_INTEGER) {
        out->seq = seq->via.u64;
    }
    if (!type || type->type != MSGPACK_OBJECT_STR) {
        return error_set(err, ERROR_PROTOCOL, "frame: field 't' is %s",
                         type ? "not a text" : "missing");
    }
    out->type = find_type(type, side);
    if (out->type == MESSAGE_COUNT) {
        static const char *const side_names[SIDE_COUNT] = {"request", "reply", "notice"};
        char name[41] = "";
        size_t n = type->via.str.size < sizeof name - 1 ? type->via.str.size : sizeof name - 1;
        memcpy(name, type->via.str.ptr, n);
        return error_set(err, ERROR_PROTOCOL, "unknown %s '%s'", side_names[side],
                         show_text(name).text);
    }
    if (!seq || seq->type != MSGPACK_OBJECT_POSITIVE_INTEGER) {
        return error_set(err, ERROR_PROTOCOL, "%s: field 's' is %s", message_name(out->type),
                         seq ? "not an unsigned integer" : "missing");
    }
    return true;
}

bool message_decode(struct message_decoder *d, const void *bytes, size_t n, enum message_side side,
                    struct message *out, struct error *err) {
    struct frame_map_room room;
    msgpack_object_map map;
    out->type = MESSAGE_COUNT;
    out->seq = 0;
    if (n > FRAME_MAX_BYTES) {
        return error_set(err, ERROR_PROTOCOL, "frame: %zu bytes, more than %d", n, FRAME_MAX_BYTES);
    }
    return frame_map_read(bytes, n, &room, &d->zone, &map, err) &&
           read_head(&map, side, out, err) && read_fields(&map, out, err) &&
           (out->type != MESSAGE_STEP || read_step(d, &map, n, &out->step, err));
}

size_t message_step_bytes(int n_seq, int n_tok, int n_block) {
    enum { FRAME = 64, SEQ = 160 }; /* all keys and heads of a frame, and of a sequence */
    return FRAME + (size_t)n_seq * SEQ + 4 * (2 * (size_t)n_tok + (size_t)n_block);
}

bool message_decoder_reserve(struct message_decoder *d, int n_seq, size_t frame_bytes,
                             struct error *err) {
    enum { FRAME_PAIRS = 8, SEQ_PAIRS = 8 }; /* and to spare */
    size_t unpacked =
        FRAME_PAIRS * sizeof(msgpack_object_kv) +
        ((size_t)n_seq + 1) * (sizeof(msgpack_object) + SEQ_PAIRS * sizeof(msgpack_object_kv));
    msgpack_zone *zone = msgpack_zone_new(unpacked);
    if (zone) {
        if (d->zone) {
            msgpack_zone_free(d->zone);
        }
        d->zone = zone;
    }
    d->ints = regrow(d->ints, &d->int_capacity, frame_bytes / 4 + 1, sizeof *d->ints);
    d->seqs = regrow(d->seqs, &d->seq_capacity, (size_t)n_seq + 1, sizeof *d->seqs);
    return (zone && d->ints && d->seqs) ||
           error_set(err, ERROR_MEMORY, "cannot hold steps of %d sequences", n_seq);
}

void message_decoder_finish(struct message_decoder *d) {
    if (d->zone) {
        msgpack_zone_free(d->zone);
    }
    free(d->ints);
    free(d->seqs);
    *d = (struct message_decoder){0};
}

/* ---- errors ---- */

void message_from_error(struct message *m, enum message_type type, uint64_t seq,
                        const struct error *err) {
    m->type = type;
    m->seq = seq;
    snprintf(m->error.kind, sizeof m->error.kind, "%s", error_kind_name(err->kind));
    snprintf(m->error.message, sizeof m->error.message, "%s", err->message);
}

bool message_to_error(const struct message *m, struct error *err) {
    error_set(err, error_kind_from_name(m->error.kind), "%s", m->error.message);
    show_in_place(err->message); /* whatever the other rank says goes to a terminal */
    return false;
}
