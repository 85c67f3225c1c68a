#include "base/flight.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

/* Words of an entry; all are atomic, and the release of each orders the version before it. */
enum { W_NUMBER, W_BYTES, W_ENTER, W_LEAVE, W_OP, W_OP_END, W_REST, N_WORD };

struct slot {
    /* 2i + 1 while entry i of all times is written, 2i + 2 once it is there; 0: never used. */
    _Atomic uint64_t version;
    _Atomic uint64_t word[N_WORD];
};

_Static_assert(sizeof(struct slot) == 64, "a cache line");

enum { OWNER_WORDS = (sizeof(struct flight_owner) + 7) / 8 };

static const uint64_t magic = 0x33746867696c666c; /* "lflight3" */

struct flight {
    uint64_t magic, token;
    _Atomic uint64_t n_entry; /* of all times */
    _Atomic uint64_t n_collective;
    _Atomic uint64_t place;
    _Atomic uint64_t said; /* 1 + the exit code; 0: nothing */
    _Atomic uint64_t pulse;
    _Atomic uint64_t owner_version; /* odd while it is written */
    _Atomic uint64_t owner[OWNER_WORDS];
    _Atomic uint64_t rpc_entry; /* which entry `rpc` repeats */
    struct slot rpc;            /* the last one: a step has more collectives than the ring */
    struct slot slots[FLIGHT_ENTRIES];
};

static struct flight unshared;
static struct flight *own = &unshared;

const char *flight_kind_name(enum flight_kind kind) {
    static const char *const names[FLIGHT_KIND_COUNT] = {"rpc", "collective", "wait"};
    return names[kind];
}

const char *flight_part_name(enum flight_part part) {
    static const char *const names[FLIGHT_PART_COUNT] = {"", "embedding", "attention", "mlp",
                                                         "head"};
    return names[part];
}

const char *flight_type_name(enum flight_type type) {
    static const char *const names[FLIGHT_TYPE_COUNT] = {"bytes", "f32", "u32"};
    return names[type];
}

static uint64_t get(const _Atomic uint64_t *word) {
    return atomic_load_explicit(word, memory_order_acquire);
}

/* Nobody else writes: what this thread reads of its own record needs no order. */
static uint64_t get_own(const _Atomic uint64_t *word) {
    return atomic_load_explicit(word, memory_order_relaxed);
}

static void put(_Atomic uint64_t *word, uint64_t value) {
    atomic_store_explicit(word, value, memory_order_release);
}

/* ---- writing ---- */

size_t flight_size(void) {
    return sizeof(struct flight);
}

void flight_place_in(struct flight *memory, uint64_t token) {
    memory->magic = magic;
    memory->token = token;
    put(&memory->pulse, get_own(&own->pulse));
    own = memory;
}

void flight_use(struct flight *f) {
    own = f;
}

struct flight *flight_own(void) {
    return own;
}

void flight_set_owner(const struct flight_owner *owner) {
    uint64_t words[OWNER_WORDS] = {0};
    memcpy(words, owner, sizeof *owner);
    uint64_t version = get_own(&own->owner_version);
    put(&own->owner_version, version + 1);
    for (int i = 0; i < OWNER_WORDS; i++) {
        put(&own->owner[i], words[i]);
    }
    put(&own->owner_version, version + 2);
}

void flight_set_device(const char *device) {
    struct flight_owner owner = {0};
    flight_read_owner(own, &owner);
    snprintf(owner.device, sizeof owner.device, "%s", device);
    flight_set_owner(&owner);
}

static uint64_t pack_place(int layer, enum flight_part part) {
    return (uint64_t)(uint32_t)layer << 32 | (uint64_t)part << 16;
}

void flight_place(int layer, enum flight_part part) {
    atomic_store_explicit(&own->place, pack_place(layer, part), memory_order_relaxed);
}

static uint64_t to_ns(double seconds) {
    return (uint64_t)(1e9 * seconds);
}

/* Whoever reads it only wants to see it move: no other word waits for this one. */
static void pulse(uint64_t until_ns) {
    atomic_store_explicit(&own->pulse, until_ns, memory_order_relaxed);
}

void flight_pulse(double until) {
    static const double longest_s = 9e9; /* what a dump can hold, as JSON has it */
    pulse(to_ns(until < longest_s ? until : longest_s));
}

void flight_tick(void) {
    pulse(get_own(&own->pulse) + 1);
}

static void write_slot(struct slot *s, uint64_t entry, const uint64_t word[N_WORD]) {
    put(&s->version, 2 * entry + 1);
    for (int i = 0; i < N_WORD; i++) {
        put(&s->word[i], word[i]);
    }
    put(&s->version, 2 * entry + 2);
}

/* `rest`: place, type and kind. */
static uint64_t enter(uint64_t number, const char *op, uint64_t bytes, uint64_t rest, double now) {
    uint64_t entry = get_own(&own->n_entry);
    pulse(to_ns(now));
    uint64_t word[N_WORD] = {
        [W_NUMBER] = number, [W_BYTES] = bytes, [W_ENTER] = to_ns(now), [W_REST] = rest};
    strncpy((char *)&word[W_OP], op, FLIGHT_OP_SIZE - 1);
    write_slot(&own->slots[entry % FLIGHT_ENTRIES], entry, word);
    if ((rest & 0xff) == FLIGHT_RPC) {
        put(&own->rpc_entry, entry);
        write_slot(&own->rpc, entry, word);
    }
    put(&own->n_entry, entry + 1);
    return entry;
}

