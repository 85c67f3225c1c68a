/* Who is behind: compares where ranks are, from their flight records or by their own word, and says
 * which one the others wait for. Pure: it only looks at what it is given. */
#pragma once

#include <stdbool.h>

#include "base/error.h"
#include "base/flight.h"
#include "rpc/messages.h"

/* What is known of one rank. */
struct blame_rank {
    bool known;
    char state; /* of its process: flight_process_state; 0: not known */
    /* The last ones it entered; number 0: none. Only whether leave_ns is 0 counts. */
    struct flight_entry collective, rpc;
    double collective_s, rpc_s; /* ago */
    double still_s; /* for how long its main thread has stood still, against its word; 0: it does
                       not, or that is not known */
    /* All that its record had, oldest first; borrowed; NULL where only the last are known. */
    const struct flight_entry *entries;
    int n_entry;
};

/* This process's rank, or one of its host whose record is mapped. `entries` (may be NULL) has room
 * for FLIGHT_ENTRIES and must outlive *out. known stays false where the record cannot be read. */
void blame_look(struct blame_rank *out, int rank, struct flight_entry *entries);

/* As a notice. */
void blame_to_message(const struct blame_rank *r, int rank, struct message_place *out);
void blame_from_message(struct blame_rank *out, const struct message_place *m);

/* For how long, at `now`, a main thread has stood still whose last pulse is this one. */
double blame_still_seconds(uint64_t pulse, double now);

/* True for a rank that somebody should hear of: stopped, ended, standing still, or behind `self`.
 */
bool blame_is_odd(const struct blame_rank *r, const struct blame_rank *self);

/* "layer 17 mlp all-reduce #91234"; "no collective" for number 0. */
enum { BLAME_ENTRY_SIZE = 96 };
const char *blame_entry_text(const struct flight_entry *e, char out[BLAME_ENTRY_SIZE]);

/* Finds the rank at fault and puts it, its kind and one sentence in err: RANK_LOST where its
 * process has ended, RANK_MISMATCH where it called another collective than the others, else
 * DEADLINE. suspect: the rank that does not answer; -1: none is known.
 * False, with err untouched, where nobody stands out. */
bool blame_find(const struct blame_rank *ranks, int world, int suspect, struct error *err);

/* Only a rank that called something else than the others, which need not be a hang. */
bool blame_find_mismatch(const struct blame_rank *ranks, int world, struct error *err);
