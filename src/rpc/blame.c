#include "rpc/blame.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/flight_peers.h"

static bool inside(const struct flight_entry *e) {
    return e->number > 0 && e->leave_ns == 0;
}

static bool has_ended(const struct blame_rank *r) {
    return r->state == 'Z' || r->state == 'X';
}

/* One that waits for others comes round in milliseconds, on a crowded host in tenths of a second.
 */
static bool stands_still(const struct blame_rank *r) {
    static const double still_s = 1;
    return r->still_s > still_s;
}

static bool is_stopped(const struct blame_rank *r) {
    return r->state == 'T' || r->state == 't';
}

/* ---- what is known ---- */

static double ago(const struct flight_entry *e, double now) {
    double s = now - 1e-9 * (double)e->enter_ns;
    return e->number > 0 && s > 0 ? s : 0;
}

double blame_still_seconds(uint64_t pulse, double now) {
    double s = now - 1e-9 * (double)pulse;
    return pulse > 0 && s > 0 ? s : 0;
}

void blame_look(struct blame_rank *out, int rank, struct flight_entry *entries) {
    const struct flight *f = flight_of_rank(rank);
    double now = clock_now();
    *out = (struct blame_rank){.known = f != NULL};
    if (!f) {
        return;
    }
    out->state = flight_process_state(rank);
    flight_read_last(f, FLIGHT_COLLECTIVE, &out->collective);
    flight_read_last(f, FLIGHT_RPC, &out->rpc);
    out->collective_s = ago(&out->collective, now);
    out->rpc_s = ago(&out->rpc, now);
    out->still_s = blame_still_seconds(flight_read_pulse(f), now);
    if (flight_has_ended_well(rank)) { /* which is no fault */
        out->state = 0;
        out->still_s = 0;
    }
    if (entries) {
        out->entries = entries;
        out->n_entry = flight_read(f, entries);
    }
}

void blame_to_message(const struct blame_rank *r, int rank, struct message_place *out) {
    const struct flight_entry *e = &r->collective;
    *out = (struct message_place){
        .rank = rank,
        .state = r->state,
        .collective = e->number,
        .inside = inside(e),
        .layer = e->layer,
        .part = (int32_t)e->part,
        .type = (int32_t)e->type,
        .bytes = e->bytes,
        .age_s = r->collective_s,
        .rpc = r->rpc.number,
        .rpc_inside = inside(&r->rpc),
        .rpc_age_s = r->rpc_s,
        .still_s = r->still_s,
    };
    memcpy(out->op, e->op, sizeof out->op);
    memcpy(out->rpc_op, r->rpc.op, sizeof out->rpc_op);
}

static uint64_t left(int32_t is_inside) {
    return is_inside ? 0 : 1;
}

void blame_from_message(struct blame_rank *out, const struct message_place *m) {
    bool sane =
        m->part >= 0 && m->part < FLIGHT_PART_COUNT && m->type >= 0 && m->type < FLIGHT_TYPE_COUNT;
    *out = (struct blame_rank){
        .known = true,
        .state = m->state > ' ' && m->state < 127 ? (char)m->state : 0,
        .collective = {.kind = FLIGHT_COLLECTIVE,
                       .number = m->collective,
                       .layer = m->layer,
                       .part = sane ? (enum flight_part)m->part : FLIGHT_NOWHERE,
                       .type = sane ? (enum flight_type)m->type : FLIGHT_BYTES,
                       .bytes = m->bytes,
                       .leave_ns = left(m->inside)},
        .rpc = {.kind = FLIGHT_RPC, .number = m->rpc, .layer = -1, .leave_ns = left(m->rpc_inside)},
        .collective_s = m->age_s,
        .rpc_s = m->rpc_age_s,
        .still_s = m->still_s,
    };
    memcpy(out->collective.op, m->op, sizeof m->op);
    memcpy(out->rpc.op, m->rpc_op, sizeof m->rpc_op);
}

bool blame_is_odd(const struct blame_rank *r, const struct blame_rank *self) {
    return r->known && (has_ended(r) || is_stopped(r) || stands_still(r) || r->state == 'D' ||
                        r->collective.number < self->collective.number);
}

/* ---- words ---- */

const char *blame_entry_text(const struct flight_entry *e, char out[BLAME_ENTRY_SIZE]) {
    char place[40] = "";
    if (e->number == 0) {
        snprintf(out, BLAME_ENTRY_SIZE, "no collective");
        return out;
    }
    if (e->kind == FLIGHT_COLLECTIVE && e->layer >= 0) {
        snprintf(place, sizeof place, "layer %d ", e->layer);
    }
    const char *part = e->kind == FLIGHT_COLLECTIVE ? flight_part_name(e->part) : "";
    snprintf(out, BLAME_ENTRY_SIZE, "%s%s%s%.*s #%" PRIu64, place, part, *part ? " " : "",
             FLIGHT_OP_SIZE, e->op, e->number);
    return out;
}

enum { OTHERS_SIZE = 48 };