uint64_t flight_enter_collective(const struct flight_call *call, double now) {
    uint64_t number = get_own(&own->n_collective) + 1;
    put(&own->n_collective, number);
    return enter(number, call->op, call->bytes,
                 get_own(&own->place) | (uint64_t)call->type << 8 | FLIGHT_COLLECTIVE, now);
}

uint64_t flight_enter_rpc(uint64_t number, const char *op, uint64_t bytes, double now) {
    flight_place(-1, FLIGHT_NOWHERE);
    return enter(number, op, bytes, pack_place(-1, FLIGHT_NOWHERE) | FLIGHT_RPC, now);
}

uint64_t flight_enter_wait(const char *op, double now) {
    return enter(get_own(&own->n_collective), op, 0, pack_place(-1, FLIGHT_NOWHERE) | FLIGHT_WAIT,
                 now);
}

void flight_leave(uint64_t entry, double now) {
    pulse(to_ns(now));
    if (get_own(&own->rpc_entry) == entry) {
        put(&own->rpc.word[W_LEAVE], to_ns(now));
    }
    if (get_own(&own->n_entry) - entry <= FLIGHT_ENTRIES) {
        put(&own->slots[entry % FLIGHT_ENTRIES].word[W_LEAVE], to_ns(now));
    }
}

uint64_t flight_collectives(void) {
    return get_own(&own->n_collective);
}

void flight_note_said(int exit_code) {
    put(&own->said, (uint64_t)exit_code + 1);
}

/* ---- reading ---- */

bool flight_is(const struct flight *f, uint64_t token) {
    return f->magic == magic && f->token == token;
}

/* What another process wrote is not believed to be a value of an enum. */
static bool unpack(const uint64_t word[N_WORD], struct flight_entry *out) {
    uint64_t kind = word[W_REST] & 0xff, type = word[W_REST] >> 8 & 0xff;
    uint64_t part = word[W_REST] >> 16 & 0xff;
    if (kind >= FLIGHT_KIND_COUNT || type >= FLIGHT_TYPE_COUNT || part >= FLIGHT_PART_COUNT) {
        return false;
    }
    *out = (struct flight_entry){
        .kind = (enum flight_kind)kind,
        .number = word[W_NUMBER],
        .layer = part == FLIGHT_ATTENTION || part == FLIGHT_MLP
                     ? (int)(int32_t)(uint32_t)(word[W_REST] >> 32)
                     : -1,
        .part = (enum flight_part)part,
        .type = (enum flight_type)type,
        .bytes = word[W_BYTES],
        .enter_ns = word[W_ENTER],
        .leave_ns = word[W_LEAVE],
    };
    memcpy(out->op, &word[W_OP], FLIGHT_OP_SIZE - 1);
    return true;
}

/* False where the slot does not hold that entry, or holds it no more. */
static bool read_slot(const struct slot *s, uint64_t entry, struct flight_entry *out) {
    uint64_t word[N_WORD];
    if (get(&s->version) != 2 * entry + 2) {
        return false;
    }
    for (int i = 0; i < N_WORD; i++) {
        word[i] = get(&s->word[i]);
    }
    return get(&s->version) == 2 * entry + 2 && unpack(word, out);
}

bool flight_read_owner(const struct flight *f, struct flight_owner *out) {
    uint64_t words[OWNER_WORDS];
    for (int tries = 0; tries < 100; tries++) {
        uint64_t version = get(&f->owner_version);
        for (int i = 0; i < OWNER_WORDS; i++) {
            words[i] = get(&f->owner[i]);
        }
        if (version > 0 && version % 2 == 0 && get(&f->owner_version) == version) {
            memcpy(out, words, sizeof *out);
            out->host[sizeof out->host - 1] = 0;
            out->device[sizeof out->device - 1] = 0;
            return true;
        }
    }
    return false; /* there is none yet, or its writer stands still in the middle */
}

int flight_said(const struct flight *f) {
    return (int)(get(&f->said) & 0xff) - 1;
}

uint64_t flight_read_pulse(const struct flight *f) {
    return get(&f->pulse);
}

int flight_read(const struct flight *f, struct flight_entry out[FLIGHT_ENTRIES]) {
    uint64_t end = get(&f->n_entry);
    int n = 0;
    for (uint64_t i = end > FLIGHT_ENTRIES ? end - FLIGHT_ENTRIES : 0; i < end; i++) {
        n += read_slot(&f->slots[i % FLIGHT_ENTRIES], i, &out[n]);
    }
    return n;
}

bool flight_read_last(const struct flight *f, enum flight_kind kind, struct flight_entry *out) {
    if (kind == FLIGHT_RPC) {
        for (int tries = 0; tries < 100; tries++) {
            if (read_slot(&f->rpc, get(&f->rpc_entry), out)) {
                return true;
            }
        }
        return false;
    }
    uint64_t end = get(&f->n_entry);
    struct flight_entry e;
    for (uint64_t i = end; i > 0 && end - i < FLIGHT_ENTRIES; i--) {
        if (read_slot(&f->slots[(i - 1) % FLIGHT_ENTRIES], i - 1, &e) && e.kind == kind) {
            *out = e;
            return true;
        }
    }
    return false;
}