/* n of all but one rank: "the other rank", "the other 7 ranks", "6 of the other 7 ranks". */
static const char *others_text(int n, int world, char out[OTHERS_SIZE]) {
    if (n == world - 1 && n == 1) {
        snprintf(out, OTHERS_SIZE, "the other rank");
    } else if (n == world - 1) {
        snprintf(out, OTHERS_SIZE, "the other %d ranks", n);
    } else {
        snprintf(out, OTHERS_SIZE, "%d of the other %d ranks", n, world - 1);
    }
    return out;
}

static int count_at(const struct blame_rank *ranks, int world, int but, uint64_t number) {
    int n = 0;
    for (int r = 0; r < world; r++) {
        n += r != but && ranks[r].known && ranks[r].collective.number == number;
    }
    return n;
}

enum { STATE_SIZE = 160 };

static const char *state_text(const struct blame_rank *r, char out[STATE_SIZE]) {
    char in[BLAME_ENTRY_SIZE + 8] = "", entry[BLAME_ENTRY_SIZE];
    if (inside(&r->rpc)) {
        snprintf(in, sizeof in, " in %s", blame_entry_text(&r->rpc, entry));
    }
    snprintf(out, STATE_SIZE, "%s", "");
    if (is_stopped(r)) {
        snprintf(out, STATE_SIZE, "is stopped (SIGSTOP), ");
    } else if (r->state == 'D') {
        snprintf(out, STATE_SIZE, "waits in the kernel, as for a disk, ");
    } else if (stands_still(r) && !has_ended(r)) {
        snprintf(out, STATE_SIZE, "its main thread has been stuck for %.1f s%s, ", r->still_s, in);
    }
    return out;
}

/* ---- who ---- */

/* The furthest collective that anybody has entered. */
static uint64_t furthest(const struct blame_rank *ranks, int world) {
    uint64_t top = 0;
    for (int r = 0; r < world; r++) {
        top = ranks[r].known && ranks[r].collective.number > top ? ranks[r].collective.number : top;
    }
    return top;
}

static bool say_where(const struct blame_rank *ranks, int world, int rank, enum error_kind kind,
                      const char *what, struct error *err) {
    char entry[BLAME_ENTRY_SIZE], others[OTHERS_SIZE], last[BLAME_ENTRY_SIZE + 40];
    char state[STATE_SIZE], at[OTHERS_SIZE + 40] = "";
    const struct blame_rank *r = &ranks[rank];
    uint64_t top = furthest(ranks, world);
    int n = count_at(ranks, world, rank, top);
    snprintf(last, sizeof last, "entered no collective yet");
    if (r->collective.number > 0) {
        snprintf(last, sizeof last, "last entered %s %.1f s ago",
                 blame_entry_text(&r->collective, entry), r->collective_s);
    }
    if (n > 0) { /* else it is alone there, or nobody knows */
        snprintf(at, sizeof at, "; %s %s at #%" PRIu64, others_text(n, world, others),
                 n == 1 ? "is" : "are", top);
    }
    error_set(err, kind, "%s: %s%s%s", what, state_text(r, state), last, at);
    err->has_rank = false;
    error_at_rank(err, rank);
    return true;
}

static bool find_ended(const struct blame_rank *ranks, int world, struct error *err) {
    for (int r = 0; r < world; r++) {
        if (ranks[r].known && has_ended(&ranks[r])) {
            return say_where(ranks, world, r, ERROR_RANK_LOST, "its process has ended", err);
        }
    }
    return false;
}

static const struct flight_entry *entry_of(const struct blame_rank *r, uint64_t number) {
    for (int i = r->n_entry; r->entries && i > 0; i--) {
        const struct flight_entry *e = &r->entries[i - 1];
        if (e->kind == FLIGHT_COLLECTIVE && e->number == number) {
            return e;
        }
    }
    return NULL;
}

static bool is_same_call(const struct flight_entry *a, const struct flight_entry *b) {
    return strcmp(a->op, b->op) == 0 && a->bytes == b->bytes && a->type == b->type;
}

static int count_same(const struct blame_rank *ranks, int world, const struct flight_entry *e) {
    int n = 0;
    for (int r = 0; r < world; r++) {
        const struct flight_entry *other = entry_of(&ranks[r], e->number);
        n += other && is_same_call(e, other);
    }
    return n;
}

/* Blames the first rank that did not call what most of them did. */
static bool find_difference_at(const struct blame_rank *ranks, int world, uint64_t number,
                               struct error *err) {
    const struct flight_entry *usual = NULL;
    int n_usual = 0;
    char here[BLAME_ENTRY_SIZE], others[OTHERS_SIZE];
    for (int r = 0; r < world; r++) {
        const struct flight_entry *e = entry_of(&ranks[r], number);
        int n = e ? count_same(ranks, world, e) : 0;
        if (n > n_usual) {
            usual = e;
            n_usual = n;
        }
    }
    for (int r = 0; r < world; r++) {
        const struct flight_entry *e = entry_of(&ranks[r], number);
        if (e && !is_same_call(e, usual)) {
            error_set(err, ERROR_RANK_MISMATCH,
                      "called %s of %" PRIu64 " bytes (%s) where %s called %s of %" PRIu64
                      " bytes (%s)",
                      blame_entry_text(e, here), e->bytes, flight_type_name(e->type),
                      others_text(n_usual, world, others), usual->op, usual->bytes,
                      flight_type_name(usual->type));
            err->has_rank = false;
            return !error_at_rank(err, r);
        }
    }
    return false;
}

/* The first number, of those that `one` has, at which another rank called something else; 0: none.
 */
static uint64_t first_difference(const struct blame_rank *ranks, int world, int one) {
    uint64_t first = 0;
    for (int i = 0; i < ranks[one].n_entry && first == 0; i++) {
        const struct flight_entry *e = &ranks[one].entries[i];
        for (int r = one + 1; e->kind == FLIGHT_COLLECTIVE && r < world; r++) {
            const struct flight_entry *other = entry_of(&ranks[r], e->number);
            first = other && !is_same_call(e, other) ? e->number : first;
        }
    }
    return first;
}

bool blame_find_mismatch(const struct blame_rank *ranks, int world, struct error *err) {
    for (int r = 0; r < world; r++) {
        uint64_t number = ranks[r].entries ? first_difference(ranks, world, r) : 0;
        if (number > 0) {
            return find_difference_at(ranks, world, number, err);
        }
    }
    return false;
}

/* A rank that is behind and waits in its collective may itself wait for one that cannot be read. */
static bool find_behind(const struct blame_rank *ranks, int world, bool waiting,
                        struct error *err) {
    uint64_t top = furthest(ranks, world);
    int culprit = -1;
    for (int r = 0; r < world; r++) {
        const struct blame_rank *k = &ranks[r];
        bool behind = k->known && k->collective.number < top &&
                      (waiting || !inside(&k->collective) || is_stopped(k));
        if (behind && (culprit < 0 || k->collective.number < ranks[culprit].collective.number)) {
            culprit = r;
        }
    }
    return culprit >= 0 && say_where(ranks, world, culprit, ERROR_DEADLINE, "hang", err);
}

/* Those that wait for it go round meanwhile, whichever collective they are in. */
static bool find_still(const struct blame_rank *ranks, int world, struct error *err) {
    int culprit = -1;
    for (int r = 0; r < world; r++) {
        if (ranks[r].known && stands_still(&ranks[r]) &&
            (culprit < 0 || ranks[r].still_s > ranks[culprit].still_s)) {
            culprit = r;
        }
    }
    return culprit >= 0 && say_where(ranks, world, culprit, ERROR_DEADLINE, "hang", err);
}

static bool find_stopped(const struct blame_rank *ranks, int world, struct error *err) {
    for (int r = 0; r < world; r++) {
        if (ranks[r].known && is_stopped(&ranks[r])) {
            return say_where(ranks, world, r, ERROR_DEADLINE, "hang", err);
        }
    }
    return false;
}

/* One that cannot be read was there when somebody left a collective: it takes all to do that. */
static bool find_silent(const struct blame_rank *ranks, int world, int suspect, struct error *err) {
    int culprit = suspect >= 0 && !ranks[suspect].known ? suspect : -1;
    uint64_t top = furthest(ranks, world), heard = 0;
    double heard_s = 0;
    for (int r = 0; r < world; r++) {
        const struct blame_rank *k = &ranks[r];
        culprit = culprit < 0 && !k->known ? r : culprit;
        if (k->known && inside(&k->collective) && k->collective.number == top) {
            heard = top - 1;
            heard_s = k->collective_s > heard_s ? k->collective_s : heard_s;
        }
    }
    if (culprit < 0 || heard == 0) {
        return false;
    }
    error_set(err, ERROR_DEADLINE,
              "hang: last heard at #%" PRIu64 ", %.1f s ago; the others wait in #%" PRIu64, heard,
              heard_s, top);
    err->has_rank = false;
    return !error_at_rank(err, culprit);
}

/* Everybody has come as far in the collectives, and one does not answer. */
static bool find_in_request(const struct blame_rank *ranks, int suspect, struct error *err) {
    char entry[BLAME_ENTRY_SIZE], state[STATE_SIZE];
    if (suspect < 0 || !ranks[suspect].known || !inside(&ranks[suspect].rpc) ||
        inside(&ranks[suspect].collective)) {
        return false;
    }
    const struct blame_rank *r = &ranks[suspect];
    error_set(err, ERROR_DEADLINE, "hang: %sin %s for %.1f s, outside of collectives",
              state_text(r, state), blame_entry_text(&r->rpc, entry), r->rpc_s);
    err->has_rank = false;
    return !error_at_rank(err, suspect);
}

bool blame_find(const struct blame_rank *ranks, int world, int suspect, struct error *err) {
    suspect = suspect < world ? suspect : -1;
    return find_ended(ranks, world, err) || blame_find_mismatch(ranks, world, err) ||
           find_still(ranks, world, err) || find_behind(ranks, world, false, err) ||
           find_stopped(ranks, world, err) || find_silent(ranks, world, suspect, err) ||
           find_behind(ranks, world, true, err) || find_in_request(ranks, suspect, err);
}
